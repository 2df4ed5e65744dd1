"""Who is around the car, and where its road goes, as a small map from above: the car in the middle, heading up.

Legend: N others, M points. All places are the car's: metres ahead of it and to its left, angles to the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np

from drivedit.config import AgentsConfig
from drivedit.models import RowState, World
from drivedit.models.scenes import OTHERS, ROUTE
from drivedit.models.sets.visible import pixel_outlines
from drivedit.utils import Truth

REACH = 40.0  # metres that are seen ahead, and behind
ASPECT = 0.7  # width of the map divided by its height
RINGS = (10.0, 20.0, 30.0)  # metres
LANE = 3.2  # metres: as wide as the route's line is drawn
CAR = np.array([[2.6, 0.0], [-2.2, 1.5], [-1.3, 0.0], [-2.2, -1.5]])  # an arrow in the middle
GROUND, RING, ROAD = (16, 19, 24, 215), (44, 49, 58, 215), (78, 88, 104, 235)
OTHER, FRONT, OWN = (244, 186, 74, 255), (66, 46, 12, 255), (104, 168, 255, 255)
READ = (120, 224, 168, 255)  # who was read off the picture
LIKELY = 0.5  # presence from which on they are drawn
FARTHEST = 10_000.0  # pixels from the map, to where lines are drawn
SHIFT = 4  # bits of a pixel's fraction


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is known around the car.

    Attributes:
        boxes: float32 `[N, 5]`: middle ahead and to the left, length, width (m), and turn to the left (rad).
        route: float32 `[M, 2]`, the line that is driven along; M = 0: not known.
        read: Who was read off the picture, as boxes `[R, 5]`.
        outlines: Float `[R, 4]`, left, top, right and bottom of those in the picture, as shares of its sides.
    """

    boxes: np.ndarray
    route: np.ndarray
    read: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    outlines: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    @classmethod
    def seen_from(
        cls, pose: np.ndarray, boxes: np.ndarray, route: np.ndarray | None = None, closed: bool = False
    ) -> Surroundings:
        """What is around a car.

        Args:
            pose: `[3]` of the car: x, y (m), yaw (rad).
            boxes: `[N, >= 7]`: x, y, z, length, width, height (m), yaw (rad), in the plane of the pose.
            route: `[M, 2]` in the same plane; None: not known.
            closed: Whether its last point leads to the first.
        """
        line = np.zeros((0, 2)) if route is None else np.concatenate([route, route[:1]]) if closed else route
        place, yaw = np.asarray(pose[:2], np.float64), float(pose[2])
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        around = np.concatenate([(boxes[:, :2] - place) @ turn, boxes[:, 3:5], boxes[:, 6:7] - yaw], 1)
        return cls(around.astype(np.float32), ((line - place) @ turn).astype(np.float32))


def surroundings_of_dream(world: World, state: RowState) -> Surroundings | None:
    """What a single world is told of others on the road, and of its route; None: it is told of nobody."""
    given = world.given(state)
    if OTHERS not in given or not bool(given[OTHERS]):
        return None
    told = world.conditions(state)
    boxes, route, closed = told[OTHERS][0].cpu().numpy(), None, False
    if ROUTE in given and bool(given[ROUTE]):
        line = told[ROUTE]
        route, closed = line.points[0, : int(line.count)].cpu().numpy(), bool(line.closed)
    return Surroundings.seen_from(world.poses(state)[0].cpu().numpy(), boxes[boxes[:, 3] > 0], route, closed)


def surroundings_of_truth(truth: Truth) -> Surroundings | None:
    """What a simulator knows; None: it knows of nobody, or not where its car is."""
    if truth.agents is None or truth.pose is None:
        return None
    return Surroundings.seen_from(truth.pose, truth.agents.boxes[truth.agents.at(0)], truth.route, truth.closed)


def with_read(around: Surroundings | None, told: Mapping[str, np.ndarray], config: AgentsConfig) -> Surroundings:
    """What is known around a car, and those who were read off its picture (`info["agents"]`) by a reader."""
    boxes = told["boxes"][told["presence"] >= LIKELY]
    corners, depth = pixel_outlines(config, boxes)
    height, width = config.image_size
    outlines = (corners / [width, height, width, height]).clip(0, 1) * (depth > 0)[:, None]
    known = around or Surroundings(np.zeros((0, 5), np.float32), np.zeros((0, 2), np.float32))
    return replace(known, read=boxes[:, [0, 1, 3, 4, 6]], outlines=outlines)


@lru_cache(maxsize=4)
def draw_map(around: Surroundings, height: int) -> np.ndarray:
    """Draws the map, uint8 RGBA `[height, about ASPECT * height, 4]` with round corners."""
    width, scale = round(ASPECT * height), height / (2 * REACH)

    def pixels(places: np.ndarray) -> np.ndarray:
        """Places `[..., 2]` as pixels to the right and down, in `SHIFT` bits."""
        found = np.array([width, height]) / 2 - scale * places[..., ::-1]
        return np.round(np.clip(found, -FARTHEST, FARTHEST) * 2**SHIFT).astype(np.int32)

    image = np.empty((height, width, 4), np.uint8)
    image[:] = GROUND
    middle = tuple(int(value) for value in pixels(np.zeros(2)))
    for ring in RINGS:
        cv2.circle(image, middle, round(ring * scale * 2**SHIFT), RING, 1, cv2.LINE_AA, SHIFT)
    if len(around.route):
        cv2.polylines(image, [pixels(around.route)], False, ROAD, max(round(LANE * scale), 2), cv2.LINE_AA, SHIFT)
    line = max(round(0.5 * scale), 1)
    for box in around.boxes:
        corners = pixels(_corners(box))
        cv2.fillConvexPoly(image, corners[:4], OTHER, cv2.LINE_AA, SHIFT)
        cv2.line(image, corners[4].tolist(), corners[5].tolist(), FRONT, line, cv2.LINE_AA, SHIFT)
    for box in around.read:
        corners = pixels(_corners(box))
        cv2.polylines(image, [corners[:4]], True, READ, line, cv2.LINE_AA, SHIFT)
        cv2.line(image, corners[4].tolist(), corners[5].tolist(), READ, line, cv2.LINE_AA, SHIFT)
    cv2.fillPoly(image, [pixels(CAR)], OWN, cv2.LINE_AA, SHIFT)
    image[..., 3] = image[..., 3] * _round_corners(height, width, height / 20)
    return image


def _corners(box: np.ndarray) -> np.ndarray:
    """The four corners of a box `[5]`, and the ends of a line near its front, `[6, 2]`."""
    ahead, left, length, width, turn = box
    cos, sin = np.cos(turn), np.sin(turn)
    half = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [0.55, 1], [0.55, -1]]) * [length / 2, width / 2]
    return half @ np.array([[cos, sin], [-sin, cos]]) + [ahead, left]


def _round_corners(height: int, width: int, radius: float) -> np.ndarray:
    """How much of each pixel lies inside a rectangle with round corners, `[height, width]` in [0, 1]."""
    down, right = (np.abs(np.arange(side) + 0.5 - side / 2) - side / 2 + radius for side in (height, width))
    return np.clip(radius + 0.5 - np.hypot(down.clip(0)[:, None], right.clip(0)), 0, 1)
