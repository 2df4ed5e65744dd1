"""Roads: closed laps of straights and bends, drawn from a seed, with crossings or on-ramps.

A place is x, y (m), or s, d: metres along the centre line, and metres to the left of it. Lanes are numbered from the
right edge; those below `side` go with s. Kernels take the parts of a
`Road`, its shape as `road`. The curvature is continuous: a bend begins and ends as a clothoid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivedit.data.domains.street.compiled import kernel

REACH = 40.0  # m beside the centre line where s and d are known
CELL = 2.0  # m, of the grid that finds them
CLEARANCE = 75.0  # m between two parts of a lap
RAMP_WIDTH = 4.3  # m, paved
RAMP_OUT = 28.0  # m that a ramp begins beside the lane that it becomes
RAMP_BEFORE, RAMP_BESIDE, RAMP_TAPER = 140.0, 170.0, 50.0  # m: it approaches, runs beside the road, and narrows
SIDE_ROAD = 4.0  # m, half the width of a road that crosses
MOST_PLACES = 16  # ramps, or crossings, of a lap
NOWHERE = 1e9
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


POINT = np.dtype([(name, "f8") for name in ("x", "y", "c", "n", "curve", "bend")])
CROSSING = np.dtype([(name, "f8") for name in ("s", "x", "y", "c", "n")])
SHAPE = np.dtype(
    [(name, "f8") for name in ("length", "step", "west", "south", "half", "lane", "median", "limit", "reach")]
    + [(name, "i8") for name in ("side", "kind", "ramped", "crossed")]
    + [("ramps", "f8", MOST_PLACES), ("crossings", "f8", MOST_PLACES)]
)


@dataclass(frozen=True)
class Road:
    """A lap, in the parts that kernels take.

    Attributes:
        line: Points at equal distances, `[M]` of `POINT`: x, y, cosine (c) and sine (n) of the direction, curvature
            (1/m, > 0 left), and the sharpest one near the point (unsigned).
        grid: int32 `[G, G]`, the point nearest to a cell of the plane; -1 where none is within `REACH`.
        crossings: `[K]` of `CROSSING`: s, x, y, cosine and sine of the road's direction there.
        shape: A `SHAPE`: length and step from one point to the next, corner of the grid, half the width of the
            pavement, width of a lane, half the median, speed of the traffic, reach of crossing roads (m, m/s); lanes a
            side, place in `KINDS`, numbers of ramps and crossings, and at which s they are.
    """

    line: np.ndarray
    grid: np.ndarray
    crossings: np.ndarray
    shape: np.record

    def place(self, s: float, d: float) -> tuple[float, float, float]:
        """See `place`."""
        return place(self.shape, self.line, s, d)

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """See `locate`."""
        return locate(self.shape, self.line, self.grid, x, y)


@kernel
def along(road, s):
    """S within the lap."""
    return s - road.length * math.floor(s / road.length)


@kernel
def apart(road, s):
    """A difference of two s, the short way round."""
    return s - road.length * math.floor(s / road.length + 0.5)


@kernel
def lane_middle(road, lane):
    """D of the middle of a lane."""
    middle = (lane - road.side + 0.5) * road.lane
    return middle + road.median if lane >= road.side else middle - road.median


@kernel
def ramp_middle(road, x):
    """D of the middle of a ramp, x metres after where it begins to run beside the road."""
    out = min(max(-x / RAMP_BEFORE, 0.0), 1.0)
    return -(road.side + 0.5) * road.lane - road.median - RAMP_OUT * out * out * (3 - 2 * out)


@kernel
def ramp_at(road, s):
    """How far s lies after where the ramp around it begins to run beside the road; `NOWHERE`: there is none."""
    for k in range(road.ramped):
        x = apart(road, s - road.ramps[k])
        if -RAMP_BEFORE < x < RAMP_BESIDE + RAMP_TAPER:
            return x
    return NOWHERE


@kernel
def ramp_edge(road, x):
    """D of the right edge of the pavement, x metres after where a ramp begins to run beside the road."""
    if x >= NOWHERE:
        return -road.half
    outer = ramp_middle(road, x) - RAMP_WIDTH / 2
    left = min(max((x - RAMP_BESIDE) / RAMP_TAPER, 0.0), 1.0)
    return outer + (-road.half - outer) * left


@kernel
def on_ramp(road, s, d):
    """Whether s, d lies on the pavement of a ramp."""
    if d > 0 or road.ramped == 0:
        return False
    x = ramp_at(road, s)
    return x < NOWHERE and d >= ramp_edge(road, x) and abs(d - ramp_middle(road, x)) < RAMP_WIDTH / 2


@kernel
def place(road, line, s, d):
    """x, y and the direction of the road (rad), of s and d."""
    f = along(road, s) / road.step
    k = min(int(f), line.size - 1)
    u, a, b = f - k, line[k], line[(k + 1) % line.size]
    c, n = a.c * (1 - u) + b.c * u, a.n * (1 - u) + b.n * u
    h = math.hypot(c, n)
    c, n = c / h, n / h
    return a.x * (1 - u) + b.x * u - n * d, a.y * (1 - u) + b.y * u + c * d, math.atan2(n, c)


@kernel
def locate(road, line, grid, x, y):
    """S and d of x, y; d is 1e3 where the road is farther than `REACH`."""
    i, j = int((x - road.west) / CELL), int((y - road.south) / CELL)
    if x < road.west or y < road.south or i >= grid.shape[0] or j >= grid.shape[1] or grid[i, j] < 0:
        return 0.0, 1e3
    k, e, d = int(grid[i, j]), 0.0, 0.0
    for _ in range(3):  # the grid knows the nearest point of the middle of a cell
        p = line[k]
        e = p.c * (x - p.x) + p.n * (y - p.y)
        d = p.c * (y - p.y) - p.n * (x - p.x)
        e /= max(0.2, 1 - p.curve * d)
        move = int(math.floor(e / road.step + 0.5))
        if move == 0:
            break
        k = (k + move + line.size) % line.size
    return along(road, k * road.step + e), d


@kernel
def paved(road, s, d):
    """Whether s, d lies on pavement: the road, a crossing road or a ramp."""
    if abs(d) <= road.half:
        return True
    for k in range(road.crossed):
        if abs(apart(road, s - road.crossings[k])) < SIDE_ROAD and abs(d) < road.reach:
            return True
    return on_ramp(road, s, d)


@kernel
def _nearest(line, west, south, grid):
    """Fills the grid of `Road`."""
    best = np.full(grid.shape, REACH * REACH)
    r = int(REACH / CELL) + 1
    for k in range(line.size):
        x, y = line[k].x, line[k].y
        ci, cj = int((x - west) / CELL), int((y - south) / CELL)
        for i in range(max(0, ci - r), min(grid.shape[0], ci + r + 1)):
            for j in range(max(0, cj - r), min(grid.shape[1], cj + r + 1)):
                dx, dy = west + (i + 0.5) * CELL - x, south + (j + 0.5) * CELL - y
                if dx * dx + dy * dy < best[i, j]:
                    best[i, j], grid[i, j] = dx * dx + dy * dy, k


def _shaped(**values: float | np.ndarray) -> np.record:
    """A `SHAPE` of its values."""
    shape = np.zeros(1, SHAPE).view(np.recarray)
    for name, value in values.items():
        shape[name][0] = value
    return shape[0]


def draw_road(rng: np.random.Generator, kind: str) -> Road:
    """Draws a lap.

    Args:
        rng: The only source of chance.
        kind: One of `KINDS`.
    """
    style = STYLES[kind]
    points = _lap(rng, style)
    step = points[0, 5]
    curve, window = np.abs(points[:, 4]), int(45 / step)
    points[:, 5] = np.max([np.roll(curve, shift) for shift in range(-window, window + 1)], 0)
    line = np.ascontiguousarray(points).view(POINT)[:, 0]
    corner = points[:, :2].min(0) - REACH - CELL
    cells = np.ceil((points[:, :2].max(0) + REACH + CELL - corner) / CELL).astype(int)
    grid = np.full(tuple(cells), -1, np.int32)
    _nearest(line, *corner, grid)
    crossings, ramps = _crossings(rng, points, step, style), _ramps(rng, len(line) * step, style)
    return Road(line, grid, crossings, _shaped(
        length=len(line) * step, step=step, west=corner[0], south=corner[1], lane=style.lane, median=style.median,
        half=style.side * style.lane + style.edge + style.median, limit=style.limit, reach=style.reach,
        side=style.side, kind=KINDS.index(kind), ramped=len(ramps), crossed=len(crossings),
        ramps=np.resize(ramps, MOST_PLACES), crossings=np.resize(crossings["s"], MOST_PLACES),
    ))  # fmt: skip


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


def _crossings(rng: np.random.Generator, points: np.ndarray, step: float, style: Style) -> np.ndarray:
    """Places on straights where another road crosses and meets no other part of the lap, `[K]` of `CROSSING`."""
    found: list[tuple[float, ...]] = []
    count, window, side = len(points), int(25 / step), np.arange(-style.reach, style.reach + 1, 5.0)
    straight = np.max([np.abs(np.roll(points[:, 4], k)) for k in range(-window, window + 1)], 0) < 1e-9
    for k in rng.permutation(np.flatnonzero(straight)) if style.crossing else []:
        x, y, c, n = points[k, :4]
        gaps = [abs(k * step - other[0]) for other in found]
        if len(found) == MOST_PLACES or any(min(gap, count * step - gap) < style.crossing for gap in gaps):
            continue
        ends = np.stack([x - n * side, y + c * side], 1)
        gap = np.abs(np.arange(count) - k)
        others = points[np.minimum(gap, count - gap) * step > 60, :2][::4]
        if np.hypot(*(ends[:, None] - others[None]).transpose(2, 0, 1)).min() > 40:
            found.append((k * step, x, y, c, n))
    return np.array(sorted(found), CROSSING)


def _ramps(rng: np.random.Generator, length: float, style: Style) -> np.ndarray:
    """S of on-ramps, about equally far apart."""
    count = min(MOST_PLACES, max(1, int(length / style.ramp))) if style.ramp else 0
    return np.sort((np.arange(count) + rng.uniform(0.2, 0.8, count)) * length / max(count, 1))
