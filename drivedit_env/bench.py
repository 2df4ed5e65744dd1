"""How fast the dream is on this machine: `python -m drivedit_env.bench` prints one table and saves it as JSON.

Everything is measured in one run, in turns, and medians are reported, so that a busy machine slows all alike. Ratios
count more than rates: to the simulator on the same cores, and to what a large matrix product reaches.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm, trange

from drivedit.config import DEFAULT_WORLD, DomainConfig, WorldConfig
from drivedit.inference import tune
from drivedit.models import DiTWorld, World
from drivedit.utils import fast_dtype, generator, load_object
from drivedit.utils.commands import run as run_command
from drivedit_env.domains import domain_of_world, gentle_controls
from drivedit_env.env import DriveDiTEnv
from drivedit_env.shipped import load_world
from drivedit_env.vector import DriveDiTVectorEnv

BATCHES = (1, 4, 16, 64)
WINDOWS = (4, 8, 16, 32)
SIZES = (32, 64, 96, 128)
Run = Callable[[], Any]


def measure(
    world: str | Path = DEFAULT_WORLD,
    rounds: int = 5,
    seconds: float = 0.4,
    quiet: bool = False,
    compile: bool = False,
) -> dict[str, Any]:
    """Measures everything.

    Args:
        world: Name or folder of the world.
        rounds: Turns that every contender gets.
        seconds: Length of a turn.
        quiet: Show no progress.
        compile: Whether the dream's steps are compiled.

    Returns:
        `rates` (steps/s), `ratios`, `flops`, `memory`, `snapshots`, `rounding`, `curves`, and the machine.
    """
    dream = load_world(world)
    rates = _rates(dream, rounds, seconds, quiet, compile)
    flops = flops_per_frame(_unpacked(world))
    both = flops["dynamics"] + flops["decoder"]
    ratios = {}
    for name, against in (("twin", "twin"), ("stock", "stock simulator"), ("twins", "twin, one process per core")):
        if against in rates:
            ratios |= {f"{kind} / {name}": rates[kind] / rates[against] for kind in rates if kind.startswith("dream")}
    peak = rates.pop("matrix product")
    for batch in BATCHES:
        ratios[f"achieved / matrix product, {batch}, latent"] = (
            rates[f"dream, {batch}, latent"] * flops["dynamics"] / peak
        )
        ratios[f"achieved / matrix product, {batch}, pixels"] = rates[f"dream, {batch}, pixels"] * both / peak
    return {
        "machine": {
            "threads": torch.get_num_threads(), "device": str(dream.device), "dtype": str(fast_dtype(dream.device)),
            "torch": torch.__version__, "matrix product GFLOP/s": peak / 1e9,
        },
        "rates": rates, "ratios": ratios, "flops": flops, "memory": memory(_unpacked(world)),
        "snapshots": snapshots(dream), "rounding": rounding(dream), "curves": curves(dream, quiet),
    }  # fmt: skip


def flops_per_frame(world: World) -> dict[str, float]:
    """Operations for one generated frame, by torch's counter; the world must not have been tuned."""
    state = world.start(world.scenes[:1], [0])
    controls = torch.tensor([world.spec.rest], device=world.device)
    with FlopCounterMode(display=False) as dynamics:
        world.step(state, controls)
    with FlopCounterMode(display=False) as decoder, torch.no_grad():
        world.observe(state, [world.spec.picture])
    return {"dynamics": float(dynamics.get_total_flops()), "decoder": float(decoder.get_total_flops())}


def memory(world: World) -> dict[str, float]:
    """Bytes of the state of one world, and of the weights as they are used; the world must not have been tuned."""
    count = sum(p.numel() for p in world.parameters())
    state = tune(world).start(world.scenes[:1], [0])
    return {"state of a world": float(state.size()), "weights": float(count * world.dtype.itemsize)}


def snapshots(world: World, count: int = 64, rounds: int = 9) -> dict[str, float]:
    """Milliseconds for a snapshot and its restoring, and branches per second when `count` are opened at once."""
    env = DriveDiTEnv(world, obs_type="latent")
    envs = DriveDiTVectorEnv(2, world, obs_type="latent")
    env.reset(seed=0)
    envs.reset(seed=0)
    both, stored, forks = [], [], []
    for _ in range(rounds):  # a planner goes back and forth: ten in a row
        both.append(_timed(lambda: [env.set_state(env.get_state()) for _ in range(10)]) / 10)
        stored.append(_timed(lambda: [env.set_state(env.get_state().to_bytes()) for _ in range(10)]) / 10)
        forks.append(_timed(lambda: envs.fork(0, count)))
    return {
        "snapshot and restore, ms": 1e3 * float(np.median(both)),
        "the same through bytes, ms": 1e3 * float(np.median(stored)),
        "forks per second": count / float(np.median(forks)),
    }


def rounding(world: World, count: int = 16, steps: int = 20) -> dict[str, float]:
    """How far a world in a batch is from the same world alone, over some steps under the same actions."""
    envs, env = DriveDiTVectorEnv(count, world), DriveDiTEnv(world)
    envs.reset(seed=0)
    env.reset(seed=count - 1)
    rng, apart, latents = np.random.default_rng(0), [], []
    width = len(world.spec.controls)
    for _ in range(steps):
        actions = rng.uniform(-0.3, 0.3, (count, width)).astype(np.float32)
        frames, frame = envs.step(actions)[0], env.step(actions[-1])[0]
        apart.append(np.abs(frames[-1].astype(int) - frame))
        states = envs.get_state([count - 1]).world, env.get_state().world
        together, alone = (world.observe(state, ["latent"])["latent"] for state in states)
        latents.append((together - alone).abs().max().item())
    return {
        "latents, first step": latents[0], f"latents, step {steps}": latents[-1],
        "pixels of 255, mean": float(np.mean(apart)), "pixels of 255, most": float(np.max(apart)),
    }  # fmt: skip


def curves(world: World, quiet: bool = False) -> dict[str, Any]:
    """Milliseconds per frame (latents and picture) against window, batch and picture size, with fitted exponents.

    The worlds have random weights: only the cost is looked at.
    """
    config, student, rest = world.config, world.config.student, np.array([world.spec.rest], np.float32)
    plans = {
        "window": [(window, replace(config, student=replace(student, window=window)), 4) for window in WINDOWS],
        "picture": [(size, _resized(config, size), 4) for size in SIZES],
        "batch": [(batch, config, batch) for batch in BATCHES],
    }
    found: dict[str, Any] = {}
    for name, points in plans.items():
        times = []
        for _, changed, batch in tqdm(points, desc=f"cost against {name}", disable=quiet):
            random = tune(DiTWorld(replace(changed, end_threshold=2.0)))  # nothing ends
            frames = np.zeros((2, *changed.spec.observations[changed.spec.picture].shape), np.uint8)
            scene = {"frames": frames, "controls": rest}
            envs = DriveDiTVectorEnv(batch, random)
            envs.reset(seed=0, options={"scene": scene})
            actions = rest.repeat(batch, 0)
            for _ in range((changed.student.window or 8) + 2):
                envs.step(actions)
            times.append(1e3 * float(np.median([_timed(lambda e=envs, a=actions: e.step(a)) for _ in range(12)])))
        sizes = [point[0] for point in points]
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        found[name] = {"sizes": sizes, "ms per step": times, "exponent": float(slope)}
    return found


def endurance(
    world: World, steps: int, worlds: int = 64, quiet: bool = False, compile: bool = False
) -> dict[str, float]:
    """Steps many worlds for long, resetting random ones, and looks whether memory or time per step grow.

    Args:
        world: The world.
        steps: Steps of all worlds together.
        worlds: Worlds in the batch.
        quiet: Show no progress.
        compile: Whether the steps are compiled.

    Raises:
        FloatingPointError: An observation or a reward is not finite.
    """
    import resource  # there is none on Windows

    envs = DriveDiTVectorEnv(worlds, world, obs_type="latent", autoreset_mode="SameStep", compile=compile)
    envs.reset(seed=0)
    rng, times, resident = np.random.default_rng(0), [], []
    width = len(world.spec.controls)
    for _ in trange(max(steps // worlds, 20), desc="endurance", disable=quiet):
        actions = rng.uniform(-0.5, 0.5, (worlds, width)).astype(np.float32)
        start = time.perf_counter()
        seen, rewards, *_ = envs.step(actions)
        times.append(time.perf_counter() - start)
        if not (np.isfinite(seen).all() and np.isfinite(rewards).all()):
            raise FloatingPointError(f"step {len(times)}: a latent or a reward is not finite")
        gone = rng.random(worlds) < 0.01
        if gone.any():
            envs.reset(options={"reset_mask": gone})
        resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    tenth = len(times) // 10
    return {
        "steps of all worlds": float(worlds * len(times)),
        "time per step, last tenth / first": float(np.median(times[-tenth:]) / np.median(times[:tenth])),
        "peak memory, end / after a tenth": resident[-1] / resident[tenth],
    }


def as_text(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = []
    for part, values in report.items():
        lines.append(f"\n{part}")
        for name, value in values.items():
            if part == "curves":
                points = "  ".join(
                    f"{s}: {ms:.1f} ms" for s, ms in zip(value["sizes"], value["ms per step"], strict=True)
                )
                lines.append(f"  cost against {name:<31} {points}   exponent {value['exponent']:.2f}")
            elif isinstance(value, float):
                unit, shown = (
                    (" G", value / 1e9)
                    if part == "flops"
                    else (" MB", value / 1e6)
                    if part == "memory"
                    else ("", value)
                )
                lines.append(f"  {name:<44} {shown:>10.4g}{unit}")
            else:
                lines.append(f"  {name:<44} {value:>10}")
    return "\n".join(lines).strip()


def main(words: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return run_command(bench, words, program="python -m drivedit_env.bench")


def bench(
    world: str = DEFAULT_WORLD, out: Path = Path("bench.json"), rounds: int = 5, seconds: float = 0.4,
    endurance_: int = 0, compile: bool = False,
) -> None:  # fmt: skip
    """How fast the dream is on this machine: prints one table and saves it as JSON.

    Args:
        world: Shipped name, folder or hub:NAME/WORLD of a world.
        out: Where to save the figures.
        rounds: Turns of every contender.
        seconds: Seconds of a turn.
        endurance_: Steps of 64 worlds in all that are taken as well, to see whether memory or time grow.
        compile: Whether the dream's steps are compiled first.
    """
    report = measure(world, rounds, seconds, compile=compile)
    if endurance_:
        report["endurance"] = endurance(load_world(world), endurance_, compile=compile)
    print(as_text(report))
    out.write_text(json.dumps(report, indent=2) + "\n")


def _rates(world: World, rounds: int, seconds: float, quiet: bool, compile: bool) -> dict[str, float]:
    """Steps per second of the dream and the simulators, and FLOP/s of a matrix product: medians of turns."""
    contenders: dict[str, tuple[int, Run]] = {}
    first = DriveDiTEnv(world, obs_type="latent")
    for scene in range(len(world.scenes)):  # their start states are kept: made before the clock runs
        first.reset(options={"scene": scene})
    for obs_type in ("pixels", "latent"):
        for batch in BATCHES:
            contenders[f"dream, {batch}, {obs_type}"] = batch, _dreamer(world, batch, obs_type, compile)
    simulators, close = _simulators(domain_of_world(world), gentle_controls(world))
    contenders |= simulators
    size = 2048
    matrix = torch.randn(size, size, generator=generator(0, "matrix")).to(world.device, fast_dtype(world.device))
    contenders["matrix product"] = 2 * size**3, lambda: (matrix @ matrix).sum().item()
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _, run in contenders.values():
        for _ in range(10):
            run()
    for _ in tqdm(range(rounds), desc="rounds", disable=quiet):
        for name, (count, run) in contenders.items():
            found[name].append(count * _rate(run, seconds))
    close()
    return {name: float(np.median(values)) for name, values in found.items()}


def _dreamer(world: World, batch: int, obs_type: str, compile: bool) -> Run:
    """Steps the single environment, or the vector environment, with gentle random actions."""
    rng, (low, high) = np.random.default_rng(0), gentle_controls(world)
    if batch > 1:
        envs = DriveDiTVectorEnv(batch, world, obs_type=obs_type, compile=compile)
        envs.reset(seed=0)
        return lambda: envs.step(rng.uniform(low, high, (batch, len(low))).astype(np.float32))
    env = DriveDiTEnv(world, obs_type=obs_type, compile=compile)
    env.reset(seed=0)

    def run() -> None:
        if env.step(rng.uniform(low, high).astype(np.float32))[2]:
            env.reset()

    return run


def _simulators(domain: DomainConfig | None, gentle: np.ndarray) -> tuple[dict[str, tuple[int, Run]], Run]:
    """The twin in one process and in one per core, the stock simulator; and what closes them.

    Empty without a domain, or where its simulator is not installed.
    """
    if domain is None:
        return {}, lambda: None
    try:
        twin = gym.make(domain.env_id, disable_env_checker=True).unwrapped
    except ImportError:
        return {}, lambda: None
    cores, (low, high) = os.cpu_count() or 1, gentle
    twins = gym.make_vec(domain.env_id, num_envs=cores, vectorization_mode="async")
    for env in (twin, twins):
        env.reset(seed=0)
    rng = np.random.default_rng(0)
    found: dict[str, tuple[int, Run]] = {"twin": (1, lambda: twin.step(rng.uniform(low, high).astype(np.float32)))}
    if domain.probes and (opened := load_object(domain.probes).stock):
        stock = opened()
        found["stock simulator"] = 1, lambda: stock(rng.uniform(low, high).astype(np.float32))
    found["twin, one process per core"] = (
        cores, lambda: twins.step(rng.uniform(low, high, (cores, len(low))).astype(np.float32)),
    )  # fmt: skip
    return found, twins.close


def _rate(run: Run, seconds: float) -> float:
    """Calls per second."""
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        run()
        count += 1
    return count / spent


def _timed(run: Run) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _resized(config: WorldConfig, size: int) -> WorldConfig:
    """The same world with pictures of another size."""
    tokens = (size // 8 // config.patch) ** 2
    student = replace(config.student, tokens_per_frame=tokens, max_seq_len=max(config.student.max_seq_len, 16 * tokens))
    name, kind = config.spec.picture, config.spec.observations[config.spec.picture]
    spec = replace(config.spec, observations={name: replace(kind, shape=(size, size, *kind.shape[2:]))})
    changed = replace(config, spec=spec, student=student)
    changed.student.route_dim = changed.code_widths()[0]
    return changed


def _unpacked(world: str | Path) -> World:
    """The world as it is on disk."""
    return World.from_pretrained(world)


if __name__ == "__main__":
    sys.exit(main())
