"""A policy whose every answer is checked, for judging code that anybody may have written."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.agents.load import load_agent


class PolicyError(Exception):
    """A policy failed, or answered what is no action."""


class Pilot:
    """A policy whose every answer is checked.

    Args:
        name: Its name, see `load_agent`.
        space: The actions that there are.
        seed: Seed of its own chance.
        agent: What it is, if the name alone does not tell.
        world: Where the world is whose latents it may have learned on, see `load_agent`.

    Raises:
        PolicyError: It cannot be made.
    """

    def __init__(self, name: str, space: gym.Space, seed: int, agent: Any = None, world: str | None = None) -> None:
        self.name, self.space = name, space
        try:
            self.agent = load_agent(name, seed, world) if agent is None else agent
            getattr(self.agent, "reset", lambda: None)()
        except Exception as error:  # a policy is anybody's code: whatever it raises is its own failure
            raise PolicyError(f"policy {name!r} cannot be made: {type(error).__name__}: {error}") from error

    def __call__(self, observation: Any) -> Any:
        """An action of the space; numbers outside a box are clipped.

        Raises:
            PolicyError: The policy raised, or answered with another shape, NaN, or anything else that is no action.
        """
        try:
            answer = self.agent(observation)
        except Exception as error:  # as above
            raise PolicyError(f"policy {self.name!r} failed: {type(error).__name__}: {error}") from error
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
