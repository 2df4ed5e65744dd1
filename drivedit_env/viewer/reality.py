"""The simulator beside the dream: the same controls, the same track, the same moment to begin with."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.models import World
from drivedit_env.domains import domain_of_world, gentle_controls
from drivedit_env.viewer.surroundings import Surroundings, surroundings_of_truth

RUN_UP = 8  # steps before the dream begins where reality stands


class Reality:
    """The real twin of a world, at one of its moments.

    Args:
        world: The world; its domain names the simulator.

    Raises:
        ImportError: The simulator is not installed.
        ValueError: The world is of no domain.
    """

    def __init__(self, world: World) -> None:
        domain = domain_of_world(world)
        if domain is None:
            raise ValueError("this world has no simulator to drive beside it")
        kind = world.spec.picture
        shown = {} if kind == domain.spec.picture else {"obs_type": kind}
        self._twin: Any = gym.make(domain.env_id, disable_env_checker=True, max_episode_steps=-1, **shown).unwrapped
        self._start = {name: low for name, (low, _) in domain.judging_starts.items()}
        self._gentle = gentle_controls(world).mean(0).astype(np.float32)
        self._at: dict[str, Any] | None = None
        self.ended = False

    def start(self, track: int) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
        """Begins on a track, a few steps after the start.

        Returns:
            The scene of this moment for the dream's `reset`, the frame, and the simulator's state.
        """
        self._twin.reset(seed=track, options=dict(self._start))
        frame = [self._twin.step(self._gentle)[0] for _ in range(RUN_UP)][-1]
        self._at = at = self._twin.get_state()
        self.ended = False
        return self._twin.scene(RUN_UP), frame, at

    def step(self, at: dict[str, Any], action: np.ndarray) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Drives on from one of its states (going there takes a replay, if it is not the last one).

        Returns:
            The frame and the new state; no frame and the same state where the real episode has ended.
        """
        if at is not self._at:
            self._twin.set_state(at)
            self.ended = False
        elif self.ended:
            return None, at
        frame, _, self.ended, _, _ = self._twin.step(action)
        self._at = at = self._twin.get_state()
        return frame, at

    def around(self) -> Surroundings | None:
        """What the simulator knows around its car, where it was last; None: nothing."""
        return surroundings_of_truth(self._twin.truth())

    def close(self) -> None:
        """Ends the simulator."""
        self._twin.close()
