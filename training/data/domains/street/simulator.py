"""The street as a simulator: a world of a seed and its attributes, a state in a few numbers, and what sensors see of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drivedit.data.domains.street import car as own
from drivedit.data.domains.street import traffic
from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.light import WEATHERS, Light, make_light
from drivedit.data.domains.street.rays import BOX, CAR, CX, CY, TAPER, drop, look, scan, shadows
from drivedit.data.domains.street.roads import STYLES, Road, draw_road, lane_middle, place
from drivedit.data.domains.street.scenery import draw_scenery
from drivedit.data.domains.street.shading import BODY, CABIN, PLAIN, paint
from drivedit.utils.episodes import Agents

TICK = traffic.TICK
DENSITY = {"none": 0.0, "light": 0.35, "dense": 0.8}
KINDS = ("car", "truck")  # of agents
FINEST = (64, 512)  # rows and columns of a LiDAR
HIGHEST, LOWEST = math.radians(3.0), math.radians(-25.0)
FIELD = math.radians(75.0)  # of view of the camera, from side to side
EYE, ROOF = 1.5, 1.9  # m: camera and LiDAR above the road
PITCH = -0.05  # rad
VIEW, AROUND = 190.0, 95.0  # m that bodies are drawn, and measured, within
BRAKING = -0.9  # m/s^2: brake lights are on


class World(NamedTuple):
    """What does not change during an episode.

    Attributes:
        road: The road.
        manner: How others drive.
        bodies: Of everything that stands still, `[P, 17]`.
        solids: What a car can hit, `[K, 6]`.
        light: Light and air.
        lidar: Greatest range (m) in this weather, shares of beams that are lost anywhere and at that range.
    """

    road: Road
    manner: traffic.Manner
    bodies: np.ndarray
    solids: np.ndarray
    light: Light
    lidar: tuple[float, float, float]


@dataclass
class Moment:
    """Everything that the future of a world depends on.

    Attributes:
        car: float64 `[7]`, see `car`.
        cars: float64 `[count, COLUMNS]` of the traffic, row 0 the driven car.
        number: Of the next car.
        tick: Ticks since the episode began.
    """

    car: np.ndarray
    cars: np.ndarray
    number: int
    tick: int


@dataclass(frozen=True)
class Seen:
    """What sensors see of one moment; labels are those of `rays.CLASSES`, instances the numbers of cars, 0 of all else.

    Attributes:
        camera: uint8 `[H, W, 3]`.
        depth: float32 `[H, W]` metres along the ray, 0 in the sky.
        instance: int32 `[H, W]`.
        classes: uint8 `[H, W]`.
        range: float32 `[h, w, 2]`: metres (0 where nothing came back), and 1 where something did.
        range_instance: int32 `[h, w]`.
        range_classes: uint8 `[h, w]`.
    """

    camera: np.ndarray
    depth: np.ndarray
    instance: np.ndarray
    classes: np.ndarray
    range: np.ndarray
    range_instance: np.ndarray
    range_classes: np.ndarray


def make_world(seed: int, attributes: dict[str, str]) -> World:
    """The world of a seed.

    Args:
        seed: Of the road, its scenery and its traffic.
        attributes: `road`, `weather`, `time` and `traffic`, each a value of the spec.
    """
    kind, weather = attributes["road"], WEATHERS[attributes["weather"]]
    road = draw_road(np.random.default_rng([seed, 0]), kind)
    bodies, solids = draw_scenery(road, np.random.default_rng([seed, 1]))
    short = int(np.random.default_rng([seed, 3]).integers(2**31))
    density = DENSITY[attributes["traffic"]]
    spacing = STYLES[kind].spacing / density if density else 0.0
    manner = traffic.Manner(short, spacing, weather.pace, weather.grip)
    return World(road, manner, bodies, solids, make_light(attributes["time"], attributes["weather"], short), weather.lidar)


def begin(world: World, s: float, lane: int, offset: float, heading: float, speed: float) -> Moment:
    """The first moment of an episode.

    Args:
        world: The world.
        s: Metres along the road.
        lane: Of the car, 0 the right one.
        offset: Metres to the right of the lane's middle.
        heading: Radians to the right of the road.
        speed: m/s.
    """
    x, y, yaw = place(world.road, s, lane_middle(world.road, lane) - offset)
    car = np.array([x, y, yaw - heading, speed, 0.0, 0.0, 0.0])
    cars = np.zeros((traffic.MOST, traffic.COLUMNS))
    cars[0, traffic.S] = s
    own.mirror(world.road, car, cars)
    count, number = traffic.fill(world.road, world.manner, cars)
    return Moment(car, cars[:count].copy(), number, 0)


def drive(world: World, moment: Moment, controls: np.ndarray, ticks: int) -> tuple[Moment, float, int]:
    """What comes of some ticks with one control; the moment given stays as it is.

    Returns:
        The new moment, the metres made good along the road, and why the episode ended (`car.GOING`: it did not).
    """
    car, cars = moment.car.copy(), np.zeros((traffic.MOST, traffic.COLUMNS))
    cars[: len(moment.cars)] = moment.cars
    count, number, tick, far, why = own.drive(
        world.road, world.manner, world.solids, car, cars, len(moment.cars), moment.number, moment.tick, ticks,
        float(controls[0]), float(controls[1]),
    )  # fmt: skip
    return Moment(car, cars[:count].copy(), number, tick), far, why


@kernel
def _boxes(road, cars):
    """Place and direction of all cars but the driven one, `[count - 1, 3]`."""
    out = np.empty((cars.shape[0] - 1, 3))
    for j in range(1, cars.shape[0]):
        x, y, yaw = place(road, cars[j, traffic.S], cars[j, traffic.D])
        out[j - 1, 0], out[j - 1, 1], out[j - 1, 2] = x, y, yaw + cars[j, traffic.TURN]
    return out


def agents(world: World, moment: Moment) -> Agents:
    """All other cars of a moment."""
    rows = moment.cars[1:]
    at, tall = _boxes(world.road, moment.cars), rows[:, traffic.TALL]
    yaw = (at[:, 2] + math.pi) % (2 * math.pi) - math.pi
    sizes = 2 * rows[:, traffic.LONG], 2 * rows[:, traffic.WIDE], tall
    boxes = np.stack([at[:, 0], at[:, 1], tall / 2, *sizes, yaw], 1).astype(np.float32)
    ids, kinds = rows[:, traffic.ID].astype(np.int64), rows[:, traffic.TRUCK].astype(np.int64)
    return Agents(np.array([0, len(rows)]), ids, boxes, kinds, KINDS)


def _bodies_of_cars(at: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cars as two bodies each: a low one with wheels and lights, and on it a cabin, or the load of a truck."""
    truck = rows[:, traffic.TRUCK] > 0
    low = np.where(truck, 1.0, np.minimum(0.84, 0.58 * rows[:, traffic.TALL]))
    long, wide, tall = rows[:, traffic.LONG], rows[:, traffic.WIDE], rows[:, traffic.TALL]
    c, n, one, none = np.cos(at[:, 2]), np.sin(at[:, 2]), np.ones(len(rows)), np.zeros(len(rows))
    paint = rows[:, traffic.RED : traffic.BLUE + 1].T
    braking = (rows[:, traffic.A] < BRAKING) | (rows[:, traffic.V] < 0.2)
    same = [c, n], [rows[:, traffic.ID], CAR * one, none, braking]
    parts = [[BOX * one, at[:, 0], at[:, 1], low / 2, long, wide, low / 2, *same[0], *paint, BODY * one, *same[1]]]
    back, half = np.where(truck, 0.28 * long, 0.17 * long), np.where(truck, 0.72, 0.64) * long
    form, skin = np.where(truck, BOX, TAPER), np.where(truck, PLAIN, CABIN)
    size = half, np.where(truck, wide, 0.9 * wide), (tall - low) / 2
    x, y = at[:, 0] - back * c, at[:, 1] - back * n
    load = np.where(truck, 0.35 + 0.5 * paint, 0.95 * paint)
    parts.append([form, x, y, (tall + low) / 2, *size, *same[0], *load, skin, *same[1]])
    cab = [each[truck] for each in (one * BOX, at[:, 0] + 0.76 * long * c, at[:, 1] + 0.76 * long * n, one * 1.65,
                                    0.22 * long, 0.94 * wide, one * 0.65, *same[0], *paint, one * CABIN, *same[1])]  # fmt: skip
    return np.concatenate([np.stack(parts[0], 1), np.stack(parts[1], 1), np.stack(cab, 1)])


class Sensors:
    """Camera and LiDAR of a car.

    Args:
        size: Rows and columns of the camera's pictures.
        lidar: Rows and columns of range images; they divide `FINEST`.

    Raises:
        ValueError: They do not.
    """

    def __init__(self, size: tuple[int, int], lidar: tuple[int, int]) -> None:
        if any(side < 1 or finest % side for finest, side in zip(FINEST, lidar, strict=True)):
            raise ValueError(f"rows and columns of a LiDAR divide {FINEST}, got {lidar}")
        self.size, self.lidar = size, lidar
        self._every = (FINEST[0] // lidar[0], FINEST[1] // lidar[1])
        self._rows = np.linspace(HIGHEST, LOWEST, FINEST[0])[:: self._every[0]].copy()
        self._columns = (np.arange(lidar[1]) / lidar[1] - 0.5) * 2 * math.pi
        fine = (2 * size[0], 2 * size[1])
        self._rays, self._depth = np.empty((*fine, 3)), np.empty(fine, np.float32)
        self._index, self._shade = np.empty(fine, np.int32), np.empty(fine, np.uint8)

    def _near(self, world: World, moment: Moment, reach: float) -> np.ndarray:
        """All bodies within `reach` of the car, the near ones first."""
        x, y = moment.car[:2]
        cars = _bodies_of_cars(_boxes(world.road, moment.cars), moment.cars[1:])
        away = np.hypot(world.bodies[:, CX] - x, world.bodies[:, CY] - y)
        rows = np.concatenate([world.bodies[away < reach], cars])
        return rows[np.argsort((rows[:, CX] - x) ** 2 + (rows[:, CY] - y) ** 2, kind="stable")]

    def look(self, world: World, moment: Moment) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Picture, depth, instances and classes, see `Seen`."""
        x, y, yaw = moment.car[:3]
        cam = np.array([x + 0.4 * math.cos(yaw), y + 0.4 * math.sin(yaw), EYE, yaw, PITCH, math.tan(FIELD / 2)])
        bodies, light, size = self._near(world, moment, VIEW), world.light, self.size
        picture, metres = np.empty((*size, 3), np.uint8), np.empty(size, np.float32)
        instance, classes = np.empty(size, np.int32), np.empty(size, np.uint8)
        look(cam, bodies, self._rays, self._depth, self._index)
        sunny = light.strength > 0.2
        shadows(cam, bodies, light.sun, sunny, self._rays, self._depth, self._index, self._shade)
        crossings = self._crossings(world, moment)
        paint(
            cam, bodies, world.road, crossings, light, self._rays, self._depth, self._index, self._shade, picture,
            metres, instance, classes,
        )  # fmt: skip
        return picture, metres, instance, classes

    def scan(self, world: World, moment: Moment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Range image, its instances and its classes, see `Seen`."""
        x, y, yaw = moment.car[:3]
        out, reach = np.empty(self.lidar, np.float32), world.lidar[0]
        instance, classes = np.empty(self.lidar, np.int32), np.empty(self.lidar, np.uint8)
        bodies, origin = self._near(world, moment, AROUND), np.array([x, y, ROOF])
        crossings = self._crossings(world, moment)
        scan(origin, yaw, self._rows, self._columns, bodies, world.road, crossings, reach, out, instance, classes)
        drop(out, instance, classes, world.manner.seed, moment.tick, self._every, *world.lidar)
        return np.stack([out, out > 0], -1).astype(np.float32), instance, classes

    def see(self, world: World, moment: Moment) -> Seen:
        """All that there is to see of a moment."""
        return Seen(*self.look(world, moment), *self.scan(world, moment))

    @staticmethod
    def _crossings(world: World, moment: Moment) -> np.ndarray:
        """The crossings that can be seen from a moment."""
        crossings = world.road.crossings
        return crossings[np.hypot(crossings[:, 1] - moment.car[0], crossings[:, 2] - moment.car[1]) < 320.0]
