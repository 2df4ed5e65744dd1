"""A policy whose every answer is checked, for judging code that anybody may have written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.agents.load import load_agent
from drivedit.utils.car_response import CarResponse
from drivedit.utils.tracking import Track, WaypointTracker, check_plan

Car = Callable[[], tuple[CarResponse, float]]  # how a car answers to its controls, and the seconds of a step


class PolicyError(Exception):
    """A policy failed, or answered what is no action."""


class Pilot:
    """A policy whose every answer is checked.

    A policy that answers with waypoints `[N, 2]`, metres ahead and to the left, says so by an attribute
    `waypoint_interval`, the seconds from one to the next. The same tracker drives along them everywhere.

    Args:
        name: Its name, see `load_agent`.
        space: The actions that there are.
        seed: Seed of its own chance.
        agent: What it is, if the name alone does not tell.
        world: Where the world is whose latents it may have learned on, see `load_agent`.
        car: Finds out how the car that follows waypoints answers, asked where a policy gives such; None: none does.

    Raises:
        PolicyError: It cannot be made.
    """

    def __init__(
        self, name: str, space: gym.Space, seed: int, agent: Any = None, world: str | None = None,
        car: Car | None = None,
    ) -> None:  # fmt: skip
        self.name, self.space = name, space
        self._tracker: WaypointTracker | None = None
        self._track: Track | None = None
        try:
            self.agent = load_agent(name, seed, world) if agent is None else agent
            getattr(self.agent, "reset", lambda: None)()
            interval = getattr(self.agent, "waypoint_interval", None)
            if interval is not None and car is not None:
                response, self._dt = car()
                self._tracker = WaypointTracker(response, float(interval))
        except Exception as error:  # a policy is anybody's code: whatever it raises is its own failure
            raise PolicyError(f"policy {name!r} cannot be made: {type(error).__name__}: {error}") from error

    @property
    def plans(self) -> bool:
        """Whether the policy answers with waypoints, and needs the pose of the car."""
        return self._tracker is not None

    def __call__(self, observation: Any, pose: np.ndarray | None = None) -> Any:
        """An action of the space; numbers outside a box are clipped.

        Args:
            observation: What the policy sees.
            pose: Of the car, float64 `[3]`, which following waypoints needs.

        Raises:
            PolicyError: The policy raised, or answered with another shape, NaN, or anything else that is no action.
        """
        try:
            answer = self.agent(observation)
        except Exception as error:  # as above
            raise PolicyError(f"policy {self.name!r} failed: {type(error).__name__}: {error}") from error
        if self._tracker is not None and pose is not None:
            try:
                plan = check_plan(answer, None, 2)
            except ValueError as error:
                raise PolicyError(f"policy {self.name!r}: {error}") from error
            answer, self._track = self._tracker.follow(self._track, plan, pose, self._dt)
        if not isinstance(self.space, gym.spaces.Box):
            if not self.space.contains(answer):
                raise PolicyError(f"policy {self.name!r} must answer with one of {self.space}, got {answer!r}")
            return answer
        try:
            action = np.asarray(answer, self.space.dtype)
        except (TypeError, ValueError) as error:
            raise PolicyError(f"policy {self.name!r} must answer with numbers, got {answer!r}") from error
        if action.shape != self.space.shape or np.isnan(action).any():
            wanted = f"numbers of shape {list(self.space.shape)}, none of them NaN"
            raise PolicyError(f"policy {self.name!r} must answer with {wanted}, got {answer!r}")
        return np.clip(action, self.space.low, self.space.high)
