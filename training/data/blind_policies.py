"""Policies that see nothing, for any domain with two controls: the least that a judge must tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np


class Fixed:
    """Holds the same controls whatever it sees.

    Args:
        action: Steering and throttle.
    """

    def __init__(self, action: tuple[float, float]) -> None:
        self.action = np.array(action, np.float32)

    def __call__(self, observation: Any) -> np.ndarray:
        """The controls, float32 [2]."""
        return self.action.copy()


class Erratic:
    """Draws steering and throttle anew at every step, mostly forwards.

    Args:
        seed: Seed of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Begins the draws again."""
        self._random = np.random.default_rng(self.seed)

    def __call__(self, observation: Any) -> np.ndarray:
        """Random controls, float32 [2], whatever is seen."""
        return self._random.uniform((-0.4, -0.2), (0.4, 0.6)).astype(np.float32)
