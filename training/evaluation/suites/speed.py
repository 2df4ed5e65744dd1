"""Steps per second of the dream and of the simulators, taken in turns so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from drivedit.evaluation.sources import Sources
from drivedit.models import Scene, World

STEPS = 40  # per turn
BATCH = 16  # dreams at once


def speed_figures(
    world: World,
    scene: Scene | Mapping[str, Any],
    sources: Sources,
    rounds: int,
    sampling_steps: int | None = None,
    compile: bool = False,
) -> dict[str, float]:
    """Medians over the rounds; the environment of one dream, pictures decoded; the simulators in this process.

    Args:
        world: The world.
        scene: Where the dream starts.
        sources: Names the domain.
        rounds: Turns of each.
        sampling_steps: Network passes per frame; None: the world's own number.
        compile: Whether the environment compiles its steps.
    """
    probes = sources.probes
    runners: dict[str, Callable[[np.ndarray], Any]] = {
        "dream": _dreamer(world, scene, sources, sampling_steps, compile),
        "dream_16": _dreamer(world, scene, sources, sampling_steps, compile, BATCH),
        "twin": _simulator(sources, world.spec.picture),
    }
    if probes.stock is not None:
        runners["stock"] = probes.stock()
    rng = np.random.default_rng(sources.seed)
    low, high = probes.gentle
    actions = rng.uniform(low, high, (STEPS, len(low))).astype(np.float32)
    for run in runners.values():  # warm up
        _rate(run, actions[:5])
    rates = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            rates[name].append(_rate(run, actions))
    rates["dream_16"] = [BATCH * rate for rate in rates["dream_16"]]
    figures = {f"steps_per_second_{name}": float(np.median(values)) for name, values in rates.items()}
    over = {"steps_over_twin": ("dream", "twin"), f"steps_over_twin_{BATCH}": ("dream_16", "twin"),
            "steps_over_stock": ("dream", "stock")}  # fmt: skip
    for name, (one, other) in over.items():
        if other in rates:
            figures[name] = float(np.median(np.divide(rates[one], rates[other])))
    return figures | {"threads": float(torch.get_num_threads())}


def dream_rate(
    world: World,
    scene: Scene | Mapping[str, Any],
    sources: Sources,
    rounds: int,
    sampling_steps: int | None = None,
    compile: bool = False,
) -> float:
    """Median steps per second of the environment of one dream, pictures decoded."""
    run = _dreamer(world, scene, sources, sampling_steps, compile)
    idle = [min(max(0.0, control.low), control.high) for control in world.spec.controls]
    actions = np.tile(np.array(idle, np.float32), (STEPS, 1))
    _rate(run, actions[:5])
    return statistics.median(_rate(run, actions) for _ in range(rounds))


def _rate(run: Callable[[np.ndarray], Any], actions: Sequence[np.ndarray] | np.ndarray) -> float:
    start = time.perf_counter()
    for action in actions:
        run(action)
    return len(actions) / (time.perf_counter() - start)


def _dreamer(
    world: World, scene: Scene | Mapping[str, Any], sources: Sources, sampling_steps: int | None, compile: bool = False,
    batch: int = 0,
) -> Callable[[np.ndarray], Any]:  # fmt: skip
    """Steps a dream, or a `batch` of them with the same action."""
    settings: dict[str, Any] = {"sampling_steps": sampling_steps, "compile": compile}
    env = sources.make_dreams(world, batch, **settings) if batch else sources.make_dream(world, **settings)
    env.reset(seed=0, options={"scene": scene})

    def run(action: np.ndarray) -> None:
        ended = env.step(np.tile(action, (batch, 1)) if batch else action)[2]
        if np.any(ended):
            env.reset(seed=0, options={"scene": scene})

    return run


def _simulator(sources: Sources, shown: str) -> Callable[[np.ndarray], Any]:
    twin = sources.make_twin(shown)
    twin.reset(seed=sources.config.held_out_from, options=sources.probes.at_speed({}))
    return twin.step
