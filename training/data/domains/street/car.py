"""The driven car: a bicycle whose tyres slip, what it hits, and the ticks in which it and the traffic move.

Tyres are linear up to the grip that their ground has (Rajamani, Vehicle Dynamics and Control, chapter 2); below a few
metres per second, where slip angles say nothing, the wheels roll.
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.street.cars import DRIVEN, TICK
from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.driving import AIR, BACK, BRAKES, FRONT, FULL_LOCK, GRAVITY, MASS, POWER, PULL, ROLL
from drivedit.data.domains.street.roads import apart, locate, paved, place, ramp_at, ramp_edge
from drivedit.data.domains.street.traffic import advance

# A car's place, direction (rad), speed ahead and to the left, rate of turn, angle of the front wheels (> 0 left).
DRIVEN_CAR = np.dtype([(name, "f8") for name in ("x", "y", "yaw", "ahead", "left", "rate", "steer")])
HALF_LONG, HALF_WIDE, HIGH = 2.2, 0.91, 1.5  # m
INERTIA, STIFFNESS = 2300.0, 65_000.0  # kg m^2, N/rad of an axle
TURNING = 0.9  # rad/s
VERGE_ROLL = 1.2  # m/s^2
VERGE_GRIP = 0.55  # share of the grip that is left beside the road
ROLLING, SLIPPING = 2.5, 5.0  # m/s: wheels roll below, slip above
VERGE, TURNED = 5.0, 2.1  # m beyond the pavement, rad: beyond them an episode ends
GOING, COLLISION, OFF_ROAD, WRONG_WAY = range(4)


@kernel
def wheels_on_road(road, line, grid, car):
    """Share of the wheels that stand on pavement."""
    c, n, share = math.cos(car.yaw), math.sin(car.yaw), 0.0
    for long in (FRONT, -BACK):
        for wide in (0.75, -0.75):
            s, d = locate(road, line, grid, car.x + c * long - n * wide, car.y + n * long + c * wide)
            share += 0.25 if paved(road, s, d) else 0.0
    return share


@kernel
def wheels_in_lanes(road, line, grid, car):
    """Share of the wheels that stand in lanes of the car's direction."""
    c, n, share = math.cos(car.yaw), math.sin(car.yaw), 0.0
    for long in (FRONT, -BACK):
        for wide in (0.75, -0.75):
            _, d = locate(road, line, grid, car.x + c * long - n * wide, car.y + n * long + c * wide)
            share += 0.25 if -road.side * road.lane - road.median <= d <= -road.median else 0.0
    return share


@kernel
def roll(car, steering, throttle, grip, share):
    """Moves a car for a tick.

    Args:
        car: A `DRIVEN_CAR`, changed.
        steering: In [-1, 1], +1 right.
        throttle: In [-1, 1], -1 full brake.
        grip: Of the road, as a share of gravity.
        share: Of the wheels, on pavement.
    """
    grip = grip * (share + VERGE_GRIP * (1 - share)) * GRAVITY
    aim = -FULL_LOCK * steering
    car.steer += min(max(aim - car.steer, -TURNING * TICK), TURNING * TICK)
    v = car.ahead
    drag = ROLL + AIR * v * v + VERGE_ROLL * (1 - share)
    if throttle >= 0:
        push = min(throttle * min(PULL, POWER / (MASS * max(v, 1.0))), grip)
    else:
        push = -min(-throttle * BRAKES, grip)
    side = math.sqrt(max(0.05 * grip * grip, grip * grip - push * push))  # of the friction circle
    share_front = BACK / (FRONT + BACK)
    long = max(v, 1.0)
    slip_front = math.atan2(car.left + FRONT * car.rate, long) - car.steer
    slip_back = math.atan2(car.left - BACK * car.rate, long)
    most = MASS * side
    force_front = min(max(-STIFFNESS * slip_front, -most * share_front), most * share_front)
    force_back = min(max(-STIFFNESS * slip_back, -most * (1 - share_front)), most * (1 - share_front))
    speed = max(0.0, v + (push + car.left * car.rate - force_front * math.sin(car.steer) / MASS) * TICK)
    speed = max(0.0, speed - drag * TICK)
    left = car.left + ((force_front * math.cos(car.steer) + force_back) / MASS - v * car.rate) * TICK
    rate = car.rate + (FRONT * force_front * math.cos(car.steer) - BACK * force_back) / INERTIA * TICK
    slips = min(max((speed - ROLLING) / (SLIPPING - ROLLING), 0.0), 1.0)
    rolled = speed * math.tan(car.steer) / (FRONT + BACK)
    car.ahead, car.rate = speed, slips * rate + (1 - slips) * rolled
    car.left = slips * left + (1 - slips) * rolled * BACK
    c, n = math.cos(car.yaw), math.sin(car.yaw)
    car.x += (c * car.ahead - n * car.left) * TICK
    car.y += (n * car.ahead + c * car.left) * TICK
    car.yaw += car.rate * TICK
    car.yaw -= 2 * math.pi * math.floor((car.yaw + math.pi) / (2 * math.pi))


@kernel
def overlap(ax, ay, ac, an, along_a, across_a, bx, by, bc, bn, along_b, across_b):
    """Whether two rectangles touch: middle, cosine and sine of the direction, half length and half width of each."""
    x, y = bx - ax, by - ay
    c, n = abs(ac * bc + an * bn), abs(ac * bn - an * bc)
    if abs(ac * x + an * y) > along_a + c * along_b + n * across_b:
        return False
    if abs(ac * y - an * x) > across_a + n * along_b + c * across_b:
        return False
    if abs(bc * x + bn * y) > along_b + c * along_a + n * across_a:
        return False
    return abs(bc * y - bn * x) <= across_b + n * along_a + c * across_a


@kernel
def collides(road, line, car, cars, count, solids):
    """Whether a car touches another one or what stands beside the road."""
    c, n = math.cos(car.yaw), math.sin(car.yaw)
    for j in range(1, count):
        if abs(apart(road, cars[j].s - cars[0].s)) < 15:
            x, y, yaw = place(road, line, cars[j].s, cars[j].d)
            oc, on = math.cos(yaw + cars[j].turn), math.sin(yaw + cars[j].turn)
            if overlap(car.x, car.y, c, n, HALF_LONG, HALF_WIDE, x, y, oc, on, cars[j].long, cars[j].wide):
                return True
    for k in range(solids.size):
        p = solids[k]
        if abs(p.x - car.x) < 15 and abs(p.y - car.y) < 15:
            if overlap(car.x, car.y, c, n, HALF_LONG, HALF_WIDE, p.x, p.y, p.c, p.n, p.hx, p.hy):
                return True
    return False


@kernel
def mirror(road, line, grid, driven, cars):
    """Tells row 0 of the traffic where the driven car is; gives its s, d and angle to the road (> 0 left)."""
    car = driven[0]
    s, d = locate(road, line, grid, car.x, car.y)
    if d > 900:  # too far off to be told: it stays where it was last seen
        return cars[0].s, d, 0.0
    turn = car.yaw - place(road, line, s, d)[2]
    turn -= 2 * math.pi * math.floor(turn / (2 * math.pi) + 0.5)
    c, n = math.cos(turn), math.sin(turn)
    me = cars[0]
    me.mode, me.way, me.s, me.d, me.v, me.turn = DRIVEN, 1, s, d, car.ahead * c - car.left * n, turn
    me.long = abs(c) * HALF_LONG + abs(n) * HALF_WIDE
    me.wide = abs(n) * HALF_LONG + abs(c) * HALF_WIDE
    return s, d, turn


@kernel
def drive(road, line, grid, manner, solids, driven, cars, count, number, tick, ticks, steering, throttle):
    """Drives some ticks with one control, until an episode ends; `driven` is `[1]` of `DRIVEN_CAR`, and changed.

    Returns:
        New count, number and tick; metres made good along the road; why it ended (`GOING`: it did not).
    """
    car, far, why = driven[0], 0.0, GOING
    before = mirror(road, line, grid, driven, cars)[0]
    for _ in range(ticks):
        roll(car, steering, throttle, manner.grip, wheels_on_road(road, line, grid, car))
        s, d, turn = mirror(road, line, grid, driven, cars)
        far += apart(road, s - before)
        before = s
        tick += 1
        count, number = advance(road, line, manner, cars, count, number, tick)
        if collides(road, line, car, cars, count, solids):
            why = COLLISION
        elif d > road.half + VERGE or d < ramp_edge(road, ramp_at(road, s)) - VERGE:
            why = OFF_ROAD
        elif abs(turn) > TURNED:
            why = WRONG_WAY
        if why != GOING:
            break
    return count, number, tick, far, why
