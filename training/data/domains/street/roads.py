"""Roads: closed laps of straights and bends, drawn from a seed, with crossings or on-ramps.

A place is x, y (m), or s, d: metres along the centre line, and metres to the left of it. Lanes are numbered from the right
edge; those below `side` go with s. The curvature is continuous: a bend begins and ends as a clothoid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drivedit.data.domains.street.compiled import kernel

REACH = 40.0  # m beside the centre line where s and d are known
CELL = 2.0  # m, of the grid that finds them
CLEARANCE = 75.0  # m between two parts of a lap
RAMP_WIDTH = 4.3  # m, paved
RAMP_OUT = 28.0  # m that a ramp begins beside the lane that it becomes
RAMP_BEFORE, RAMP_BESIDE, RAMP_TAPER = 140.0, 170.0, 50.0  # m: it approaches, runs beside the road, and narrows
SIDE_ROAD = 4.0  # m, half the width of a road that crosses
RAMPED = 0.35  # share of a bend in which its curvature rises, and in which it falls


@dataclass(frozen=True)
class Style:
    """What roads of a kind are like.

    Attributes:
        side: Lanes a side.
        lane: Width of a lane (m).
        edge: Pavement beside the outer lanes (m).
        median: Half the width of what parts the directions (m).
        limit: Speed of the traffic (m/s).
        bends: Fewest and most bends of a lap.
        radius: Least and greatest radius of a bend (m).
        straight: About the least and the greatest length of a straight (m).
        crossing: Least distance between two crossings (m); 0: there are none.
        reach: How far a crossing road goes to either side (m).
        ramp: About the distance between two on-ramps (m); 0: there are none.
        spacing: Metres of lane per car at density 1.
    """

    side: int
    lane: float
    edge: float
    median: float
    limit: float
    bends: tuple[int, int]
    radius: tuple[float, float]
    straight: tuple[float, float]
    crossing: float
    reach: float
    ramp: float
    spacing: float


STYLES = {
    "town": Style(1, 3.5, 0.5, 0.0, 13.5, (7, 10), (22.0, 60.0), (80.0, 240.0), 130.0, 80.0, 0.0, 24.0),
    "rural": Style(1, 3.5, 0.5, 0.0, 22.0, (7, 10), (70.0, 200.0), (60.0, 320.0), 350.0, 120.0, 0.0, 36.0),
    "highway": Style(2, 3.7, 0.8, 1.0, 30.0, (6, 8), (350.0, 700.0), (100.0, 500.0), 0.0, 0.0, 900.0, 44.0),
}
KINDS = tuple(STYLES)


class Road(NamedTuple):
    """A lap, as kernels take it.

    Attributes:
        line: float64 `[M, 5]` of points at equal distances: x, y, cosine and sine of the direction, curvature (1/m, > 0
            left).
        grid: int32 `[G, G]`, the point nearest to a cell of the plane; -1 where none is within `REACH`.
        bend: float64 `[M]`, the sharpest curvature near a point (1/m, unsigned).
        crossings: float64 `[K, 5]`: s, x, y, cosine and sine of the road's direction there.
        ramps: float64 `[R]`, s where an on-ramp begins to run beside the road.
        length: Of the lap (m).
        step: From one point to the next (m).
        west: x of the grid's corner.
        south: y of the grid's corner.
        half: Half the width of the pavement (m).
        lane: Width of a lane (m).
        median: Half the width of what parts the directions (m).
        side: Lanes a side.
        limit: Speed of the traffic (m/s).
        reach: How far a crossing road goes to either side (m).
        kind: Place in `KINDS`.
    """

    line: np.ndarray
    grid: np.ndarray
    bend: np.ndarray
    crossings: np.ndarray
    ramps: np.ndarray
    length: float
    step: float
    west: float
    south: float
    half: float
    lane: float
    median: float
    side: int
    limit: float
    reach: float
    kind: int


@kernel
def along(road, s):
    """s within the lap."""
    return s - road.length * math.floor(s / road.length)


@kernel
def apart(road, s):
    """A difference of two s, the short way round."""
    return s - road.length * math.floor(s / road.length + 0.5)


@kernel
def lane_middle(road, lane):
    """d of the middle of a lane."""
    middle = (lane - road.side + 0.5) * road.lane
    return middle + road.median if lane >= road.side else middle - road.median


@kernel
def ramp_middle(road, x):
    """d of the middle of a ramp, x metres after where it begins to run beside the road."""
    out = min(max(-x / RAMP_BEFORE, 0.0), 1.0)
    return lane_middle(road, -1) - RAMP_OUT * out * out * (3 - 2 * out)


@kernel
def ramp_at(road, s):
    """How far s lies after where the ramp around it begins to run beside the road; 1e9: there is none."""
    for k in range(road.ramps.size):
        x = apart(road, s - road.ramps[k])
        if -RAMP_BEFORE < x < RAMP_BESIDE + RAMP_TAPER:
            return x
    return 1e9


@kernel
def place(road, s, d):
    """x, y and the direction of the road (rad), of s and d."""
    count = road.line.shape[0]
    f = along(road, s) / road.step
    k = min(int(f), count - 1)
    u, a, b = f - k, road.line[k], road.line[(k + 1) % count]
    c, n = a[2] * (1 - u) + b[2] * u, a[3] * (1 - u) + b[3] * u
    h = math.hypot(c, n)
    c, n = c / h, n / h
    return a[0] * (1 - u) + b[0] * u - n * d, a[1] * (1 - u) + b[1] * u + c * d, math.atan2(n, c)


@kernel
def locate(road, x, y):
    """s and d of x, y; d is 1e3 where the road is farther than `REACH`."""
    i, j = int((x - road.west) / CELL), int((y - road.south) / CELL)
    if x < road.west or y < road.south or i >= road.grid.shape[0] or j >= road.grid.shape[1] or road.grid[i, j] < 0:
        return 0.0, 1e3
    count = road.line.shape[0]
    k, e, d = road.grid[i, j], 0.0, 0.0
    for _ in range(3):  # the grid knows the nearest point of the middle of a cell
        p = road.line[k]
        e = p[2] * (x - p[0]) + p[3] * (y - p[1])
        d = p[2] * (y - p[1]) - p[3] * (x - p[0])
        e /= max(0.2, 1 - p[4] * d)
        move = int(math.floor(e / road.step + 0.5))
        if move == 0:
            break
        k = (k + move) % count
    return along(road, k * road.step + e), d


@kernel
def paved(road, s, d):
    """Whether s, d lies on pavement: the road, a crossing road or a ramp."""
    if abs(d) <= road.half:
        return True
    for k in range(road.crossings.shape[0]):
        if abs(apart(road, s - road.crossings[k, 0])) < SIDE_ROAD and abs(d) < road.reach:
            return True
    return d < 0 and d >= ramp_edge(road, s) and abs(d - ramp_middle(road, ramp_at(road, s))) < RAMP_WIDTH / 2


@kernel
def ramp_edge(road, s):
    """d of the right edge of the pavement, ramps included."""
    x = ramp_at(road, s)
    if x > 1e8:
        return -road.half
    outer = ramp_middle(road, x) - RAMP_WIDTH / 2
    left = min(max((x - RAMP_BESIDE) / RAMP_TAPER, 0.0), 1.0)
    return outer + (-road.half - outer) * left


@kernel
def _nearest(line, west, south, count):
    """The grid of `Road`."""
    grid = np.full((count[0], count[1]), -1, np.int32)
    best = np.full((count[0], count[1]), REACH * REACH)
    r = int(REACH / CELL) + 1
    for k in range(line.shape[0]):
        ci, cj = int((line[k, 0] - west) / CELL), int((line[k, 1] - south) / CELL)
        for i in range(max(0, ci - r), min(grid.shape[0], ci + r + 1)):
            for j in range(max(0, cj - r), min(grid.shape[1], cj + r + 1)):
                dx, dy = west + (i + 0.5) * CELL - line[k, 0], south + (j + 0.5) * CELL - line[k, 1]
                if dx * dx + dy * dy < best[i, j]:
                    best[i, j], grid[i, j] = dx * dx + dy * dy, k
    return grid


def draw_road(rng: np.random.Generator, kind: str) -> Road:
    """Draws a lap.

    Args:
        rng: The only source of chance.
        kind: One of `KINDS`.
    """
    style = STYLES[kind]
    points = _lap(rng, style)
    step = points[0, 5]
    line = np.ascontiguousarray(points[:, :5])
    west, south = line[:, :2].min(0) - REACH - CELL
    count = np.ceil((line[:, :2].max(0) + REACH + CELL - (west, south)) / CELL).astype(np.int64)
    window = int(45 / step)
    curve = np.abs(line[:, 4])
    bend = np.max([np.roll(curve, shift) for shift in range(-window, window + 1)], 0)
    road = Road(
        line, _nearest(line, west, south, (count[0], count[1])), bend, np.zeros((0, 5)), np.zeros(0),
        float(step * len(line)), float(step), float(west), float(south),
        style.side * style.lane + style.edge + style.median, style.lane, style.median, style.side, style.limit, style.reach, KINDS.index(kind),
    )  # fmt: skip
    return road._replace(crossings=_crossings(rng, road, style), ramps=_ramps(rng, road, style))


def _lap(rng: np.random.Generator, style: Style) -> np.ndarray:
    """Points of a lap that closes and keeps away from itself, `[M, 6]`: those of `Road.line`, and their distance."""
    while True:
        count = int(rng.integers(style.bends[0], style.bends[1] + 1))
        turns = rng.uniform(0.5, 1.5, count) * np.where(rng.random(count) < 0.25, -1, 1)
        turns += (2 * math.pi - turns.sum()) / count
        if not (np.abs(turns) > 0.25).all() or not (np.abs(turns) < 1.7).all():
            continue
        bends = np.abs(turns) * rng.uniform(*style.radius, count) / (1 - RAMPED)  # their lengths
        straights = _closing(rng.uniform(*style.straight, count), bends, turns)
        if straights.min() < style.straight[0] / 2 or straights.max() > 2 * style.straight[1]:
            continue
        points = _points(straights, bends, turns)
        if rng.random() < 0.5:  # a lap to the right
            points[:, [1, 3, 4]] *= -1
        if _clear(points):
            return points


def _curvature(q: np.ndarray, bends: np.ndarray, turns: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Curvature at arc lengths; bends end at `ends`."""
    curve = np.zeros_like(q)
    for length, turn, end in zip(bends, turns, ends, strict=True):
        part = np.clip((q - end + length) / length, 0, 1)
        curve += np.clip(np.minimum(part, 1 - part) / RAMPED, 0, 1) * turn / (length * (1 - RAMPED))
    return curve


def _closing(straights: np.ndarray, bends: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The lengths of the straights, changed as little as possible so that the lap closes."""
    before = np.cumsum(turns) - turns
    way = np.zeros(2)
    for length, turn, begin in zip(bends, turns, before, strict=True):
        q = (np.arange(400) + 0.5) * length / 400
        curve = _curvature(q, np.array([length]), np.array([turn]), np.array([length]))
        heading = begin + (np.cumsum(curve) - curve / 2) * length / 400
        way += np.array([np.cos(heading).sum(), np.sin(heading).sum()]) * length / 400
    along_them = np.stack([np.cos(before), np.sin(before)])  # [2, count]
    return straights - np.linalg.pinv(along_them) @ (along_them @ straights + way)


def _points(straights: np.ndarray, bends: np.ndarray, turns: np.ndarray, fine: int = 8) -> np.ndarray:
    """Points about a metre apart, `[M, 6]`."""
    ends = np.cumsum(straights + bends)
    count = int(ends[-1])
    step = ends[-1] / count
    q = (np.arange(count * fine) + 0.5) * step / fine
    curve = _curvature(q, bends, turns, ends)
    heading = (np.cumsum(curve) - curve / 2) * step / fine
    ways = np.stack([np.cos(heading), np.sin(heading)], 1)
    ways -= ways.mean(0)  # what is left of the gap is spread over the lap
    xy = np.concatenate([np.zeros((1, 2)), np.cumsum(ways, 0)])[:-1:fine] * step / fine
    at = np.arange(count) * step
    begin = np.concatenate([[0.0], np.cumsum(curve)])[:-1:fine] * step / fine
    rows = [*xy.T, np.cos(begin), np.sin(begin), _curvature(at, bends, turns, ends), np.full(count, step)]
    return np.stack(rows, 1)


def _clear(points: np.ndarray) -> bool:
    """Whether a lap keeps away from itself."""
    few = points[::8, :2]
    far = np.hypot(*(few[:, None] - few[None]).transpose(2, 0, 1))
    gap = np.abs(np.arange(len(few))[:, None] - np.arange(len(few))[None])
    return bool((far[np.minimum(gap, len(few) - gap) * 8 * points[0, 5] > 2.2 * CLEARANCE] > CLEARANCE).all())


def _crossings(rng: np.random.Generator, road: Road, style: Style) -> np.ndarray:
    """Places on straights where another road crosses and meets no other part of the lap."""
    found: list[np.ndarray] = []
    if not style.crossing:
        return np.zeros((0, 5))
    count, window = len(road.line), int(25 / road.step)
    straight = np.max([np.abs(np.roll(road.line[:, 4], k)) for k in range(-window, window + 1)], 0) < 1e-9
    side = np.arange(-style.reach, style.reach + 1, 5.0)
    for k in rng.permutation(np.flatnonzero(straight)):
        s, (x, y, c, n) = k * road.step, road.line[k, :4]
        if any(abs(apart(road, s - other[0])) < style.crossing for other in found):
            continue
        ends = np.stack([x - n * side, y + c * side], 1)
        gap = np.abs(np.arange(count) - k)
        others = road.line[np.minimum(gap, count - gap) * road.step > 60, :2][::4]
        if np.hypot(*(ends[:, None] - others[None]).transpose(2, 0, 1)).min() > 40:
            found.append(np.array([s, x, y, c, n]))
    return np.array(sorted(found, key=lambda row: row[0])).reshape(-1, 5)


def _ramps(rng: np.random.Generator, road: Road, style: Style) -> np.ndarray:
    """Places of on-ramps, about equally far apart."""
    if not style.ramp:
        return np.zeros(0)
    count = max(1, int(road.length / style.ramp))
    return np.sort((np.arange(count) + rng.uniform(0.2, 0.8, count)) * road.length / count)
