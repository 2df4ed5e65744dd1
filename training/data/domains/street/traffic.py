"""Traffic around a car: IDM following, MOBIL lane changes, cars that merge, cross, and now and then brake to a stop.

IDM: Treiber, Hennecke and Helbing (2000); MOBIL: Kesting, Treiber and Helbing (2007). Cars are rows of a table. Row 0 is
the car that someone drives: the others see it as one of theirs, and live within a stretch of road around it. Whatever is
drawn belongs to the seed, the number of a car and the tick.
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.rays import chance
from drivedit.data.domains.street.roads import (
    RAMP_BEFORE, RAMP_BESIDE, SIDE_ROAD, along, apart, lane_middle, ramp_at, ramp_middle,
)  # fmt: skip

# A car: its number, how it moves, its lane or crossing, its way along s (or along d), where it is, its speed and acceleration,
# its direction relative to the road, what it wants, half its size and its height, its look, until which tick it brakes, and
# the tick of its last lane change (of one that crosses: whether it goes).
CAR = np.dtype([(name, "f8") for name in (
    "id", "mode", "lane", "way", "s", "d", "v", "a", "turn", "pace", "headway", "long", "wide", "tall", "red", "green", "blue",
    "truck", "hold", "since",
)])  # fmt: skip
MANNER = np.dtype([("seed", "i8"), ("spacing", "f8"), ("pace", "f8"), ("grip", "f8")])
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
def idm(speed, wanted, gap, closing, headway):
    """Acceleration (m/s^2) of a car that follows another one `gap` metres ahead, which it nears by `closing` m/s."""
    free = max(1 - (speed / max(wanted, 0.1)) ** 4, -1.4)
    keep = STANDING + max(0.0, speed * headway + speed * closing / (2 * math.sqrt(SPEED_UP * SLOW_DOWN)))
    return max(HARDEST, SPEED_UP * (free - (keep / max(gap, 0.1)) ** 2))


@kernel
def _span(road, car):
    """The d from and to which a car is, or is about to be."""
    half = car.long if car.mode == CROSSING else car.wide
    to = lane_middle(road, car.lane) if car.mode == ON_ROAD else car.d
    return min(car.d, to) - half, max(car.d, to) + half


@kernel
def _half(car):
    """Half its size along s."""
    return car.wide if car.mode == CROSSING else car.long


@kernel
def beside(road, cars, count, i, low, high, way):
    """Who is next to row i between two d: gap and speed (along its way) of the nearest one ahead (way 1) or behind (-1).

    Returns:
        Gap (m; below 0: beside it), speed (m/s) and row; gap `NOTHING` and row -1 where there is nobody.
    """
    best, speed, who, me = NOTHING, 0.0, -1, cars[i]
    for j in range(count):
        other = cars[j]
        away = apart(road, other.s - me.s) * me.way * way
        gap = away - _half(me) - _half(other)
        if j == i or gap >= best or away < 0 or (away == 0 and way < 0):
            continue
        a, b = _span(road, other)
        if b > low and a < high:
            best, who = gap, j
            speed = 0.0 if other.mode == CROSSING else other.v * other.way * me.way
    return best, speed, who


@kernel
def _wanted(road, line, manner, car):
    """The speed that a car would drive with if it were alone."""
    bend = line[int(along(road, car.s) / road.step) % line.size].bend
    return min(car.pace * manner.pace, math.sqrt(IN_BENDS * min(1.0, manner.grip) / max(bend, 1e-5)))


@kernel
def _follow(road, line, manner, cars, count, i):
    """Acceleration of a car on the road or on a ramp."""
    me = cars[i]
    low, high = _span(road, me)
    gap, speed, _ = beside(road, cars, count, i, low, high, 1.0)
    wanted = _wanted(road, line, manner, me)
    got = idm(me.v, wanted, gap, me.v - speed, me.headway)
    if me.mode == ON_RAMP:  # it ends
        left = RAMP_BESIDE - ramp_at(road, me.s) - me.long
        got = min(got, idm(me.v, wanted, left, me.v, 0.3))
    return got


@kernel
def _hold(road, manner, cars, i, tick):
    """Acceleration of a car that brakes for no reason that others know; `NOTHING`: it does not."""
    me, driven = cars[i], cars[0]
    if me.mode != ON_ROAD or me.way < 0:
        return NOTHING
    if (tick + 97 * int(me.id)) % 400 == 0 and 12 < apart(road, me.s - driven.s) < 70:
        if abs(me.d - driven.d) < road.lane / 2 and chance(manner.seed, int(me.id), float(tick)) < 0.3:
            me.hold = tick + 200 + 200 * chance(manner.seed, int(me.id), tick + 1.0)
    if tick >= me.hold:
        return NOTHING
    to = 0.45 * me.pace if road.side > 1 else 0.0
    return max(-2.8, (to - me.v) / 0.8)


@kernel
def _crosses(road, manner, cars, count, i):
    """Acceleration of a car on a crossing road: it waits until nobody comes, then it goes."""
    me = cars[i]
    stop = -(road.half + 1.9 + me.long) - me.d * me.way  # metres to where it waits
    if me.since == 0 and stop < 6 and _nobody_comes(road, cars, count, me.s):
        me.since = 1
    gap, speed = (stop, 0.0) if me.since == 0 else (NOTHING, 0.0)
    for j in range(count):
        other = cars[j]
        away = (other.d - me.d) * me.way
        if j == i or away <= 0 or abs(apart(road, other.s - me.s)) > _half(me) + _half(other) + 0.2:
            continue
        across = other.long if other.mode == CROSSING else other.wide
        if away - me.long - across < gap:
            gap = away - me.long - across
            speed = other.v * other.way * me.way if other.mode == CROSSING else 0.0
    return idm(me.v, me.pace * manner.pace, gap, me.v - speed, me.headway)


@kernel
def _nobody_comes(road, cars, count, s):
    """Whether the road at s stays free for long enough to cross it."""
    for j in range(count):
        other = cars[j]
        if other.mode == CROSSING:
            continue
        left = apart(road, s - other.s) * other.way
        if -12 < left and (left - 8) / max(other.v, 2.0) < 6.0:
            return False
    return True


@kernel
def _fits(road, line, manner, cars, count, i, lane, hardest):
    """Whether a lane has room for row i, and what it and who follows would gain (m/s^2) by its change."""
    me, middle = cars[i], lane_middle(road, lane)
    low, high = middle - me.wide - 0.2, middle + me.wide + 0.2
    gap, speed, _ = beside(road, cars, count, i, low, high, 1.0)
    back, behind, who = beside(road, cars, count, i, low, high, -1.0)
    if gap < 1.0 or back < 1.0:
        return False, 0.0
    mine = idm(me.v, _wanted(road, line, manner, me), gap, me.v - speed, me.headway)
    theirs = 0.0
    if who >= 0:
        other = cars[who]
        wanted = _wanted(road, line, manner, other) if who else max(behind, 1.0)
        theirs = idm(behind, wanted, back, behind - me.v, other.headway)
        theirs -= other.a if who else 0.0
        if idm(behind, 1e3, back, behind - me.v, other.headway) < hardest:
            return False, 0.0
    return mine > hardest, mine - me.a + POLITE * min(0.0, theirs)


@kernel
def _change(road, line, manner, cars, count, i, tick):
    """Changes the lane of row i where that is worth it, or lets it leave its ramp."""
    me = cars[i]
    if me.mode == ON_RAMP:
        if ramp_at(road, me.s) > 2 and (tick + int(me.id)) % 10 == 0:
            if _fits(road, line, manner, cars, count, i, 0.0, 1.4 * SAFE)[0]:
                me.mode, me.lane, me.since = ON_ROAD, 0.0, tick
        return
    if (tick + 13 * int(me.id)) % 50 or tick - me.since < 200 or tick < me.hold or me.v < 3:
        return
    first = 0 if me.way > 0 else road.side
    right, best, to = -1 if me.way > 0 else 1, WORTH, -1.0
    for step in (-1, 1):
        lane = me.lane + step
        if first <= lane < first + road.side:
            room, gain = _fits(road, line, manner, cars, count, i, lane, SAFE)
            gain += KEEP_RIGHT if step == right else -KEEP_RIGHT
            if room and gain > best and not (me.truck and step != right):
                best, to = gain, lane
    if to >= 0:
        me.lane, me.since = to, tick


@kernel
def _go(road, line, car):
    """Moves a car for a tick."""
    car.v = max(0.0, car.v + car.a * TICK)
    if car.mode == CROSSING:
        car.d += car.way * car.v * TICK
        return
    curve = line[int(along(road, car.s) / road.step) % line.size].curve
    car.s = along(road, car.s + car.way * car.v * TICK / max(0.3, 1 - curve * car.d))
    if car.mode == ON_RAMP:
        x = ramp_at(road, car.s)
        car.d = ramp_middle(road, x)
        car.turn = math.atan(ramp_middle(road, x + 0.5) - ramp_middle(road, x - 0.5))
    else:
        drift = min(max(0.9 * (lane_middle(road, car.lane) - car.d), -1.2), 1.2) * min(1.0, car.v / 4)
        car.d += drift * TICK
        car.turn = math.atan2(drift, car.way * max(car.v, 1.0))


@kernel
def _add(road, manner, cars, count, number, mode, lane, way, s, d, speed):
    """Puts a car into the row `count`; what it is like belongs to its number."""
    car, seed = cars[count], manner.seed
    truck = mode != CROSSING and chance(seed, number, 1.0) < (0.05, 0.1, 0.16)[road.kind]
    size, shine = chance(seed, number, 2.0), 0.8 + 0.35 * chance(seed, number, 7.0)
    car.id, car.mode, car.lane, car.way, car.s, car.d, car.v, car.a = number, mode, lane, way, along(road, s), d, speed, 0.0
    car.pace, car.headway = road.limit * (0.78 + 0.34 * chance(seed, number, 3.0)), 0.9 + 0.7 * chance(seed, number, 5.0)
    car.long, car.wide, car.tall = 2.0 + 0.4 * size, 0.86 + 0.08 * size, 1.42 + 0.35 * chance(seed, number, 6.0) ** 3
    if truck:
        car.pace, car.long, car.wide, car.tall = min(car.pace, 24.0) * 0.9, 3.4 + 1.2 * size, 1.15, 2.9 + 0.4 * size
    paint = PAINTS[int(chance(seed, number, 4.0) * PAINTS.shape[0])]
    car.red, car.green, car.blue, car.truck = shine * paint[0], shine * paint[1], shine * paint[2], 1.0 if truck else 0.0
    car.hold, car.since, car.turn = 0.0, -1000.0, 0.0 if way > 0 else math.pi
    if mode == CROSSING:
        car.pace, car.since, car.turn = 7.0 + 2 * size, 0.0, way * math.pi / 2


@kernel
def _enter(road, line, manner, cars, count, number):
    """Lets cars come in at the ends of the stretch, where there is room and they would stay; new count and number."""
    driven = cars[0]
    for lane in range(2 * road.side):
        way, middle = (1.0 if lane < road.side else -1.0), lane_middle(road, float(lane))
        for end in (1, -1):
            if count >= cars.shape[0] or (way < 0 and end < 0):
                continue
            edge = AHEAD - 1 if end > 0 else BEHIND - 1
            room, lead = NOTHING, 0.0
            for j in range(count):
                a, b = _span(road, cars[j])
                if a < middle + 1 and b > middle - 1:
                    away = edge - apart(road, cars[j].s - driven.s) * end
                    if away < room:
                        room, lead = away, cars[j].v
            if room < manner.spacing * (0.5 + chance(manner.seed, number, 11.0)):
                continue
            _add(road, manner, cars, count, number, float(ON_ROAD), float(lane), way, driven.s + end * edge, middle, 0.0)
            speed = 0.95 * _wanted(road, line, manner, cars[count])
            number += 1
            if way > 0 and end * (driven.v - speed) < 0.3:  # it would leave at once
                continue
            if room < 100 and end * way < 0:
                speed = min(speed, lead + 0.1 * room)
            cars[count].v = speed
            count += 1
    return count, number


@kernel
def _come(road, manner, cars, count, number, tick):
    """Lets cars come on ramps and on crossing roads, far from row 0; at tick 0 also near; new count and number."""
    s, wish, first = cars[0].s, min(0.8, 18.0 / manner.spacing), tick == 0
    for k in range(road.ramped):
        begin, free = road.ramps[k] - RAMP_BEFORE + 1, True
        away = apart(road, begin - s)
        for j in range(1, count):
            free = free and not (cars[j].mode == ON_RAMP and 0 <= apart(road, cars[j].s - begin) < 28)
        if free and (40 if first else 120) < away < AHEAD - 5 and count < cars.shape[0]:
            if chance(manner.seed, k, tick + 5.0) < 0.7 * wish:
                at = ramp_middle(road, 1 - RAMP_BEFORE)
                _add(road, manner, cars, count, number, float(ON_RAMP), float(k), 1.0, begin, at, 0.75 * road.limit)
                count, number = count + 1, number + 1
    for k in range(road.crossed):
        away = apart(road, road.crossings[k] - s)
        for way in (-1.0, 1.0):
            start = -(road.half + 2.5 + 2.4) if first else -road.reach + 4
            free = count < cars.shape[0] and (25 if first else 40) < away < AHEAD - 10
            for j in range(1, count):
                near = cars[j].mode == CROSSING and cars[j].lane == k and cars[j].way == way
                free = free and not (near and (first or abs(cars[j].d * way - start) < 25))
            if free and chance(manner.seed, 2 * k + int(way > 0), tick + 7.0) < wish:
                at = road.crossings[k] + way * SIDE_ROAD * 0.46
                _add(road, manner, cars, count, number, float(CROSSING), float(k), way, at, start * way, 0.0 if first else 7.0)
                count, number = count + 1, number + 1
    return count, number


@kernel
def _leave(road, cars, count):
    """Takes out who is no longer around; the new count."""
    left = 1
    for j in range(1, count):
        away = apart(road, cars[j].s - cars[0].s)
        gone = cars[j].mode == CROSSING and cars[j].d * cars[j].way > road.reach - 3
        if -BEHIND <= away <= AHEAD and not gone:
            if left != j:
                cars[left] = cars[j]
            left += 1
    return left


@kernel
def fill(road, line, manner, cars, count, number):
    """Traffic around row 0 at the beginning of an episode; new count and number."""
    if manner.spacing <= 0:
        return count, number
    driven = cars[0]
    for lane in range(2 * road.side):
        way, middle = (1.0 if lane < road.side else -1.0), lane_middle(road, float(lane))
        x = -BEHIND + manner.spacing * chance(manner.seed, lane, 21.0)
        while x < AHEAD - 2 and count < cars.shape[0] - 8:
            room = 14 + (1.3 if x < 0 else 1.6) * max(driven.v, 8.0)
            if abs(x) > room or abs(middle - driven.d) > 0.8 * road.lane:
                _add(road, manner, cars, count, number, float(ON_ROAD), float(lane), way, driven.s + x, middle, 0.0)
                cars[count].v = 0.9 * _wanted(road, line, manner, cars[count])
                count, number = count + 1, number + 1
            x += max(14.0, manner.spacing * (0.5 + chance(manner.seed, number + 50 * lane, 22.0)))
    return _come(road, manner, cars, count, number, 0.0)


@kernel
def advance(road, line, manner, cars, count, number, tick):
    """Lets the others drive for a tick; row 0 tells where the driven car is.

    Args:
        road: Shape of the road.
        line: Of the road.
        manner: How they drive.
        cars: `[MOST]` of `CAR`, changed.
        count: Rows that are in use, row 0 included.
        number: Of the next car.
        tick: Ticks since the episode began.

    Returns:
        The new count and number.
    """
    if manner.spacing <= 0:
        return count, number
    for i in range(1, count):
        if cars[i].mode == CROSSING:
            cars[i].a = _crosses(road, manner, cars, count, i)
        else:
            cars[i].a = min(_follow(road, line, manner, cars, count, i), _hold(road, manner, cars, i, tick))
    for i in range(1, count):
        if cars[i].mode != CROSSING:
            _change(road, line, manner, cars, count, i, tick)
    for i in range(1, count):
        _go(road, line, cars[i])
    count = _leave(road, cars, count)
    if tick % 10 == 0:
        count, number = _enter(road, line, manner, cars, count, number)
    if tick % 150 == 0:
        count, number = _come(road, manner, cars, count, number, float(tick))
    return count, number
