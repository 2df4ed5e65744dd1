"""What the environments around the simulator have in common: their present follows from a journal, by replaying it.

An episode is a function of (seed, placement, actions), bit for bit. These three are written down; the simulator follows
them. So a call that is broken off (Ctrl-C) leaves an environment before it or after it, whichever the journal says, and
a copy (`copy.deepcopy`, `pickle`) takes the journal along and not the simulator, which cannot be copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.data.domains.carracing.past import HISTORY, Past
from drivedit.utils import real_numbers

MADE = ("_simulator", "_past")  # what follows from the journal


class ReplayedEnv(gym.Env[np.ndarray, np.ndarray]):
    """An environment that keeps a journal; one that inherits says how an episode begins and how a step is driven."""

    _simulator: Any
    _past: Past

    def __init__(self) -> None:
        self._seed, self._placement = 0, None
        self._actions: list[np.ndarray] = []
        self._started = self._settled = self._warned = False

    def _start(self) -> None:
        """Builds the track of the journal's seed, with the car at its placement, and a past that is empty."""
        raise NotImplementedError

    def _drive(self, action: np.ndarray) -> Any:
        """The physics of one step, without drawing; returns what there is to say of it."""
        raise NotImplementedError

    def scene(self, n: int = 8) -> dict[str, Any]:
        """The scene of this moment, for `reset(options={"scene": ...})` of `DriveDiT-v0`; see `Past.scene`."""
        self._need_start("scene")
        return self._past.scene(n)

    def render(self) -> np.ndarray | None:
        """The simulator's picture, uint8 [480, 600, 3], in render mode `rgb_array`; else None."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make(..., render_mode='rgb_array')")
            return None
        self._need_start("render")
        return self._simulator.picture((600, 480))

    # ------------------------------------------------------------------ the journal

    def _begin(
        self,
        seed: int,
        placement: dict[str, float] | None,
        actions: Sequence[np.ndarray],
        random: np.random.Generator,
        random_seed: int,
    ) -> None:
        """Writes down what leads to a moment, all at once (one call into C, which no signal divides); goes there."""
        vars(self).update(
            _seed=seed, _placement=placement, _actions=list(actions), _np_random=random, _np_random_seed=random_seed,
            _started=True, _settled=False,
        )  # fmt: skip
        self._settle()

    def _take(self, action: np.ndarray) -> Any:
        """Drives one step, draws it and writes it down; returns what `_drive` says."""
        self._settled = False
        told = self._drive(action)
        self._past.look()
        self._actions.append(action)
        self._settled = True
        return told

    def _settle(self) -> None:
        """Brings the simulator to where the journal says, drawing the last frames only."""
        if self._settled:
            return
        self._start()
        drawn_from = len(self._actions) - HISTORY
        if drawn_from <= 0:
            self._past.look()
        for number, action in enumerate(self._actions, start=1):
            self._drive(action)
            if number >= drawn_from:
                self._past.look()
        self._settled = True

    def _need_start(self, name: str) -> None:
        """Raises if there is no episode yet; else sees to it that the simulator is where it should be."""
        if not self._started:
            raise gym.error.ResetNeeded(f"call reset() before {name}")
        self._settle()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name not in MADE}
        return kept | {"_settled": False, "_actions": list(self._actions)}

    def _check_action(self, action: Any) -> np.ndarray:
        """A clean float32 action [2] inside the box, or ValueError."""
        expected = "an action is 2 numbers [steering, throttle] in [-1, 1]"
        numbers = real_numbers(action, expected)
        if numbers.shape != (2,) or np.isnan(numbers).any():
            raise ValueError(f"{expected}, got {numbers!r}")
        with np.errstate(over="ignore"):
            clean = numbers.astype(np.float32)
        if np.abs(clean).max() > 1.0 and not self._warned:
            self._warned = True
            gym.logger.warn(f"action {clean} lies outside [-1, 1] and is clipped (said once)")
        return np.clip(clean, -1.0, 1.0)
