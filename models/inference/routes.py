"""Drawn routes, by hand or at random: what the start picture shows of the road is kept, the drawing goes on there."""

from __future__ import annotations

import math

import numpy as np
import torch

from drivedit.models import Scene
from drivedit.models.scenes import FARTHEST
from drivedit.utils import Route, real_numbers

BEHIND, AHEAD = 30.0, 45.0  # metres of the scene's own road that are kept
STEP = 1.5  # metres between the points of the kept road
LAPS_LENGTH = 2000.0  # metres of a drawn loop that are laid out, in whole laps: what 1000 steps can drive
BEYOND = 90.0  # metres of a further lap, so that no end comes into view
RADII = 11.0, 60.0  # metres; of the bends of random routes, as sharp as CarRacing's sharpest
STRAIGHT, BEND = 60.0, (0.3, 3.1)  # metres; rad: the longest straight, the least and the largest change of direction
MOST_POINTS, DENSEST = 100_000, 100.0  # of a drawing, in all and per metre
LEFT = 0.6  # share of left bends: loops that are driven to the left, as those of CarRacing, have more of them
CLEAR, FELT, NEAR = 25.0, 250.0, 50.0  # metres: a road stays so clear of its last 250 m, but for the nearest 50


def random_route(rng: np.random.Generator, length: float = LAPS_LENGTH) -> np.ndarray:
    """Draws straights and bends as sharp as those of CarRacing; the road stays clear of what it has just passed.

    Args:
        rng: Where the chance comes from.
        length: Metres, at least.

    Returns:
        float64 `[M, 2]`: points about 3 m apart in driving direction, an open line.
    """
    spacing = 2 * STEP
    felt, near = round(FELT / spacing), round(NEAR / spacing)
    line, heading = np.zeros(1, complex), 0.0
    while len(line) * spacing < length:
        straight = np.zeros(int(rng.uniform(0.0, STRAIGHT) / spacing))
        radius, turn = np.exp(rng.uniform(*np.log(RADII))), rng.uniform(*BEND) * (1 if rng.random() < LEFT else -1)
        bend = np.full(max(round(abs(turn) * radius / spacing), 1), np.sign(turn) * spacing / radius)
        headings = heading + np.cumsum(np.concatenate([straight, bend]))
        new = line[-1] + np.cumsum(spacing * np.exp(1j * headings))
        longer = np.append(line[-felt:], new)
        far = np.arange(len(longer)) <= np.arange(len(longer) - len(new), len(longer))[:, None] - near
        if np.abs(new[:, None] - longer).min(initial=np.inf, where=far) > CLEAR:
            line, heading = np.append(line, new), float(headings[-1])
        elif rng.random() < 0.1:  # a dead end: back to where there was room
            line = line[: max(len(line) - felt // 4, 1)]
            heading = float(np.angle(line[-1] - line[-2])) if len(line) > 1 else 0.0
    return np.stack([np.real(line), np.imag(line)], 1)


def draw_route(scene: Scene, drawing: np.ndarray, closed: bool) -> tuple[Scene, float]:
    """Gives a scene a hand-drawn route.

    The drawing is moved and turned so that position and direction are continuous: it begins at the car, or, if the
    scene knows its own road, 45 m ahead of the car on that road, which the picture shows already. Its own place and
    direction in the plane do not matter. The scene's playfield no longer bounds it.

    Args:
        scene: The scene.
        drawing: `[M, 2]` points in metres, in driving direction.
        closed: Whether the last point leads to the first; a loop is driven lap after lap.

    Returns:
        The scene with the new route, and the car's arc length on it in metres.

    Raises:
        ValueError: The drawing is not finite, has another shape, or is too short, too dense or too large.
    """
    drawing = _check_drawing(drawing, closed)
    car = scene.poses_or_start()[-1].astype(np.float64)
    if scene.route is None:
        placed = _place(drawing, car, _direction_at_start(drawing, closed))
        return scene.with_route(placed.astype(np.float32), closed), 0.0
    kept, behind = _kept_road(scene, car)
    step = kept[-1] - kept[-2]
    end = np.array([*kept[-1], math.atan2(step[1], step[0])])
    placed = _place(drawing, end, _direction_at_start(drawing, closed))
    if closed:
        placed = _laps(placed)
    route = np.concatenate([kept, placed[1:]])
    return scene.with_route(route.astype(np.float32)), behind


def _check_drawing(drawing: np.ndarray, closed: bool) -> np.ndarray:
    """The drawing as float64 without repeated points, checked."""
    expected = f"a route is a finite array [M >= 2, 2] of at most {MOST_POINTS} points in metres"
    points = real_numbers(drawing, expected)
    if points.ndim != 2 or points.shape[1] != 2 or not 2 <= len(points) <= MOST_POINTS:
        raise ValueError(f"{expected}, got shape {list(points.shape)}")
    points = points.astype(np.float64)
    if not (np.abs(points) <= FARTHEST).all():
        raise ValueError(f"{expected}, at most {FARTHEST:g} m from zero, got {points[np.abs(points).argmax() // 2]}")
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if not max(10.0, len(points) / DENSEST) <= steps.sum() <= FARTHEST:
        raise ValueError(
            f"a route is 10 m to {FARTHEST:g} m long and has at most {DENSEST:g} points per metre, "
            f"got {len(points)} points in {steps.sum():.2f} m; they are in metres"
        )
    points = points[np.concatenate([[True], steps > 1e-6])]
    if closed and np.linalg.norm(points[-1] - points[0]) < 1e-6:
        points = points[:-1]
    return points


def _kept_road(scene: Scene, car: np.ndarray) -> tuple[np.ndarray, float]:
    """The scene's own road around the car, in the direction that the car faces, and how much of it lies behind.

    A scene without poses stands at the beginning of its route, so nothing is kept behind it.
    """
    own = Route.from_points([scene.route], [scene.closed])
    foot, _, tangent = own.locate(torch.tensor(car[None, :2], dtype=torch.float32), None)
    facing = tangent[0, 0].item() * math.cos(car[2]) + tangent[0, 1].item() * math.sin(car[2])
    behind = BEHIND if scene.poses is not None else 0.0
    along = np.arange(-behind, AHEAD + STEP / 2, STEP, dtype=np.float32) * (-1.0 if facing < 0 else 1.0)
    points, _ = own.at(foot[:, None] + torch.from_numpy(along)[None])
    return points[0].double().numpy(), behind


def _direction_at_start(points: np.ndarray, closed: bool) -> float:
    """The drawing's direction (rad) at its first point; of a loop, the mean of the directions in and out."""
    out = points[1] - points[0]
    if closed:
        into = points[0] - points[-1]
        out = out / np.linalg.norm(out) + into / np.linalg.norm(into)
    return math.atan2(out[1], out[0])


def _place(points: np.ndarray, pose: np.ndarray, direction: float) -> np.ndarray:
    """Moves and turns points so that the first lies at the pose (x, y, yaw) and `direction` becomes its yaw."""
    turn = pose[2] - direction
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return (points - points[0]) @ rotation.T + pose[:2]


def _laps(loop: np.ndarray) -> np.ndarray:
    """Lays a loop out as an open line: as many whole laps as reach `LAPS_LENGTH`, and a further piece beyond."""
    length = float(np.linalg.norm(np.diff(np.concatenate([loop, loop[:1]]), axis=0), axis=1).sum())
    laps = math.ceil(LAPS_LENGTH / length)
    line = np.tile(loop, (laps + math.ceil(BEYOND / length), 1))
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    return line[: int(np.searchsorted(arc, laps * length + BEYOND)) + 1]
