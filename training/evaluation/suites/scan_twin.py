"""Range images of the simulator: clips at any interval, and what it makes of held controls from one state.

Legend: N clips or states, K branches, T steps, A controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.evaluation.metrics.figures import correlation, slope, turns
from drivedit.evaluation.sources import Sources
from drivedit.evaluation.suites.scans import ScanClips, dream_scans
from drivedit.evaluation.twin_drives import BRANCHES, CLIPS, CONTEXT, SPEED_FRAMES, STEER_FRAMES, draw
from drivedit.models import RangeWorld, Scene

SETTLE = 20  # most steps before the context


def drive_clips(sources: Sources, world: RangeWorld, count: int, steps: int, dt: float) -> ScanClips:
    """Clips of good drivers on held-out roads, each of the same road and driver at any interval.

    Args:
        sources: Names the simulator, which takes the reset option `dt`.
        world: Whose scenes they begin with.
        count: N.
        steps: T.
        dt: Seconds of a step.
    """
    return ScanClips.join([_clip(sources, world, index, steps, dt) for index in range(count)])


def _clip(sources: Sources, world: RangeWorld, index: int, steps: int, dt: float) -> ScanClips:
    """One clip of a drive that does not end before it does."""
    rng, twin = sources.rng(CLIPS, index), sources.make_twin(world.spec.picture)
    seconds = world.spec.dt * float(rng.integers(1, SETTLE))
    while True:
        driver, start = draw(sources, rng, sources.probes.good)
        observation, _ = twin.reset(seed=_seed(sources, CLIPS, index), options={**start, "dt": dt})
        before, kept = CONTEXT + round(seconds / dt), []
        for step in range(before + steps):
            action = driver.act(twin.truth(), observation)
            observation, _, ended, _, _ = twin.step(action)
            if step == before - 1:
                scene = _scene(world, twin)
            if step >= before - 1:
                kept.append((action, observation, twin.truth()))
            if ended:
                break
        if len(kept) == steps + 1:
            controls, scans, truths = zip(*kept, strict=True)
            names = truths[0].telemetry
            telemetry = {name: np.array([[each.telemetry[name] for each in truths]]) for name in names}
            poses = np.array([[each.pose for each in truths]], np.float64)
            return ScanClips([scene], np.stack(controls[1:])[None], np.stack(scans)[None], poses, telemetry, dt)


@dataclass
class ScanBranches:
    """What held controls make of the same states.

    Attributes:
        scenes: N.
        turned: `[N, K]` rad to the right, after `STEER_FRAMES` steps of each of the probes' `steers`.
        speeds: `[N, K]` after `SPEED_FRAMES` steps of each of their `throttles`.
    """

    scenes: list[Scene]
    turned: np.ndarray
    speeds: np.ndarray


def branch(sources: Sources, world: RangeWorld, count: int) -> ScanBranches:
    """States at speed on held-out roads, and what the forked simulator makes of the probes' controls from them."""
    probes, scenes, turned, speeds = sources.probes, [], [], []
    for index in range(count):
        rng, twin = sources.rng(BRANCHES, index), sources.make_twin(world.spec.picture)
        while True:
            driver, start = draw(sources, rng, probes.good)
            observation, _ = twin.reset(seed=_seed(sources, BRANCHES, index), options=probes.at_speed(start))
            ended = False
            for _ in range(CONTEXT + 4):
                observation, _, over, _, _ = twin.step(driver.act(twin.truth(), observation))
                ended |= over
            if ended or not probes.can_branch(twin.truth().telemetry):
                continue
            scene, state = _scene(world, twin), twin.get_state()
            steered = [_held(twin, state, controls, STEER_FRAMES) for controls in probes.steers]
            driven = [_held(twin, state, controls, SPEED_FRAMES) for controls in probes.throttles]
            if all(steered) and all(driven):
                break
        scenes.append(scene)
        turned.append([float(turns(np.array([pose[2] for pose, _ in each])).sum()) for each in steered])
        speeds.append([each[-1][1][probes.speed] for each in driven])
    return ScanBranches(scenes, np.array(turned), np.array(speeds))


def branch_figures(world: RangeWorld, true: ScanBranches, sources: Sources) -> dict[str, float]:
    """How the dream answers the same controls: heading changes and speeds against the simulator's."""
    probes, count = sources.probes, len(true.scenes)

    def dreamed(held: np.ndarray, steps: int) -> Any:
        scenes = [scene for scene in true.scenes for _ in held]
        return dream_scans(world, scenes, np.tile(held[:, None], (count, steps, 1)), seed=30_000)

    steered, driven = dreamed(probes.steers, STEER_FRAMES), dreamed(probes.throttles, SPEED_FRAMES)
    first = np.repeat([scene.poses_or_start()[-1, 2] for scene in true.scenes], len(probes.steers))
    yaw = np.concatenate([first[:, None], steered.poses[..., 2]], 1)
    told = turns(yaw).sum(1).reshape(true.turned.shape)
    speeds = driven.telemetry[probes.speed][:, -1].reshape(true.speeds.shape)
    error = np.abs(speeds - true.speeds)
    return {
        "steering_correlation": correlation(true.turned, told),
        "steering_slope": slope(true.turned, told),
        "speed_error": float(error.mean() / max(true.speeds.mean(), 1e-6)),
        "speed_error_worst_throttle": float(error.mean(0).max() / max(true.speeds.mean(), 1e-6)),
    }


def _held(twin: Any, state: Any, controls: np.ndarray, steps: int) -> list[tuple[np.ndarray, dict[str, float]]]:
    """Poses and telemetry of a fork under held controls, the present ones first; nothing if it ends."""
    twin.set_state(state)
    kept = [(twin.truth().pose, twin.truth().telemetry)]
    for _ in range(steps):
        ended = twin.step(controls)[2]
        kept.append((twin.truth().pose, twin.truth().telemetry))
        if ended:
            return []
    return kept


def _scene(world: RangeWorld, twin: Any) -> Scene:
    """The scene of this moment for a world, which may be told no route."""
    scene = twin.scene(CONTEXT)
    if "route" not in world.spec.conditions:
        scene = {name: value for name, value in scene.items() if name not in ("route", "closed", "bounds")}
    return world.check_scene(scene)


def _seed(sources: Sources, stream: int, index: int) -> int:
    """The held-out seed of a piece."""
    return sources.config.held_out_from + 10_000 * stream + index
