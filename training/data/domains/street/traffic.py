"""Traffic around a car: IDM following, MOBIL lane changes, cars that merge, cross, and now and then brake to a stop.

IDM: Treiber, Hennecke and Helbing (2000); MOBIL: Kesting, Treiber and Helbing (2007). Cars are rows of a table. Row 0 is
the car that someone drives: the others see it as one of theirs, and live within a stretch of road around it. Whatever is
drawn belongs to the seed, the number of a car and the tick.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.rays import chance
from drivedit.data.domains.street.roads import (
    RAMP_BEFORE, RAMP_BESIDE, SIDE_ROAD, along, apart, lane_middle, ramp_at, ramp_middle,
)  # fmt: skip

# Columns of a car: its number, how it moves, its lane or crossing, its way along s (or along d), where it is, its speed and
# acceleration, its direction relative to the road, what it wants, its size and look, until which tick it brakes, and the
# tick of its last lane change (of one that crosses: whether it goes).
(ID, MODE, LANE, WAY, S, D, V, A, TURN, PACE, HEADWAY, LONG, WIDE, TALL, RED, GREEN, BLUE, TRUCK, HOLD, SINCE) = range(20)
COLUMNS = 20
ON_ROAD, ON_RAMP, CROSSING, DRIVEN = range(4)
MOST = 72  # cars
TICK = 0.02  # s
AHEAD, BEHIND = 230.0, 130.0  # m of road around row 0 that others live on
SPEED_UP, SLOW_DOWN, STANDING = 1.6, 2.2, 2.0  # IDM: m/s^2, m/s^2, m
HARDEST = -8.0  # m/s^2
SAFE, POLITE, WORTH, KEEP_RIGHT = -2.5, 0.2, 0.15, 0.1  # MOBIL: m/s^2, share, m/s^2, m/s^2
IN_BENDS = 3.0  # m/s^2 sideways
NOTHING = 1e9
PAINTS = np.array([
    (0.85, 0.85, 0.86), (0.82, 0.82, 0.80), (0.55, 0.57, 0.60), (0.30, 0.32, 0.35), (0.07, 0.07, 0.08), (0.09, 0.09, 0.10),
    (0.60, 0.06, 0.06), (0.70, 0.10, 0.08), (0.06, 0.14, 0.45), (0.10, 0.28, 0.60), (0.08, 0.30, 0.18), (0.75, 0.55, 0.08),
    (0.55, 0.30, 0.10), (0.30, 0.10, 0.30),
])  # fmt: skip


class Manner(NamedTuple):
    """How others drive in a world.

    Attributes:
        seed: Of all that is drawn.
        spacing: Metres of lane per car; 0: there are none.
        pace: Share of their speed that they drive with in this weather.
        grip: Share of gravity that tyres hold.
    """

    seed: int
    spacing: float
    pace: float
    grip: float


@kernel
def idm(speed, wanted, gap, closing, headway):
    """Acceleration (m/s^2) of a car that follows another one `gap` metres ahead, which it nears by `closing` m/s."""
    free = max(1 - (speed / max(wanted, 0.1)) ** 4, -1.4)
    keep = STANDING + max(0.0, speed * headway + speed * closing / (2 * math.sqrt(SPEED_UP * SLOW_DOWN)))
    return max(HARDEST, SPEED_UP * (free - (keep / max(gap, 0.1)) ** 2))


@kernel
def _span(road, car):
    """The d from and to which a car is, or is about to be."""
    half = car[LONG] if car[MODE] == CROSSING else car[WIDE]
    to = lane_middle(road, int(car[LANE])) if car[MODE] == ON_ROAD else car[D]
    return min(car[D], to) - half, max(car[D], to) + half


@kernel
def _half(car):
    """Half its size along s."""
    return car[WIDE] if car[MODE] == CROSSING else car[LONG]


@kernel
def beside(road, cars, count, i, low, high, way):
    """Who is next to row i between two d: gap and speed (along its way) of the nearest one ahead (way 1) or behind (-1).

    Returns:
        Gap (m; below 0: beside it), speed (m/s) and row; gap `NOTHING` and row -1 where there is nobody.
    """
    best, speed, who, me = NOTHING, 0.0, -1, cars[i]
    for j in range(count):
        other = cars[j]
        away = apart(road, other[S] - me[S]) * me[WAY] * way
        gap = away - _half(me) - _half(other)
        if j == i or gap >= best or away < 0 or (away == 0 and way < 0):
            continue
        a, b = _span(road, other)
        if b > low and a < high:
            best, who = gap, j
            speed = 0.0 if other[MODE] == CROSSING else other[V] * other[WAY] * me[WAY]
    return best, speed, who


@kernel
def _wanted(road, manner, car):
    """The speed that a car would drive with if it were alone."""
    bend = road.bend[int(along(road, car[S]) / road.step) % road.bend.size]
    return min(car[PACE] * manner.pace, math.sqrt(IN_BENDS * min(1.0, manner.grip) / max(bend, 1e-5)))


@kernel
def _follow(road, manner, cars, count, i):
    """Acceleration of a car on the road or on a ramp."""
    me = cars[i]
    low, high = _span(road, me)
    gap, speed, _ = beside(road, cars, count, i, low, high, 1)
    wanted = _wanted(road, manner, me)
    got = idm(me[V], wanted, gap, me[V] - speed, me[HEADWAY])
    if me[MODE] == ON_RAMP:  # it ends
        left = RAMP_BESIDE - ramp_at(road, me[S]) - me[LONG]
        got = min(got, idm(me[V], wanted, left, me[V], 0.3))
    return got


@kernel
def _hold(road, manner, cars, i, tick):
    """Acceleration of a car that brakes for no reason that others know; `NOTHING`: it does not."""
    me, driven = cars[i], cars[0]
    if me[MODE] != ON_ROAD or me[WAY] < 0:
        return NOTHING
    if (tick + 97 * int(me[ID])) % 400 == 0 and 12 < apart(road, me[S] - driven[S]) < 70:
        if abs(me[D] - driven[D]) < road.lane / 2 and chance(manner.seed, int(me[ID]), tick) < 0.3:
            me[HOLD] = tick + 200 + 200 * chance(manner.seed, int(me[ID]), tick + 1)
    if tick >= me[HOLD]:
        return NOTHING
    to = 0.45 * me[PACE] if road.side > 1 else 0.0
    return max(-2.8, (to - me[V]) / 0.8)


@kernel
def _crosses(road, manner, cars, count, i):
    """Acceleration of a car on a crossing road: it waits until nobody comes, then it goes."""
    me = cars[i]
    stop = -(road.half + 1.9 + me[LONG]) - me[D] * me[WAY]  # metres to where it waits
    if me[SINCE] == 0 and stop < 6 and _nobody_comes(road, cars, count, me[S]):
        me[SINCE] = 1
    gap, speed = (stop, 0.0) if me[SINCE] == 0 else (NOTHING, 0.0)
    for j in range(count):
        other = cars[j]
        away = (other[D] - me[D]) * me[WAY]
        if j == i or away <= 0 or abs(apart(road, other[S] - me[S])) > _half(me) + _half(other) + 0.2:
            continue
        across = other[LONG] if other[MODE] == CROSSING else other[WIDE]
        if away - me[LONG] - across < gap:
            gap = away - me[LONG] - across
            speed = other[V] * other[WAY] * me[WAY] if other[MODE] == CROSSING else 0.0
    return idm(me[V], me[PACE] * manner.pace, gap, me[V] - speed, me[HEADWAY])


@kernel
def _nobody_comes(road, cars, count, s):
    """Whether the road at s stays free for long enough to cross it."""
    for j in range(count):
        other = cars[j]
        if other[MODE] == CROSSING:
            continue
        left = apart(road, s - other[S]) * other[WAY]
        if -12 < left and (left - 8) / max(other[V], 2.0) < 6.0:
            return False
    return True


@kernel
def _fits(road, manner, cars, count, i, lane, hardest):
    """Whether a lane has room for row i, and what it and who follows would gain (m/s^2) by its change."""
    me, middle = cars[i], lane_middle(road, lane)
    low, high = middle - me[WIDE] - 0.2, middle + me[WIDE] + 0.2
    gap, speed, _ = beside(road, cars, count, i, low, high, 1)
    back, behind, who = beside(road, cars, count, i, low, high, -1)
    if gap < 1.0 or back < 1.0:
        return False, 0.0
    mine = idm(me[V], _wanted(road, manner, me), gap, me[V] - speed, me[HEADWAY])
    theirs = 0.0
    if who >= 0:
        other = cars[who]
        wanted = _wanted(road, manner, other) if who else max(behind, 1.0)
        theirs = idm(behind, wanted, back, behind - me[V], other[HEADWAY])
        theirs -= other[A] if who else 0.0
        if idm(behind, 1e3, back, behind - me[V], other[HEADWAY]) < hardest:
            return False, 0.0
    return mine > hardest, mine - me[A] + POLITE * min(0.0, theirs)


@kernel
def _change(road, manner, cars, count, i, tick):
    """Changes the lane of row i where that is worth it, or lets it leave its ramp."""
    me = cars[i]
    if me[MODE] == ON_RAMP:
        if ramp_at(road, me[S]) > 2 and (tick + int(me[ID])) % 10 == 0:
            if _fits(road, manner, cars, count, i, 0, 1.4 * SAFE)[0]:
                me[MODE], me[LANE], me[SINCE] = ON_ROAD, 0, tick
        return
    if (tick + 13 * int(me[ID])) % 50 or tick - me[SINCE] < 200 or tick < me[HOLD] or me[V] < 3:
        return
    first = 0 if me[WAY] > 0 else road.side
    right, best, to = -1 if me[WAY] > 0 else 1, WORTH, -1
    for step in (-1, 1):
        lane = int(me[LANE]) + step
        if first <= lane < first + road.side:
            room, gain = _fits(road, manner, cars, count, i, lane, SAFE)
            gain += KEEP_RIGHT if step == right else -KEEP_RIGHT
            if room and gain > best and not (me[TRUCK] and step != right):
                best, to = gain, lane
    if to >= 0:
        me[LANE], me[SINCE] = to, tick


@kernel
def _go(road, car):
    """Moves a car for a tick."""
    car[V] = max(0.0, car[V] + car[A] * TICK)
    if car[MODE] == CROSSING:
        car[D] += car[WAY] * car[V] * TICK
        return
    curve = road.line[int(along(road, car[S]) / road.step) % road.line.shape[0], 4]
    car[S] = along(road, car[S] + car[WAY] * car[V] * TICK / max(0.3, 1 - curve * car[D]))
    if car[MODE] == ON_RAMP:
        x = ramp_at(road, car[S])
        car[D] = ramp_middle(road, x)
        car[TURN] = math.atan(ramp_middle(road, x + 0.5) - ramp_middle(road, x - 0.5))
    else:
        drift = min(max(0.9 * (lane_middle(road, int(car[LANE])) - car[D]), -1.2), 1.2) * min(1.0, car[V] / 4)
        car[D] += drift * TICK
        car[TURN] = math.atan2(drift, car[WAY] * max(car[V], 1.0))


@kernel
def _add(road, manner, cars, count, number, mode, lane, way, s, d, speed):
    """Puts a car into the row `count`; what it is like belongs to its number."""
    car, seed = cars[count], manner.seed
    truck = chance(seed, number, 1) < (0.05, 0.1, 0.16)[road.kind] and mode != CROSSING
    size, pace = chance(seed, number, 2), road.limit * (0.78 + 0.34 * chance(seed, number, 3))
    if mode == CROSSING:
        pace = 7.0 + 2 * size
    paint = PAINTS[int(chance(seed, number, 4) * PAINTS.shape[0])]
    car[:] = 0
    car[ID], car[MODE], car[LANE], car[WAY], car[S], car[D], car[V] = number, mode, lane, way, along(road, s), d, speed
    car[PACE], car[HEADWAY] = min(pace, 24.0) * 0.9 if truck else pace, 0.9 + 0.7 * chance(seed, number, 5)
    car[LONG], car[WIDE], car[TALL] = 2.0 + 0.4 * size, 0.86 + 0.08 * size, 1.42 + 0.35 * chance(seed, number, 6) ** 3
    if truck:
        car[LONG], car[WIDE], car[TALL], car[TRUCK] = 3.4 + 1.2 * size, 1.15, 2.9 + 0.4 * size, 1
    shine = 0.8 + 0.35 * chance(seed, number, 7)
    car[RED], car[GREEN], car[BLUE] = shine * paint[0], shine * paint[1], shine * paint[2]
    car[TURN] = (0.0 if way > 0 else math.pi) if mode != CROSSING else way * math.pi / 2
    car[SINCE] = -1000 if mode == ON_ROAD else 0


@kernel
def _enter(road, manner, cars, count, number):
    """Lets cars come in at the ends of the stretch, where there is room and they would stay; new count and number."""
    driven = cars[0]
    for lane in range(2 * road.side):
        way, middle = (1 if lane < road.side else -1), lane_middle(road, lane)
        for end in (1, -1):
            if count >= cars.shape[0] or (way < 0 and end < 0):
                continue
            edge = AHEAD - 1 if end > 0 else BEHIND - 1
            room, lead = NOTHING, 0.0
            for j in range(count):
                a, b = _span(road, cars[j])
                if a < middle + 1 and b > middle - 1:
                    away = edge - apart(road, cars[j, S] - driven[S]) * end
                    if away < room:
                        room, lead = away, cars[j, V]
            if room < manner.spacing * (0.5 + chance(manner.seed, number, 11)):
                continue
            _add(road, manner, cars, count, number, ON_ROAD, lane, way, driven[S] + end * edge, middle, 0.0)
            speed = 0.95 * _wanted(road, manner, cars[count])
            number += 1
            if way > 0 and end * (driven[V] - speed) < 0.3:  # it would leave at once
                continue
            if room < 100 and end * way < 0:
                speed = min(speed, lead + 0.1 * room)
            cars[count, V] = speed
            count += 1
    return count, number


@kernel
def _come(road, manner, cars, count, number, tick, first):
    """Lets cars come on ramps and on crossing roads, far from row 0; at first also near; new count and number."""
    s, wish = cars[0, S], min(0.8, 18.0 / manner.spacing)
    for k in range(road.ramps.size):
        begin, free = road.ramps[k] - RAMP_BEFORE + 1, True
        away = apart(road, begin - s)
        for j in range(1, count):
            free = free and not (cars[j, MODE] == ON_RAMP and 0 <= apart(road, cars[j, S] - begin) < 28)
        if free and (40 if first else 120) < away < AHEAD - 5 and count < cars.shape[0]:
            if chance(manner.seed, k, tick + 5) < 0.7 * wish:
                at = ramp_middle(road, 1 - RAMP_BEFORE)
                _add(road, manner, cars, count, number, ON_RAMP, k, 1, begin, at, 0.75 * road.limit)
                count, number = count + 1, number + 1
    for k in range(road.crossings.shape[0]):
        away = apart(road, road.crossings[k, 0] - s)
        for way in (-1, 1):
            start = -(road.half + 2.5 + 2.4) if first else -road.reach + 4
            free = count < cars.shape[0] and (25 if first else 40) < away < AHEAD - 10
            for j in range(1, count):
                near = cars[j, MODE] == CROSSING and cars[j, LANE] == k and cars[j, WAY] == way
                free = free and not (near and (first or abs(cars[j, D] * way - start) < 25))
            if free and chance(manner.seed, 2 * k + way, tick + 7) < wish:
                at = road.crossings[k, 0] + way * SIDE_ROAD * 0.46
                _add(road, manner, cars, count, number, CROSSING, k, way, at, start * way, 0.0 if first else 7.0)
                count, number = count + 1, number + 1
    return count, number


@kernel
def _leave(road, cars, count):
    """Takes out who is no longer around; the new count."""
    left = 1
    for j in range(1, count):
        away = apart(road, cars[j, S] - cars[0, S])
        gone = cars[j, MODE] == CROSSING and cars[j, D] * cars[j, WAY] > road.reach - 3
        if -BEHIND <= away <= AHEAD and not gone:
            if left != j:
                cars[left] = cars[j]
            left += 1
    return left


@kernel
def fill(road, manner, cars):
    """Traffic around row 0 at the beginning of an episode; gives the count of rows and the next number."""
    count, number = 1, 1
    if manner.spacing <= 0:
        return count, number
    driven = cars[0]
    for lane in range(2 * road.side):
        way, middle = (1 if lane < road.side else -1), lane_middle(road, lane)
        x = -BEHIND + manner.spacing * chance(manner.seed, lane, 21)
        while x < AHEAD - 2 and count < cars.shape[0] - 8:
            room = 14 + (1.3 if x < 0 else 1.6) * max(driven[V], 8.0)
            if abs(x) > room or abs(middle - driven[D]) > 0.8 * road.lane:
                _add(road, manner, cars, count, number, ON_ROAD, lane, way, driven[S] + x, middle, 0.0)
                cars[count, V] = 0.9 * _wanted(road, manner, cars[count])
                count, number = count + 1, number + 1
            x += max(14.0, manner.spacing * (0.5 + chance(manner.seed, number + 50 * lane, 22)))
    return _come(road, manner, cars, count, number, 0, True)


@kernel
def advance(road, manner, cars, count, number, tick):
    """Lets the others drive for a tick; row 0 tells where the driven car is.

    Args:
        road: The road.
        manner: How they drive.
        cars: float64 `[MOST, COLUMNS]`, changed.
        count: Rows that are in use, row 0 included.
        number: Of the next car.
        tick: Ticks since the episode began.

    Returns:
        The new count and number.
    """
    if manner.spacing <= 0:
        return count, number
    for i in range(1, count):
        if cars[i, MODE] == CROSSING:
            cars[i, A] = _crosses(road, manner, cars, count, i)
        else:
            cars[i, A] = min(_follow(road, manner, cars, count, i), _hold(road, manner, cars, i, tick))
    for i in range(1, count):
        if cars[i, MODE] != CROSSING:
            _change(road, manner, cars, count, i, tick)
    for i in range(1, count):
        _go(road, cars[i])
    count = _leave(road, cars, count)
    if tick % 10 == 0:
        count, number = _enter(road, manner, cars, count, number)
    if tick % 150 == 0:
        count, number = _come(road, manner, cars, count, number, tick, False)
    return count, number
