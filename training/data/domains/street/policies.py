"""Policies of the street by name: drivers of widely different skill and manners that see a picture or a scan alone.

They read off it where the lane goes, how far the car ahead is and how fast they are (`readout`), so they drive a dream
and the simulator alike. Lanes are followed by pure pursuit (Coulter 1992), cars by IDM.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.blind_policies import Erratic, Fixed
from drivedit.data.domains.street.driving import BACK, BRAKES, FRONT, FULL_LOCK, GRAVITY, follow, speed_after
from drivedit.data.domains.street.readout import AHEAD, SENSES, read

Policy = Callable[[Any], Any]

TRUST = 0.02  # share of a speed that is seen, in one that is remembered: what is seen tells little of it
TRUST_GAP = 0.5  # the same of gaps and closing speeds
SEEN = 70.0  # m: cars farther ahead are not heeded
FIRST_SPEED = 0.4  # share of the limit that is assumed before anything has moved
DAB = (8, -0.6)  # steps and throttle of braking for no reason


@dataclass(frozen=True)
class Skill:
    """How a `SightDriver` drives.

    Attributes:
        pace: Share of the traffic's speed that it wants.
        headway: Seconds to the car ahead.
        sight: Metres from which on it heeds the car ahead; 0: not at all.
        aside: Metres to the right of the lane's middle that it keeps.
        weave: Metres by which it swings to either side.
        period: Seconds of a swing.
        look: Seconds of driving that it looks ahead.
        gain: Steering per pure-pursuit angle.
        gas: Acceleration (m/s^2) for which it gives full gas.
        delay: Frames between seeing and acting.
        noise: Size of the noise on both controls.
        bias: Steering that is always added (> 0 right).
        fright: Chance per step that it begins to brake for no reason, for most of a second.
    """

    pace: float = 1.0
    headway: float = 1.4
    sight: float = SEEN
    aside: float = 0.0
    weave: float = 0.0
    period: float = 6.0
    look: float = 0.7
    gain: float = 1.0
    gas: float = 3.0
    delay: int = 0
    noise: float = 0.0
    bias: float = 0.0
    fright: float = 0.0

    def __post_init__(self) -> None:
        for name in ("pace", "period", "look", "gain", "gas"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("headway", "sight", "weave", "delay", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be below 0, got {getattr(self, name)}")
        if not abs(self.bias) <= 1:
            raise ValueError(f"bias must be in [-1, 1], got {self.bias}")
        if not 0 <= self.fright <= 1:
            raise ValueError(f"fright must be in [0, 1], got {self.fright}")


class SightDriver:
    """Keeps its lane and its distance, seeing pictures only, or range images only.

    Args:
        skill: How it drives.
        seed: Seed of its noise.
    """

    def __init__(self, skill: Skill | None = None, seed: int = 0) -> None:
        self.skill, self.seed = skill or Skill(), seed
        self.reset()

    def reset(self) -> None:
        """Forgets the last episode."""
        self._random = np.random.default_rng(self.seed)
        self._before: np.ndarray | None = None
        self._throttle, self._time = 0.0, 0.0
        self._speed, self._gap, self._closing = 0.0, SEEN, 0.0
        self._braking = 0
        self._late: deque[tuple[float, float]] = deque([(0.0, 0.0)] * self.skill.delay)

    def __call__(self, observation: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """The controls of the next step, float32 [2]: steering (right positive) and throttle, in [-1, 1].

        Args:
            observation: The picture, uint8 [64, 128, 3], or the range image, float32 [32, 256, 2], or observations by
                kind, of which it sees the first one of those.
        """
        if isinstance(observation, Mapping):
            seen = [observation[kind] for kind in SENSES if kind in observation]
            if not seen:
                raise ValueError(f"observations must have one of {', '.join(SENSES)}, got {', '.join(observation)}")
            observation = seen[0]
        frame = np.asarray(observation)
        before = frame if self._before is None else self._before
        seen = {name: float(each[0]) for name, each in read(frame[None], before[None]).items()}
        self._remember(seen)
        self._before = frame
        self._late.append((self._steer(seen), self._push(seen)))
        controls = np.array(self._late.popleft()) + (self.skill.bias, 0.0)
        controls = controls + self.skill.noise * self._random.standard_normal(2)
        self._throttle = float(np.clip(controls[1], -1.0, 1.0))
        self._time += SPEC.dt
        return np.clip(controls, -1.0, 1.0).astype(np.float32)

    def _remember(self, seen: dict[str, float]) -> None:
        """Mends the speed and the gap that were expected by those that are seen."""
        if self._before is None:
            self._speed, self._gap, self._closing = FIRST_SPEED * max(seen["limit"], 0.0), seen["gap"], 0.0
            return
        expected = speed_after(self._speed, self._throttle, max(seen["grip"], 0.2), SPEC.dt)
        self._speed = max(0.0, expected + TRUST * (seen["speed"] - expected))
        self._gap += TRUST_GAP * (seen["gap"] - self._gap)
        self._closing += TRUST_GAP * (seen["closing_speed"] - self._closing)

    def _steer(self, seen: dict[str, float]) -> float:
        """Pure pursuit of the lane's middle, or of a line beside it."""
        skill = self.skill
        far = min(max(4.0 + skill.look * self._speed, AHEAD[0]), AHEAD[-1])
        angle = float(np.interp(far, AHEAD, [seen[f"angle_{each:.0f}"] for each in AHEAD]))
        aside = skill.aside + skill.weave * math.sin(2 * math.pi * self._time / skill.period)
        right, on = far * math.sin(angle) + aside, far * math.cos(angle)
        wheels = math.atan(2 * (FRONT + BACK) * right / (right * right + on * on))
        return skill.gain * wheels / FULL_LOCK

    def _push(self, seen: dict[str, float]) -> float:
        """The pedals, by IDM, or the brake for no reason."""
        skill = self.skill
        if skill.fright and self._braking == 0 and self._random.random() < skill.fright:
            self._braking = DAB[0]
        if self._braking:
            self._braking -= 1
            return DAB[1]
        gap, closing = (self._gap, self._closing) if self._gap < min(skill.sight, SEEN) else (math.inf, 0.0)
        wanted = skill.pace * max(seen["limit"], 3.0)
        push = follow(self._speed, wanted, gap, closing, skill.headway)
        hardest = -min(0.85 * max(seen["grip"], 0.2) * GRAVITY / BRAKES, 1.0)
        return push / skill.gas if push > 0 else max(push / BRAKES, hardest)


SKILLS: dict[str, Skill] = {
    "follower": Skill(),
    "cautious": Skill(pace=0.75, headway=2.0),
    "patient": Skill(pace=0.9, headway=3.0),
    "lively": Skill(pace=1.2, headway=1.0, gas=2.0),
    "fast": Skill(pace=1.45, headway=0.8, gas=1.6),
    "speeder": Skill(pace=2.0, headway=0.5, gas=1.2),
    "unhurried": Skill(pace=0.5),
    "ambling": Skill(pace=0.25),
    "pushy": Skill(pace=1.2, headway=0.5, gas=2.0),
    "tailgater": Skill(pace=1.4, headway=0.1, gas=1.6),
    "late_braker": Skill(sight=14.0),
    "blind": Skill(sight=0.0),
    "blind_and_fast": Skill(pace=1.4, sight=0.0, gas=1.6),
    "blind_and_slow": Skill(pace=0.6, sight=0.0),
    "tipsy": Skill(weave=1.2, noise=0.05, delay=1),
    "swerving": Skill(weave=2.2, period=4.0),
    "sleepy": Skill(delay=4),
    "dozing": Skill(delay=9),
    "slow_to_react": Skill(delay=6, pace=0.5),
    "trembling": Skill(noise=0.15),
    "frantic": Skill(noise=0.5),
    "keeps_left": Skill(aside=-0.9),
    "keeps_right": Skill(aside=0.7),
    "on_the_verge": Skill(aside=2.2),
    "drifts_right": Skill(bias=0.04),
    "loose_grip": Skill(gain=0.35),
    "jumpy": Skill(gain=2.5, look=0.4),
    "brake_happy": Skill(fright=0.05),
    "fast_and_brake_happy": Skill(pace=1.45, headway=0.8, gas=1.6, fright=0.05),
}


def _seeing(skill: Skill) -> Callable[[int], Policy]:
    return lambda seed: SightDriver(skill, seed)


POLICIES: dict[str, Callable[[int], Policy]] = {
    **{name: _seeing(skill) for name, skill in SKILLS.items()},
    "rolling": lambda seed: Fixed((0.0, 0.2)),
    "standing": lambda seed: Fixed((0.0, 0.0)),
    "erratic": Erratic,
}
