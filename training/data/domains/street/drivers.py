"""Who drives on the street for recordings: a lane keeper that sees the truth, and is not quite exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.car import BACK, BRAKES, FRONT, FULL_LOCK, GRAVITY
from drivedit.data.domains.street.cars import idm
from drivedit.data.domains.street.roads import STYLES, lane_middle
from drivedit.data.domains.street.truth import StreetTruth

SHARES = {  # of recorded episodes, in the order of the spec
    "road": (0.35, 0.35, 0.3),
    "weather": (0.4, 0.2, 0.2, 0.2),
    "time": (0.5, 0.2, 0.3),
    "traffic": (0.15, 0.35, 0.5),
}
GAS = 3.0  # m/s^2 of full gas, about
MEMORY = 0.9  # share of the noise that stays from step to step


class LaneKeeper:
    """Follows the middle of a lane by pure pursuit (Coulter 1992) and the car ahead by IDM.

    Args:
        rng: The only source of chance.
        noise: Size of the noise on the steering.
        haste: Share of the traffic's speed that it wants.
    """

    name = "lane_keeper"

    def __init__(self, rng: np.random.Generator, noise: float = 0.0, haste: float = 1.0) -> None:
        self._rng, self._noise, self._haste = rng, noise, haste
        self._headway = float(rng.uniform(0.8, 1.8))
        self._aside = float(rng.normal(0.0, 0.15)) * (noise > 0)  # m to the right of the middle
        self._shake = 0.0
        self._lane: int | None = None

    def act(self, truth: StreetTruth, observation: Any = None) -> np.ndarray:
        """The controls of the next step, float32 [2] inside [-1, 1]; it looks at nothing but the truth."""
        told, road = truth.telemetry, truth.road
        if road is None or truth.pose is None:
            raise ValueError("this driver drives on the street: it must be told a road and a pose")
        self._choose_lane(truth)
        speed, (x, y, yaw) = told["speed"], truth.pose
        reach = 4.0 + 0.6 * speed
        tx, ty, _ = road.place(truth.s + reach, lane_middle(road.shape, float(self._lane or 0)) - self._aside)
        angle = math.atan2(ty - y, tx - x) - yaw
        wheels = math.atan2(2 * (FRONT + BACK) * math.sin(angle), math.hypot(tx - x, ty - y))
        self._shake = MEMORY * self._shake + self._noise * float(self._rng.normal()) * min(1.0, 6.0 / max(speed, 1.0))
        gap = told["gap"] if told["gap"] < SPEC.telemetry[3].high else 1e9
        wanted = idm(speed, self._haste * truth.limit, gap, told["closing_speed"], self._headway)
        hardest = -0.85 * truth.grip * GRAVITY / BRAKES  # beyond it the wheels lock, and steer no more
        throttle = wanted / GAS if wanted > 0 else max(wanted / BRAKES, hardest)
        return np.clip(np.array([-wheels / FULL_LOCK + self._shake, throttle], np.float32), -1.0, 1.0)

    def _choose_lane(self, truth: StreetTruth) -> None:
        """Changes to another lane of the direction now and then, where nobody is near."""
        here = int(truth.telemetry["lane"])
        if self._lane is None:
            self._lane = here
        if len(truth.lanes) == 1 or here != self._lane:
            return
        slow = truth.telemetry["gap"] < 30 and truth.telemetry["closing_speed"] > 1
        if self._rng.random() < (0.08 if slow else 0.004):
            other = here + 1 if here + 1 < len(truth.lanes) else here - 1
            if not any(each.lane == other and abs(each.ahead) < 18 for each in truth.neighbours):
                self._lane = other


def make_driver(rng: np.random.Generator) -> tuple[LaneKeeper, dict[str, Any]]:
    """Draws a driver with the start of its episode (reset options of the twin)."""
    attributes = {name: str(rng.choice(SPEC.attributes[name], p=shares)) for name, shares in SHARES.items()}
    style, haste = STYLES[attributes["road"]], float(rng.uniform(0.7, 1.2))
    start = {
        "attributes": attributes,
        "track_position": float(rng.random()),
        "speed": float(rng.uniform(0.3, 0.9) * style.limit * min(1.0, haste) if rng.random() < 0.85 else 0.0),
        "lane": int(rng.integers(style.side)),
        "lateral_offset": float(rng.normal(0.0, 0.3)),
        "heading_error": float(rng.normal(0.0, 0.02)),
    }
    return LaneKeeper(rng, float(rng.choice([0.0, 0.005, 0.015])), haste), start
