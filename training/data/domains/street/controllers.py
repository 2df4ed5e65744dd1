"""Controllers of the street's recording drivers: from what is true, and the last controls, to (steering, throttle).

Most follow a line beside the middle of a lane by pure pursuit (Coulter 1992) and the car ahead by IDM; skill and
manners are in their numbers. Sides are positive to the right.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.driving import BACK, BRAKES, FRONT, FULL_LOCK, GRAVITY, follow
from drivedit.data.domains.street.roads import Road, lane_middle
from drivedit.data.domains.street.truth import StreetTruth

Controls = tuple[float, float]
Behaviour = Callable[[StreetTruth, Controls], Controls]  # of what is true, and of the last controls

MEMORY = 0.9  # share of the noise that stays from step to step
ASTRAY, STRAY_SPEED = 3.5, 8.0  # m beside the line: beyond them it is regained at this speed (m/s)
RAIL = 1.3  # m between the middle of the car and a rail


def steer_to(truth: StreetTruth, d: float, look: float = 0.6) -> float:
    """Steering by pure pursuit of the line `d` metres to the left of the road's middle.

    Args:
        truth: Of a street.
        d: Where the line is.
        look: Seconds of driving that the pursued point is ahead.
    """
    road, (x, y, yaw) = _road(truth), truth.pose if truth.pose is not None else (0.0, 0.0, 0.0)
    ahead = 4.0 + look * truth.telemetry["speed"] + 0.5 * abs(truth.d - d)
    tx, ty, _ = road.place(truth.s + ahead, d)
    angle = (math.atan2(ty - y, tx - x) - yaw + math.pi) % (2 * math.pi) - math.pi
    if abs(angle) > math.pi / 2:
        return -math.copysign(1.0, angle)
    return -math.atan2(2 * (FRONT + BACK) * math.sin(angle), math.hypot(tx - x, ty - y)) / FULL_LOCK


@dataclass
class Follow:
    """Follows a lane and the car ahead, as well or as badly as the numbers say.

    Attributes:
        rng: The only source of chance.
        pace: Share of the traffic's speed that it wants.
        headway: Seconds to the car ahead.
        aside: Metres to the right of the middle of the lane that it keeps.
        weave: Metres by which it swings to either side.
        period: Seconds of a swing.
        look: Seconds of driving that it looks ahead.
        gas: Acceleration (m/s^2) for which it gives full gas.
        brake: Share of the grip that it dares to brake with; beyond .85 the wheels hardly steer.
        noise: Size of the noise on the steering.
        delay: Steps until a decision reaches the wheel and the pedals.
        eager: Chance per step to change lanes behind one that is slow; a twentieth of it otherwise.
        clear: Metres of the other side of the road that must be free for it to overtake there; 0: it does not.
        heeds: Whether it heeds the car ahead at all.
    """

    rng: np.random.Generator
    pace: float = 1.0
    headway: float = 1.3
    aside: float = 0.0
    weave: float = 0.0
    period: float = 6.0
    look: float = 0.6
    gas: float = 3.0
    brake: float = 0.85
    noise: float = 0.0
    delay: int = 0
    eager: float = 0.08
    clear: float = 0.0
    heeds: bool = True
    _lane: int | None = None
    _shake: float = 0.0
    _time: float = 0.0
    _late: deque[Controls] = field(default_factory=deque)

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """Steers along its line, at its distance and its speed."""
        lane = self._choose_lane(truth)
        self._time += SPEC.dt
        aside = self.aside + self.weave * math.sin(2 * math.pi * self._time / self.period)
        d = self._line(truth, lane, aside)
        steering = steer_to(truth, d, self.look) + self._noise(truth.telemetry["speed"])
        self._late.append((steering, self._throttle(truth, abs(truth.d - d))))
        if len(self._late) > self.delay + 1:
            self._late.popleft()
        return self._late[0]

    def _line(self, truth: StreetTruth, lane: int, aside: float) -> float:
        """How far left of the road's middle to drive; where rails part the sides, between these."""
        shape = _road(truth).shape
        d = float(lane_middle(shape, float(lane))) - aside
        return d if shape.median == 0 else min(max(d, RAIL - shape.half), -RAIL - shape.median)

    def _noise(self, speed: float) -> float:
        """Correlated noise, less at speed."""
        self._shake = MEMORY * self._shake + self.noise * float(self.rng.normal()) * min(1.0, 6.0 / max(speed, 1.0))
        return self._shake

    def _throttle(self, truth: StreetTruth, off: float) -> float:
        """Pedals, `off` metres beside the line."""
        told = truth.telemetry
        wanted = self.pace * truth.limit
        if off > ASTRAY:
            wanted = min(wanted, STRAY_SPEED)
        gap = told["gap"] if self.heeds and told["gap"] < SPEC.telemetry[3].high else math.inf
        push = follow(told["speed"], wanted, gap, told["closing_speed"], self.headway)
        return push / self.gas if push > 0 else max(push / BRAKES, -self.brake * truth.grip * GRAVITY / BRAKES)

    def _choose_lane(self, truth: StreetTruth) -> int:
        """The lane to be in: now and then another one of the direction, or the other side, where nobody is near."""
        here, lanes, told = int(truth.telemetry["lane"]), len(truth.lanes), truth.telemetry
        self._lane = here if self._lane is None else self._lane
        slow = told["gap"] < 15 + told["speed"] and told["speed"] < 0.9 * self.pace * truth.limit
        if self._lane >= lanes:  # on the other side
            soon, now = (not _free(truth, lanes, 0.0, share * self.clear) for share in (0.5, 0.25))
            passed = _free(truth, 0, -9.0, 14.0 if soon else 20.0 + told["speed"])
            self._lane = 0 if passed or now else self._lane
        elif lanes == 1:
            if slow and self.clear and _free(truth, 1, -12.0, self.clear) and _free(truth, -1, 0.0, self.clear):
                self._lane = 1
        elif here == self._lane and self.rng.random() < self.eager * (1.0 if slow else 0.05):
            other = here + 1 if here + 1 < lanes else here - 1
            self._lane = other if _free(truth, other, -18.0, 18.0) else here
        return self._lane


def _road(truth: StreetTruth) -> Road:
    """The road that must be told."""
    if truth.road is None:
        raise ValueError("this driver drives on the street: it must be told a road")
    return truth.road


def _free(truth: StreetTruth, lane: int, low: float, high: float) -> bool:
    """Whether nobody in a lane is from `low` to `high` metres ahead."""
    return not any(each.lane == lane and low < each.ahead < high for each in truth.neighbours)


@dataclass
class Ram:
    """Goes for another car, and does not brake.

    Attributes:
        pace: Share of the traffic's speed that it wants.
        gas: The throttle that it gives.
        anyone: Whether it goes for cars beside and against it, or only for those ahead.
    """

    pace: float
    gas: float
    anyone: bool

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """Steers at the nearest one ahead; keeps its line where nobody is."""
        speed = truth.telemetry["speed"]
        ahead = [each for each in truth.neighbours if 2.0 < each.ahead < 60.0]
        found = [each for each in ahead if abs(each.offset) < (8.0 if self.anyone else 1.6)]
        d = truth.d - found[0].offset if found else truth.lanes[int(truth.telemetry["lane"])]
        throttle = self.gas if speed < self.pace * truth.limit else -0.3
        return steer_to(truth, d, 0.4), throttle


@dataclass
class Wander:
    """Ornstein-Uhlenbeck noise on both controls; `mean` None: around the controls that it begins with."""

    rng: np.random.Generator
    mean: np.ndarray | None
    size: np.ndarray
    keep: float
    _value: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """The next draw."""
        self.mean = np.array(before) if self.mean is None else self.mean
        self._value = self.keep * self._value + self.size * math.sqrt(1 - self.keep**2) * self.rng.standard_normal(2)
        steering, throttle = self.mean + self._value
        return float(steering), float(throttle)


@dataclass
class Hold:
    """The same controls all the time."""

    steering: float
    throttle: float

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """The held controls."""
        return self.steering, self.throttle


@dataclass
class Sweep:
    """Swings the wheel from side to side, and holds a throttle.

    Attributes:
        size: Of the steering.
        period: Seconds from left to left.
        throttle: What is held.
        phase: Where the swing begins (rad).
    """

    size: float
    period: float
    throttle: float
    phase: float

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """The wheel on its way."""
        self.phase += 2 * math.pi * SPEC.dt / self.period
        return self.size * math.sin(self.phase), self.throttle


@dataclass
class Pedal:
    """Steers on, and holds a pedal."""

    steer: Follow
    throttle: float

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """Steering of the follower, throttle of its own."""
        return self.steer(truth, before)[0], self.throttle


@dataclass
class Jerk:
    """Drives on, and again and again takes any controls for a moment: seldom, and a shorter one, at speed.

    Attributes:
        rng: The only source of chance.
        follow: Who drives on.
        chance: Per step, that such a moment begins at 12 m/s or less.
    """

    rng: np.random.Generator
    follow: Follow
    chance: float
    _held: Controls = (0.0, 0.0)
    _left: int = 0

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """Controls of the follower, or those that are held."""
        controls = self.follow(truth, before)
        speed = max(truth.telemetry["speed"], 4.0)
        if self._left == 0 and self.rng.random() < self.chance * min(1.0, 12.0 / speed):
            drawn, kept = self.rng.uniform(-1.0, 1.0, 2), self.rng.random(2) < 0.3
            steering, throttle = np.where(kept, controls, drawn)
            self._held = (float(steering), float(throttle))
            self._left = int(self.rng.integers(1, 2 + int(16.0 / speed)))
        if self._left == 0:
            return controls
        self._left -= 1
        return self._held


@dataclass
class Turn:
    """Slows down at one side of its lane, and turns round to the other one when nobody is near.

    Attributes:
        follow: Who slows down.
        speed: At which it turns (m/s).
        lock: Steering that it turns with.
    """

    follow: Follow
    speed: float
    lock: float
    _turns: bool = False

    def __call__(self, truth: StreetTruth, before: Controls) -> Controls:
        """Goes on slowly, or round."""
        slow = truth.telemetry["speed"] < self.speed
        near = any(abs(each.ahead) < 18.0 for each in truth.neighbours)
        self._turns = self._turns or (slow and not near)
        throttle = 0.3 if slow else -0.4
        return (self.lock, throttle) if self._turns else (self.follow(truth, before)[0], throttle)
