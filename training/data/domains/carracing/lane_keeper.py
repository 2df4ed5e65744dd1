"""A scripted driver that sees nothing but the picture.

It finds the grey of the road, measures how far each piece of road is along the road itself (a wave that spreads from
the car over road only, so a hairpin is seen as the bend that it is), and steers at the middle of the road some metres
ahead, by pure pursuit. The speed is read from the white bar of the dashboard. It works on the pictures of the
simulator and on dreamed ones, which are a little softer.

Legend: metres are the simulator's; points are (right, forward) of the car.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

FRAME = (64, 64, 3)
DASHBOARD = 56  # the first row of the dashboard
CAR_ROW, CAR_COLUMN = 48, 32  # the car's centre in the picture
CAR_BOX = (slice(43, 53), slice(29, 35))
METRES_PER_ROW, METRES_PER_COLUMN = 0.772, 0.965
WHEELBASE = 3.24  # m
FULL_LOCK = 0.4  # rad; steering beyond it changes nothing
SPEED_BAR = (slice(58, 63), slice(7, 11))
DARK = 20  # levels of the dashboard up to this one are noise of a dreamed picture
BAR_AT_REST, BAR_PER_SPEED = 169.5, 40.1  # the sum of the bar's levels, and what a metre per second adds to it
UNREACHED = 255


@dataclass(frozen=True)
class Skill:
    """How well a `LaneKeeper` drives.

    Attributes:
        gain: Steering per pure-pursuit wheel angle; 1 points the wheels exactly at the target.
        lookahead: Distance (m along the road) of the point steered at, at rest.
        lookahead_time: What each m/s adds to it (s).
        target_speed: m/s on a straight road.
        grip: Sideways acceleration (m/s^2) that it trusts the tyres with; it slows down for bends by it.
        noise: Standard deviation of the noise that is added to the steering.
        delay: Frames between seeing and acting.
        bias: Steering that is always added (> 0 right), as of a car that pulls to a side.
    """

    gain: float = 1.0
    lookahead: float = 9.0
    lookahead_time: float = 0.12
    target_speed: float = 34.0
    grip: float = 60.0
    noise: float = 0.0
    delay: int = 0
    bias: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gain", "lookahead", "target_speed", "grip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("lookahead_time", "noise", "delay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be below 0, got {getattr(self, name)}")
        if not abs(self.bias) <= 1:
            raise ValueError(f"bias must be in [-1, 1], got {self.bias}")


class LaneKeeper:
    """Keeps the car on the road, seeing pixels only.

    Args:
        skill: How well it drives.
        seed: Seed of its steering noise.
    """

    def __init__(self, skill: Skill | None = None, seed: int = 0) -> None:
        self.skill, self.seed = skill or Skill(), seed
        self.reset()

    def reset(self) -> None:
        """Forgets the last episode."""
        self._random = np.random.default_rng(self.seed)
        self._side = 0.0  # where the road was last seen: > 0 right
        self._pending: deque[tuple[float, float]] = deque([(0.0, 0.0)] * self.skill.delay)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Chooses the controls for a frame.

        Args:
            frame: uint8 [64, 64, 3].

        Returns:
            float32 [2]: steering (right positive) and throttle, in [-1, 1].
        """
        if frame.shape != FRAME or frame.dtype != np.uint8:
            raise ValueError(f"the lane keeper sees uint8 frames {list(FRAME)}, got {frame.dtype} {list(frame.shape)}")
        self._pending.append(self._decide(frame))
        steering, throttle = self._pending.popleft()
        steering += self.skill.bias + self.skill.noise * self._random.standard_normal()
        return np.clip(np.array([steering, throttle], np.float32), -1.0, 1.0)

    def _decide(self, frame: np.ndarray) -> tuple[float, float]:
        """Steering and throttle for what is seen now."""
        skill, speed = self.skill, read_speed(frame)
        wave, away = spread_over_road(road_pixels(frame))
        reach = skill.lookahead + skill.lookahead_time * speed
        target = middle_of_road(wave, max(reach - away, 4.0), self._side)
        if target is None:  # no road in sight: roll on slowly, turning to where it was
            return math.copysign(0.25, self._side), 0.15 if speed < 8.0 else -0.1
        self._side = target[0]
        right, forward = target
        angle = math.atan(WHEELBASE * 2.0 * right / max(right**2 + forward**2, 1.0))
        if forward < 0.0:  # the road lies behind: turn as sharply as the wheels can
            angle = math.copysign(FULL_LOCK, right)
        steering = float(np.clip(skill.gain * angle, -FULL_LOCK, FULL_LOCK))
        limit = min(skill.target_speed, speed_for_bends(wave, skill.grip, self._side))
        if away > 2.0:
            limit = min(limit, 15.0)
        too_slow = limit - speed
        throttle = 0.12 * too_slow if too_slow > 0 else 0.06 * too_slow
        return steering, float(np.clip(throttle, -0.8, 1.0 - 2.0 * abs(steering)))


def read_speed(frame: np.ndarray) -> float:
    """The speed (m/s, never negative) that the white bar of the dashboard shows."""
    bar = frame[SPEED_BAR].astype(np.float32)
    return max((float(bar[bar > DARK].sum()) - BAR_AT_REST) / BAR_PER_SPEED, 0.0)


def road_pixels(frame: np.ndarray) -> np.ndarray:
    """Where the picture is road: bool [56, 64]. The place under the car counts as road if the road surrounds it."""
    picture = frame[:DASHBOARD].astype(np.int16)
    level, spread = picture.mean(-1), picture.max(-1) - picture.min(-1)
    road = (level > 70) & (level < 150) & (spread < 45)
    rows, columns = CAR_BOX
    around = road[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1]
    ring = around.sum() - road[CAR_BOX].sum()
    road[CAR_BOX] |= bool(ring > 0.5 * (around.size - road[CAR_BOX].size))
    return road


def spread_over_road(road: np.ndarray) -> tuple[np.ndarray, float]:
    """How far (m along the road) every road pixel is from the piece of road nearest to the car.

    Args:
        road: bool [56, 64].

    Returns:
        uint8 [43, 62] on a grid of one metre, `UNREACHED` where no road leads, and the car's distance from the road in
        metres (0 on it; infinite without any road).
    """
    size = round(road.shape[1] * METRES_PER_COLUMN), round(road.shape[0] * METRES_PER_ROW)
    shares = cv2.resize(road.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    grid = (shares > 127).astype(np.uint8)
    grid[round(CAR_ROW * METRES_PER_ROW) + 2 :] = 0  # what lies behind the car leads nowhere
    wave = np.full(grid.shape, UNREACHED, np.uint8)
    found = np.argwhere(grid)
    if len(found) == 0:
        return wave, math.inf
    right, forward = _from_car(found[:, 0], found[:, 1])
    distance = np.hypot(right, forward)
    nearest = int(np.argmin(distance - 0.3 * forward))
    front = np.zeros_like(grid)
    front[tuple(found[nearest])] = 1
    cross, square = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.ones((3, 3), np.uint8)
    for step in range(60):
        wave[(front > 0) & (wave == UNREACHED)] = step
        shape = square if step % 5 in (1, 3) else cross  # in turn, so that a step is nearly as long in every direction
        grown = cv2.bitwise_and(cv2.dilate(front, shape), grid)
        if (grown == front).all():
            break
        front = grown
    return wave, max(float(distance[nearest]) - 1.0, 0.0)


def middle_of_road(wave: np.ndarray, reach: float, side: float) -> tuple[float, float] | None:
    """The middle of the road `reach` metres along it, or of its last piece in sight.

    Args:
        wave: See `spread_over_road`.
        reach: Metres along the road.
        side: Where the road led before (> 0 right): it decides where the road forks.

    Returns:
        The point (right, forward), or None without road.
    """
    reached = wave[wave != UNREACHED]
    if reached.size == 0:
        return None
    band = int(min(round(reach), max(int(reached.max()) - 1, 0)))
    strip = ((wave >= max(band - 1, 0)) & (wave <= band + 1)).astype(np.uint8)
    count, labels = cv2.connectedComponents(strip, connectivity=8)
    best, score = None, -math.inf
    for label in range(1, count):
        rows, columns = np.nonzero(labels == label)
        right, forward = (float(v.mean()) for v in _from_car(rows, columns))
        value = 0.15 * len(rows) + 0.3 * forward + 0.3 * right * (1 if side > 0 else -1) * min(abs(side) / 3, 1)
        if value > score:
            best, score = (right, forward), value
    return best


def speed_for_bends(wave: np.ndarray, grip: float, side: float) -> float:
    """The speed (m/s) from which the car can slow down for every bend in sight, trusting `grip` (m/s^2)."""
    marks = [9.0, 16.0, 23.0, 30.0, 37.0]  # nearer than 9 m the wave is no cross-section of the road yet
    end = float(wave[wave != UNREACHED].max(initial=0)) - 2.0
    points = [(0.0, 0.0)] + [p for m in marks if m <= end and (p := middle_of_road(wave, m, side))]
    limit = math.inf
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        first, second = np.subtract(here, before), np.subtract(after, here)
        lengths = np.hypot(*first), np.hypot(*second)
        turn = math.atan2(first[0] * second[1] - first[1] * second[0], float(first @ second))
        bend = abs(turn) / max(0.5 * (lengths[0] + lengths[1]), 1.0)
        allowed = grip / max(bend, 1e-3)
        limit = min(limit, math.sqrt(allowed + 2 * 0.4 * grip * max(math.hypot(*here) - 6.0, 0.0)))
    return limit


def _from_car(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(right, forward) in metres of cells of the metre grid."""
    return columns + 0.5 - CAR_COLUMN * METRES_PER_COLUMN, CAR_ROW * METRES_PER_ROW - rows - 0.5
