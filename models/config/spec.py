"""What a world is about, in plain data: what it shows, what drives it, what it tells, and how it rewards and ends.

A spec is saved with a world and with a recording. Two that differ do not fit: `WorldSpec.check_same` says where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from drivedit.config.base import BaseConfig

MOST_NAMES = 1024
LARGEST = 1e9  # numbers that scale something
STEERING = "steering"  # the control that turns left and right, where it is called so
DTYPES = ("uint8", "float32")
Rule = Literal["learned", "constant", "on_end", "telemetry"]


@dataclass
class Modality(BaseConfig):
    """One kind of observation.

    Attributes:
        shape: Of one observation: `(H, W, C)` of pictures and range images.
        dtype: `uint8` or `float32`.
        low: Least value.
        high: Greatest value.
        unit: Of the values, in words.
    """

    shape: tuple[int, ...]
    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0
    unit: str = ""

    def __post_init__(self) -> None:
        self.check_ranges(shape=(1, 65536), low=(-math.inf, LARGEST), high=(-LARGEST, math.inf))
        if self.dtype not in DTYPES or not 1 <= len(self.shape) <= 4:
            raise ValueError(f"an observation is {' or '.join(DTYPES)} of 1 to 4 axes, got {self.dtype} {self.shape}")
        if not self.low < self.high:
            raise ValueError(f"an observation has low < high, got {self.low} and {self.high}")


@dataclass
class Quantity(BaseConfig):
    """One number of a vector: a control or a telemetry value.

    Attributes:
        name: In the field's words.
        low: Least value that is allowed (controls) or possible.
        high: Greatest one.
        scale: What one unit of a network's output means.
        unit: In words, for instance `m/s`.
    """

    name: str
    low: float = -1.0
    high: float = 1.0
    scale: float = 1.0
    unit: str = ""

    def __post_init__(self) -> None:
        self.check_ranges(low=(-LARGEST, LARGEST), high=(-LARGEST, LARGEST), scale=(-LARGEST, LARGEST))
        if not self.name or not self.low < self.high:
            raise ValueError(f"a quantity has a name and low < high, got {self.name!r}, {self.low} and {self.high}")


@dataclass
class RewardTerm(BaseConfig):
    """The rule of one reward term.

    Attributes:
        kind: `learned`: a head of the network, in units of `value` (0: measured from the recordings before training,
            or they have none); `constant`: `value` at every step; `on_end`: `value` at an ending, else 0 (a
            `DiTWorld` does not know which: of several, each is paid as the recordings' endings were on average);
            `telemetry`: `value` times the telemetry value of the same name.
        value: See `kind`.
    """

    kind: Rule
    value: float = 0.0

    def __post_init__(self) -> None:
        self.check_ranges(value=(-LARGEST, LARGEST))


@dataclass
class WorldSpec(BaseConfig):
    """What a world is about.

    Attributes:
        domain: Name of the simulator, or of where the recordings come from.
        observations: Kinds of observation by name; the first is the picture that people see.
        controls: What drives it, in order.
        telemetry: What it tells beside its observations, in order.
        rewards: Rules of the reward terms by name, in the order in which they are added.
        conditions: What can be told to it, for instance `route`.
        attributes: What a scene can be like: values by name, for instance `{"weather": ["clear", "fog"]}`.
        dt: Seconds from one observation to the next.
        any_dt: Whether it can take other intervals.
        endings: Why an episode ends, by name.
        steering: Name of the control that turns, above zero to the right; empty: see `steers`.

    Raises:
        ValueError: A name stands twice or means two things, a number is out of range, or what steers is no control with
            a range that is even about zero.
    """

    domain: str = ""
    observations: dict[str, Modality] = field(default_factory=dict)
    controls: list[Quantity] = field(default_factory=list)
    telemetry: list[Quantity] = field(default_factory=list)
    rewards: dict[str, RewardTerm] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=list)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    dt: float = 0.1
    any_dt: bool = False
    endings: dict[str, str] = field(default_factory=dict)
    steering: str = ""

    def __post_init__(self) -> None:
        self.check_ranges(dt=(1e-3, 100))
        for what in ("controls", "telemetry"):
            check_names(f"{what} of a world", [quantity.name for quantity in getattr(self, what)])
        check_names("conditions of a world", self.conditions)
        for what in ("observations", "rewards", "attributes", "endings"):
            check_names(f"{what} of a world", getattr(self, what))
        if self.steering and self.steering not in [each.name for each in self.controls if each.low == -each.high]:
            ranges = {each.name: (each.low, each.high) for each in self.controls}
            raise ValueError(f"steering is a control as far to either side of zero, got {self.steering!r} of {ranges}")
        unknown = [name for name, term in self.rewards.items()
                   if term.kind == "telemetry" and name not in self.names("telemetry")]  # fmt: skip
        if unknown:
            raise ValueError(
                f"the reward terms {unknown} are to be telemetry values of the same name, which are "
                f"{self.names('telemetry')}"
            )

    def names(self, what: Literal["controls", "telemetry"]) -> list[str]:
        """The names of the controls or of the telemetry values, in order."""
        return [quantity.name for quantity in getattr(self, what)]

    @property
    def rest(self) -> list[float]:
        """Controls that do nothing: zero each, or what is nearest to it."""
        return [min(max(0.0, control.low), control.high) for control in self.controls]

    def steers(self) -> int | None:
        """Place of the control that turns left and right; None: not known.

        It is `steering`, or else the one of that name, or else the only one that goes as far to either side of zero.
        """
        names, sides = self.names("controls"), [each.name for each in self.controls if each.low == -each.high]
        named = self.steering or (STEERING if STEERING in names else sides[0] if len(sides) == 1 else "")
        return names.index(named) if named else None

    def learned(self) -> list[str]:
        """The reward terms that a network learns, in order."""
        return [name for name, term in self.rewards.items() if term.kind == "learned"]

    @property
    def fps(self) -> float:
        """Observations per second."""
        return 1 / self.dt

    @property
    def picture(self) -> str:
        """The kind of observation that people see: the first one."""
        return next(iter(self.observations))

    def only(self, kinds: Sequence[str]) -> WorldSpec:
        """The spec with some kinds of observation alone, in this order.

        Raises:
            ValueError: It does not have one of them.
        """
        if set(kinds) - self.observations.keys():
            raise ValueError(f"there are the observations {list(self.observations)}, wanted are {list(kinds)}")
        return replace(self, observations={name: self.observations[name] for name in kinds})

    def check_same(self, other: WorldSpec, mine: str, theirs: str, parts: Sequence[str] = ()) -> None:
        """Checks that two specs say the same.

        Args:
            other: The other spec.
            mine: What this one belongs to, in words.
            theirs: What the other one belongs to.
            parts: Which fields must agree; none: observations, controls, telemetry, learned rewards and dt.

        Raises:
            ValueError: They differ; every field that does is named, with both sides.
        """
        wrong = []
        for part in parts or ("observations", "controls", "telemetry", "learned", "dt"):
            a, b = (_comparable(spec, part) for spec in (self, other))
            if a != b:
                wrong.append(f"{part}: {mine} has {a}, {theirs} has {b}")
        if wrong:
            raise ValueError(f"{mine} and {theirs} do not fit: " + "; ".join(wrong))


def check_names(what: str, names: Iterable[Any]) -> list[str]:
    """Names that are texts, all different, and not too many.

    Raises:
        ValueError: They are not; what they name is said.
    """
    names = list(names)
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"the names of the {what} must be texts, got {names}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the {what} have different names, got {twice} more than once")
    if len(names) > MOST_NAMES:
        raise ValueError(f"there can be {MOST_NAMES} {what} at most, got {len(names)}")
    return names


def _comparable(spec: WorldSpec, part: str) -> Any:
    """A part of a spec as it is compared and told; of what is seen the shapes, of numbers the names."""
    if part == "observations":
        return {name: f"{kind.dtype} {list(kind.shape)}" for name, kind in spec.observations.items()}
    if part in ("controls", "telemetry"):
        return spec.names("controls" if part == "controls" else "telemetry")
    return spec.learned() if part == "learned" else getattr(spec, part)
