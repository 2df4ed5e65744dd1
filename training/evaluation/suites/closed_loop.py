"""Figures of long drives by a driver that sees only pictures: in the dream, and in the simulator from the same starts.

Legend: N drives, T steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from drivedit.evaluation.dreams import seen
from drivedit.evaluation.metrics.drift import sampled
from drivedit.evaluation.metrics.figures import correlation, life, turns
from drivedit.evaluation.metrics.others import others_seen
from drivedit.evaluation.sources import Arrays, Sources
from drivedit.models import RowState, Sampling, World
from drivedit.utils import Probes, Route

PATIENCE = 50  # steps off the road, or standing, after which a drive is over
SLOWEST = 1.0  # m/s
STILL_ON_ROAD = 0.8  # of the last `PATIENCE` steps of a drive that counts as still driving
BEND = 0.15  # |steering| of a bend
AGREEMENT_STEPS = 20


@dataclass
class Drives:
    """Long drives.

    Attributes:
        actions: `[N, T, C]`, steering first.
        poses: `[N, T, 3]` after each step.
        speed: `[N, T]` m/s, told by the telemetry.
        told_road: `[N, T]` share of the car on the road, told by the telemetry.
        road: `[N, T]` share of road around the car, read off the pictures.
        ended: bool `[N, T]`, true from the ending on.
        seen: uint8 `[N, S, H, W, 3]`, the pictures at `drift.sampled(T)`.
        film: uint8 `[T, H, W, 3]`, the pictures of the first dream; empty for the simulator's drives.
        others: `[N, T]` how many others the pictures show, zeros where they are not counted (`others_seen`).
    """

    actions: np.ndarray
    poses: np.ndarray
    speed: np.ndarray
    told_road: np.ndarray
    road: np.ndarray
    ended: np.ndarray
    seen: np.ndarray
    film: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    others: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def true_drives(arrays: Arrays) -> Drives:
    """The simulator's drives, of `twin_drives.record_drive`."""
    names = ("actions", "poses", "speed", "told_road", "road", "ended", "seen", "others")
    return Drives(**{name: arrays[f"drive_{name}"] for name in names})


@dataclass
class Starts:
    """States of a world that drives begin in.

    Attributes:
        state: The states, N rows.
        frames: uint8 `[N, H, W, 3]`, what the driver sees first.
        route: The routes, for judging.
        arc: Arc lengths of the cars on them, `[N]`.
    """

    state: RowState
    frames: np.ndarray
    route: Route
    arc: torch.Tensor

    @classmethod
    def of(cls, world: World, state: RowState, frames: np.ndarray) -> Starts:
        """Starts in states; the route is copied, for stepping uses states up."""
        told = world.conditions(state.clone())
        return cls(state, frames, told["route"].to(torch.device("cpu")), told["arc"].cpu())


def scene_starts(world: World, scenes: Sequence[dict[str, Any]], seed: int = 50_000) -> Starts:
    """Starts in scenes."""
    state = world.start(scenes, list(range(seed, seed + len(scenes))))
    return Starts.of(world, state, np.stack([scene["frames"][-1] for scene in scenes]))


def drawn_starts(
    world: World, scenes: Sequence[dict[str, Any]], drawings: Sequence[np.ndarray], sources: Sources, seed: int = 60_000
) -> Starts:
    """Starts in scenes whose road goes over into a drawn loop, as the environment makes them; every pair of both."""
    env = sources.make_dream(world)
    states, frames = [], []
    for drawing in drawings:
        for scene in scenes:
            options = {"scene": scene, "route": drawing, "closed": True}
            frames.append(env.reset(seed=seed + len(frames), options=options)[0])
            states.append(env.get_state().world)
    return Starts.of(world, world.State.cat(states), np.stack(frames))


def drive_dream(
    world: World,
    starts: Starts,
    sources: Sources,
    steps: int,
    *,
    sampling_steps: int | None = None,
    label: str = "closed loop",
    quiet: bool = False,
) -> Drives:
    """Dreams on from starts, one driver per dream; all dreams step together, also past their ending."""
    state, frames, probes = starts.state.clone(), starts.frames, sources.probes
    drivers = [sources.make_driver() for _ in frames]
    over, kept, pictures, wanted = np.zeros(len(frames), bool), [], [], set(sampled(steps).tolist())
    for step in tqdm(range(steps), desc=label, disable=quiet, file=sys.stderr, mininterval=1):
        actions = np.stack([driver(frame) for driver, frame in zip(drivers, frames, strict=True)]).astype(np.float32)
        controls = torch.from_numpy(actions).to(world.device)
        state, out = world.step(state, controls, sampling=Sampling(sampling_steps))
        frames, pose = seen(world, state), world.poses(state).cpu().numpy()
        speed, told = (out.telemetry[name].cpu().numpy() for name in (probes.speed, probes.road))
        over = over | out.ended.cpu().numpy()
        kept.append((actions, pose, speed, told, probes.road_share(frames), over, others_seen(probes, frames, step),
                     frames[0].copy()))  # fmt: skip
        if step in wanted:
            pictures.append(frames.copy())
    *columns, others, film = (np.stack(values) for values in zip(*kept, strict=True))
    shown = np.stack(pictures, 1) if pictures else np.zeros((len(frames), 0, *frames.shape[1:]), np.uint8)
    return Drives(*(column.swapaxes(0, 1) for column in columns), shown, film, others.T)  # type: ignore[call-arg]


def on_road(drives: Drives, threshold: float) -> np.ndarray:
    """Whether the pictures show the car on the road, and the drive has not ended, `[N, T]`."""
    return (drives.road >= threshold) & ~drives.ended


def lives(drives: Drives, threshold: float) -> np.ndarray:
    """Steps until each drive is over: ended, off the road for good, or standing for good, `[N]`."""
    good = on_road(drives, threshold) & (drives.speed > SLOWEST)
    found = [life(row, PATIENCE) for row in good]
    ends = np.where(drives.ended.any(1), drives.ended.argmax(1), drives.ended.shape[1])
    return np.minimum(found, ends)


def route_agreement(drives: Drives, route: Route, arc: torch.Tensor | None, until: np.ndarray) -> float:
    """Correlation of the car's heading change over 20 frames with the route's over the same stretch.

    Args:
        drives: The drives.
        route: Their routes.
        arc: Where the cars begin on them, `[N]` in metres; None: at the nearest point.
        until: Steps of each drive that count, `[N]`.
    """
    poses = torch.from_numpy(drives.poses).float()
    directions = []
    for step in range(poses.shape[1]):
        arc, _, tangent = route.locate(poses[:, step, :2], arc)
        directions.append(torch.atan2(tangent[:, 1], tangent[:, 0]).numpy())
    route_turns, car_turns = turns(np.stack(directions, 1)), turns(drives.poses[..., 2])  # [N, T - 1]
    pairs = []
    for row, stop in enumerate(until):
        for at in range(0, min(int(stop), car_turns.shape[1]) - AGREEMENT_STEPS + 1, AGREEMENT_STEPS // 4):
            window = slice(at, at + AGREEMENT_STEPS)
            pairs.append((route_turns[row, window].sum(), car_turns[row, window].sum()))
    return correlation(*np.array(pairs).T) if len(pairs) > 1 else float("nan")


def driving_figures(
    drives: Drives, route: Route | None, arc: torch.Tensor | None, threshold: float, prefix: str = ""
) -> dict[str, float]:
    """On the road, still driving, alive, life, bends and route agreement of drives; names begin with `prefix`.

    Args:
        drives: The drives.
        route: Their routes; None: they are on no known ones.
        arc: Where the cars begin on them, `[N]` in metres; None: at the nearest point.
        threshold: Road share in the picture from which on a car is on the road.
        prefix: Put before the names.
    """
    road, steps = on_road(drives, threshold), drives.road.shape[1]
    lived = lives(drives, threshold)
    last = slice(-min(PATIENCE, steps), None)
    still = (road[:, last].mean(1) >= STILL_ON_ROAD) & (drives.speed[:, last].mean(1) > SLOWEST)
    steer = np.abs(drives.actions[..., 0])[~drives.ended]
    figures = {
        "on_road": float(road.mean()),
        "on_road_telemetry": float(((drives.told_road >= 0.5) & ~drives.ended).mean()),
        "still_driving": float(still.mean()),
        "alive": float((~drives.ended.any(1)).mean()),
        "median_life": float(np.median(lived)),
        "steer": _mean(steer),
        "bends": _mean(steer > BEND),
        "speed": _mean(drives.speed[~drives.ended]),
    }
    if route is not None:
        figures["route_agreement"] = route_agreement(drives, route, arc, lived)
    return {prefix + name: value for name, value in figures.items()}


def attributes_kept(probes: Probes, names: Sequence[str], true: np.ndarray, seen: np.ndarray) -> float:
    """Share of the pictures that show the attributes that they should; NaN in domains where pictures show none.

    Args:
        probes: What reads them.
        names: Of the attributes.
        true: Their values `[N, K]`.
        seen: uint8 `[N, S, H, W, 3]`, some pictures of each row.
    """
    if probes.attributes is None or not seen.size:
        return float("nan")
    told = probes.attributes(seen.reshape(-1, *seen.shape[2:]))
    right = [told[name].reshape(seen.shape[:2]) == true[:, [column]] for column, name in enumerate(names)
             if name in told]  # fmt: skip
    return float(np.mean(right))


def ratios(dreamed: dict[str, float], true: dict[str, float]) -> dict[str, float]:
    """Steering statistics of the dreams over the simulator's."""
    return {
        f"{name}_ratio": dreamed[name] / true[f"twin_{name}"] if true[f"twin_{name}"] else float("nan")
        for name in ("steer", "bends")
    }


def hand_drawn_routes() -> dict[str, np.ndarray]:
    """An ellipse, and two straights joined by hairpins with a chicane: closed lines in metres, driven to the left."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    ellipse = np.stack([130 * np.sin(angle), 80 * (1 - np.cos(angle))], -1)
    half = np.linspace(-np.pi / 2, np.pi / 2, 20)
    radius, length = 22.0, 140.0
    along = np.linspace(0, length, 41)[:-1]
    chicane = 7 * (1 - np.cos(2 * np.pi * along / length))
    parts = [
        np.stack([along, np.zeros_like(along)], -1),
        np.stack([length + radius * np.cos(half), radius + radius * np.sin(half)], -1),
        np.stack([length - along, 2 * radius + chicane], -1),
        np.stack([-radius * np.cos(half), radius - radius * np.sin(half)], -1),
    ]
    straights = np.concatenate(parts)
    return {"ellipse": ellipse, "hairpins": straights[np.append(True, np.hypot(*np.diff(straights, axis=0).T) > 0.1)]}


def some(drives: Drives, rows: slice) -> Drives:
    """Some of the drives (with the film of the first of all)."""
    return Drives(**{name: value if name == "film" else value[rows] for name, value in vars(drives).items()})


def _mean(values: np.ndarray) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if values.size else float("nan")
