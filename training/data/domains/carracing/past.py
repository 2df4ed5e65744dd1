"""The last frames, poses and controls of a simulator: what a dream needs to go on from there."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from drivedit.data.domains.carracing.simulator import PLAYFIELD, Simulator

FRAME_SIZE = 64  # px
HISTORY = 32  # controls that `scene` can look back on
BOUNDS = PLAYFIELD * np.array([-1, -1, 1, 1], np.float32)


class Past:
    """What a simulator has shown since an episode began.

    Args:
        simulator: With a car on its track.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._frames: deque[np.ndarray] = deque(maxlen=HISTORY + 1)
        self._poses: deque[np.ndarray] = deque(maxlen=HISTORY + 1)
        self._controls: deque[np.ndarray] = deque(maxlen=HISTORY)

    def drove(self, controls: np.ndarray) -> None:
        """Keeps the controls float32 [2] that led to the next frame."""
        self._controls.append(np.array(controls, np.float32))

    def look(self) -> None:
        """Draws and keeps the present frame."""
        self._frames.append(self._simulator.picture((FRAME_SIZE, FRAME_SIZE)))
        self._poses.append(self._simulator.pose)

    @property
    def latest(self) -> np.ndarray:
        """The frame that was looked at last, uint8 [64, 64, 3], the caller's to keep."""
        return self._frames[-1].copy()

    def scene(self, n: int = 8) -> dict[str, Any]:
        """The scene of this moment, for `reset(options={"scene": ...})` of `DriveDiT-v0`.

        Args:
            n: Controls to look back on, at most 32; fewer are returned if fewer steps were taken.

        Returns:
            frames uint8 [n+1, 64, 64, 3], controls float32 [n, 2], route float32 [M, 2], closed (True), poses
            float32 [n+1, 3] (x, y, yaw) and bounds float32 [4].

        Raises:
            ValueError: `n` is out of its range.
            RuntimeError: No step was taken yet.
        """
        if not 1 <= n <= HISTORY:
            raise ValueError(f"scene(n) looks back on 1 to {HISTORY} controls, got n={n}")
        n = min(n, len(self._controls))
        if n == 0:
            raise RuntimeError("a scene needs at least one control: step at least once after reset, then call scene()")
        return {
            "frames": np.stack(list(self._frames)[-n - 1 :]),
            "controls": np.stack(list(self._controls)[-n:]),
            "route": self._simulator.centre_line.points.astype(np.float32),
            "closed": True,
            "poses": np.stack(list(self._poses)[-n - 1 :]).astype(np.float32),
            "bounds": BOUNDS,
        }
