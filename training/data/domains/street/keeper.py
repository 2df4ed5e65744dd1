"""A driver that sees nothing but the picture: it keeps its lane and its distance by what the reader reads off it."""

from __future__ import annotations

import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.car import BACK, FRONT, FULL_LOCK
from drivedit.data.domains.street.reader import read

WANTED = 9.0  # m/s
HEADWAY, STANDING = 1.5, 6.0  # s, m
SLOWLY = 0.85  # share of the road's bend that stays from step to step


class Keeper:
    """Steers back to the middle of its lane and along the bend of the road, and brakes for one ahead."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what it has seen."""
        self._before: np.ndarray | None = None
        self._heading, self._bend = 0.0, 0.0

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The controls, float32 [2], of a picture uint8 `[H, W, 3]`."""
        before = frame if self._before is None else self._before
        seen = {name: float(value[0]) for name, value in read(frame[None], before[None]).values.items()}
        speed = max(seen["speed"], 2.0)
        if self._before is not None:
            road = seen["turn"] - (seen["heading_error"] - self._heading)  # of the road, to the right
            self._bend = SLOWLY * self._bend + (1 - SLOWLY) * road / SPEC.dt / speed
        self._before, self._heading = frame, seen["heading_error"]
        reach = 4.0 + 0.8 * speed
        back = -2 * (seen["lateral_offset"] / reach + seen["heading_error"]) / reach  # 1/m
        wheels = np.arctan((FRONT + BACK) * (back + np.clip(self._bend, -0.1, 0.1)))
        room = (seen["gap"] - STANDING) / (HEADWAY * speed)
        throttle = min(0.3 * (WANTED - seen["speed"]), 1.5 * (room - 0.7) if room < 1 else 1.0)
        return np.clip(np.array([wheels / FULL_LOCK, throttle], np.float32), -1.0, 1.0)
