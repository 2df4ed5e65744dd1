"""Following waypoints: the usual output of planners, turned into the controls of a car.

Steering is pure pursuit of a point of the plan that is some time ahead (Coulter 1992, "Implementation of the Pure
Pursuit Path Tracking Algorithm", CMU-RI-TR-92-01); speed is proportional and integral control of what the car's own
answer foretells (`CarResponse`). What the car turns more or less than foretold, on ice or at another speed, is learned
on the way. All that is known of the car's motion are its poses.

Legend: N waypoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivedit.utils.car_response import CarResponse, in_frame, on_ground, travelled
from drivedit.utils.checks import real_numbers, whole_number

AHEAD = 0.4  # s that the pursued point is ahead, and twice the car's delay more
NEAREST = 2.0  # m that it is ahead at least
SETTLE = 0.5  # s in which the speed is to be reached
CATCH_UP = 0.5  # m/s for each metre that the car is behind its plan
LEARN_BEND, LEARN_PUSH = 1.5, 1.0  # 1/s at which a lasting error of curvature, and of speed, is made up for
MOST_LEARNED = 0.5  # of the range of curvatures and accelerations
BEYOND = 1000.0  # m that a plan goes straight on behind its last waypoint
STANDING = 0.3  # m/s below which a car is not said to turn
SHORT = 1e-3  # m: shorter ways between waypoints have no direction
PARTS = 8  # of each interval, into which a plan is divided along smooth curves


@dataclass(frozen=True)
class Track:
    """A plan on its way, and what was learned of the car; it never changes, so that it is its own copy.

    Attributes:
        points: float64 `[PARTS N + 1, 2]`, on the ground; the first is where the plan was made.
        age: Seconds since.
        held: Steps since.
        pose: Of the car, float64 `[3]`, when it was last steered.
        asked: Curvature that was asked of it then, 1/m.
        bend: Curvature that is asked more than wanted, 1/m.
        push: Acceleration that is asked more than wanted, m/s^2.
    """

    points: np.ndarray
    age: float
    held: int
    pose: np.ndarray
    asked: float
    bend: float
    push: float


@dataclass(frozen=True)
class WaypointTracker:
    """Follows plans with a car.

    Attributes:
        response: How the car answers to its controls.
        interval: Seconds from one waypoint to the next.
        every: Steps from one plan that is taken over to the next; those in between are not looked at.

    Raises:
        ValueError: `interval` is no number of seconds above 0, or `every` no whole number above 0.
    """

    response: CarResponse
    interval: float
    every: int = 1

    def __post_init__(self) -> None:
        check_timing(self.interval, self.every)

    def follow(self, track: Track | None, plan: np.ndarray, pose: np.ndarray, dt: float) -> tuple[np.ndarray, Track]:
        """The controls of the coming step.

        Args:
            track: What the step before gave; None: an episode begins, the car is as fast as its plan begins.
            plan: `[N, 2]` waypoints, metres ahead and to the left of the car, after 1, 2, ... N intervals.
            pose: Of the car now, float64 `[3]`: x, y (m), yaw (rad to the left).
            dt: Seconds of a step; the last one was as long.

        Returns:
            Controls float32 `[2]`, and the track for the next step.
        """
        speed, turn, before = None, 0.0, track
        if before is not None:
            ahead, turned = travelled(before.pose, pose)
            speed = float(ahead) / dt
            turn = float(turned / ahead) if speed > STANDING else before.asked
        if before is None or before.held >= self.every:
            points = on_ground(pose, smooth(np.concatenate([np.zeros((1, 2)), plan])))
            age, held = 0.0, 0
        else:
            points, age, held = before.points, before.age, before.held
        way = _Way.of(points, self.interval / PARTS, pose)
        speed = way.speed(age) if speed is None else speed
        bend, push = (0.0, 0.0) if before is None else (before.bend, before.push)
        if before is not None and speed > STANDING:
            bend = _learned(bend, before.asked - before.bend - turn, self.response.curvature, LEARN_BEND * dt)
        delay = AHEAD + 2 * self.response.delay
        goal = way.ahead(max(speed * delay, NEAREST))
        curvature = float(2 * goal[1] / max(goal @ goal, SHORT))
        behind = way.passed(age) - way.arc
        wanted, now = (max(way.speed(at) + CATCH_UP * behind, 0.0) for at in (age + SETTLE, age))
        needed = (wanted - speed) / SETTLE + push
        slowest, fastest = self.response.acceleration[[0, -1]]
        if slowest < needed + self.response.drag * speed < fastest:  # at its limit there is nothing to learn
            push = _learned(push, now - speed, self.response.acceleration, LEARN_PUSH * dt)
        controls = self.response.controls(curvature + bend, needed, speed)
        return controls, Track(points, age + dt, held + 1, pose, curvature + bend, bend, push)

    def errors(self, track: Track, pose: np.ndarray, dt: float) -> tuple[float, float]:
        """How far the car is off its plan after a step of `dt` seconds.

        Returns:
            Metres to the left of the plan, and m/s faster than planned for now.
        """
        way = _Way.of(track.points, self.interval / PARTS, pose)
        return way.left, float(travelled(track.pose, pose)[0]) / dt - way.speed(track.age - dt / 2)


@dataclass(frozen=True)
class _Way:
    """A plan as a line, in the frame of the car.

    Attributes:
        line: `[M+2, 2]`, from where it was made to far behind its last waypoint.
        arcs: `[M+2]`, metres along it.
        interval: Seconds from one point to the next.
        arc: Metres along the line to the point that is nearest to the car.
        left: Metres from there to the car, > 0 to the left.
    """

    line: np.ndarray
    arcs: np.ndarray
    interval: float
    arc: float
    left: float

    @classmethod
    def of(cls, points: np.ndarray, interval: float, pose: np.ndarray) -> _Way:
        line = in_frame(pose, points)
        ways = np.diff(line, axis=0)
        moving = np.flatnonzero(np.hypot(*ways.T) > SHORT)
        last = ways[moving[-1]] / np.hypot(*ways[moving[-1]]) if len(moving) else np.array([1.0, 0.0])
        line = np.concatenate([line, line[-1:] + BEYOND * last])
        ways = np.diff(line, axis=0)
        lengths = np.hypot(*ways.T)
        arcs = np.concatenate([[0.0], np.cumsum(lengths)])
        square = np.maximum(lengths**2, SHORT**2)
        share = np.clip(-(line[:-1] * ways).sum(1) / square, 0.0, 1.0)
        feet = line[:-1] + share[:, None] * ways
        near = int(np.argmin((feet**2).sum(1)))
        side = ways[near] / max(lengths[near], SHORT)
        left = float(side[1] * feet[near, 0] - side[0] * feet[near, 1])
        return cls(line, arcs, interval, float(arcs[near] + share[near] * lengths[near]), left)

    def ahead(self, metres: float) -> np.ndarray:
        """The point so many metres further on, `[2]`."""
        at = self.arc + metres
        return np.array([np.interp(at, self.arcs, column) for column in self.line.T])

    def passed(self, age: float) -> float:
        """Metres along the line where the car is to be; behind the last waypoint it goes on at its speed."""
        end = self.interval * (len(self.arcs) - 2)
        within = float(np.interp(age, self.interval * np.arange(len(self.arcs) - 1), self.arcs[:-1]))
        return within + max(age - end, 0.0) * self.speed(end)

    def speed(self, age: float) -> float:
        """The planned speed, m/s: that of each interval in its middle."""
        speeds = np.diff(self.arcs[:-1]) / self.interval
        return float(np.interp(age, self.interval * (np.arange(len(speeds)) + 0.5), speeds))


def smooth(points: np.ndarray) -> np.ndarray:
    """Points `[N+1, 2]` at even times as `[PARTS N + 1, 2]` on curves through them.

    The curves are cubic; directions at the points are those of parabolas through three neighbours, and short enough
    that a plan which slows down never goes back (Fritsch and Carlson 1980, "Monotone Piecewise Cubic Interpolation").
    """
    ways = np.diff(points, axis=0)
    lengths = np.hypot(*ways.T)
    pace = np.gradient(points, axis=0, edge_order=2 if len(points) > 2 else 1)
    most = 3 * np.minimum(np.append(lengths, np.inf), np.insert(lengths, 0, np.inf))
    pace *= np.minimum(most / np.maximum(np.hypot(*pace.T), SHORT), 1.0)[:, None]
    at = np.arange(PARTS)[:, None] / PARTS
    rise = at**2 * (3 - 2 * at)
    leave, arrive = at * (1 - at) ** 2, at**2 * (at - 1)
    curves = points[:-1, None] + rise * ways[:, None] + leave * pace[:-1, None] + arrive * pace[1:, None]
    return np.concatenate([curves.reshape(-1, 2), points[-1:]])


def check_timing(interval: object, every: object) -> None:
    """ValueError unless plans can be taken over at every so many steps, and have seconds between their waypoints."""
    wanted = "the interval of waypoints is a number of seconds above 0"
    seconds = real_numbers(interval, wanted)
    if isinstance(interval, bool) or seconds.shape != () or not 0 < seconds < np.inf:
        raise ValueError(f"{wanted}, got {interval!r}")
    whole_number(every, "every is a whole number of steps, at least 1", 1, 10**6)


def check_plan(plan: object, *shape: int | None) -> np.ndarray:
    """A plan, or several, as float64.

    Args:
        plan: Numbers.
        shape: What it must be like; None: any length above 0.

    Raises:
        ValueError: It is of another shape, or a number is not finite.
    """
    told = ", ".join("N" if size is None else str(size) for size in shape)
    wanted = f"waypoints are finite numbers [{told}], metres ahead and metres to the left"
    numbers = real_numbers(plan, wanted).astype(np.float64)
    fits = numbers.ndim == len(shape) and all(
        size in (None, got) for size, got in zip(shape, numbers.shape, strict=True)
    )
    if not fits or not numbers.size:
        raise ValueError(f"{wanted}, got shape {list(numbers.shape)}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{wanted}, got {numbers[~np.isfinite(numbers)][:4].tolist()} among them")
    return numbers


def _learned(kept: float, error: float, known: np.ndarray, rate: float) -> float:
    """What is asked more than wanted, a share `rate` of an error further on; limited by what is `known` of the car."""
    most = MOST_LEARNED * np.abs(known).max()
    return float(np.clip(kept + rate * error, -most, most))
