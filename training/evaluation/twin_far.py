"""Controls that no driver makes, and what the simulator makes of them from states of held-out drives.

Legend: K families of controls, T steps, C controls, c + 1 context frames.
"""

from __future__ import annotations

import numpy as np

from drivedit.config import WorldSpec
from drivedit.evaluation.sources import Arrays, Sources
from drivedit.evaluation.twin_drives import CONTEXT, Job, draw, last_context, picture, run
from drivedit.utils import Simulator

STREAM = 7  # of random numbers, after those of `twin_drives`
STEPS = 20  # under the controls of a family
SEEN = (10, 20)  # steps after which the picture is kept
FAMILIES = ("square", "locked", "stabs", "to_and_fro", "random_fast", "random", "random_slow")
TIMES = {"random_fast": 0.1, "random": 0.5, "random_slow": 2.0}  # s in which random controls change
SPREAD = 0.7  # of random controls, of half their range


def far_controls(spec: WorldSpec, rng: np.random.Generator) -> np.ndarray:
    """Controls of all `FAMILIES`, float32 `[K, T, C]`.

    Square waves of the wheel under held gas; full lock under held gas; stabs at the brake; gas and brake in turns; and
    random walks that come back (Ornstein and Uhlenbeck 1930) of the correlation times `TIMES`. Gas and brake are one
    control, the first that does not steer, from its low to its high end; others stay in the middle.

    Raises:
        ValueError: No control is known to steer.
    """
    steers = spec.steers()
    if steers is None:
        raise ValueError(f"none of the controls {spec.names('controls')} is known to steer")
    time, shape = np.arange(STEPS) * spec.dt, (STEPS,)
    pedal = next((place for place in range(len(spec.controls)) if place != steers), None)
    period, phase, side = rng.uniform(0.4, 2.0), rng.uniform(0, 1), rng.choice([-1.0, 1.0])
    wave = np.where((time / period + phase) % 1 < 0.5, 1.0, -1.0)
    half = np.where(np.arange(STEPS) < STEPS // 2, 1.0, -1.0)
    stab = np.where(np.arange(STEPS) % 8 < 3, -1.0, rng.uniform(0.3, 1))
    both = {
        "square": (rng.uniform(0.5, 1) * wave, np.full(shape, rng.uniform(-0.2, 0.6))),
        "locked": (np.full(shape, side), np.full(shape, rng.uniform(-0.2, 1.0))),
        "stabs": (np.full(shape, rng.uniform(-0.3, 0.3)), stab),
        "to_and_fro": (np.full(shape, rng.uniform(-0.3, 0.3)), rng.choice([-1.0, 1.0]) * half),
    }
    both |= {name: (_walk(rng, spec.dt / seconds), _walk(rng, spec.dt / seconds)) for name, seconds in TIMES.items()}
    low, high = (np.array([getattr(control, end) for control in spec.controls]) for end in ("low", "high"))
    units = np.zeros((len(FAMILIES), STEPS, len(low)))
    for place, name in enumerate(FAMILIES):
        units[place, :, steers] = both[name][0]
        if pedal is not None:
            units[place, :, pedal] = both[name][1]
    return ((low + high) / 2 + units.clip(-1, 1) * (high - low) / 2).astype(np.float32)


def record_far(job: Job) -> Arrays:
    """A moment of a held-out drive, and what the simulator makes of controls that no driver makes from there.

    Every fourth one is soon after the start, so at any speed that drives begin with.

    Returns:
        frames `[c + 1, ...]`, controls, poses, route and bounds of the context; `far_controls` `[K, T, C]`, `far_turn`
        `[K]` rad to the left, `far_speed` `[K]` after all steps, `far_seen` `[K, 2, H, W, 3]` after `SEEN` steps, and
        `far_steps` `[K]`, how many there were before the episode ended.
    """
    sources = job.sources
    rng, twin = sources.rng(STREAM, job.index), sources.make_twin()
    while True:
        driver, start = draw(sources, rng, sources.probes.good)
        steps = CONTEXT + (2 if job.index % 4 == 0 else int(rng.integers(5, 60)))
        drive = run(sources, twin, job.seed(STREAM), start, driver, steps)
        if len(drive["controls"]) == steps and not drive["ended"].any():
            return {**last_context(drive), **_branches(sources, twin, far_controls(sources.config.spec, rng))}


def _branches(sources: Sources, twin: Simulator, controls: np.ndarray) -> Arrays:
    """What comes of controls `[K, T, C]` from the present state, see `record_far`."""
    state, fork = twin.get_state(), sources.make_twin()
    turned, speeds, seen, lasted = [], [], [], []
    for branch in controls:
        fork.set_state(state)
        yaws, pictures, over = [_yaw(fork)], {}, False
        for step, control in enumerate(branch, 1):
            observation, _, over, _, _ = fork.step(control)
            yaws.append(_yaw(fork))
            pictures[step] = picture(sources, observation)
            if over:
                break
        turned.append(np.unwrap(yaws)[-1] - yaws[0])
        speeds.append(fork.truth().telemetry[sources.probes.speed])
        last = pictures[len(pictures)]
        seen.append(np.stack([pictures.get(step, last) for step in SEEN]))
        lasted.append(len(pictures) - over)
    return {
        "far_controls": controls, "far_turn": np.array(turned), "far_speed": np.array(speeds),
        "far_seen": np.stack(seen), "far_steps": np.array(lasted),
    }  # fmt: skip


def _yaw(twin: Simulator) -> float:
    """Where the car faces, in radians."""
    pose = twin.truth().pose
    assert pose is not None
    return float(pose[2])


def _walk(rng: np.random.Generator, share: float) -> np.ndarray:
    """A random walk `[T]` that comes back, of steps that are so much of its correlation time."""
    keep, value, values = np.exp(-share), rng.normal(), []
    for _ in range(STEPS):
        values.append(value)
        value = keep * value + np.sqrt(1 - keep**2) * rng.normal()
    return SPREAD * np.array(values)
