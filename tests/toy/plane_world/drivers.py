"""Who drives on the plane: those who see the truth, for recordings, and those who see the picture."""

from typing import Any

import numpy as np

from drivedit.utils import Truth


class Wanderer:
    """Changes its mind every few steps."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.name, self._rng, self._left = "wanderer", rng, 0

    def act(self, truth: Truth, observation: Any) -> np.ndarray:
        if not self._left:
            self._left, self._held = int(self._rng.integers(2, 12)), self._rng.uniform((-1, -1, -1), (2, 1, 1))
        self._left -= 1
        return np.clip(self._held, (-2, -1, 0), (2, 1, 1)).astype(np.float32)


def make_driver(rng: np.random.Generator) -> tuple[Wanderer, dict[str, Any]]:
    return Wanderer(rng), {"speed": float(rng.uniform(0, 3))}


class Holder:
    """Holds the same controls whatever it sees."""

    def __init__(self, *controls: float) -> None:
        self._controls = np.array(controls, np.float32)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        return self._controls.copy()


POLICIES = {
    "climber": lambda seed: Holder(1.0, 0.2, 0.0),
    "circler": lambda seed: Holder(1.5, 0.8, 0.0),
    "rester": lambda seed: Holder(0.0, 0.0, 1.0),
}
