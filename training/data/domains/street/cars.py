"""The table of all cars, and what each of them needs to know of the others: who is next to it, and how fast it may go.

Row 0 is the car that someone drives: the others see it as one of theirs. Kernels take the parts of a `roads.Road`
(shape as `road`, and `line`), a `MANNER`, the table, the count of its rows that are in use, and the number of the next
car; `idm` is `driving.follow`.
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.driving import follow
from drivedit.data.domains.street.roads import along, apart, lane_middle

# A car: its number, how it moves, its lane or crossing, its way along s (or along d), where it is, its speed and
# acceleration, its direction relative to the road, what it wants, half its size and its height, its look, until which
# tick it brakes, and the tick of its last lane change (of one that crosses: whether it goes).
CAR = np.dtype([(name, "f8") for name in (
    "id", "mode", "lane", "way", "s", "d", "v", "a", "turn", "pace", "headway", "long", "wide", "tall",
    "red", "green", "blue", "truck", "hold", "since",
)])  # fmt: skip
MANNER = np.dtype([("seed", "i8"), ("spacing", "f8"), ("pace", "f8"), ("grip", "f8")])
ON_ROAD, ON_RAMP, CROSSING, DRIVEN = range(4)
MOST = 72  # cars
TICK = 0.02  # s
AHEAD, BEHIND = 230.0, 130.0  # m of road around row 0 that others live on
IN_BENDS = 3.0  # m/s^2 sideways
NOTHING = 1e9

idm = kernel(follow)


def make_manner(seed: int, spacing: float, pace: float, grip: float) -> np.record:
    """How others drive in a world, as kernels take it.

    Args:
        seed: Of all that is drawn.
        spacing: Metres of lane per car; 0: there are none.
        pace: Share of their speed that they drive with in this weather.
        grip: Share of gravity that tyres hold.
    """
    return np.array([(seed, spacing, pace, grip)], MANNER).view(np.recarray)[0]


@kernel
def span(road, car):
    """The d from and to which a car is, or is about to be."""
    half = car.long if car.mode == CROSSING else car.wide
    to = lane_middle(road, car.lane) if car.mode == ON_ROAD else car.d
    return min(car.d, to) - half, max(car.d, to) + half


@kernel
def half_size(car):
    """Half its size along s."""
    return car.wide if car.mode == CROSSING else car.long


@kernel
def beside(road, cars, count, i, low, high, way):
    """Who is next to row i between two d: gap, speed along its way, and row of the nearest ahead (way 1.0) or behind.

    The gap (m) is below 0 where the two are beside each other; it is `NOTHING`, and the row -1, where there is nobody.
    """
    best, speed, who, me = NOTHING, 0.0, -1, cars[i]
    for j in range(count):
        other = cars[j]
        away = apart(road, other.s - me.s) * me.way * way
        gap = away - half_size(me) - half_size(other)
        if j == i or gap >= best or away < 0 or (away == 0 and way < 0):
            continue
        a, b = span(road, other)
        if b > low and a < high:
            best, who = gap, j
            speed = 0.0 if other.mode == CROSSING else other.v * other.way * me.way
    return best, speed, who


@kernel
def wanted_speed(road, line, manner, car):
    """The speed that a car would drive with if it were alone."""
    bend = line[int(along(road, car.s) / road.step) % line.size].bend
    return min(car.pace * manner.pace, math.sqrt(IN_BENDS * min(1.0, manner.grip) / max(bend, 1e-5)))
