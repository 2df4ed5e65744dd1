"""The bodies around a car: what stands still, and the other cars, each made of two or three."""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.street.cars import MOST
from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.rays import BODY, BOX, CAR, TAPER
from drivedit.data.domains.street.roads import Road, place
from drivedit.data.domains.street.shading import CABIN, CHASSIS, PLAIN

VIEW = 190.0  # m that bodies are seen within
BRAKING = -0.9  # m/s^2: brake lights are on
CAB = 2.3  # m, height of a truck's
# Form and material of the parts of a car, and how bright their colour is.
LOWER, CABIN_ABOVE = (float(BOX), float(CHASSIS), 1.0), (float(TAPER), float(CABIN), 0.95)
LOAD, CAB_ABOVE = (float(BOX), float(PLAIN), 0.5), (float(BOX), float(CABIN), 1.0)


@kernel
def places_of(road, line, cars):
    """Place and direction of all cars but the driven one, float64 `[count - 1, 3]`."""
    out = np.empty((cars.size - 1, 3))
    for j in range(1, cars.size):
        x, y, yaw = place(road, line, cars[j].s, cars[j].d)
        out[j - 1, 0], out[j - 1, 1], out[j - 1, 2] = x, y, yaw + cars[j].turn
    return out


@kernel
def _part(body, car, at, ahead, heights, half, look):
    """Fills a part of a car, whose middle lies `ahead` of the car's; `half` its length and width, `look` see above."""
    body.c, body.n = math.cos(at[2]), math.sin(at[2])
    body.x, body.y, body.z = at[0] + body.c * ahead, at[1] + body.n * ahead, (heights[0] + heights[1]) / 2
    body.hx, body.hy, body.hz, body.form, body.material = (
        half[0],
        half[1],
        (heights[1] - heights[0]) / 2,
        look[0],
        look[1],
    )
    body.red, body.green, body.blue = look[2] * car.red, look[2] * car.green, look[2] * car.blue
    body.id, body.what, body.own = car.id, CAR, 0.0
    body.glow = 1.0 if car.a < BRAKING or car.v < 0.2 else 0.0


@kernel
def _gather(road, line, cars, still, x, y, out, away):
    """Fills `out` with all bodies near x, y, and `away` with the squares of their distances; gives their count."""
    count = 0
    for k in range(still.size):
        far = (still[k].x - x) ** 2 + (still[k].y - y) ** 2
        if far < VIEW * VIEW:
            out[count], away[count] = still[k], far
            count += 1
    at = places_of(road, line, cars)
    for j in range(1, cars.size):
        car, here, first, long, wide = cars[j], at[j - 1], count, cars[j].long, cars[j].wide
        low = 1.0 if car.truck > 0 else min(0.84, 0.58 * car.tall)
        _part(out[count], car, here, 0.0, (0.0, low), (long, wide), LOWER)
        if car.truck > 0:
            load = out[count + 1]
            _part(load, car, here, -0.28 * long, (low, car.tall), (0.72 * long, wide), LOAD)
            load.red, load.green, load.blue = load.red + 0.35, load.green + 0.35, load.blue + 0.35
            _part(out[count + 2], car, here, 0.76 * long, (low, CAB), (0.22 * long, 0.94 * wide), CAB_ABOVE)
            count += 3
        else:
            _part(out[count + 1], car, here, -0.17 * long, (low, car.tall), (0.64 * long, 0.9 * wide), CABIN_ABOVE)
            count += 2
        for k in range(first, count):
            away[k] = (out[k].x - x) ** 2 + (out[k].y - y) ** 2
    return count


def gather(road: Road, cars: np.ndarray, still: np.ndarray, x: float, y: float) -> np.ndarray:
    """All bodies that can be seen from x, y, `[P]` of `rays.BODY`, the near ones first.

    Args:
        road: The road.
        cars: All cars, the first is the driven one, which is left out.
        still: Bodies of what stands still.
        x: In metres.
        y: In metres.
    """
    most = len(still) + 3 * MOST
    out, away = np.empty(most, BODY), np.empty(most)
    count = _gather(road.shape, road.line, cars, still, x, y, out, away)
    return out[np.argsort(away[:count], kind="stable")]
