"""Figures of others on the road: the one ahead, one that is placed, how many there are, and one that reappears.

Legend: N moments, K branches, T steps, A others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from drivedit.evaluation.dreams import dream
from drivedit.evaluation.metrics.figures import correlation
from drivedit.evaluation.metrics.others import LATER, filled, found_at
from drivedit.evaluation.sources import Arrays, unpad
from drivedit.evaluation.suites.closed_loop import Drives
from drivedit.evaluation.twin_drives import BOX, CONTEXT, PIXELS, scenes
from drivedit.models import World
from drivedit.utils import OthersProbes, Route

PLACINGS = 4  # of one on each empty road
SHOWN_AFTER = 5  # frames after which one that is placed must be seen
FITS = 0.5  # overlap of one that is where it should be
REAPPEARED = 0.3  # share of its outline that shows one again
UNHIDDEN = 0.55  # share of its outline that one fills that nobody hides
EVERY = 10  # of the true frames that the probe is tried on


def ahead_figures(world: World, ahead: Arrays, asked: OthersProbes, **options: Any) -> dict[str, float]:
    """The gap to the one ahead after the branches of `record_ahead`, read off the dream, against the true one.

    `ahead_` is told nothing, `ahead_given_` the route and who is where, `ahead_probe_` is read off the true pictures.
    """
    count, branches = ahead["ahead_gap"].shape
    true = np.minimum(ahead["ahead_gap"], asked.farthest).ravel()
    controls, others, seen = (
        ahead[f"ahead_{name}"].reshape(count * branches, *ahead[f"ahead_{name}"].shape[2:])
        for name in ("controls", "others", "seen")
    )
    told = {"ahead_probe": asked.gaps(seen[:, 1], seen[:, 0])}
    for name, free in (("ahead", True), ("ahead_given", False)):
        dreamed = dream(world, scenes(ahead, free), controls, repeat=branches, others=None if free else others,
                        seed=70_000, label=name.replace("_", " "), **options)  # fmt: skip
        told[name] = asked.gaps(dreamed.frames[:, -1], dreamed.frames[:, -2])
    figures = {f"{name}_correlation": correlation(true, gap) for name, gap in told.items()}
    return figures | {f"{name}_error": float(np.abs(gap - true).mean()) for name, gap in told.items()}


def placed_figures(world: World, empty: Arrays, asked: OthersProbes, **options: Any) -> dict[str, float]:
    """Share of the frames that show one where it was placed, on roads where nobody else is."""
    roads = len(empty["frames"])
    rows = np.repeat(np.arange(roads), PLACINGS)
    gaps = np.linspace(*asked.placed, len(rows)).reshape(PLACINGS, roads).T.ravel()  # near and far on every road
    poses, controls = empty["poses"][rows, CONTEXT + 1 :], empty["controls"][rows, CONTEXT:]
    routes = [unpad(route) for route in empty["route"][rows]]
    boxes = placed_ahead(routes, empty["closed"][rows], poses, gaps + asked.size[0], asked.size)
    dreamed = dream(world, scenes(empty), controls, repeat=PLACINGS, others=boxes[:, :, None], seed=80_000,
                    label="placed", **options)  # fmt: skip
    fits = []
    for row, frames in enumerate(dreamed.frames):
        cars = asked.cars(frames[SHOWN_AFTER - 1 :])
        for at, seen in enumerate(cars, SHOWN_AFTER - 1):
            fits.append(found_at(seen, asked.outlines(boxes[row, at, None], dreamed.poses[row, at])[0]) > FITS)
    return {"placed": float(np.mean(fits))}


def placed_ahead(
    routes: list[np.ndarray], closed: np.ndarray, poses: np.ndarray, ahead: np.ndarray, size: tuple[float, ...]
) -> np.ndarray:
    """Boxes `[N, T, 7]` that stand `ahead` `[N]` metres further along the routes than cars at `poses` `[N, T, 3]`."""
    route, place = Route.from_points(routes, [bool(each) for each in closed]), torch.from_numpy(poses).float()
    boxes, far = np.zeros((*poses.shape[:2], 7), np.float32), torch.from_numpy(ahead).float()
    arc = None
    for step in range(poses.shape[1]):
        arc = route.foot(place[:, step, :2], arc)
        point, tangent = (value[:, 0].numpy() for value in route.at((arc + far)[:, None]))
        boxes[:, step, :2], boxes[:, step, 2] = point, size[2] / 2
        boxes[:, step, 3:6], boxes[:, step, 6] = size, np.arctan2(tangent[:, 1], tangent[:, 0])
    return boxes


def probe_figures(clips: Arrays, asked: OthersProbes) -> dict[str, float]:
    """What `placed` is of true pictures: of all others at those distances that nobody hides."""
    low, high = asked.placed
    fits = []
    for frames, poses, others in zip(clips["frames"], clips["poses"], clips["others"], strict=True):
        for at in range(0, len(frames), EVERY):
            outlines = asked.outlines(others[at, :, BOX], poses[at])
            area = np.prod(outlines[:, 2:] - outlines[:, :2], axis=1)
            away = np.hypot(*(others[at, :, :2] - poses[at, :2]).T) - asked.size[0]
            plain = (area > 0) & (others[at, :, PIXELS] >= UNHIDDEN * area) & (low <= away) & (away <= high)
            if plain.any():
                cars = asked.cars(frames[at : at + 1])[0]
                fits += [found_at(cars, outline) > FITS for outline in outlines[plain]]
    return {"placed_probe": float(np.mean(fits)) if fits else float("nan"), "placed_probe_count": float(len(fits))}


def count_figures(dreamed: Drives, true: Drives) -> dict[str, float]:
    """Others seen per frame after many steps of drives that have not ended, dreamed over true."""
    shown = [drives.others[:, LATER][~drives.ended[:, LATER]] for drives in (dreamed, true)]
    free, twin = (float(each.mean()) if each.size else float("nan") for each in shown)
    return {"others_free": free, "others_twin": twin, "others_ratio": free / twin if twin else float("nan")}


def hidden_figures(world: World, hidden: Arrays, asked: OthersProbes, **options: Any) -> dict[str, float]:
    """Share of those that are hidden for a while, of `record_hidden`, that the dream shows again where they should be.

    The dream is told the route and not who is there.
    """
    rows = np.flatnonzero(hidden["hidden_steps"])
    if not len(rows):
        return dict.fromkeys(("reappears", "reappears_probe"), float("nan")) | {"reappears_count": 0.0}
    some = {name: values[rows] for name, values in hidden.items()}
    dreamed = dream(world, scenes(some), some["hidden_controls"], seed=90_000, label="hidden", **options)
    last = some["hidden_steps"] - 1
    pictures = {"reappears": dreamed.frames[np.arange(len(rows)), last], "reappears_probe": some["hidden_seen"]}
    poses = {"reappears": dreamed.poses[np.arange(len(rows)), last], "reappears_probe": some["hidden_pose"]}
    figures = {"reappears_count": float(len(rows))}
    for name, frames in pictures.items():
        outlines = [
            asked.outlines(box[None], pose)[0] for box, pose in zip(some["hidden_box"], poses[name], strict=True)
        ]
        share = [filled(cars, outline) for cars, outline in zip(asked.cars(frames), outlines, strict=True)]
        figures[name] = float((np.array(share) >= REAPPEARED).mean())
    return figures
