"""The behaviours of the street's recording drivers: which controllers they use, with numbers drawn anew each time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivedit.data.domains.street.controllers import Behaviour, Follow, Hold, Jerk, Pedal, Ram, Sweep, Turn, Wander


def _keep(rng: np.random.Generator) -> Follow:
    """A clean drive."""
    noise = float(rng.choice([0.0, 0.005, 0.015]))
    return Follow(
        rng,
        pace=rng.uniform(0.7, 1.2),
        headway=rng.uniform(0.8, 1.8),
        aside=rng.normal(0.0, 0.2),
        gas=rng.uniform(1.6, 4.0),
        noise=noise,
    )


def _slow(rng: np.random.Generator) -> Follow:
    """A clean drive, far below the speed of the others."""
    return Follow(rng, pace=rng.uniform(0.15, 0.6), headway=rng.uniform(1.0, 3.0), aside=rng.normal(0.0, 0.3))


def _tailgate(rng: np.random.Generator) -> Follow:
    """Fast, and a few metres behind the one ahead."""
    headway = rng.uniform(0.02, 0.3)
    return Follow(rng, pace=rng.uniform(1.2, 1.6), headway=headway, gas=rng.uniform(1.6, 2.5), brake=1.0, eager=0.0)


def _overtake(rng: np.random.Generator) -> Follow:
    """Past whoever is slower, on either side of the road."""
    headway, clear = rng.uniform(0.3, 1.0), rng.uniform(30.0, 120.0)
    return Follow(rng, pace=rng.uniform(1.2, 1.6), headway=headway, gas=1.6, brake=1.0, eager=0.3, clear=clear)


def _race(rng: np.random.Generator) -> Follow:
    """Faster than bends and others allow, and late to brake."""
    headway, delay = rng.uniform(0.1, 0.8), int(rng.integers(0, 4))
    return Follow(rng, pace=rng.uniform(1.4, 2.5), headway=headway, gas=1.2, brake=1.0, eager=0.3, delay=delay)


def _weave(rng: np.random.Generator) -> Follow:
    """Drunk: large slow swings, late and shaky."""
    return Follow(
        rng,
        pace=rng.uniform(0.5, 1.2),
        headway=rng.uniform(0.3, 1.5),
        aside=rng.normal(0.0, 0.4),
        weave=rng.uniform(0.7, 2.2),
        period=rng.uniform(3.0, 9.0),
        noise=rng.uniform(0.0, 0.08),
        delay=int(rng.integers(0, 4)),
    )


def _doze(rng: np.random.Generator) -> Wander:
    """Asleep: the controls stay about as they were."""
    size = np.array([rng.choice([0.0, 0.02, 0.06]), rng.choice([0.0, 0.1])])
    return Wander(rng, None, size, keep=0.95)


def _leave(rng: np.random.Generator) -> Follow:
    """Drives beside the pavement; what comes next brings the car back."""
    behaviour = Follow(rng, pace=rng.uniform(0.4, 1.0), aside=rng.uniform(1.8, 6.0), noise=rng.uniform(0.0, 0.03))
    behaviour._lane = 0
    return behaviour


def _go_astray(rng: np.random.Generator) -> Follow:
    """Off the road for good, where nothing stands in the way."""
    aside = float(rng.choice([-1.0, 1.0])) * rng.uniform(9.0, 15.0)
    return Follow(rng, pace=rng.uniform(0.5, 1.3), aside=aside, look=rng.uniform(0.4, 1.2), gas=2.0, eager=0.0)


def _against(rng: np.random.Generator) -> Follow:
    """Drives on the other side, whoever comes."""
    heeds = bool(rng.random() < 0.4)
    return Follow(rng, pace=rng.uniform(0.5, 1.2), aside=-rng.uniform(2.0, 4.0), gas=2.0, heeds=heeds, eager=0.0)


def _recover(rng: np.random.Generator) -> Follow:
    """A calm return to the lane."""
    return Follow(rng, pace=rng.uniform(0.5, 1.0), headway=rng.uniform(0.8, 1.8), gas=rng.uniform(2.0, 4.0))


def _wander(rng: np.random.Generator) -> Wander:
    """Random correlated controls."""
    mean = np.array([rng.normal(0.0, 0.05), rng.uniform(-0.2, 0.5)])
    size = np.array([rng.uniform(0.05, 0.7), rng.uniform(0.2, 0.8)])
    return Wander(rng, mean, size, keep=rng.uniform(0.5, 0.95))


def _hold(rng: np.random.Generator) -> Hold:
    """Any controls, often at an end of their range."""
    controls = rng.uniform(-1.0, 1.0, 2)
    ends = rng.random(2) < 0.3
    controls[ends] = rng.choice([-1.0, 0.0, 1.0], size=int(ends.sum()))
    return Hold(float(controls[0]), float(controls[1]))


def _pedal(rng: np.random.Generator) -> Pedal:
    """Along the lane with any throttle, often full gas or nothing, whoever is ahead."""
    throttle = float(rng.choice([rng.uniform(-0.4, 1.0), 1.0, 0.0]))
    return Pedal(Follow(rng, aside=rng.normal(0.0, 0.3)), throttle)


def _brake(rng: np.random.Generator) -> Pedal:
    """A stop."""
    return Pedal(Follow(rng), -float(rng.choice([rng.uniform(0.1, 0.9), 1.0])))


def _sweep(rng: np.random.Generator) -> Sweep:
    """The wheel from side to side."""
    period, phase = rng.uniform(0.6, 3.0), float(rng.choice([0.0, math.pi]))
    return Sweep(rng.uniform(0.1, 1.0), period, rng.uniform(-0.3, 0.8), phase)


def _jerk(rng: np.random.Generator) -> Jerk:
    """Any controls at any speed, and the lane in between."""
    follow = _keep(rng)
    follow.pace, follow.eager = rng.uniform(0.3, 1.6), 0.0
    return Jerk(rng, follow, rng.uniform(0.1, 0.6))


def _turn(rng: np.random.Generator) -> Turn:
    """Round, to the left or to the right."""
    side = float(rng.choice([-1.0, 1.0], p=[0.8, 0.2]))
    return Turn(Follow(rng, aside=-side), rng.uniform(2.5, 4.0), side * rng.uniform(0.9, 1.0))


def _ram(rng: np.random.Generator) -> Ram:
    """Into another one."""
    return Ram(rng.uniform(1.0, 2.0), rng.uniform(0.4, 1.0), bool(rng.random() < 0.4))


@dataclass(frozen=True)
class BehaviourKind:
    """A behaviour, how it is made, how many steps it lasts, and the behaviour that must follow it (if any)."""

    make: Callable[[np.random.Generator], Behaviour]
    steps: tuple[int, int]
    then: str | None = None


BEHAVIOURS: dict[str, BehaviourKind] = {
    "keep": BehaviourKind(_keep, (50, 200)),
    "slow": BehaviourKind(_slow, (30, 100)),
    "tailgate": BehaviourKind(_tailgate, (60, 200)),
    "overtake": BehaviourKind(_overtake, (60, 200)),
    "race": BehaviourKind(_race, (30, 100)),
    "weave": BehaviourKind(_weave, (40, 120)),
    "doze": BehaviourKind(_doze, (10, 50), "recover"),
    "leave": BehaviourKind(_leave, (20, 60), "recover"),
    "against": BehaviourKind(_against, (20, 80), "recover"),
    "recover": BehaviourKind(_recover, (20, 60)),
    "wander": BehaviourKind(_wander, (10, 50), "recover"),
    "hold": BehaviourKind(_hold, (2, 10), "recover"),
    "pedal": BehaviourKind(_pedal, (5, 30)),
    "brake": BehaviourKind(_brake, (5, 50)),
    "sweep": BehaviourKind(_sweep, (6, 40), "recover"),
    "jerk": BehaviourKind(_jerk, (40, 120)),
    "turn": BehaviourKind(_turn, (40, 90), "recover"),
    "go_astray": BehaviourKind(_go_astray, (1000, 1001)),
    "ram": BehaviourKind(_ram, (1000, 1001)),
}
