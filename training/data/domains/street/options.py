"""What an episode of the street begins with: reset options, checked, and what they leave to the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.cars import TICK
from drivedit.data.domains.street.roads import STYLES
from drivedit.utils import real_numbers

LONGEST = 2.0  # s, of a step
RANGES = {
    "track_position": (0.0, math.nextafter(1.0, 0.0)),
    "speed": (0.0, 45.0),
    "lane": (0.0, 1.0),
    "lateral_offset": (-10.0, 10.0),
    "heading_error": (-1.5, 1.5),
    "dt": (TICK, LONGEST),
}


@dataclass(frozen=True)
class Start:
    """What an episode begins with.

    Attributes:
        attributes: A value for each of the spec.
        track_position: Share of the lap.
        dt: Seconds of a step.
        speed: m/s; None: as the traffic.
        lane: 0 is the right one.
        lateral_offset: Metres to the right of the lane's middle.
        heading_error: Radians to the right.
    """

    attributes: dict[str, str]
    track_position: float
    dt: float = SPEC.dt
    speed: float | None = None
    lane: int = 0
    lateral_offset: float = 0.0
    heading_error: float = 0.0


def check_options(options: Any, seed: int) -> Start:
    """The start that reset options ask for.

    Args:
        options: Of `reset`; what is None is left out.
        seed: What is left out is drawn from.

    Raises:
        ValueError: An option is unknown or out of its range.
    """
    known = ["attributes", *RANGES]
    if not isinstance(options, Mapping | None):
        raise ValueError(f"reset options are a dictionary with the keys {known}, got {options!r}")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    unknown = set(options or {}) - set(known)
    if unknown:
        raise ValueError(f"reset options are {known}, got {sorted(map(str, unknown))}")
    rng = np.random.default_rng([seed, 4])
    drawn = {name: str(rng.choice(values)) for name, values in SPEC.attributes.items()}
    position = float(rng.random())
    attributes = drawn | _attributes(given.pop("attributes", {}))
    numbers = {"track_position": position} | {name: _number(name, value) for name, value in given.items()}
    lane, dt = numbers.pop("lane", 0.0), numbers.pop("dt", SPEC.dt)
    lanes = STYLES[attributes["road"]].side
    if lane != int(lane) or lane >= lanes:
        raise ValueError(
            f"reset option 'lane' is a whole number below {lanes} on a {attributes['road']} road, got {lane:g}"
        )
    if abs(dt / TICK - round(dt / TICK)) > 1e-6:
        raise ValueError(f"dt is a multiple of {TICK} s, got {dt:g}")
    return Start(attributes, dt=round(dt / TICK) * TICK, lane=int(lane), **numbers)  # type: ignore[arg-type]


def _attributes(given: Any) -> dict[str, str]:
    """Attributes of the spec, or ValueError."""
    if not isinstance(given, Mapping):
        raise ValueError(f"reset option 'attributes' is a dictionary of {list(SPEC.attributes)}, got {given!r}")
    wrong = {name: value for name, value in given.items() if value not in SPEC.attributes.get(name, ())}
    if wrong:
        raise ValueError(f"attributes are {SPEC.attributes}, got {wrong}")
    return dict(given)


def _number(name: str, value: Any) -> float:
    """A number in the range of an option, or ValueError."""
    low, high = RANGES[name]
    number = real_numbers(value, f"reset option {name!r} is a number")
    if number.ndim:
        raise ValueError(f"reset option {name!r} is a number, got shape {list(number.shape)}")
    if not low - 1e-9 <= float(number) <= high:
        raise ValueError(f"reset option {name!r} lies in [{low:g}, {high:g}], got {float(number):g}")
    return float(number)
