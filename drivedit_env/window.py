"""Gymnasium's render mode `human`: a window that is drawn at every reset and step. pygame is imported at the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.config import Quantity
from drivedit.utils import shown


class Window:
    """A window that opens when the first episode begins, and stays closed once the person has closed it.

    Args:
        fps: Frames per second that it keeps to.
        controls: What the numbers of an action are, A of them.
    """

    def __init__(self, fps: float, controls: Sequence[Quantity]) -> None:
        self._fps, self._controls = fps, controls
        self._screen: Any = None
        self._clock: Any = None
        self._closed = False

    def begin(self, frame: np.ndarray, info: dict[str, Any]) -> None:
        """Shows the first moment of an episode.

        Args:
            frame: uint8 [H, W, 1 or 3].
            info: Gymnasium's.

        Raises:
            RuntimeError: There is no display.
        """
        self._returned, self._steps = 0.0, -1
        self.show(frame, info, np.zeros(len(self._controls), np.float32), 0.0)

    def show(self, frame: np.ndarray, info: dict[str, Any], action: np.ndarray, reward: float) -> None:
        """Shows a moment; waits so that no frame comes too early.

        Args:
            frame: uint8 [H, W, 1 or 3].
            info: Gymnasium's.
            action: float32 [A] that led here.
            reward: Of the step that led here.

        Raises:
            RuntimeError: There is no display.
        """
        if self._closed:
            return
        import pygame

        from drivedit_env.viewer.screen import Screen, View

        if self._screen is None:
            self._screen, self._clock = Screen(), pygame.time.Clock()
        self._returned += reward
        self._steps += 1
        if any(event.type == pygame.QUIT for event in self._screen.events()):
            gym.logger.warn("the window was closed; the environment goes on without it")
            self.close()
            return
        time = ("Time", f"{self._steps / self._fps:.1f} s")
        rate = self._clock.get_fps()
        self._screen.draw(View(shown(frame), info, action, self._controls, reward, self._returned, rate, rows=(time,)))
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Closes the window, if it is open."""
        self._closed = True
        if self._screen is not None:
            self._screen.close()
            self._screen = None
