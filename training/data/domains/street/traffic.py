"""Traffic: IDM following, MOBIL lane changes, cars that merge, cross, and now and then brake to a stop.

MOBIL is that of Kesting, Treiber and Helbing (2007). Arguments of kernels: see `cars`.
"""

from __future__ import annotations

import math

from drivedit.data.domains.street.arrivals import come, enter, leave
from drivedit.data.domains.street.cars import (
    CROSSING,
    NOTHING,
    ON_RAMP,
    ON_ROAD,
    TICK,
    beside,
    half_size,
    idm,
    span,
    wanted_speed,
)  # fmt: skip
from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.rays import chance
from drivedit.data.domains.street.roads import RAMP_BESIDE, along, apart, lane_middle, ramp_at, ramp_middle

SAFE, POLITE, WORTH, KEEP_RIGHT = -2.5, 0.2, 0.15, 0.2  # MOBIL: m/s^2, share, m/s^2, m/s^2


@kernel
def _follow(road, line, manner, cars, count, i):
    """Acceleration of a car on the road or on a ramp."""
    me = cars[i]
    low, high = span(road, me)
    gap, speed, _ = beside(road, cars, count, i, low, high, 1.0)
    wanted = wanted_speed(road, line, manner, me)
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
        if j == i or away <= 0 or abs(apart(road, other.s - me.s)) > half_size(me) + half_size(other) + 0.2:
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
    mine = idm(me.v, wanted_speed(road, line, manner, me), gap, me.v - speed, me.headway)
    theirs = 0.0
    if who >= 0:
        other = cars[who]
        wanted = wanted_speed(road, line, manner, other) if who else max(behind, 1.0)
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
def advance(road, line, manner, cars, count, number, tick):
    """Lets the others drive for a tick; row 0 tells where the driven car is. Gives the new count and number."""
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
    count = leave(road, cars, count)
    if tick % 10 == 0:
        count, number = enter(road, line, manner, cars, count, number)
    if tick % 150 == 0:
        count, number = come(road, manner, cars, count, number, float(tick))
    return count, number
