"""Dreams of range images beside recorded ones, beside copying, and beside the last scan moved by the true ego-motion.

Legend: N clips, T steps of a clip, H W rows and columns of a scan, K futures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivedit.config import WorldSpec
from drivedit.config.range import FREE_DISTANCE
from drivedit.evaluation.held_out import scene_of
from drivedit.evaluation.metrics import scans as metrics
from drivedit.evaluation.metrics.figures import correlation
from drivedit.models import RangeWorld, Scene
from drivedit.models.sde.beams import CLEARANCE, Beams
from drivedit.models.sde.ranges import decode_range, encode_range
from drivedit.utils import motion_between

SECONDS = (0.5, 1.0, 2.0, 3.0)  # of horizons


@dataclass
class ScanClips:
    """Clips of recorded drives.

    Attributes:
        scenes: Where dreams begin, N.
        controls: `[N, T, A]`.
        scans: `[N, T + 1, H, W, 2]`, the first one is the last of the scene.
        poses: `[N, T + 1, 3]`; NaN where they are not known.
        telemetry: By name `[N, T + 1]`.
        dt: Seconds of a step.
    """

    scenes: list[Scene]
    controls: np.ndarray
    scans: np.ndarray
    poses: np.ndarray
    telemetry: dict[str, np.ndarray]
    dt: float

    @classmethod
    def of(cls, drives: Any, now: np.ndarray, context: int, steps: int, spec: WorldSpec) -> ScanClips:
        """Clips of drives.

        Args:
            drives: A `drivedit.data.clips.Drives`.
            now: Last state of each scene `[N]`, with `context` states before and `steps` after it in its drive.
            context: Controls of a scene.
            steps: T.
            spec: Of the world.
        """
        number = np.searchsorted(drives.first, now, side="right") - 1
        rows = now[:, None] + np.arange(steps + 1)
        pairs = zip(number.tolist(), now.tolist(), strict=True)
        return cls(
            [scene_of(drives, drive, slice(state - context, state + 1), spec) for drive, state in pairs],
            np.array(drives.control[rows[:, 1:]]), np.array(drives.observations[spec.picture][rows]),
            np.array(drives.pose[rows]), {name: np.array(values[rows]) for name, values in drives.telemetry.items()},
            drives.spec.dt,
        )  # fmt: skip

    @classmethod
    def join(cls, parts: list[ScanClips]) -> ScanClips:
        """Clips of equal length and interval, one after another."""
        controls, scans, poses = (
            np.concatenate([getattr(each, name) for each in parts]) for name in ("controls", "scans", "poses")
        )
        told = {name: np.concatenate([each.telemetry[name] for each in parts]) for name in parts[0].telemetry}
        return cls([scene for each in parts for scene in each.scenes], controls, scans, poses, told, parts[0].dt)

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def horizons(self) -> dict[float, int]:
        """Steps by seconds, of `SECONDS` that the clips are long enough for; else their end."""
        steps, most = {seconds: round(seconds / self.dt) for seconds in SECONDS}, self.scans.shape[1] - 1
        return {seconds: step for seconds, step in steps.items() if step <= most} or {most * self.dt: most}


def moments_of(drives: Any, chosen: np.ndarray, context: int, steps: int, count: int) -> np.ndarray:
    """Last states `[N]` of at most `count` scenes, spread evenly over some drives.

    Raises:
        ValueError: No drive has so many states.
    """
    parts = [np.arange(drives.first[one] + context, drives.first[one + 1] - steps) for one in chosen]
    states = np.concatenate([np.zeros(0, int), *parts])
    if not len(states):
        raise ValueError(f"no drive has {context + steps + 1} states; record longer ones")
    return states[np.unique(np.linspace(0, len(states) - 1, count).astype(int))]


@dataclass
class ScanDream:
    """What was dreamed of clips.

    Attributes:
        scans: `[N, T, H, W, 2]`.
        poses: `[N, T, 3]`.
        telemetry: By name `[N, T]`.
    """

    scans: np.ndarray
    poses: np.ndarray
    telemetry: dict[str, np.ndarray]


def dream_scans(
    world: RangeWorld, scenes: list[Scene], controls: np.ndarray, dt: float | None = None, seed: int = 0
) -> ScanDream:
    """Dreams from scenes under controls `[N, T, A]`.

    Args:
        world: The world.
        scenes: N.
        controls: Of each step.
        dt: Seconds of a step; None: the world's.
        seed: Of the first one's future; the others have those after it.
    """
    state, scans, poses, told = world.start(scenes, [seed + row for row in range(len(scenes))]), [], [], []
    passed = None if dt is None else torch.full((len(scenes),), dt)
    for now in torch.from_numpy(np.asarray(controls, np.float32)).to(world.device).unbind(1):
        state, out = world.step(state, now, passed)
        scans.append(world.observe(state, [world.spec.picture])[world.spec.picture].cpu().numpy())
        poses.append(world.poses(state).double().cpu().numpy())
        told.append({name: value.cpu().numpy() for name, value in out.telemetry.items()})
    telemetry = {name: np.stack([each[name] for each in told], 1) for name in told[0]}
    return ScanDream(np.stack(scans, 1), np.stack(poses, 1), telemetry)


def moved_scans(beams: Beams, clips: ScanClips, step: int) -> np.ndarray:
    """The last scans of the scenes, moved by the true ego-motion of so many steps, `[N, H, W, 2]`."""
    shown = encode_range(torch.from_numpy(clips.scans[:, 0]), beams.view.reach)
    moved = beams.moved(shown.to(beams.up.device), gone(clips, step).to(beams.up.device))
    return decode_range(moved, beams.view.reach).cpu().numpy()


def gone(clips: ScanClips, step: int) -> Tensor:
    """True ego-motion of so many steps `[N, 3]`: forward and right in m, turn to the right in rad."""
    poses = torch.from_numpy(clips.poses)
    return motion_between(poses[:, 0], poses[:, step]).float()


def cloud(beams: Beams, scan: np.ndarray, every: int = 1) -> Tensor:
    """Points `[M, 3]` of a scan `[H, W, 2]`, one of so many."""
    return torch.from_numpy(beams.view.unproject(scan)[::every]).float()


def moved_cloud(points: Tensor, motion: Tensor) -> Tensor:
    """Points `[M, 3]` as they lie after an ego-motion `[3]`; none of them is lost, as in `moved_scans`."""
    forward, right, turn = motion.unbind()
    x, y = points[:, 0] - forward, points[:, 1] + right
    return torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos(), points[:, 2]], 1)


def scan_figures(beams: Beams, clips: ScanClips, dreamed: ScanDream, every: int = 2) -> dict[str, float]:
    """Figures of dreams by horizon, beside copying (`copy`) and the moved last scan (`moved`, where poses are known).

    Chamfer distances are told of all points, and of those that stand above the ground (`standing`), which is most of
    the rest and looks the same wherever one is.

    Args:
        beams: Of the world.
        clips: N.
        dreamed: Of the clips, under their own controls.
        every: Of so many points of a cloud one is looked at.
    """
    placed, found = bool(np.isfinite(clips.poses).all()), {}
    for seconds, step in clips.horizons.items():
        true, last = clips.scans[:, step], clips.scans[:, 0]
        shown = {"": dreamed.scans[:, step - 1], "_copy": last}
        clouds = {name: [cloud(beams, scan, every) for scan in scans] for name, scans in shown.items()}
        if placed:
            shown["_moved"] = moved_scans(beams, clips, step)
            clouds["_moved"] = [moved_cloud(*each) for each in zip(clouds["_copy"], gone(clips, step), strict=True)]
        wanted = [cloud(beams, scan, every) for scan in true]
        for name, points in clouds.items():
            for kind, above in (("chamfer", -np.inf), ("standing", CLEARANCE - beams.height)):
                pairs = [[each[each[:, 2] > above] for each in pair] for pair in zip(points, wanted, strict=True)]
                found[f"{kind}_{seconds:g}s{name}"] = _mean([metrics.chamfer(*pair) for pair in pairs])
            found[f"range_error_{seconds:g}s{name}"] = metrics.range_error(shown[name], true)
            found[f"mask_iou_{seconds:g}s{name}"] = metrics.mask_iou(shown[name], true)
        for kind in ("chamfer", "standing") if placed else ():
            end = f"{kind}_{seconds:g}s"
            found[f"{kind}_ratio_{seconds:g}s"] = found[end] / max(found[f"{end}_moved"], 1e-9)
    return found


def _mean(values: list[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    numbers = [value for value in values if np.isfinite(value)]
    return float(np.mean(numbers)) if numbers else float("nan")


def told_figures(beams: Beams, clips: ScanClips, dreamed: ScanDream) -> dict[str, float]:
    """How well ego-motion and what is told of a dream agree with the truth, after a second or at the end."""
    step = min(round(1.0 / clips.dt), clips.scans.shape[1] - 1)
    found: dict[str, float] = {}
    if np.isfinite(clips.poses).all():
        went = np.linalg.norm(clips.poses[:, step, :2] - clips.poses[:, 0, :2], axis=1)
        dreamt = np.linalg.norm(dreamed.poses[:, step - 1, :2] - _begin(clips), axis=1)
        found["way_error"] = float(np.abs(dreamt - went).mean() / max(went.mean(), 1e-6))
    shown = encode_range(torch.from_numpy(clips.scans[:, step]), beams.view.reach).to(beams.up.device)
    true = beams.free_distance(shown).cpu().numpy()
    found["free_distance_r"] = correlation(dreamed.telemetry[FREE_DISTANCE][:, step - 1], true)
    for name, values in clips.telemetry.items():
        if name in dreamed.telemetry and np.isfinite(values[:, step]).all():
            found[f"{name}_r"] = correlation(dreamed.telemetry[name][:, step - 1], values[:, step])
    return found


def _begin(clips: ScanClips) -> np.ndarray:
    """Where the scenes have the cars at their ends, `[N, 2]`."""
    return np.stack([scene.poses_or_start()[-1, :2] for scene in clips.scenes]).astype(np.float64)
