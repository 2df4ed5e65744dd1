"""What stands beside a road: houses, lamps, trees, posts, rails and signs, placed from a seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.rays import (
    BODY,
    BOX,
    BUILDING,
    CYLINDER,
    ELLIPSOID,
    POLE,
    SIDEWALK_WIDTH,
    TREE,
    crossing_at,
)  # fmt: skip
from drivedit.data.domains.street.roads import NOWHERE, SIDE_ROAD, Road, locate, ramp_at
from drivedit.data.domains.street.shading import CROWN, FACADE, LAMP, LAMPS, PLAIN, SIGN

WALLS = np.array([
    (0.72, 0.62, 0.50), (0.62, 0.36, 0.28), (0.68, 0.66, 0.62), (0.55, 0.48, 0.42), (0.78, 0.70, 0.52),
    (0.46, 0.50, 0.56), (0.70, 0.50, 0.40), (0.56, 0.60, 0.54),
])  # fmt: skip
METAL = (0.52, 0.53, 0.55)
TALL = 2.0  # m; what begins above this is in nobody's way
THIN = 0.055  # m; what is thinner bends


@kernel
def _in_the_way(road, line, grid, crossings, x, y, c, n, long, wide, margin):
    """Whether a rectangle, its middle or a corner, lies within `margin` of pavement, or of where a ramp begins."""
    for corner in range(5):
        along = (0.0, long, long, -long, -long)[corner]
        across = (0.0, wide, -wide, wide, -wide)[corner]
        px, py = x + c * along - n * across, y + n * along + c * across
        s, d = locate(road, line, grid, px, py)
        if abs(d) < road.half + margin:
            return True
        w, u = crossing_at(road, crossings, px, py)
        if abs(w) < SIDE_ROAD + margin and abs(u) < road.reach + 1:
            return True
        if -50 < d < 0 and road.ramped and min(ramp_at(road, s), ramp_at(road, s + 20)) < NOWHERE:
            return True
    return False


class Scenery:
    """Collects the bodies beside a road.

    Args:
        road: The road.
        rng: The only source of chance.
    """

    def __init__(self, road: Road, rng: np.random.Generator) -> None:
        self.road, self.rng = road, rng
        self._rows: list[list[Any]] = []

    def add(self, kind: int, s: float, d: float, z: float, half: tuple[float, float, float], colour, material: int,
            what: int, margin: float = 0.3) -> bool:  # fmt: skip
        """Adds a body, unless it would stand within `margin` metres of a road; whether it did.

        s, d, z is its middle, `half` its half sizes along the road, across it, and up, `what` its class.
        """
        road = self.road
        x, y, yaw = road.place(s, d)
        c, n = math.cos(yaw), math.sin(yaw)
        low = z - half[2] < TALL
        box = x, y, c, n, float(half[0]), float(half[1])
        if low and _in_the_way(road.shape, road.line, road.grid, road.crossings, *box, margin):
            return False
        self._rows.append([kind, x, y, z, *half, c, n, *colour, material, 0, what, self.rng.integers(10_000), 0])
        return True

    def tree(self, s: float, d: float) -> None:
        """A tree; some are tall and dark, some round."""
        rng, z = self.rng, float(self.rng.uniform(1.4, 2.8))
        if not self.add(CYLINDER, s, d, 1.2, (0.18, 0.18, 1.2), (0.28, 0.20, 0.13), PLAIN, TREE, 1.0):
            return
        if rng.random() < 0.35:
            half, colour, z = (0.75 * z, 0.75 * z, 1.5 * z), (0.10, rng.uniform(0.22, 0.3), 0.13), 1.0 + 1.4 * z
        else:
            half, colour, z = (z, z, 1.1 * z), (rng.uniform(0.12, 0.3), rng.uniform(0.32, 0.44), 0.10), 1.7 + z
        self._rows.append(
            [ELLIPSOID, *self._rows[-1][1:3], z, *half, 1, 0, *colour, CROWN, 0, TREE, rng.integers(99), 0]
        )

    def house(self, s: float, d: float, half: tuple[float, float, float]) -> None:
        """A house whose walls have windows."""
        colour = WALLS[self.rng.integers(len(WALLS))] * self.rng.uniform(0.85, 1.1)
        self.add(BOX, s, d, half[2], half, colour, FACADE, BUILDING, 1.2)

    def lamp(self, s: float, side: int, edge: float) -> None:
        """A lamp whose arm reaches over the edge of the road."""
        if self.add(CYLINDER, s, side * (edge + 0.7), 3.2, (0.08, 0.08, 3.2), (0.35, 0.36, 0.38), PLAIN, POLE):
            self.add(BOX, s, side * edge, 6.4, (0.22, 0.7, 0.08), (0.6, 0.58, 0.5), LAMP, POLE)

    def bodies(self) -> np.ndarray:
        """All of them, `[P]` of `rays.BODY`."""
        return np.array(self._rows, float).view(BODY)[:, 0]


def _town(scenery: Scenery) -> None:
    """Rows of houses on both sides and along the side roads, lamps, and trees on the sidewalk."""
    road, rng = scenery.road.shape, scenery.rng
    front = road.half + SIDEWALK_WIDTH + 0.6
    heights = np.array([3, 4, 6, 7, 9, 12, 15]) + 0.2
    for side in (-1, 1):
        s = 0.0
        while s < road.length - 14:
            a, b = rng.uniform(4.5, 8), rng.uniform(4, 7)
            if rng.random() < 0.86:
                scenery.house(s + a, side * (front + b + rng.uniform(0, 1)), (a, b, rng.choice(heights)))
            else:
                scenery.tree(s + a, side * (front + 3))
            s += 2 * a + rng.uniform(0.2, 2.5)
        for s in np.arange(0, road.length - 15, LAMPS):
            scenery.lamp(s, side, road.half)
            if rng.random() < 0.35:
                scenery.tree(s + LAMPS / 2, side * (road.half + 1.6))
        for begin in road.crossings[: road.crossed]:
            for u in np.arange(road.half + 22, road.reach - 5, 15):
                for way in (-1, 1):
                    b = rng.uniform(4, 6)
                    scenery.house(begin + way * (SIDE_ROAD + 3 + b), side * u, (b, 7, rng.choice(heights[:5])))
            scenery.house(begin, side * (road.reach + 7), (9, 5, rng.choice(heights[2:])))


def _rural(scenery: Scenery) -> None:
    """Trees alone and in woods, bushes, a few houses, and posts at the edges."""
    road, rng = scenery.road.shape, scenery.rng
    wood = rng.random(int(road.length / 120) + 1)
    for side in (-1, 1):
        for s in np.arange(0, road.length, 7.0):
            dense = wood[int(s / 120)] < 0.3
            if rng.random() < (0.85 if dense else 0.28):
                scenery.tree(s + rng.uniform(-3, 3), side * (road.half + rng.uniform(3.5, 9 if dense else 20)))
            if dense:
                scenery.tree(s + rng.uniform(-3, 3), side * (road.half + rng.uniform(10, 24)))
            elif rng.random() < 0.15:
                size = rng.uniform(0.5, 1.1)
                colour = (rng.uniform(0.15, 0.25), 0.34, 0.12)
                at = side * (road.half + rng.uniform(2.5, 8))
                scenery.add(ELLIPSOID, s, at, 0.4 * size, (size, size, 0.8 * size), colour, CROWN, TREE, 1.5)
        for s in np.arange(10, road.length - 10, 25.0):
            scenery.add(BOX, s, side * (road.half + 0.8), 0.5, (0.05, 0.06, 0.5), (0.85, 0.85, 0.85), PLAIN, POLE)
        for s in np.arange(50, road.length - 50, 160.0):
            if rng.random() < 0.5:
                a, s = rng.uniform(4, 7), s + rng.uniform(-40, 40)
                d, high = side * (road.half + rng.uniform(14, 26)), rng.uniform(2.6, 3.4)
                scenery.house(s, d, (a, 4.5, high))


def _highway(scenery: Scenery) -> None:
    """Rails at the edges and in the middle, signs, and trees far off."""
    road, rng = scenery.road.shape, scenery.rng
    count = math.ceil(road.length / 8)
    for s in (np.arange(count) + 0.5) * road.length / count:
        half = (road.length / count / 2 + 0.03, 0.09, 0.17)
        x, y, yaw = scenery.road.place(s, 0.0)
        c, n = math.cos(yaw), math.sin(yaw)
        scenery._rows.append([BOX, x, y, 0.45, half[0], 0.16, 0.45, c, n, *METAL, PLAIN, 0, POLE, 0, 0])
        for side in (-1, 1):
            scenery.add(BOX, s, side * (road.half + 0.7), 0.6, half, METAL, PLAIN, POLE)
    for side in (-1, 1):
        for s in np.arange(0, road.length, 11.0):
            if rng.random() < 0.45:
                scenery.tree(s + rng.uniform(-4, 4), side * (road.half + rng.uniform(5, 24)))
        for s in np.arange(200, road.length - 100, 450.0):
            s, d = s + rng.uniform(-90, 90), side * (road.half + 3.2)
            if scenery.add(CYLINDER, s, d, 2.6, (0.12, 0.12, 2.6), METAL, PLAIN, POLE):
                scenery.add(BOX, s, d, 5.4, (0.08, 2.3, 1.3), (0.05, 0.22, 0.55), SIGN, POLE)


def draw_scenery(road: Road, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Everything that stands still.

    Returns:
        Its bodies, `[P]` of `rays.BODY`, and those of them that a car can hit.
    """
    scenery = Scenery(road, rng)
    (_town, _rural, _highway)[road.shape.kind](scenery)
    bodies = scenery.bodies()
    low = (bodies["z"] - bodies["hz"] < TALL) & (bodies["form"] != ELLIPSOID) & (bodies["hx"] > THIN)
    return bodies, bodies[low]
