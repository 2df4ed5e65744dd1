"""Figures of control: what the dream makes of steering and throttle, against the simulator forked from the same state.

Legend: N states, K branches, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.evaluation.dreams import dream
from drivedit.evaluation.metrics.figures import correlation, nearest_branch, slope, turns
from drivedit.evaluation.sources import Arrays
from drivedit.evaluation.twin_drives import SPEED_FRAMES, STEER_FRAMES, scenes
from drivedit.models import World
from drivedit.utils import Probes


@dataclass
class Branches:
    """Branches from the same states.

    Attributes:
        steer_frames: uint8 `[N, K, T + 1, H, W, 3]`, full left, straight, full right; the first frame is the state's.
        steer_poses: `[N, K, T + 1, 3]`.
        speed_after: `[N, K]` after `SPEED_FRAMES` frames at each of the probes' `throttles`.
    """

    steer_frames: np.ndarray
    steer_poses: np.ndarray
    speed_after: np.ndarray

    @classmethod
    def true(cls, arrays: Arrays) -> Branches:
        """What the simulator made of them."""
        return cls(arrays["steer_frames"], arrays["steer_poses"], arrays["speed_after"])


def dream_branches(
    world: World, arrays: Arrays, probes: Probes, sampling_steps: int | None = None, quiet: bool = False
) -> Branches:
    """Dreams the same branches from the same states."""
    count, branches = len(arrays["frames"]), len(probes.steers)
    options: dict[str, Any] = {"repeat": branches, "sampling_steps": sampling_steps, "quiet": quiet}
    steer = np.tile(probes.steers[:, None], (count, STEER_FRAMES, 1))  # [N K, T, C]
    throttle = np.tile(probes.throttles[:, None], (count, SPEED_FRAMES, 1))
    steered = dream(world, scenes(arrays), steer, seed=30_000, label="steering", **options)
    driven = dream(world, scenes(arrays), throttle, seed=40_000, label="throttle", **options)
    frames = steered.frames.reshape(count, branches, STEER_FRAMES, *steered.frames.shape[2:])
    poses = steered.poses.reshape(count, branches, STEER_FRAMES, 3)
    now = arrays["frames"][:, -1][:, None, None].repeat(branches, 1)
    here = arrays["poses"][:, -1][:, None, None].repeat(branches, 1)
    speed = driven.telemetry[:, -1, world.spec.names("telemetry").index(probes.speed)].reshape(count, branches)
    return Branches(np.concatenate([now, frames], 2), np.concatenate([here, poses], 2), speed)


def steering_figures(true: Branches, dreamed: Branches, probes: Probes) -> dict[str, float]:
    """Heading changes, dreamed against true, told by the ego-motion head and by the pictures; which branch it is."""
    truth = turns(true.steer_poses[..., 2]).sum(-1)  # [N, K] rad
    told = turns(dreamed.steer_poses[..., 2]).sum(-1)
    seen, probe = (picture_headings(side.steer_frames, probes) for side in (dreamed, true))
    figures = {
        "steering_correlation": correlation(truth, told),
        "steering_slope": slope(truth, told),
        "steering_picture_correlation": correlation(truth, seen),
        "steering_picture_slope": slope(truth, seen),
        "steering_probe_correlation": correlation(truth, probe),
        "steering_probe_slope": slope(truth, probe),
    }
    for name, angles in (("true", truth), ("dreamed", seen)):
        for branch, side in enumerate(("left", "straight", "right")):
            figures[f"heading_{name}_{side}"] = float(np.degrees(angles[:, branch]).mean())
    return figures | {f"branch_{frame}": branch_share(true, dreamed, frame, probes) for frame in (5, 15)}


def picture_headings(frames: np.ndarray, probes: Probes) -> np.ndarray:
    """Heading changes in radians to the right `[N, K]`, read off pictures `[N, K, T + 1, H, W, 3]`."""
    return np.array([[probes.turns(branch).sum() for branch in row] for row in frames])


def branch_share(true: Branches, dreamed: Branches, frame: int, probes: Probes) -> float:
    """Share of dreamed branches that look most like the true branch of the same controls, but for what stands still."""
    found = nearest_branch(*(probes.hide_fixed(side.steer_frames[:, :, frame]) for side in (dreamed, true)))
    return float((found == np.arange(found.shape[1])).mean())


def speed_figures(true: Branches, dreamed: Branches, top_speed: float) -> dict[str, float]:
    """Mean absolute error of the speed after 20 frames, as a share of `top_speed`; over all and per throttle."""
    error = np.abs(dreamed.speed_after - true.speed_after) / top_speed
    figures = {"speed_error": float(error.mean()), "speed_error_worst_throttle": float(error.mean(0).max())}
    for branch, name in enumerate(("gas", "some_gas", "brake")):
        figures[f"speed_true_{name}"] = float(true.speed_after[:, branch].mean())
        figures[f"speed_dreamed_{name}"] = float(dreamed.speed_after[:, branch].mean())
    return figures
