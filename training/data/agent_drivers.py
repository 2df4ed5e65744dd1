"""Agents in the driver's seat of recordings: what a world was never shown is where agents learn to go.

World Models (Ha and Schmidhuber 2018) and Dreamer (Hafner et al. 2020) iterate so: the agent drives in reality, the
world learns from its drives, the agent learns in the better world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.config import DomainConfig, Quantity
from drivedit.config.rooms import LOAD_AGENT
from drivedit.utils import Truth, load_object

NOISE = (0.0, 0.0, 0.1, 0.3)  # sizes of the noise on all controls, one drawn per episode


class AgentDriver:
    """An agent that sees what is observed, as the driver of a recorded episode.

    Args:
        name: Its name, see `drivedit.agents.load_agent`.
        domain: Where it drives.
        noise: Standard deviation of the noise on the controls, as a share of half their range.
        rng: The only source of chance.
    """

    def __init__(self, name: str, domain: DomainConfig, noise: float, rng: np.random.Generator) -> None:
        self.name, self._noise, self._rng = name, noise, rng
        self._controls = domain.spec.controls
        self._agent = load_object(LOAD_AGENT)(name, int(rng.integers(2**31)))
        getattr(self._agent, "reset", lambda: None)()

    def act(self, truth: Truth, observation: Any) -> np.ndarray:
        """The agent's controls with noise, float32 `[C]` inside their ranges; it looks at the observation alone.

        Raises:
            ValueError: The agent answered with anything else than that many finite numbers.
        """
        return noisy(self.name, self._agent(observation), self._controls, self._noise, self._rng)


def noisy(
    name: str, answer: Any, controls: Sequence[Quantity], noise: float, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """What a policy answered with noise on it, float32 `[C]` in the ranges of the controls.

    Raises:
        ValueError: It is anything else than that many finite numbers.
    """
    low, high = np.array([(each.low, each.high) for each in controls]).T
    numbers = np.asarray(answer)
    if numbers.shape != low.shape or numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
        raise ValueError(f"policy {name!r} must answer with {len(low)} finite numbers, got {answer!r}")
    return np.clip(numbers + noise * (high - low) / 2 * rng.standard_normal(len(low)), low, high).astype(np.float32)


@dataclass(frozen=True)
class AgentDrivers:
    """Draws an agent, its noise and the start of its episode.

    Attributes:
        policies: Names of the agents, see `drivedit.agents.load_agent`.
        domain: Where they drive.
    """

    policies: tuple[str, ...]
    domain: DomainConfig

    def __call__(self, rng: np.random.Generator) -> tuple[AgentDriver, dict[str, Any]]:
        """A driver, and reset options of the simulator."""
        driver = AgentDriver(str(rng.choice(self.policies)), self.domain, float(rng.choice(NOISE)), rng)
        draw = self.domain.recording_starts
        return driver, load_object(draw)(rng) if draw else {}
