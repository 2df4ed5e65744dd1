"""The street: a world of a seed and its attributes, a state in a few numbers, and what sensors see of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivedit.config import CameraConfig
from drivedit.data.domains.street import car as own
from drivedit.data.domains.street.arrivals import fill
from drivedit.data.domains.street.bodies import gather, places_of
from drivedit.data.domains.street.cars import CAR, MOST, make_manner
from drivedit.data.domains.street.light import WEATHERS, Light, make_light
from drivedit.data.domains.street.rays import aim, drop, look, scan, shadows
from drivedit.data.domains.street.roads import STYLES, Road, draw_road, lane_middle
from drivedit.data.domains.street.scenery import draw_scenery
from drivedit.data.domains.street.shading import aim_at_sky, paint
from drivedit.utils.episodes import Agents

DENSITY = {"none": 0.0, "light": 0.35, "dense": 0.8}
KINDS = ("car", "truck")  # of agents
FINEST = (64, 512)  # rows and columns of a LiDAR
HIGHEST, LOWEST = math.radians(3.0), math.radians(-25.0)
FIELD = math.radians(75.0)  # of view of the camera, from side to side
EYE, ROOF = 1.5, 1.9  # m: camera and LiDAR above the road
FORWARD = 0.4  # m from the middle of the car to the camera
PITCH = -0.05  # rad


@dataclass(frozen=True)
class World:
    """What does not change during an episode.

    Attributes:
        road: The road.
        manner: How others drive, see `cars.make_manner`.
        bodies: Of everything that stands still, `[P]` of `rays.BODY`.
        solids: Those of them that a car can hit.
        light: Light and air.
        lidar: Greatest range (m) in this weather, shares of beams that are lost anywhere and at that range.
    """

    road: Road
    manner: np.record
    bodies: np.ndarray
    solids: np.ndarray
    light: Light
    lidar: tuple[float, float, float]


@dataclass(frozen=True)
class Moment:
    """Everything that the future of a world depends on.

    Attributes:
        driven: `[1]` of `car.DRIVEN_CAR`.
        cars: `[count]` of `cars.CAR`, the first is the driven one.
        number: Of the next car.
        tick: Ticks since the episode began.
    """

    driven: np.ndarray
    cars: np.ndarray
    number: int
    tick: int

    @property
    def pose(self) -> np.ndarray:
        """x, y (m) and yaw (rad) of the driven car, float64 `[3]`."""
        return np.array([self.driven[name][0] for name in ("x", "y", "yaw")])


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
    manner = make_manner(short, spacing, weather.pace, weather.grip)
    return World(
        road,
        manner,
        bodies,
        solids,
        make_light(attributes["time"], attributes["weather"], short),
        weather.lidar,
    )


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
    road = world.road
    x, y, yaw = road.place(s, lane_middle(road.shape, float(lane)) - offset)
    driven = np.array([(x, y, yaw - heading, speed, 0.0, 0.0, 0.0)], own.DRIVEN_CAR)
    cars = np.zeros(MOST, CAR)
    cars["s"][0] = s
    own.mirror(road.shape, road.line, road.grid, driven, cars)
    count, number = fill(road.shape, road.line, world.manner, cars, 1, 1)
    return Moment(driven, cars[:count].copy(), number, 0)


def drive(world: World, moment: Moment, controls: np.ndarray, ticks: int) -> tuple[Moment, float, int]:
    """What comes of some ticks with one control.

    Returns:
        The new moment, the metres made good along the road, and why the episode ended (`car.GOING`: it did not).
    """
    road, driven, cars = world.road, moment.driven.copy(), np.zeros(MOST, CAR)
    cars[: len(moment.cars)] = moment.cars
    count, number, tick, far, why = own.drive(
        road.shape, road.line, road.grid, world.manner, world.solids, driven, cars, len(moment.cars), moment.number,
        moment.tick, ticks, float(controls[0]), float(controls[1]),
    )  # fmt: skip
    return Moment(driven, cars[:count].copy(), number, tick), far, why


def agents(world: World, moment: Moment) -> Agents:
    """All other cars of a moment."""
    rows = moment.cars[1:]
    at, tall = places_of(world.road.shape, world.road.line, moment.cars), rows["tall"]
    yaw = (at[:, 2] + math.pi) % (2 * math.pi) - math.pi
    columns = [at[:, 0], at[:, 1], tall / 2, 2 * rows["long"], 2 * rows["wide"], tall, yaw]
    ids, kinds = rows["id"].astype(np.int64), rows["truck"].astype(np.int64)
    return Agents(np.array([0, len(rows)]), ids, np.stack(columns, 1).astype(np.float32), kinds, KINDS)


class Sensors:
    """Camera and LiDAR of a car.

    Args:
        size: Rows and columns of the camera's pictures.
        lidar: Rows and columns of range images; they divide `FINEST`.
        camera: Another camera than the usual one; None: that.

    Raises:
        ValueError: They do not.
    """

    def __init__(self, size: tuple[int, int], lidar: tuple[int, int], camera: CameraConfig | None = None) -> None:
        if any(side < 1 or finest % side for finest, side in zip(FINEST, lidar, strict=True)):
            raise ValueError(f"rows and columns of a LiDAR divide {FINEST}, got {lidar}")
        self.size, self.lidar = size, lidar
        self._every = (FINEST[0] // lidar[0], FINEST[1] // lidar[1])
        self._rows = np.linspace(HIGHEST, LOWEST, FINEST[0])[:: self._every[0]].copy()
        self._columns = (np.arange(lidar[1]) / lidar[1] - 0.5) * 2 * math.pi
        fine = (2 * size[0], 2 * size[1])
        field, eye, pitch, self._forward = FIELD, EYE, PITCH, FORWARD
        if camera is not None:
            field, eye, self._forward = math.radians(camera.fov), camera.height, camera.ahead
            pitch = -math.radians(camera.pitch)
        self._cam = np.array([0.0, 0.0, eye, 0.0, pitch, math.tan(field / 2)])
        self._aimed, self._rays = np.empty((*fine, 3)), np.empty((*fine, 3))
        self._depth, self._index = np.empty(fine, np.float32), np.empty(fine, np.int32)
        self._shade, self._sky_rows, self._turns = np.empty(fine, np.uint8), np.empty(fine, np.int32), np.empty(fine)
        aim(self._cam, self._aimed)
        aim_at_sky(self._aimed, self._sky_rows, self._turns)

    @staticmethod
    def _near(world: World, moment: Moment) -> np.ndarray:
        """All bodies that can be seen from a moment, the near ones first."""
        x, y, _ = moment.pose
        return gather(world.road, moment.cars, world.bodies, x, y)

    def look(
        self, world: World, moment: Moment, bodies: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Picture, depth, instances and classes, see `Seen`."""
        x, y, yaw = moment.pose
        cam = self._cam.copy()
        cam[[0, 1, 3]] = x + self._forward * math.cos(yaw), y + self._forward * math.sin(yaw), yaw
        bodies = self._near(world, moment) if bodies is None else bodies
        road, light = world.road, world.light
        picture, metres = np.empty((*self.size, 3), np.uint8), np.empty(self.size, np.float32)
        instance, classes = np.empty(self.size, np.int32), np.empty(self.size, np.uint8)
        seen = self._rays, self._depth, self._index
        sun = np.array(light.air.sun)
        look(cam, bodies, sun, self._aimed, *seen)
        shadows(cam, bodies, sun, light.air.strength > 0.2, *seen, self._shade)
        paint(
            cam, bodies, road.shape, road.line, road.grid, self._crossings(world, moment), light.air, light.sky,
            light.grain, light.bytes, self._sky_rows, self._turns, *seen, self._shade, picture, metres, instance,
            classes,
        )  # fmt: skip
        return picture, metres, instance, classes

    def scan(
        self, world: World, moment: Moment, bodies: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Range image, its instances and its classes, see `Seen`."""
        x, y, yaw = moment.pose
        out, road, reach = np.empty(self.lidar, np.float32), world.road, world.lidar[0]
        instance, classes = np.empty(self.lidar, np.int32), np.empty(self.lidar, np.uint8)
        bodies, origin = self._near(world, moment) if bodies is None else bodies, np.array([x, y, ROOF])
        scan(
            origin, yaw, self._rows, self._columns, bodies, road.shape, road.line, road.grid,
            self._crossings(world, moment), reach, out, instance, classes,
        )  # fmt: skip
        drop(out, instance, classes, world.manner.seed, moment.tick, self._every, *world.lidar)
        return np.stack([out, out > 0], -1).astype(np.float32), instance, classes

    def see(self, world: World, moment: Moment) -> Seen:
        """All that there is to see of a moment."""
        bodies = self._near(world, moment)
        return Seen(*self.look(world, moment, bodies), *self.scan(world, moment, bodies))

    @staticmethod
    def _crossings(world: World, moment: Moment) -> np.ndarray:
        """The crossings that can be seen from a moment."""
        crossings, (x, y, _) = world.road.crossings, moment.pose
        return crossings[np.hypot(crossings["x"] - x, crossings["y"] - y) < 320.0]
