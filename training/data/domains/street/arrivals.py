"""Who comes and goes around the driven car: on its road, on ramps and on crossing roads, as many as there should be.

What is drawn belongs to the seed, the number of a car and the tick.
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.street.cars import (
    AHEAD,
    BEHIND,
    CROSSING,
    NOTHING,
    ON_RAMP,
    ON_ROAD,
    span,
    wanted_speed,
)  # fmt: skip
from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.rays import chance
from drivedit.data.domains.street.roads import RAMP_BEFORE, SIDE_ROAD, along, apart, lane_middle, ramp_middle

PAINTS = np.array([
    (0.85, 0.85, 0.86), (0.82, 0.82, 0.80), (0.55, 0.57, 0.60), (0.30, 0.32, 0.35), (0.07, 0.07, 0.08),
    (0.09, 0.09, 0.10), (0.60, 0.06, 0.06), (0.70, 0.10, 0.08), (0.06, 0.14, 0.45), (0.10, 0.28, 0.60),
    (0.08, 0.30, 0.18), (0.75, 0.55, 0.08), (0.55, 0.30, 0.10), (0.30, 0.10, 0.30),
])  # fmt: skip


@kernel
def _add(road, manner, cars, count, number, mode, lane, way, s, d, speed):
    """Puts a car into the row `count`; what it is like belongs to its number."""
    car, seed = cars[count], manner.seed
    truck = mode != CROSSING and chance(seed, number, 1.0) < (0.05, 0.1, 0.16)[road.kind]
    size, shine = chance(seed, number, 2.0), 0.8 + 0.35 * chance(seed, number, 7.0)
    car.id, car.mode, car.lane, car.way = number, mode, lane, way
    car.s, car.d, car.v, car.a = along(road, s), d, speed, 0.0
    car.pace = road.limit * (0.78 + 0.34 * chance(seed, number, 3.0))
    car.headway = 0.9 + 0.7 * chance(seed, number, 5.0)
    car.long, car.wide, car.tall = 2.0 + 0.4 * size, 0.86 + 0.08 * size, 1.42 + 0.35 * chance(seed, number, 6.0) ** 3
    if truck:
        car.pace, car.long, car.wide, car.tall = min(car.pace, 24.0) * 0.9, 3.4 + 1.2 * size, 1.15, 2.9 + 0.4 * size
    paint = PAINTS[int(chance(seed, number, 4.0) * PAINTS.shape[0])]
    car.red, car.green, car.blue = shine * paint[0], shine * paint[1], shine * paint[2]
    car.truck = 1.0 if truck else 0.0
    car.hold, car.since, car.turn = 0.0, -1000.0, 0.0 if way > 0 else math.pi
    if mode == CROSSING:
        car.pace, car.since, car.turn = 7.0 + 2 * size, 0.0, way * math.pi / 2


@kernel
def enter(road, line, manner, cars, count, number):
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
                a, b = span(road, cars[j])
                if a < middle + 1 and b > middle - 1:
                    away = edge - apart(road, cars[j].s - driven.s) * end
                    if away < room:
                        room, lead = away, cars[j].v
            if room < manner.spacing * (0.5 + chance(manner.seed, number, 11.0)):
                continue
            _add(
                road, manner, cars, count, number, float(ON_ROAD), float(lane), way, driven.s + end * edge, middle, 0.0
            )
            speed = 0.95 * wanted_speed(road, line, manner, cars[count])
            number += 1
            if way > 0 and end * (driven.v - speed) < 0.3:  # it would leave at once
                continue
            if room < 100 and end * way < 0:
                speed = min(speed, lead + 0.1 * room)
            cars[count].v = speed
            count += 1
    return count, number


@kernel
def come(road, manner, cars, count, number, tick):
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
                _add(
                    road,
                    manner,
                    cars,
                    count,
                    number,
                    float(CROSSING),
                    float(k),
                    way,
                    at,
                    start * way,
                    0.0 if first else 7.0,
                )
                count, number = count + 1, number + 1
    return count, number


@kernel
def leave(road, cars, count):
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
                cars[count].v = 0.9 * wanted_speed(road, line, manner, cars[count])
                count, number = count + 1, number + 1
            x += max(14.0, manner.spacing * (0.5 + chance(manner.seed, number + 50 * lane, 22.0)))
    return come(road, manner, cars, count, number, 0.0)
