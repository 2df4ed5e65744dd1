"""Privileged drivers for recording: they see the pose and the route, and change their behaviour at random times.

A driver is a plan for one episode. The plan draws behaviours (follow the road well, follow it badly, correlated noise,
held controls, stop and go, leave the road and come back, swerve, spin, donuts, run away), each for a random time.
Everything is a function of one `numpy.random.Generator`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from drivedit.data.domains.carracing.behaviours import BEHAVIOURS, View
from drivedit.data.geometry import RoadTruth, wrap_angle

# Plan: its share of the episodes, and the share of each behaviour within it.
PLANS: dict[str, tuple[float, dict[str, float]]] = {
    "clean": (0.28, {"good": 0.8, "lane": 0.2}),
    "mixed": (
        0.41,
        {
            "good": 0.16,
            "lane": 0.09,
            "sloppy": 0.09,
            "reckless": 0.06,
            "dash": 0.12,
            "leave": 0.17,
            "wander": 0.09,
            "hold": 0.14,
            "brake": 0.05,
            "spin": 0.05,
        },
    ),
    "wild": (
        0.11,
        {
            "wander": 0.25,
            "hold": 0.2,
            "reckless": 0.1,
            "dash": 0.1,
            "sloppy": 0.1,
            "spin": 0.1,
            "donut": 0.1,
            "leave": 0.05,
        },
    ),
    "swerving": (0.08, {"good": 0.5, "dash": 0.1, "swerve": 0.4}),
    "run_away": (0.12, {"good": 1.0}),
}


class Driver:
    """One episode's driver.

    Args:
        rng: the only source of chance.
        plan: a key of `PLANS`, or None to draw one.
        direction: +1 along the route, -1 against it.
    """

    def __init__(self, rng: np.random.Generator, plan: str | None = None, direction: int = 1) -> None:
        if plan is not None and plan not in PLANS:
            raise ValueError(f"plan must be one of {list(PLANS)}, got {plan!r}")
        self.rng, self.direction = rng, direction
        self.plan = plan or _draw(rng, {name: share for name, (share, _) in PLANS.items()})
        self.behaviour_name = ""
        self._left = 0
        self._next: str | None = None

    @property
    def name(self) -> str:
        """Plan and direction, as stored with the recording."""
        return self.plan if self.direction > 0 else f"{self.plan}-backwards"

    def act(self, truth: RoadTruth, observation: Any = None) -> np.ndarray:
        """Chooses the controls of the next step from pose, speed and centre line; these drivers look at nothing.

        Returns:
            float32 [2], inside [-1, 1].
        """
        if self._left <= 0:
            self._change_behaviour()
        self._left -= 1
        pose, line = truth.road
        controls = self._behaviour(View(pose, truth.telemetry["speed"], line, self.direction))
        return np.clip(np.array(controls, dtype=np.float32), -1.0, 1.0)

    def _change_behaviour(self) -> None:
        """Draws the next behaviour and how long it lasts."""
        if self._next is not None:
            name = self._next
        elif self.plan == "run_away" and self.behaviour_name:
            name = "run_away"
        else:
            name = _draw(self.rng, PLANS[self.plan][1])
        kind = BEHAVIOURS[name]
        self.behaviour_name, self._next = name, kind.then
        self._behaviour = kind.make(self.rng)
        low, high = (5, 40) if self.plan == "run_away" and name == "good" else kind.steps
        self._left = int(self.rng.integers(low, high))


def draw_start(rng: np.random.Generator, plan: str) -> tuple[dict[str, float], int]:
    """Draws where an episode starts: anywhere on the track, sometimes beside it, sometimes facing backwards.

    Returns:
        Reset options of the twin, and the driving direction (+1 or -1).
    """
    clean = plan == "clean"
    chance = rng.random()
    backwards = (not clean) and chance < 0.06
    astray = (not clean) and 0.06 <= chance < 0.30
    heading = rng.normal(0.0, 0.1)
    if astray:
        heading = rng.uniform(-math.pi, math.pi) if rng.random() < 0.4 else rng.normal(0.0, 0.6)
    turned = backwards and rng.random() < 0.9
    options: dict[str, Any] = {
        "track_position": float(rng.random()),
        "lateral_offset": float(rng.uniform(-20.0, 20.0) if astray else rng.uniform(-5.0, 5.0)),
        "heading_error": wrap_angle(heading + (math.pi if turned else 0.0)),
        "speed": float(0.0 if rng.random() < 0.15 else rng.uniform(0.0, 60.0)),
    }
    return options, -1 if backwards else 1


def draw_good_start(rng: np.random.Generator) -> dict[str, float]:
    """Draws where an agent's episode starts: anywhere on the road, at any speed."""
    return draw_start(rng, "clean")[0]


def make_driver(rng: np.random.Generator) -> tuple[Driver, dict[str, float]]:
    """Draws a driver with the start of its episode (reset options of the twin)."""
    plan = _draw(rng, {name: share for name, (share, _) in PLANS.items()})
    start, direction = draw_start(rng, plan)
    return Driver(rng, plan, direction), start


def _draw(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """A key, drawn with its share."""
    weights = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=weights / weights.sum()))
