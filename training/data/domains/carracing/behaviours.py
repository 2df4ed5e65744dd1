"""The behaviours of the recording drivers: small functions from what a driver sees to (steering, throttle).

The road follower is pure pursuit of a point ahead, with a speed that the coming bends allow; skill is in its numbers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from drivedit.data.geometry import CentreLine, wrap_angle

WHEELBASE = 3.24  # m, of CarRacing's car
FULL_LOCK = 0.4  # rad; the front wheels turn no further

Behaviour = Callable[["View"], tuple[float, float]]


@dataclass
class View:
    """What a driver sees at one moment.

    Attributes:
        pose: (x, y, yaw) in metres and radians.
        speed: signed forward speed in m/s.
        line: the centre line.
        direction: +1 to drive along the route, -1 against it.
    """

    pose: np.ndarray
    speed: float
    line: CentreLine
    direction: int = 1


@dataclass
class Follow:
    """Pure pursuit of the centre line, as well or as badly as the numbers say.

    Attributes:
        speed: cruising speed in m/s.
        grip: sideways acceleration that the driver dares in bends, m/s^2.
        look: seconds of driving that the driver looks ahead.
        gain: factor on the right steering; 1 is right, 2 swerves.
        gas: the most gas given.
        offset: metres to the right of the centre line to keep to.
        noise: size of the noise on both controls.
        delay: steps until a decision reaches the wheel.
    """

    rng: np.random.Generator
    speed: float = 45.0
    grip: float = 90.0
    look: float = 0.25
    gain: float = 1.0
    gas: float = 0.6
    offset: float = 0.0
    noise: float = 0.0
    delay: int = 0
    _queue: deque[tuple[float, float]] = field(default_factory=deque)

    def __call__(self, view: View) -> tuple[float, float]:
        """Steers at a point ahead and holds the speed that the bend allows."""
        x, y, yaw = view.pose
        foot = view.line.project(x, y)
        speed = max(view.speed, 0.0)
        ahead = 7.0 + self.look * speed + 0.4 * abs(foot.offset - view.direction * self.offset)
        tx, ty, route_yaw = view.line.at(foot.arc + view.direction * ahead)
        tx, ty = tx + self.offset * math.sin(route_yaw), ty - self.offset * math.cos(route_yaw)
        error = wrap_angle(math.atan2(ty - y, tx - x) - yaw)
        distance = max(math.hypot(tx - x, ty - y), 4.0)
        if abs(error) < math.pi / 2:
            turn = math.atan(2.0 * WHEELBASE * math.sin(error) / distance)
        else:
            turn = math.copysign(FULL_LOCK, error)
        steering = -self.gain * turn
        reach = 8.0 + speed * speed / 220.0 + 0.1 * speed
        start = foot.arc if view.direction > 0 else foot.arc - reach
        bend = max(view.line.bend(start, reach), abs(2.0 * math.sin(error) / distance))
        target = min(self.speed, math.sqrt(self.grip / max(bend, 1e-3)))
        if abs(error) > 0.8:
            target = min(target, 14.0)
        gap = target - view.speed
        throttle = min(self.gas, 0.06 * gap + 0.06) if gap > -1.0 else max(-0.85, 0.05 * gap)
        self._queue.append((steering, throttle))
        if len(self._queue) > self.delay + 1:
            self._queue.popleft()
        steering, throttle = self._queue[0]
        noise = self.noise * self.rng.standard_normal(2)
        return steering + 0.5 * float(noise[0]), throttle + float(noise[1])


@dataclass
class Wander:
    """Ornstein-Uhlenbeck noise on both controls."""

    rng: np.random.Generator
    mean: np.ndarray
    size: np.ndarray
    keep: float
    value: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def __call__(self, view: View) -> tuple[float, float]:
        """The next draw."""
        kick = self.size * math.sqrt(1.0 - self.keep**2) * self.rng.standard_normal(2)
        self.value = self.keep * self.value + kick
        steering, throttle = self.mean + self.value
        return float(steering), float(throttle)


@dataclass
class Hold:
    """The same controls all the time."""

    steering: float
    throttle: float

    def __call__(self, view: View) -> tuple[float, float]:
        """The held controls."""
        return self.steering, self.throttle


@dataclass
class Brake:
    """Brakes on the line until the car stands, and stands."""

    steer: Follow
    force: float

    def __call__(self, view: View) -> tuple[float, float]:
        """Steers on, and brakes."""
        steering, _ = self.steer(view)
        return steering, -self.force


@dataclass
class RunAway:
    """Out of the playfield, straight or slantwise."""

    gas: float
    slant: float

    def __call__(self, view: View) -> tuple[float, float]:
        """Turns to the nearest edge, then goes."""
        x, y, yaw = view.pose
        outward = math.atan2(y, 0.0) if abs(y) > abs(x) else math.atan2(0.0, x)
        error = wrap_angle(outward + self.slant - yaw)
        lock = 0.3 if view.speed < 20.0 else 0.1
        throttle = self.gas * (1.0 - abs(error)) if abs(error) < 0.6 else 0.12 if view.speed < 18.0 else -0.1
        return -max(min(0.5 * error, lock), -lock), throttle


def _good(rng: np.random.Generator) -> Follow:
    """A clean drive, fast or slow."""
    return Follow(
        rng,
        speed=rng.uniform(20.0, 80.0),
        grip=rng.uniform(50.0, 170.0),
        look=rng.uniform(0.15, 0.35),
        gain=rng.uniform(0.9, 1.15),
        gas=rng.uniform(0.25, 1.0),
        offset=rng.normal(0.0, 0.8),
        noise=float(rng.choice([0.0, 0.02, 0.06])),
    )


def _lane(rng: np.random.Generator) -> Follow:
    """A clean drive beside the middle of the road."""
    behaviour = _good(rng)
    behaviour.offset = rng.uniform(-6.0, 6.0)
    return behaviour


def _sloppy(rng: np.random.Generator) -> Follow:
    """Late, swerving and shaky, but on the whole along the road."""
    return Follow(
        rng,
        speed=rng.uniform(20.0, 60.0),
        grip=rng.uniform(50.0, 170.0),
        look=rng.uniform(0.05, 0.5),
        gain=rng.uniform(0.6, 2.2),
        gas=rng.uniform(0.3, 1.0),
        offset=rng.normal(0.0, 2.5),
        noise=rng.uniform(0.05, 0.4),
        delay=int(rng.integers(0, 4)),
    )


def _reckless(rng: np.random.Generator) -> Follow:
    """Full gas, late braking."""
    return Follow(
        rng,
        speed=rng.uniform(60.0, 110.0),
        grip=rng.uniform(150.0, 600.0),
        look=rng.uniform(0.1, 0.3),
        gain=rng.uniform(0.8, 1.5),
        gas=1.0,
        offset=rng.normal(0.0, 2.0),
        noise=rng.uniform(0.0, 0.1),
    )


def _leave(rng: np.random.Generator) -> Follow:
    """Drives beside the road, on the grass; what comes next brings the car back."""
    behaviour = _good(rng)
    behaviour.speed, behaviour.gas = rng.uniform(15.0, 60.0), rng.uniform(0.3, 0.8)
    behaviour.offset = float(rng.choice([-1.0, 1.0]) * rng.uniform(8.0, 30.0))
    return behaviour


def _recover(rng: np.random.Generator) -> Follow:
    """A calm return to the road."""
    behaviour = _good(rng)
    behaviour.speed, behaviour.gas, behaviour.grip = (
        rng.uniform(20.0, 50.0),
        rng.uniform(0.2, 0.6),
        rng.uniform(40.0, 100.0),
    )
    return behaviour


def _wander(rng: np.random.Generator) -> Wander:
    """Random correlated controls."""
    mean = np.array([rng.normal(0.0, 0.15), rng.uniform(-0.1, 0.5)])
    size = np.array([rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.6)])
    return Wander(rng, mean, size, keep=rng.uniform(0.6, 0.97))


def _hold(rng: np.random.Generator) -> Hold:
    """Constant controls, often at an end of their range."""
    controls = rng.uniform(-1.0, 1.0, 2)
    ends = rng.random(2) < 0.3
    controls[ends] = rng.choice([-1.0, 0.0, 1.0], size=int(ends.sum()))
    if rng.random() < 0.4:
        controls[0] *= 0.2
    return Hold(float(controls[0]), float(controls[1]))


def _kick(rng: np.random.Generator) -> Hold:
    """Any controls at all, for a moment: whatever speed the car has, it meets every control."""
    controls = rng.uniform(-1.0, 1.0, 2)
    return Hold(float(controls[0]), float(controls[1]))


def _brake(rng: np.random.Generator) -> Brake:
    """A stop."""
    return Brake(_good(rng), float(rng.choice([rng.uniform(0.1, 0.9), 1.0])))


def _spin(rng: np.random.Generator) -> Hold:
    """Full lock and much gas: the tail comes round."""
    return Hold(float(rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0)), rng.uniform(0.6, 1.0))


def _swerve(rng: np.random.Generator) -> Hold:
    """Hard over, whatever the speed: a driver who is frightened."""
    lock = float(rng.choice([-1.0, 1.0]) * rng.choice([1.0, rng.uniform(0.4, 1.0)]))
    throttle = rng.choice([0.0, rng.uniform(-1.0, 0.0), rng.uniform(0.0, 1.0)])
    return Hold(lock, float(throttle))


def _donut(rng: np.random.Generator) -> Hold:
    """Circles."""
    return Hold(float(rng.choice([-1.0, 1.0]) * rng.uniform(0.15, 0.8)), rng.uniform(0.15, 0.7))


def _run_away(rng: np.random.Generator) -> RunAway:
    """Off, for good."""
    return RunAway(rng.uniform(0.4, 1.0), rng.normal(0.0, 0.35))


@dataclass(frozen=True)
class BehaviourKind:
    """A behaviour, how it is made, how many steps it lasts, and the behaviour that must follow it (if any)."""

    make: Callable[[np.random.Generator], Behaviour]
    steps: tuple[int, int]
    then: str | None = None


BEHAVIOURS: dict[str, BehaviourKind] = {
    "good": BehaviourKind(_good, (50, 200)),
    "lane": BehaviourKind(_lane, (40, 120)),
    "sloppy": BehaviourKind(_sloppy, (30, 100)),
    "reckless": BehaviourKind(_reckless, (30, 100)),
    "leave": BehaviourKind(_leave, (25, 65), "recover"),
    "recover": BehaviourKind(_recover, (40, 90)),
    "wander": BehaviourKind(_wander, (15, 60), "recover"),
    "hold": BehaviourKind(_hold, (4, 20)),
    "dash": BehaviourKind(_reckless, (15, 50), "kick"),
    "kick": BehaviourKind(_kick, (2, 7)),
    "brake": BehaviourKind(_brake, (8, 35)),
    "spin": BehaviourKind(_spin, (6, 20), "recover"),
    "swerve": BehaviourKind(_swerve, (6, 20), "recover"),
    "donut": BehaviourKind(_donut, (25, 70), "recover"),
    "run_away": BehaviourKind(_run_away, (1000, 1001)),
}
