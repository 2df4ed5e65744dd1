"""Who drives on the street for recordings: drivers that see the truth, and change their behaviour at random times.

A driver is a plan for one episode: some time of good driving, and then behaviours of its mix, each for a random time.
Everything is a function of one `numpy.random.Generator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.behaviours import BEHAVIOURS
from drivedit.data.domains.street.controllers import Behaviour, Follow
from drivedit.data.domains.street.roads import STYLES
from drivedit.data.domains.street.truth import StreetTruth

SHARES = {  # of recorded episodes, in the order of the spec
    "road": (0.35, 0.35, 0.3),
    "weather": (0.4, 0.2, 0.2, 0.2),
    "time": (0.5, 0.2, 0.3),
    "traffic": (0.15, 0.35, 0.5),
}


@dataclass(frozen=True)
class Plan:
    """How an episode is driven.

    Attributes:
        share: Of the episodes.
        mix: Share of each behaviour.
        calm: Fewest and most steps of good driving before it.
    """

    share: float
    mix: dict[str, float]
    calm: tuple[int, int] = (0, 1)


PLANS = {
    "clean": Plan(0.28, {"keep": 0.85, "slow": 0.15}),
    "close": Plan(0.14, {"tailgate": 0.35, "overtake": 0.25, "brake": 0.2, "pedal": 0.2}),
    "shaky": Plan(0.18, {"jerk": 0.55, "weave": 0.15, "leave": 0.15, "pedal": 0.1, "brake": 0.05}),
    "mixed": Plan(
        0.17,
        {
            "slow": 0.03,
            "race": 0.08,
            "weave": 0.12,
            "doze": 0.08,
            "leave": 0.18,
            "against": 0.05,
            "wander": 0.06,
            "hold": 0.06,
            "pedal": 0.08,
            "brake": 0.08,
            "sweep": 0.06,
            "jerk": 0.08,
            "turn": 0.04,
        },
        (0, 60),
    ),
    "wild": Plan(0.07, {"wander": 0.25, "hold": 0.2, "sweep": 0.15, "jerk": 0.2, "pedal": 0.1, "race": 0.1}, (0, 150)),
    "ram": Plan(0.06, {"ram": 1.0}, (5, 200)),
    "turn": Plan(0.07, {"turn": 1.0}, (5, 150)),
    "astray": Plan(0.03, {"go_astray": 1.0}, (5, 150)),
}


class Driver:
    """One episode's driver.

    Args:
        rng: The only source of chance.
        plan: A key of `PLANS`, or None to draw one.

    Raises:
        ValueError: There is no such plan.
    """

    def __init__(self, rng: np.random.Generator, plan: str | None = None) -> None:
        if plan is not None and plan not in PLANS:
            raise ValueError(f"plan must be one of {list(PLANS)}, got {plan!r}")
        self.rng = rng
        self.plan = plan or _draw(rng, {name: each.share for name, each in PLANS.items()})
        self._next: str | None = None
        self._begin("keep", int(rng.integers(*PLANS[self.plan].calm)))
        self._before = (0.0, 0.0)

    @property
    def name(self) -> str:
        """The plan, as stored with the recording."""
        return self.plan

    def act(self, truth: StreetTruth, observation: Any = None) -> np.ndarray:
        """The controls of the next step, float32 [2] inside [-1, 1]; it looks at nothing but the truth."""
        if self._left <= 0:
            self._begin(self._next or _draw(self.rng, PLANS[self.plan].mix))
        self._left -= 1
        controls = np.clip(np.array(self._behaviour(truth, self._before), np.float32), -1.0, 1.0)
        self._before = (float(controls[0]), float(controls[1]))
        return controls

    def _begin(self, name: str, steps: int | None = None) -> None:
        """Begins a behaviour, for some steps or as long as one of its kind lasts."""
        kind = BEHAVIOURS[name]
        self.behaviour_name, self._next = name, kind.then
        self._behaviour: Behaviour = kind.make(self.rng)
        self._left = int(self.rng.integers(*kind.steps)) if steps is None else steps


class LaneKeeper:
    """Keeps its lane and its distance, exactly.

    Args:
        rng: The only source of chance, for when it changes lanes.
    """

    name = "lane_keeper"

    def __init__(self, rng: np.random.Generator) -> None:
        self._follow = Follow(rng)

    def act(self, truth: StreetTruth, observation: Any = None) -> np.ndarray:
        """The controls of the next step, float32 [2] inside [-1, 1]; it looks at nothing but the truth."""
        return np.clip(np.array(self._follow(truth, (0.0, 0.0)), np.float32), -1.0, 1.0)


def draw_start(rng: np.random.Generator, plan: str) -> dict[str, Any]:
    """Draws where an episode starts: anywhere in the lanes; of plans that are not clean sometimes beside or askew.

    Returns:
        Reset options of the twin.
    """
    attributes = {name: str(rng.choice(SPEC.attributes[name], p=shares)) for name, shares in SHARES.items()}
    style, astray = STYLES[attributes["road"]], plan in ("mixed", "wild") and rng.random() < 0.2
    return {
        "attributes": attributes,
        "track_position": float(rng.random()),
        "speed": float(rng.uniform(0.1, 1.2) * style.limit if rng.random() < 0.85 else 0.0),
        "lane": 0 if astray else int(rng.integers(style.side)),
        "lateral_offset": float(rng.uniform(-1.5, 4.0) if astray else rng.normal(0.0, 0.3)),
        "heading_error": float(rng.normal(0.0, 0.2 if astray else 0.02)),
    }


def draw_good_start(rng: np.random.Generator) -> dict[str, Any]:
    """Draws where an agent's episode starts: anywhere in the lanes, at any speed."""
    return draw_start(rng, "clean")


def make_driver(rng: np.random.Generator) -> tuple[Driver, dict[str, Any]]:
    """Draws a driver with the start of its episode (reset options of the twin)."""
    driver = Driver(rng)
    return driver, draw_start(rng, driver.plan)


def _draw(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """A key, drawn with its share."""
    weights = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=weights / weights.sum()))
