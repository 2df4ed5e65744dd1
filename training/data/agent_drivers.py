"""Agents in the driver's seat of recordings: what a world was never shown is where agents learn to go.

World Models (Ha and Schmidhuber 2018) and Dreamer (Hafner et al. 2020) iterate so: the agent drives in reality, the
world learns from its drives, the agent learns in the better world.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import numpy as np

from drivedit.data.domains.carracing.drivers import draw_start
from drivedit.data.geometry import CentreLine

LOADER = "drivedit.agents.load:load_agent"  # by name: recordings are made without agents, too
NOISE = (0.0, 0.0, 0.1, 0.3)  # sizes of the noise on both controls, one drawn per episode


class AgentDriver:
    """An agent that sees frames, as the driver of a recorded episode.

    Args:
        name: Its name, see `drivedit.agents.load_agent`.
        noise: Standard deviation of the noise on both controls.
        rng: The only source of chance.
    """

    def __init__(self, name: str, noise: float, rng: np.random.Generator) -> None:
        self.name, self._noise, self._rng = name, noise, rng
        self._agent = resolve_name(LOADER)(name, int(rng.integers(2**31)))
        getattr(self._agent, "reset", lambda: None)()

    def act(self, pose: np.ndarray, telemetry: dict[str, float], line: CentreLine, frame: np.ndarray) -> np.ndarray:
        """The agent's controls with noise, float32 [2] inside [-1, 1]; it looks at the frame alone.

        Raises:
            ValueError: The agent answered with anything else than two finite numbers.
        """
        answer = np.asarray(self._agent(frame))
        if answer.shape != (2,) or not np.isfinite(answer).all():
            raise ValueError(f"policy {self.name!r} must answer with two finite numbers, got {answer!r}")
        return np.clip(answer + self._noise * self._rng.standard_normal(2), -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class AgentDrivers:
    """Draws an agent, its noise and the start of its episode.

    Attributes:
        policies: Names of the agents, see `drivedit.agents.load_agent`.
    """

    policies: tuple[str, ...]

    def __call__(self, rng: np.random.Generator) -> tuple[AgentDriver, dict[str, Any]]:
        """A driver, and reset options of the twin."""
        driver = AgentDriver(str(rng.choice(self.policies)), float(rng.choice(NOISE)), rng)
        start, _ = draw_start(rng, "clean")
        return driver, start
