"""The simulator beside the dream: the same controls, the same track, the same moment to begin with."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

TWIN = "drivedit_env:CarRacingTwin-v0"
START = {"track_position": 0.0, "speed": 20.0}
RUN_UP = 8  # steps before the dream begins where reality stands
GENTLE = np.array([0.0, 0.1], np.float32)


class Reality:
    """The real twin, at one of its moments.

    Raises:
        ImportError: The simulator is not installed.
    """

    def __init__(self) -> None:
        self._twin: Any = gym.make(TWIN, disable_env_checker=True, max_episode_steps=-1).unwrapped
        self._at: dict[str, Any] | None = None
        self.ended = False

    def start(self, track: int) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
        """Begins on a track, a few steps after the start.

        Returns:
            The scene of this moment for the dream's `reset`, the frame, and the simulator's state.
        """
        self._twin.reset(seed=track, options=START)
        frame = [self._twin.step(GENTLE)[0] for _ in range(RUN_UP)][-1]
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

    def close(self) -> None:
        """Ends the simulator."""
        self._twin.close()
