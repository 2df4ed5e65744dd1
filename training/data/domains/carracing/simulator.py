"""Gymnasium's CarRacing with three changes: a fresh world per start, any start on the track, and a fast picture.

The physics are untouched: the same bodies in the same order, the same tick. A fresh Box2D world per start makes an
episode a function of (seed, start, actions) alone, bit for bit, which is what forking by replay rests on. The picture
is the simulator's own, drawn at its full 1000 x 800 and scaled down, but all polygons are transformed in one numpy
call and those off the screen are not drawn.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium as gym
import pygame
from pygame import gfxdraw

from drivedit.data.geometry import CentreLine
from drivedit.utils import extra

with extra("data", "the simulator"):
    import Box2D
    from gymnasium.envs.box2d import car_racing
    from gymnasium.envs.box2d.car_dynamics import SIZE, WHEELPOS, Car

TICK = 1.0 / car_racing.FPS  # s
PLAYFIELD = car_racing.PLAYFIELD  # m; beyond this the car has left
WIDTH, HEIGHT = car_racing.WINDOW_W, car_racing.WINDOW_H
DASHBOARD = HEIGHT // 8  # px
ZOOM = car_racing.ZOOM * car_racing.SCALE  # px per metre
VIEW_RADIUS = 50.0  # m; no corner of the picture is farther from the car


class _TileListener(Box2D.b2ContactListener):
    """Tells the simulator which wheel stands on which tile."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self.simulator = simulator

    def BeginContact(self, contact: Any) -> None:  # noqa: N802 (Box2D's name)
        tile, wheel = _tile_and_wheel(contact)
        if tile is not None:
            wheel.tiles.add(tile)
            self.simulator.touch(tile)

    def EndContact(self, contact: Any) -> None:  # noqa: N802 (Box2D's name)
        tile, wheel = _tile_and_wheel(contact)
        if tile is not None:
            wheel.tiles.discard(tile)


def _tile_and_wheel(contact: Any) -> tuple[Any, Any]:
    """The road tile and the wheel of a contact, or (None, None)."""
    first, second = contact.fixtureA.body.userData, contact.fixtureB.body.userData
    for tile, wheel in ((first, second), (second, first)):
        if tile is not None and hasattr(tile, "road_friction") and wheel is not None and hasattr(wheel, "tiles"):
            return tile, wheel
    return None, None


class Simulator(car_racing.CarRacing):
    """CarRacing's track, car and picture; `drivedit.data.CarRacingTwin` makes an environment of it.

    Args:
        colors: Seed of the colours of road and ground, drawn as `domain_randomize` draws them; None: its own colours.
    """

    def __init__(self, colors: int | None = None) -> None:
        super().__init__(continuous=True)
        if colors is not None:
            rng = np.random.default_rng(colors)
            self.road_color, self.bg_color = rng.uniform(0, 210, (2, 3))
            self.grass_color = self.bg_color.copy()
            self.grass_color[rng.integers(3)] += 20
        pygame.font.init()
        font = pygame.font.Font(pygame.font.get_default_font(), 42)
        self._score = font.render("0000", True, (255, 255, 255), (0, 0, 0))
        self._canvas = pygame.Surface((WIDTH, HEIGHT), depth=32)
        size = car_racing.GRASS_DIM
        corners = np.array([[1, 0], [0, 0], [0, 1], [1, 1]], dtype=np.float64)
        cells = np.array([(x, y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)], dtype=np.float64)
        self._grass = size * (cells[:, None] + corners)  # [400, 4, 2]

    def start(self, seed: int, placement: dict[str, float] | None) -> None:
        """Builds the track of `seed` in a fresh world and places the car.

        Args:
            seed: seed of the track; the same seed gives the same track as CarRacing-v3.
            placement: None for the simulator's own start, or track_position, lateral_offset, heading_error, speed.
        """
        gym.Env.reset(self, seed=seed)
        self.road, self.car = [], None  # they go with their world, which may be locked where a tick was broken off
        self._listener = _TileListener(self)
        self.contactListener_keepref = self._listener
        self.world = Box2D.b2World((0, 0), contactListener=self._listener)
        self.reward, self.t = 0.0, 1.0  # the score stays 0, the opening zoom is over
        self.road_poly: list[Any] = []
        self._visited = np.zeros(0, dtype=bool)
        self._touched: list[int] = []
        while not self._create_track():
            self.road_poly = []
        self._visited = np.zeros(len(self.track), dtype=bool)
        self.survey()
        if placement is None:
            self.car = Car(self.world, *self.track[0][1:4])
            self.tick(None)
        else:
            self._place(**placement)
            self.world.Step(0.0, 0, 0)  # finds the contacts, moves nothing
        self.collect_touched()

    def survey(self) -> None:
        """Collects what `picture` draws of the track, and its centre line."""
        self.centre_line = CentreLine(np.array(self.track)[:, 2:4])
        self._polygons = np.concatenate([self._grass, np.array([poly for poly, _ in self.road_poly])])  # [K, 4, 2]
        grass_color = [int(c) for c in self.grass_color]
        self._colors = [grass_color] * len(self._grass) + [[int(c) for c in color] for _, color in self.road_poly]

    def _place(self, track_position: float, lateral_offset: float, heading_error: float, speed: float) -> None:
        """Puts the car anywhere, rolling: see `CarRacingTwin.reset` for the meaning of the numbers."""
        x, y, route_yaw = self.centre_line.at(track_position * self.centre_line.length)
        x, y = x + lateral_offset * math.sin(route_yaw), y - lateral_offset * math.cos(route_yaw)
        yaw = route_yaw - heading_error
        self.car = Car(self.world, yaw - math.pi / 2, x, y)
        velocity = (speed * math.cos(yaw), speed * math.sin(yaw))
        hull = self.car.hull
        hull.linearVelocity = velocity
        anchors = [(SIZE * wx, SIZE * wy) for wx, wy in WHEELPOS]
        for wheel, anchor in zip(self.car.wheels, anchors, strict=True):
            wheel.position = hull.GetWorldPoint(anchor)
            wheel.linearVelocity = velocity
            wheel.omega = speed / wheel.wheel_rad

    def touch(self, tile: Any) -> None:
        """Notes that a wheel came onto `tile`."""
        if not self._visited[tile.idx]:
            self._visited[tile.idx] = True
            self._touched.append(tile.idx)

    def collect_touched(self) -> int:
        """How many tiles were newly touched since the last call."""
        count = len(self._touched)
        self._touched.clear()
        return count

    def rearm(self, index: int) -> None:
        """Makes the tiles that lie half a track away from tile `index` pay again."""
        count = len(self._visited)
        half = count // 2
        far = (index + np.arange(half - 4, count - half + 5)) % count
        self._visited[far] = False

    def tick(self, action: tuple[float, float] | None) -> None:
        """Advances the physics by one tick (0.02 s).

        Args:
            action: (steering, throttle) in [-1, 1], or None to leave the controls as they are.
        """
        car = self.body
        if action is not None:
            car.steer(-action[0])
            car.gas(max(action[1], 0.0))
            car.brake(max(-action[1], 0.0))
        car.step(TICK)
        self.world.Step(TICK, 6 * 30, 2 * 30)

    @property
    def body(self) -> Car:
        """The car; there is one from the first start on."""
        assert self.car is not None
        return self.car

    @property
    def pose(self) -> np.ndarray:
        """(x, y, yaw) of the car, float64 [3]: metres, and radians counter-clockwise from +x."""
        hull = self.body.hull
        return np.array([hull.position[0], hull.position[1], hull.angle + math.pi / 2])

    @property
    def has_left(self) -> bool:
        """Whether the car is outside the playfield."""
        x, y = self.body.hull.position
        return bool(abs(x) > PLAYFIELD or abs(y) > PLAYFIELD)

    def picture(self, size: tuple[int, int]) -> np.ndarray:
        """Draws what the simulator shows now.

        Args:
            size: (width, height) in pixels.

        Returns:
            uint8 [height, width, 3].
        """
        canvas, hull = self._canvas, self.body.hull
        x, y = hull.position
        cos, sin = math.cos(-hull.angle), math.sin(-hull.angle)
        shift = np.array([WIDTH / 2 - ZOOM * (cos * x - sin * y), HEIGHT / 4 - ZOOM * (sin * x + cos * y)])
        if max(abs(x), abs(y)) < PLAYFIELD - VIEW_RADIUS:
            canvas.fill(self.bg_color.tolist())
        else:
            canvas.fill((0, 0, 0))
            field = PLAYFIELD * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
            self._fill(self._project(field, cos, sin, shift), self.bg_color.tolist())
        pixels = self._project(self._polygons, cos, sin, shift)  # [K, 4, 2]
        low, high = pixels.min(1), pixels.max(1)
        seen = (high[:, 0] >= 0) & (low[:, 0] <= WIDTH) & (high[:, 1] >= DASHBOARD - 1) & (low[:, 1] <= HEIGHT)
        for index in np.flatnonzero(seen):
            self._fill(pixels[index], self._colors[index])
        self.body.draw(canvas, ZOOM, (float(shift[0]), float(shift[1])), -hull.angle, False)
        self.surf = pygame.transform.flip(canvas, False, True)
        self._render_indicators(WIDTH, HEIGHT)
        place = self._score.get_rect()
        place.center = (60, HEIGHT - HEIGHT * 2.5 / 40.0)
        self.surf.blit(self._score, place)
        scaled = pygame.transform.smoothscale(self.surf, size)
        return np.ascontiguousarray(pygame.surfarray.pixels3d(scaled).transpose(1, 0, 2))

    def _project(self, points: np.ndarray, cos: float, sin: float, shift: np.ndarray) -> np.ndarray:
        """World points [..., 2] to whole pixels [..., 2]."""
        turn = ZOOM * np.array([[cos, sin], [-sin, cos]])
        return (points @ turn + shift).astype(np.int32)

    def _fill(self, pixels: np.ndarray, color: list[int]) -> None:
        """Draws one filled polygon with smooth edges, as CarRacing does."""
        corners = pixels.tolist()
        gfxdraw.aapolygon(self._canvas, corners, color)
        gfxdraw.filled_polygon(self._canvas, corners, color)
