"""What a car answers to its controls, found by driving it: how it turns by steering, and speeds up by throttle.

One short drive swings the wheel to both sides, then gives gas, rolls and brakes. The car is described by what comes of
it: curvature by steering, acceleration by throttle less a drag that grows with the speed, and how long the turn waits
for the wheel. Nothing is known of the car beforehand, not even to which side steering turns it.

Legend: T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

GAS = 0.4  # share of full gas that is held at first and while steering
RUN_UP = 1.5  # s
SWINGS = (0.05, 0.12, 0.3)  # shares of the range of the wheel: to one side, twice as long to the other, and back
SWING = 0.3  # s to one side
FIRM = 5.0  # m/s^2 to the side, after which no larger swing is tried
PEDALS = ((1.0, 0.6), (0.0, 0.6), (-0.3, 0.4), (0.7, 0.6), (-1.0, 0.3))  # share of the range, and seconds
ROLLING = 1.0  # m/s above which a car is said to move
MOST_DELAY = 1.0  # s
TRIES = 8  # episodes that may end on the way


@dataclass(frozen=True)
class CarResponse:
    """How a car answers.

    Attributes:
        low: float64 `[2]`, the least steering and throttle.
        high: float64 `[2]`, the greatest.
        curvature: float64 `[M]`, 1/m to the left, ascending.
        steering: float64 `[M]`, which leads to it.
        acceleration: float64 `[M']`, m/s^2 of a car without drag, ascending.
        throttle: float64 `[M']`, which leads to it.
        drag: 1/s, acceleration that is lost for each m/s of speed.
        delay: Seconds that the turn is behind the steering.
    """

    low: np.ndarray
    high: np.ndarray
    curvature: np.ndarray
    steering: np.ndarray
    acceleration: np.ndarray
    throttle: np.ndarray
    drag: float
    delay: float

    def controls(self, curvature: float, acceleration: float, speed: float) -> np.ndarray:
        """Controls float32 `[2]`, inside their ranges, for a curvature (1/m, > 0 left) and an acceleration (m/s^2).

        Beyond the sharpest turn that was driven steering goes on in proportion.
        """
        steering = np.interp(curvature, self.curvature, self.steering)
        outmost = self.curvature[-1 if curvature > 0 else 0]
        if abs(curvature) > abs(outmost):
            steering *= curvature / outmost
        throttle = np.interp(acceleration + self.drag * speed, self.acceleration, self.throttle)
        return np.clip([steering, throttle], self.low, self.high).astype(np.float32)


def identify(env: Any, options: Mapping[str, Any] | None = None) -> CarResponse:
    """Describes the car of an environment by driving it for some seconds.

    Args:
        env: Has `reset`, `step` and actions [steering, throttle], and tells its pose (see `pose_of`). It is reset with
            the seeds from 0 up; one episode is enough unless it ends on the way.
        options: Of the resets.

    Raises:
        ValueError: The actions are others, no pose is told, the episodes are too short, or the car does not turn, drive
            on and brake as a car does.
    """
    space, dt = env.action_space, step_seconds(env)
    low, high = (np.asarray(getattr(space, side, np.nan), np.float64) for side in ("low", "high"))
    if low.shape != (2,) or not np.isfinite([low, high]).all() or not (low < 0).all() or not (high > 0).all():
        raise ValueError(f"a car is driven by [steering, throttle] in a bounded box around 0, got {space}")
    gas, begun = GAS * high[1], False
    seeds, run_up = iter(range(TRIES)), _held([(0.0, gas, RUN_UP)], dt)

    def drive(controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Metres ahead and radians to the left of each step, in another episode where one ends on the way."""
        nonlocal begun
        poses = _drive(env, controls) if begun else None
        while poses is None:
            seed = next(seeds, None)
            if seed is None:
                raise ValueError(f"{TRIES} episodes end before the car is known, within some seconds of driving")
            env.reset(seed=seed, options=None if options is None else dict(options))
            begun = _drive(env, run_up) is not None
            poses = _drive(env, controls) if begun else None
        return travelled(poses[:-1], poses[1:])

    swings, paths = [], []
    for share in SWINGS:
        left, right = (low[0] * share, gas, SWING), (high[0] * share, gas, 2 * SWING)
        swings.append(_held([left, right, left], dt))
        paths.append(drive(swings[-1]))
        if np.abs(paths[-1][0] * paths[-1][1]).max() > FIRM * dt**2:
            break
    curvature, steering, delay = _steered(paths, swings, dt)
    pedals = _held([(0.0, share * (high[1] if share > 0 else -low[1]), hold) for share, hold in PEDALS], dt)
    acceleration, throttle, drag = _pushed(drive(pedals)[0] / dt, pedals[:, 1], dt)
    return CarResponse(low, high, curvature, steering, acceleration, throttle, drag, delay)


def step_seconds(env: Any) -> float:
    """Seconds of a step of an environment: its `dt`, or of its metadata.

    Raises:
        ValueError: It tells neither.
    """
    told = getattr(env, "dt", None)
    if told is None and not env.metadata.get("render_fps"):
        raise ValueError(f"how long a step is must be told, by dt or metadata['render_fps']; got {env}")
    return float(1.0 / env.metadata["render_fps"] if told is None else told)


def pose_of(env: Any) -> np.ndarray:
    """Where the car of an environment is: x, y (m) and yaw (rad to the left), float64 `[3]`.

    Raises:
        ValueError: It tells neither a `pose` nor a `truth()` that has one.
    """
    pose = getattr(env, "pose", None)
    if pose is None and hasattr(env, "truth"):
        pose = env.truth().pose
    if pose is None:
        raise ValueError(f"waypoints are followed where an environment tells its pose, or truth() with one; got {env}")
    return np.asarray(pose, np.float64)


def travelled(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres ahead, along the direction half way, and radians to the left between poses `[..., 3]`; both `[...]`."""
    turned = np.remainder(after[..., 2] - before[..., 2] + np.pi, 2 * np.pi) - np.pi
    x, y = np.moveaxis(after[..., :2] - before[..., :2], -1, 0)
    middle = before[..., 2] + turned / 2
    return x * np.cos(middle) + y * np.sin(middle), turned


def in_frame(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points `[N, 2]` of the ground in the frame of a pose: metres ahead and to the left."""
    delta, cos, sin = points - pose[:2], np.cos(pose[2]), np.sin(pose[2])
    return np.stack([cos * delta[:, 0] + sin * delta[:, 1], cos * delta[:, 1] - sin * delta[:, 0]], 1)


def on_ground(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points `[N, 2]` in the frame of a pose, on the ground; the inverse of `in_frame`."""
    (x, y), cos, sin = points.T, np.cos(pose[2]), np.sin(pose[2])
    return np.stack([pose[0] + cos * x - sin * y, pose[1] + sin * x + cos * y], 1)


def _held(parts: list[tuple[float, float, float]], dt: float) -> np.ndarray:
    """Controls float32 `[T, 2]` of (steering, throttle, seconds) one after another, each for 3 steps at least."""
    return np.concatenate(
        [
            np.tile(np.array([steering, throttle], np.float32), (max(round(hold / dt), 3), 1))
            for steering, throttle, hold in parts
        ]
    )


def _drive(env: Any, controls: np.ndarray) -> np.ndarray | None:
    """Poses `[T+1, 3]` under controls `[T, 2]`; None: the episode ends on the way."""
    poses = [pose_of(env)]
    for each in controls:
        if env.step(each)[2]:
            return None
        poses.append(pose_of(env))
    return np.stack(poses)


def _steered(
    drives: list[tuple[np.ndarray, np.ndarray]], swings: list[np.ndarray], dt: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Curvatures ascending with the steering that leads to each, as far as more steering turns more, and the delay.

    Args:
        drives: Metres ahead and radians to the left `[T]` of each step.
        swings: The controls `[T, 2]`.
        dt: Seconds of a step.
    """
    found, most = [(0.0, 0.0)], dict[float, float]()
    delays: list[float] = []
    for (ahead, turned), controls in zip(drives, swings, strict=True):
        wheel = controls[:, 0].astype(np.float64)
        change = np.flatnonzero(np.diff(wheel)) + 1  # from one side to the other, and back
        ends = [*zip([0, *change], [*change, len(wheel)], strict=True)]
        bends = [turned[(a + b) // 2 : b].sum() / max(ahead[(a + b) // 2 : b].sum(), 0.1) for a, b in ends]
        bends[0] = (bends[0] + bends[2]) / 2
        path = (turned / np.maximum(ahead, 0.1))[slice(*ends[1])]
        if bends[1] != bends[0]:
            delays.append(dt * float(np.sum(1.0 - (path - bends[0]) / (bends[1] - bends[0]))))
        for (start, _), bend in zip(ends[:2], bends[:2], strict=True):
            side = float(np.sign(wheel[start]))
            if abs(bend) > most.get(side, 0.0):  # less than before: it slides
                most[side] = abs(float(bend))
                found.append((float(bend), float(wheel[start])))
    curvature, steering = np.array(sorted(found)).T
    order = np.diff(steering)
    if len(most) < 2 or len(found) < 3 or not ((order > 0).all() or (order < 0).all()):
        raise ValueError(f"steering turns a car to both sides, got curvatures {np.round(curvature, 4)} for {steering}")
    return curvature, steering, float(np.clip(np.mean(delays), 0.0, MOST_DELAY))


def _pushed(speeds: np.ndarray, throttle: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Accelerations, ascending and without drag, the throttle of each, and the drag: least squares.

    Args:
        speeds: `[T]` of the steps.
        throttle: `[T]` in them.
        dt: Seconds of a step.
    """
    pedals, number = np.unique(throttle, return_inverse=True)
    gained, same = np.diff(speeds) / dt, np.diff(number) == 0
    known = same & (speeds[:-1] > ROLLING) & (speeds[1:] > ROLLING)
    told = [index for index in range(len(pedals)) if (known & (number[1:] == index)).any()]
    if len(told) < 3:
        raise ValueError(f"a car that drives on is faster than {ROLLING:g} m/s, got speeds {np.round(speeds, 2)}")
    columns = np.stack([*(number[1:] == index for index in told), -speeds[:-1]], 1)[known].astype(np.float64)
    *accelerations, drag = np.linalg.lstsq(columns, gained[known], rcond=None)[0]
    if drag < 0:  # it is lost in what else happens
        accelerations, drag = np.linalg.lstsq(columns[:, :-1], gained[known], rcond=None)[0], 0.0
    accelerations = np.maximum.accumulate(accelerations)
    if not accelerations[-1] > accelerations[0]:
        raise ValueError(f"more throttle drives a car on, got accelerations {np.round(accelerations, 2)} m/s^2")
    return accelerations, pedals[told].astype(np.float64), float(drag)
