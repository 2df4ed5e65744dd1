"""Actions are waypoints, as planners and end-to-end stacks put out, and a tracker drives along them.

The car's answer to its controls is found by driving it once, at the beginning, in the dream as in a simulator
(`drivedit.utils.car_response`). The tracker knows no more of the car than its poses (`drivedit.utils.tracking`).

Legend: B worlds, N waypoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.vector.utils import batch_space

from drivedit.utils import whole_number
from drivedit.utils.car_response import CarResponse, identify, pose_of, step_seconds
from drivedit.utils.tracking import Track, WaypointTracker, check_plan, check_timing
from drivedit_env.base import LATENT, DreamSettings
from drivedit_env.env import DriveDiTEnv
from drivedit_env.infos import masked
from drivedit_env.vector import DriveDiTVectorEnv

MOST_SPEED = 100.0  # m/s: the waypoints of the action space are within reach at this speed


@dataclass(frozen=True)
class WaypointState:
    """A moment of environments that follow waypoints.

    Attributes:
        env: What `get_state` of the environment inside gives.
        tracks: The plans on their way, one per world; None: an episode has begun and there is none.
    """

    env: Any
    tracks: tuple[Track | None, ...]


class WaypointActions(gym.Wrapper[Any, np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs):
    """Actions are waypoints `[N, 2]` in the car's frame: metres ahead and to the left after 1, 2, ... N intervals.

    Every step a plan is handed over. It is taken over at the first step of an episode and `every` steps later again;
    those in between are not looked at, and the plan is kept where it was made while the car moves along it. Numbers
    beyond the action space are clipped. `info["tracking"]` of every step tells how far the car is off its plan:
    `lateral_error` (m, > 0 to the left of it) and `speed_error` (m/s, > 0 faster).

    `get_state`, `set_state` and `fork` are those of the environment with the plans; the environment's own, beneath the
    wrapper, leave the plan where it is. Wrappers inside this one must leave the controls and the interval of steps as
    they are. A street takes another interval by its argument `dt`, not by the reset option, which it does not tell.

    Args:
        env: A `DriveDiTEnv`, or any environment with actions [steering, throttle] that tells its `pose`, or one in its
            `truth()`, as all simulators of domains do.
        points: Waypoints N of a plan.
        interval: Seconds from one waypoint to the next.
        every: Steps from one plan that is taken over to the next.
        response: How the car answers to its controls; None: it is driven for some seconds to find out, a dream beside
            this one, a simulator itself, which then needs a reset.

    Raises:
        ValueError: An argument is out of its range, a plan is over before the next one, or the car is no car.
    """

    def __init__(
        self, env: gym.Env[Any, Any], points: int = 8, interval: float = 0.5, every: int = 1,
        response: CarResponse | None = None,
    ) -> None:  # fmt: skip
        gym.utils.RecordConstructorArgs.__init__(self, points=points, interval=interval, every=every, response=response)
        super().__init__(env)
        self.tracker = _tracker(env.unwrapped, points, interval, every, response)
        self.action_space = _space(points, interval)
        self._track: Track | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, see the environment; there is no plan."""
        begun = self.env.reset(seed=seed, options=options)
        self._track = None
        return begun

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step along a plan.

        Raises:
            ValueError: The action is of another shape, or not finite; nothing has changed then.
        """
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        plan = np.clip(check_plan(action, *low.shape), low, high)
        dt = step_seconds(self.env.unwrapped)
        controls, track = self.tracker.follow(self._track, plan, pose_of(self.env.unwrapped), dt)
        seen, reward, terminated, truncated, info = self.env.step(controls)
        self._track = track
        lateral, speed = self.tracker.errors(track, pose_of(self.env.unwrapped), dt)
        return seen, reward, terminated, truncated, {
            **info, "tracking": {"lateral_error": lateral, "speed_error": speed}
        }  # fmt: skip

    def get_state(self) -> WaypointState:
        """Everything that the future depends on, the plan too."""
        return WaypointState(self.env.get_wrapper_attr("get_state")(), (self._track,))

    def set_state(self, state: WaypointState) -> None:
        """Goes back to a state of `get_state`, bit for bit.

        Raises:
            ValueError: It is none; nothing has changed then.
        """
        _check_state(state, 1)
        self.env.get_wrapper_attr("set_state")(state.env)
        (self._track,) = state.tracks

    def fork(self, n: int, seeds: Sequence[int] | None = None) -> VectorWaypointActions:
        """Opens n worlds of a dream that go on from this moment along this plan; see `DriveDiTVectorEnv.fork`."""
        return VectorWaypointActions._of(self.env.get_wrapper_attr("fork")(n, seeds), self.tracker, self, self._track)


class VectorWaypointActions(VectorWrapper):
    """`WaypointActions` for `DriveDiTVectorEnv`: actions `[B, N, 2]`, and every row is the single environment.

    Simulators are wrapped one by one: `gym.make_vec(ID, num_envs=B, wrappers=[WaypointActions])`.

    Args:
        env: A `DriveDiTVectorEnv`.
        points: As in `WaypointActions`, like the next three.
        interval: Seconds from one waypoint to the next.
        every: Steps from one plan that is taken over to the next.
        response: How the car answers to its controls; None: a dream beside these is driven to find out.

    Raises:
        ValueError: As `WaypointActions`; the environment does not tell the poses of its worlds.
    """

    def __init__(
        self, env: gym.vector.VectorEnv, points: int = 8, interval: float = 0.5, every: int = 1,
        response: CarResponse | None = None,
    ) -> None:  # fmt: skip
        super().__init__(env)
        if not isinstance(env.unwrapped, DriveDiTVectorEnv):
            raise ValueError(f"this wraps DriveDiTVectorEnv; others take wrappers=[WaypointActions], got {env}")
        self._inside = env.unwrapped
        self.tracker = _tracker(env.unwrapped, points, interval, every, response)
        self.single_action_space = _space(points, interval)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._tracks: list[Track | None] = [None] * self.num_envs
        self._done = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts all dreams, or some, which have no plan then."""
        begun = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        fresh = np.ones(self.num_envs, bool) if options is None else options.get("reset_mask")
        fresh = np.ones(self.num_envs, bool) if fresh is None else fresh
        self._begin(fresh)
        self._done = self._done & ~fresh
        return begun

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes a step along plans `[B, N, 2]`.

        `info["tracking"]` has no values of worlds that have begun anew in this step.

        Raises:
            ValueError: As `WaypointActions.step`.
        """
        space: gym.spaces.Box = self.single_action_space  # type: ignore[assignment]
        plans = np.clip(check_plan(actions, self.num_envs, *space.shape), space.low, space.high)
        rows, seconds = range(self.num_envs), self._inside.dt
        followed = [
            self.tracker.follow(*each)
            for each in zip(self._tracks, plans, self._inside.poses, seconds, strict=True)
        ]  # fmt: skip
        controls = np.stack([each for each, _ in followed])
        seen, rewards, terminated, truncated, infos = self.env.step(controls)
        self._tracks = [track for _, track in followed]
        over, mode = np.asarray(terminated) | np.asarray(truncated), self._inside.autoreset_mode
        fresh = {AutoresetMode.NEXT_STEP: self._done, AutoresetMode.SAME_STEP: over}.get(mode, np.zeros_like(over))
        self._begin(fresh)
        self._done = over & ~fresh
        errors, poses = np.zeros((self.num_envs, 2)), self._inside.poses
        for row in rows:
            track = self._tracks[row]
            if track is not None:
                errors[row] = self.tracker.errors(track, poses[row], seconds[row])
        told = {"tracking": {"lateral_error": errors[:, 0].copy(), "speed_error": errors[:, 1].copy()}}
        return seen, rewards, terminated, truncated, {**infos, **masked(told, ~fresh)}

    def get_state(self, rows: Sequence[int] | None = None) -> WaypointState:
        """Everything that the future of some worlds (None: all) depends on, the plans too."""
        kept = self._inside.get_state(rows)
        return WaypointState(kept, tuple(self._tracks[row] for row in self._numbers(rows)))

    def set_state(self, state: WaypointState, rows: Sequence[int] | None = None) -> None:
        """Brings some worlds (None: all) to stored states, bit for bit; see `DriveDiTVectorEnv.set_state`."""
        numbers = self._numbers(rows)
        _check_state(state, len(numbers))
        self._inside.set_state(state.env, rows)
        for row, track, ended in zip(numbers, state.tracks, state.env.ended, strict=True):
            self._tracks[row], self._done[row] = track, ended

    def fork(self, index: int, n: int, seeds: Sequence[int] | None = None) -> VectorWaypointActions:
        """Opens n worlds that go on from the moment of one world along its plan; see `DriveDiTVectorEnv.fork`."""
        return self._of(self._inside.fork(index, n, seeds), self.tracker, self, self._tracks[index])

    @classmethod
    def _of(
        cls, branches: gym.vector.VectorEnv, tracker: WaypointTracker, like: Any, track: Track | None
    ) -> VectorWaypointActions:
        """Branches with the settings of an environment that all go on along one plan."""
        space = getattr(like, "single_action_space", like.action_space)
        made = cls(branches, space.shape[0], tracker.interval, tracker.every, tracker.response)
        made._tracks = [track] * made.num_envs
        return made

    def _numbers(self, rows: Sequence[int] | None) -> list[int]:
        return list(range(self.num_envs)) if rows is None else list(rows)

    def _begin(self, fresh: np.ndarray) -> None:
        """Forgets the plans of the worlds in the mask."""
        self._tracks = [None if begins else track for begins, track in zip(fresh, self._tracks, strict=True)]


def find_response(env: Any, options: Mapping[str, Any] | None = None) -> CarResponse:
    """How the car of an environment answers to its controls.

    Args:
        env: A dream, one or many, beside which another of its world is driven; or a simulator, which is driven itself.
        options: Of the resets, as `{"attributes": ...}` for the weather on a street.

    Raises:
        ValueError: It is no car, see `identify`.
    """
    if isinstance(env, DreamSettings):
        env = DriveDiTEnv(env.world, obs_type=LATENT, sampling_steps=env.sampling_steps)
    return identify(env, options)


def _tracker(env: Any, points: int, interval: float, every: int, response: CarResponse | None) -> WaypointTracker:
    """What follows the plans of an environment, or ValueError."""
    whole_number(points, "points of a plan are a whole number from 1 to 1000", 1, 1000)
    check_timing(interval, every)
    dt = float(np.max(env.dt)) if isinstance(env, DreamSettings) else step_seconds(env)
    if every * dt > points * interval * (1 + 1e-9):
        raise ValueError(
            f"a plan of {points} x {interval:g} s is over before the next one, {every} steps of {dt:g} s later"
        )
    return WaypointTracker(find_response(env) if response is None else response, float(interval), every)


def _space(points: int, interval: float) -> gym.spaces.Box:
    """Waypoints float32 `[N, 2]` within reach."""
    far = MOST_SPEED * interval * np.arange(1, points + 1, dtype=np.float32)
    reach = np.stack([far, far], 1)
    return gym.spaces.Box(-reach, reach, dtype=np.float32)


def _check_state(state: Any, worlds: int) -> None:
    """ValueError unless it is a state of so many worlds."""
    if not isinstance(state, WaypointState) or len(state.tracks) != worlds:
        raise ValueError(f"a state is what get_state() of this wrapper gives, of {worlds} worlds, got {state!r:.80}")
