"""What a simulator is to those who record it, judge a dream beside it, or drive in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Probes:
    """What the evaluation asks of a simulator, and what it reads off its pictures so that a dream need not be believed.

    Attributes:
        good: Plans of the drivers that drive well (`plan` of those that `DomainConfig.drivers` draws).
        wild: Plans of those that do not.
        leaving: Plans of those that drive until the episode ends.
        driver: Policy of the domain that drives in closed loop.
        steers: Controls that are held, float32 `[3, C]`: full left, straight on, full right.
        throttles: Controls that are held, float32 `[3, C]`: full gas, some gas, brake.
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
    stock: Callable[[], Callable[[np.ndarray], Any]]


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
