"""What a simulator is to those who record it, judge a dream beside it, or drive in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from drivedit.utils.episodes import Agents

Options = dict[str, Any]  # of a reset


@dataclass(frozen=True)
class Truth:
    """What a simulator knows of its present moment; a domain's own may know more, for its own drivers.

    Attributes:
        telemetry: By the names of the spec.
        pose: float64 `[3]`: x, y (m), yaw (rad); None: there is no such thing.
        route: float32 `[M, 2]`, the centre line in driving direction; None: there is none.
        closed: Whether the route is a closed lap.
        bounds: float32 `[4]` of the field beyond which the episode ends; None: there are none.
        agents: Who else is there, of this one moment; None: not known.
        attributes: What the scene is like, values of the spec by name.
    """

    telemetry: dict[str, float]
    pose: np.ndarray | None = None
    route: np.ndarray | None = None
    closed: bool = False
    bounds: np.ndarray | None = None
    agents: Agents | None = None
    attributes: dict[str, str] = field(default_factory=dict)


class Recordable(Protocol):
    """What a recording needs of a simulator: a Gymnasium environment that can say what is true.

    `info` of `step` has `reward_terms`, and where the episode ends the term of the ending's name is not 0. An episode
    is a function of (seed, options, actions).
    """

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; gives the observation, or several by kind, and `info`."""
        ...

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes a step, as Gymnasium does."""
        ...

    def truth(self) -> Truth:
        """What is true now."""
        ...


class Simulator(Recordable, Protocol):
    """A recordable environment behind the spaces of a spec, where dreams can begin and which can be gone back in.

    Made without arguments it shows the first kind of observation; where the spec has several, `obs_type` chooses some.
    `info` of `reset` and `step` has `telemetry` as well.
    """

    def scene(self, n: int = 8) -> dict[str, Any]:
        """The scene of this moment, with the last `n` controls, for `reset(options={"scene": ...})` of a dream."""
        ...

    def get_state(self) -> Any:
        """This moment, to go back to."""
        ...

    def set_state(self, state: Any) -> None:
        """Goes back to a moment."""
        ...


class Driver(Protocol):
    """Who drives an episode of a recording."""

    @property
    def name(self) -> str:
        """What is stored with the episode."""
        ...

    def act(self, truth: Truth, observation: Any) -> np.ndarray:
        """The controls of the next step, float32 `[C]`, of what is true and of what is seen."""
        ...


class Goal(NamedTuple):
    """The range that a figure must be in, and the one to reach for."""

    least: tuple[float, float]
    reach: tuple[float, float]

    @classmethod
    def over(cls, least: float, reach: float) -> Goal:
        """Of a figure that may be as large as it likes."""
        return cls((least, math.inf), (reach, math.inf))

    @classmethod
    def under(cls, most: float, reach: float) -> Goal:
        """Of a figure that may be as small as it likes."""
        return cls((-math.inf, most), (-math.inf, reach))


@dataclass(frozen=True)
class OthersProbes:
    """What the evaluation asks of a simulator that has others on the road, and how it finds them in pictures.

    Attributes:
        empty: Reset options like those given, with nobody on the road.
        peopled: Reset options like those given, with many.
        gap: Name of the telemetry value that is the distance to the one ahead, in m.
        gap_range: From and to which gap the one ahead is judged.
        gaps: That distance, read off pictures `[N, H, W, 3]`, given those a step before: `[N]`.
        farthest: The greatest that is read.
        speed: Below it (m/s) braking and gas say little.
        cars: How likely a pixel shows another one, `[N, H, W]` of pictures `[N, H, W, 3]`.
        outlines: Left, top, right and bottom (pixels) of boxes `[A, >= 7]` seen from a pose `[3]`, `[A, 4]`; right is
            left where they are out of the picture.
        shown: How many pixels of the present picture show each of the others, by its id.
        size: Length, width and height (m) of one that is placed.
        placed: From and to which gap (m) one is placed ahead.
    """

    empty: Callable[[Options], Options]
    peopled: Callable[[Options], Options]
    gap: str
    gap_range: tuple[float, float]
    gaps: Callable[[np.ndarray, np.ndarray], np.ndarray]
    farthest: float
    speed: float
    cars: Callable[[np.ndarray], np.ndarray]
    outlines: Callable[[np.ndarray, np.ndarray], np.ndarray]
    shown: Callable[[Any], Mapping[int, int]]
    size: tuple[float, float, float]
    placed: tuple[float, float]


@dataclass(frozen=True)
class Probes:
    """What the evaluation asks of a simulator, and what it reads off its pictures so that a dream need not be believed.

    Attributes:
        good: Plans of the drivers that drive well (`plan` of those that `DomainConfig.drivers` draws).
        wild: Plans of those that do not.
        leaving: Plans of those that drive until the episode ends.
        driver: Policy of the domain that drives in closed loop, or "module:name" of what makes one.
        steers: Controls that are held, float32 `[3, C]`: left, straight on, right.
        throttles: Controls that are held, float32 `[3, C]`: full gas, less gas, brake.
        speed: Name of the telemetry value that is the speed.
        road: Name of the telemetry value that says what share of the car is on the road.
        top_speed: About the highest speed there is.
        at_speed: Reset options like those given, with a speed at which controls can tell.
        can_branch: Whether the effect of controls can be told at a moment, of its telemetry.
        road_share: Share of the ground around the car that is road, `[...]` of pictures `[..., H, W, 3]`.
        hide_fixed: Pictures `[..., H, W, 3]` without what stands still in them.
        turns: Turns to the right between pictures, `[T]` rad of `[T + 1, H, W, 3]`.
        gentle: Ranges that the controls of a speed measurement are drawn from, `[2, C]`.
        stock: Opens the simulator as others ship it; gives a function of one action of ours that takes as long a step.
            None: nobody ships it.
        goals: What figures are to be, by their names.
        ending: The ending that is judged; empty: any.
        false_alarms: Share of the steps without an ending that may alarm where its recall is told.
        drive_steps: Most steps of a drive in closed loop.
        drawings: Names of the hand-drawn routes (`closed_loop.hand_drawn_routes`) that its roads can be like.
        attributes: Attributes of the scene read off pictures `[N, H, W, 3]`, values by name `[N]`; None: none are.
        filmed: An attribute for each of whose values there is a film; empty: none.
        others: What is asked where others are on the road; None: nobody is.
    """

    good: tuple[str, ...]
    wild: tuple[str, ...]
    leaving: tuple[str, ...]
    driver: str
    steers: np.ndarray
    throttles: np.ndarray
    speed: str
    road: str
    top_speed: float
    at_speed: Callable[[Options], Options]
    can_branch: Callable[[Mapping[str, float]], bool]
    road_share: Callable[[np.ndarray], np.ndarray]
    hide_fixed: Callable[[np.ndarray], np.ndarray]
    turns: Callable[[np.ndarray], np.ndarray]
    gentle: np.ndarray
    stock: Callable[[], Callable[[np.ndarray], Any]] | None = None
    goals: Mapping[str, Goal] = field(default_factory=dict)
    ending: str = ""
    false_alarms: float = 0.01
    drive_steps: int = 1000
    drawings: tuple[str, ...] = ()
    attributes: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None
    filmed: str = ""
    others: OthersProbes | None = None


def load_object(path: str) -> Any:
    """Imports `module:name`.

    Raises:
        ValueError: The path has another form, or there is no such thing.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f'expected "module:name", for example "my_package.drivers:Careful", got {path!r}')
    try:
        return getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"cannot find {path!r} ({error}); give the name of an importable object") from error
