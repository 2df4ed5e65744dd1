"""The driven car turns, slips and brakes as its ground lets it, and touches what it overlaps."""

import math

import numpy as np
import pytest
from helpers.streets import empty_world, round_road

from drivedit.data.domains.street.car import GOING, HALF_LONG, HALF_WIDE, collides, overlap
from drivedit.data.domains.street.cars import TICK
from drivedit.data.domains.street.simulator import Moment, World, begin, drive

pytestmark = pytest.mark.xdist_group("street")


def braking_distance(world: World, offset: float = 0.0) -> float:
    moment = begin(world, 50.0, 0, offset, 0.0, 20.0)
    start = moment.pose[:2]
    while moment.driven["ahead"][0] > 0:
        moment = drive(world, moment, np.array([0.0, -1.0]), 1)[0]
    return float(np.hypot(*(moment.pose[:2] - start)))


def test_braking_takes_longer_in_rain_in_snow_and_beside_the_road():
    clear, rain, snow = (braking_distance(empty_world(weather)) for weather in ("clear", "rain", "snow"))
    assert clear == pytest.approx(20**2 / (2 * 9.45), rel=0.06), "v^2 / 2a of the grip"
    assert 1.3 * clear < rain < 0.6 * snow
    assert braking_distance(empty_world(), offset=6.0) > 1.2 * clear


def turn(world: World, speed: float, steering: float, seconds: float = 3.0) -> Moment:
    moment = begin(world, 50.0, 0, 0.0, 0.0, speed)
    return drive(world, moment, np.array([steering, 0.1]), round(seconds / TICK))[0]


@pytest.mark.parametrize("steering", [-0.2, 0.2])
def test_steering_right_turns_right(steering):
    world = empty_world()
    before = begin(world, 50.0, 0, 0.0, 0.0, 6.0).pose[2]
    assert np.sign(before - turn(world, 6.0, steering, 1.0).pose[2]) == np.sign(steering)


def test_slow_wheels_roll_and_fast_ones_hold_what_the_ground_holds():
    slow = turn(empty_world(), 2.0, 0.5, 1.5).driven[0]
    assert slow["rate"] == pytest.approx(-slow["ahead"] * math.tan(0.25) / 2.7, rel=0.05)
    for weather, grip in (("clear", 0.95), ("snow", 0.3)):
        world = empty_world(weather, round_road(400.0))
        fast, hardest = begin(world, 50.0, 0, 0.0, 0.0, 22.0), 0.0
        for _ in range(60):
            before = velocity(fast)
            fast = drive(world, fast, np.array([1.0, 0.1]), 1)[0]
            hardest = max(hardest, float(np.hypot(*(velocity(fast) - before))) / TICK)
        assert 0.8 * grip * 9.81 < hardest < 1.05 * grip * 9.81 + 0.6


def velocity(moment: Moment) -> np.ndarray:
    car = moment.driven[0]
    c, n = math.cos(car["yaw"]), math.sin(car["yaw"])
    return np.array([c * car["ahead"] - n * car["left"], n * car["ahead"] + c * car["left"]])


def test_gas_and_drag_balance_at_a_top_speed():
    world = empty_world()
    moment = begin(world, 50.0, 0, 0.0, 0.0, 30.0)
    speeds = []
    for _ in range(30):
        moment, _, why = drive(world, moment, np.array([-0.006, 1.0]), 5)
        speeds.append(float(moment.driven["ahead"][0]))
        assert why == GOING
    gains = np.diff(speeds) / 0.1
    assert (gains > 0).all() and gains[-1] < gains[0] < 95_000 / 1400 / 30


def corners(x: float, y: float, angle: float, long: float, wide: float, count: int = 41) -> np.ndarray:
    """Points all over a rectangle, `[count^2, 2]`."""
    a, b = (part.ravel() for part in np.meshgrid(np.linspace(-long, long, count), np.linspace(-wide, wide, count)))
    return np.stack([x + a * math.cos(angle) - b * math.sin(angle), y + a * math.sin(angle) + b * math.cos(angle)], 1)


def test_rectangles_touch_where_points_of_one_lie_in_the_other():
    rng, seen = np.random.default_rng(0), [0, 0]
    for _ in range(400):
        x, y, angle = rng.uniform(-5, 5), rng.uniform(-4, 4), rng.uniform(-math.pi, math.pi)
        long, wide = rng.uniform(0.4, 4), rng.uniform(0.4, 2)
        own = 0.0, 0.0, math.cos(0.3), math.sin(0.3), HALF_LONG, HALF_WIDE

        def touches(grown: float, x=x, y=y, angle=angle, long=long, wide=wide, own=own) -> bool:
            return overlap(*own, x, y, math.cos(angle), math.sin(angle), long + grown, wide + grown)

        points = corners(0, 0, 0.3, HALF_LONG, HALF_WIDE)
        ahead = (points[:, 0] - x) * math.cos(angle) + (points[:, 1] - y) * math.sin(angle)
        left = (points[:, 1] - y) * math.cos(angle) - (points[:, 0] - x) * math.sin(angle)
        sampled = bool(((abs(ahead) <= long) & (abs(left) <= wide)).any())
        seen[sampled] += 1
        assert touches(0.0) or not sampled
        assert sampled or not touches(-0.12)
    assert min(seen) > 80


def test_a_car_hits_what_stands_and_who_drives():
    world = empty_world()
    moment, road = begin(world, 50.0, 0, 0.0, 0.0, 10.0), world.road
    cars = np.repeat(moment.cars, 2)
    cars["id"][1], cars["long"][1], cars["wide"][1] = 1, 2.2, 0.9

    def hits(ahead: float) -> bool:
        cars["s"][1] = cars["s"][0] + ahead
        return collides(road.shape, road.line, moment.driven[0], cars, 2, world.solids)

    assert hits(4.0) and hits(-4.0) and not hits(4.6) and not hits(-4.6)
