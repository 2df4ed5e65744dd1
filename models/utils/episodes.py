"""One recorded drive in memory: named observations, controls, rewards and telemetry, as its `WorldSpec` says.

Legend: n steps of an episode, C controls, M points of a route, A agents of all states one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drivedit.config import WorldSpec
from drivedit.config.spec import check_names

MOST_POINTS = 100_000  # of a route
BOX = 7  # numbers that tell an agent's place and size

Shape = tuple[str, tuple[int | None, ...]]  # dtype and sizes; None: any size


@dataclass
class Agents:
    """Who else was there, at every state.

    Attributes:
        first: int64 `[n + 2]`; the agents of state k are the rows `first[k]` to `first[k + 1]`.
        ids: int64 `[A]`; an agent keeps its own as long as it is there.
        boxes: float32 `[A, 7]`: x, y, z of the middle, length, width, height (m), yaw (rad); in the plane of the poses.
        kinds: int64 `[A]`, the place of each one's kind in `names`.
        names: Kinds of agents, in words.
    """

    first: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    names: tuple[str, ...] = ("car",)

    def at(self, state: int) -> slice:
        """The rows of the agents of a state."""
        return slice(int(self.first[state]), int(self.first[state + 1]))

    def during(self, states: slice) -> Agents:
        """The agents of some states that follow one another, copied."""
        first = np.array(self.first[states.start : states.stop + 1])
        rows = slice(int(first[0]), int(first[-1]))
        ids, boxes, kinds = (np.array(array[rows]) for array in (self.ids, self.boxes, self.kinds))
        return Agents(first - first[0], ids, boxes, kinds, self.names)

    @staticmethod
    def join(parts: Sequence[Agents]) -> Agents:
        """The agents of states that follow one another, of at least one part; their kinds have the same names."""
        counts = [np.diff(part.first) for part in parts]
        first = np.concatenate([[0], *counts]).cumsum().astype(np.int64)
        ids, boxes, kinds = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "boxes", "kinds")
        )
        return Agents(first, ids, boxes, kinds, parts[0].names)


@dataclass
class Episode:
    """One drive of `n` steps. NaN in a float array means that the recording does not know it.

    What is left out is filled in as not known. A map projection's places are to be told from an origin near the drive
    (`drivedit.utils.origin_of`).

    Attributes:
        spec: What the drive is about; names, widths and types below are its.
        observations: By kind `[n + 1, ...]`.
        controls: float32 `[n, C]`; `controls[i]` led from state i to state i + 1.
        reward: float32 `[n]`, the whole reward.
        rewards: Its terms by name, float32 `[n]` each, as they were earned.
        terminated: bool `[n]`.
        telemetry: By name, float32 `[n + 1]` each.
        poses: float64 `[n + 1, 3]`: x, y (m), yaw (rad).
        times: float64 `[n + 1]` seconds that increase; None: `spec.dt` from each state to the next.
        route: float32 `[M, 2]`, the centre line in driving direction; M = 0: not known.
        closed: Whether the route is a closed lap.
        bounds: float32 `[4]` of the field beyond which the episode ends: x and y at least, x and y at most; None: not
            known.
        agents: Who else was there; None: not known.
        attributes: What the scene was like, each a value that the spec allows.
        ending: Why it ended, one of the spec's endings; empty: it did not, or that is not known.
        seed: Seed of the scene.
        driver: Name of the driver.
        start: Reset options of the simulator.
        extra: Further arrays of numbers, texts and numbers by name, which the format only carries.
    """

    spec: WorldSpec
    observations: dict[str, np.ndarray]
    controls: np.ndarray
    reward: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    rewards: dict[str, np.ndarray] = field(default_factory=dict)
    terminated: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    telemetry: dict[str, np.ndarray] = field(default_factory=dict)
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    times: np.ndarray | None = None
    route: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    closed: bool = True
    bounds: np.ndarray | None = None
    agents: Agents | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    ending: str = ""
    seed: int = 0
    driver: str = ""
    start: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self)
        self.reward = self.reward if len(self.reward) else _unknown(n)
        self.terminated = self.terminated if len(self.terminated) else np.zeros(n, bool)
        self.poses = self.poses if len(self.poses) else np.full((n + 1, 3), np.nan)
        self.rewards = {name: _unknown(n) for name in self.spec.rewards} | self.rewards
        self.telemetry = {name: _unknown(n + 1) for name in self.spec.names("telemetry")} | self.telemetry

    def __len__(self) -> int:
        """Steps."""
        return len(self.controls)

    @property
    def picture(self) -> np.ndarray:
        """The observations that people see, `[n + 1, ...]`."""
        return self.observations[self.spec.picture]

    def seconds(self) -> np.ndarray:
        """Time of every state, float64 `[n + 1]`."""
        return self.spec.dt * np.arange(len(self) + 1) if self.times is None else self.times

    def told(self, name: str) -> np.ndarray:
        """A telemetry value by its name, `[n + 1]`; NaN where the recording has none of that name."""
        return self.telemetry.get(name, _unknown(len(self) + 1))

    def earned(self, name: str) -> np.ndarray:
        """A reward term by its name, `[n]`; NaN where the recording has none of that name."""
        return self.rewards.get(name, _unknown(len(self)))


def _unknown(count: int) -> np.ndarray:
    """Numbers that are not known."""
    return np.full(count, np.nan, np.float32)


def shapes(spec: WorldSpec, steps: int) -> dict[str, Shape]:
    """What each array of an episode must be, those of dictionaries as `dictionary/name`."""
    n = steps
    return {
        **{f"observations/{name}": (kind.dtype, (n + 1, *kind.shape)) for name, kind in spec.observations.items()},
        "controls": ("float32", (n, len(spec.controls))),
        "reward": ("float32", (n,)),
        **{f"rewards/{name}": ("float32", (n,)) for name in spec.rewards},
        "terminated": ("bool", (n,)),
        **{f"telemetry/{name}": ("float32", (n + 1,)) for name in spec.names("telemetry")},
        "poses": ("float64", (n + 1, 3)),
        "route": ("float32", (None, 2)),
        "times": ("float64", (n + 1,)),
        **{f"agents/{name}": shape for name, shape in agent_shapes(n + 1).items()},
    }


def agent_shapes(states: int) -> dict[str, Shape]:
    """What each array of the agents of some states must be."""
    return {
        "first": ("int64", (states + 1,)),
        "ids": ("int64", (None,)),
        "boxes": ("float32", (None, BOX)),
        "kinds": ("int64", (None,)),
    }


def arrays_of(episode: Episode) -> dict[str, np.ndarray]:
    """The arrays of an episode by the names of `shapes`; what is None is left out."""
    arrays = {name: getattr(episode, name) for name in ("controls", "reward", "terminated", "poses", "route")}
    for part in ("observations", "rewards", "telemetry"):
        arrays |= {f"{part}/{name}": array for name, array in getattr(episode, part).items()}
    if episode.times is not None:
        arrays["times"] = episode.times
    if episode.agents is not None:
        arrays |= {f"agents/{name}": getattr(episode.agents, name) for name in agent_shapes(0)}
    return {name: np.asarray(array) for name, array in arrays.items()}


def check_arrays(arrays: Mapping[str, Any], wanted: Mapping[str, Shape], steps: int) -> None:
    """Checks types and shapes of arrays, or of HDF5 datasets that are not read yet.

    Raises:
        ValueError: One is missing, too much, or of another type or shape; all that are wrong are named, both sides.
    """
    optional = {name for name in wanted if name == "times" or name.startswith("agents/")}
    wrong = []
    for name in dict.fromkeys((*wanted, *arrays)):
        if name not in wanted:
            wrong.append(f"{name}: the episode has it, its spec has none")
        elif name not in arrays:
            wrong += [] if name in optional else [f"{name}: the episode has none, its spec has it"]
        elif not _fits(arrays[name], wanted[name]):
            got = f"{arrays[name].dtype} {list(arrays[name].shape)}"
            wrong.append(f"{name}: the episode has {got}, its spec {_words(wanted[name])}")
    if wrong:
        raise ValueError(f"an episode of {steps} steps does not fit its spec: " + "; ".join(wrong))
    if steps < 1 or not any(name.startswith("observations/") for name in wanted):
        raise ValueError(f"an episode needs a step and something that is seen, got {steps} steps and {sorted(arrays)}")
    if len(arrays["route"]) > MOST_POINTS:
        raise ValueError(f"a route can have {MOST_POINTS} points at most, got {len(arrays['route'])}")


def _fits(array: Any, shape: Shape) -> bool:
    """Whether an array is of a type and shape."""
    dtype, sizes = shape
    same = len(sizes) == array.ndim and all(a in (b, None) for a, b in zip(sizes, array.shape, strict=True))
    return same and array.dtype == np.dtype(dtype)


def _words(shape: Shape) -> str:
    """A type and shape in words."""
    return f"{shape[0]} {list(shape[1])}".replace("None", "any")


def columns(table: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The columns of a table by their names, each an array of its own."""
    return dict(zip(names, np.ascontiguousarray(table.T), strict=True))


def check_episode(episode: Episode) -> None:
    """Checks an episode against its spec.

    Raises:
        ValueError: It does not fit; both sides are named.
    """
    spec, steps = episode.spec, len(episode) if np.ndim(episode.controls) else 0
    check_arrays(arrays_of(episode), shapes(spec, steps), steps)
    times = episode.times
    if times is not None and not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError("the times of an episode must be finite and increase")
    if episode.bounds is not None and np.shape(episode.bounds) != (4,):
        raise ValueError(f"the bounds of an episode must be 4 values, got the shape {list(np.shape(episode.bounds))}")
    check_attributes(episode.attributes, spec, "an episode")
    if episode.ending and episode.ending not in spec.endings:
        raise ValueError(f"the ending {episode.ending!r} of an episode is none of its spec's, {list(spec.endings)}")
    if episode.agents is not None:
        check_agents(episode.agents, steps + 1)


def check_attributes(attributes: Mapping[str, str], spec: WorldSpec, what: str) -> None:
    """Checks what something was like against the values that a spec allows.

    Raises:
        ValueError: The spec has no such attribute, or not that value of it; `what` names whose attributes they are.
    """
    wrong = {
        name: value
        for name, value in attributes.items()
        if not isinstance(value, str) or value not in spec.attributes.get(name, ())
    }
    if wrong:
        raise ValueError(f"the attributes {wrong} of {what} are none of its spec, which has {spec.attributes}")


def check_agents(agents: Agents, states: int) -> None:
    """Checks that every agent belongs to one of the states, once, and is of a kind that has a name.

    Raises:
        ValueError: They do not, or an array is of another type or shape; both sides are named.
    """
    for name, shape in agent_shapes(states).items():
        array = getattr(agents, name)
        if not isinstance(array, np.ndarray) or not _fits(array, shape):
            got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"`{name}` of the agents of {states} states must be an array {_words(shape)}, got {got}")
    check_names("kinds of agents", agents.names)
    first, count = agents.first, len(agents.ids)
    if first[0] != 0 or first[-1] != count or (np.diff(first) < 0).any():
        raise ValueError(f"`first` of agents must go from 0 to their number {count} without falling, got {first}")
    if not len(agents.boxes) == len(agents.kinds) == count:
        raise ValueError(f"{count} agents have {len(agents.boxes)} boxes and {len(agents.kinds)} kinds")
    if count and not (0 <= agents.kinds.min() and agents.kinds.max() < len(agents.names)):
        raise ValueError(
            f"kinds of agents are places in {agents.names}, got {agents.kinds.min()} to {agents.kinds.max()}"
        )
    state = np.repeat(np.arange(states), np.diff(first))
    if len(np.unique(np.stack([state, agents.ids]), axis=1).T) < count:
        raise ValueError("two agents of one state have the same id")
