"""What every world is: start scenes are entered, a state is stepped under controls, and observed.

Environment, viewer, judge and evaluation know this protocol and the spec, and nothing else of a world.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from drivedit.config import Modality, WorldSpec
from drivedit.models.scenes import Scene
from drivedit.models.state import RowState
from drivedit.models.storage import WorldStorage

S = TypeVar("S", bound=RowState)
Scenes = Sequence[Scene | Mapping[str, Any]]
MOST_GUIDANCE = 100


@dataclass(frozen=True)
class Sampling:
    """How a step is sampled; what is None is the world's own.

    Attributes:
        passes: Network passes for one frame, from 1 to 1,000.
        temperature: Scale of the noise that a frame is made from, above 0.
        top_p: Central mass of the normal distribution that the noise comes from, in (0, 1]; None: all of it.
        guidance: Scale of classifier-free guidance on the controls (Ho and Salimans 2022): 1 is none, more obeys them
            more. It takes twice the passes.
    """

    passes: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    guidance: float | None = None


@dataclass
class StepOutput:
    """What a step of B worlds tells beside the observations.

    Attributes:
        reward_terms: Named terms, each `[B]`.
        ended: `[B]` bool.
        ended_probability: `[B]`.
        telemetry: Named values, each `[B]`, in the units of the spec.
        confidence: `[B]` in (0, 1): 1 where the world expects to be as right as it ever is.
    """

    reward_terms: dict[str, Tensor]
    ended: Tensor
    ended_probability: Tensor
    telemetry: dict[str, Tensor]
    confidence: Tensor

    @property
    def reward(self) -> Tensor:
        """Sum of the terms `[B]`."""
        return torch.stack([torch.zeros_like(self.ended_probability), *self.reward_terms.values()]).sum(0)

    @classmethod
    def cat(cls, outs: Sequence[StepOutput]) -> StepOutput:
        """The outputs of several worlds, row after row."""
        joined: dict[str, Any] = {}
        for name, value in vars(outs[0]).items():
            parts = [getattr(out, name) for out in outs]
            if isinstance(value, dict):
                joined[name] = {key: torch.cat([part[key] for part in parts]) for key in value}
            else:
                joined[name] = torch.cat(parts)
        return cls(**joined)


class World(WorldStorage, ABC, Generic[S]):
    """A learned world: batched, a pure function of state and controls, every row a world of its own.

    Attributes:
        scenes: Its start scenes.
        fingerprint: Names settings, weights and scenes, as they are on disk; empty before.
        passes: Its own number of network passes for one frame.
        end_threshold: Probability beyond which an episode ends; 1: never.
    """

    State: ClassVar[type[RowState]]

    passes: int
    end_threshold: float

    @property
    def spec(self) -> WorldSpec:
        """What the world is about."""
        return self.config.spec

    @property
    def device(self) -> torch.device:
        """Where the world lives."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In which the dynamics compute."""
        return next(self.parameters()).dtype

    @property
    def guidable(self) -> bool:
        """Whether it has learned to dream without being told its controls, which guidance on them needs."""
        return False

    def check_guidance(self, guidance: float | None) -> float:
        """A scale of guidance that this world can dream under; None: 1.

        Raises:
            ValueError: It is no scale, or not 1 and the world has never learned what its controls leave open.
        """
        scale = 1.0 if guidance is None else guidance
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale <= MOST_GUIDANCE:
            raise ValueError(f"guidance is a number from 0 to {MOST_GUIDANCE}, 1 is none, got {guidance!r}")
        if scale != 1 and not self.guidable:
            raise ValueError(
                f"this world takes no guidance on its controls, got {guidance:g}: it has never learned to dream "
                "without them (train it with loss.drop_control above 0)"
            )
        return float(scale)

    def check_passes(self, passes: int | None) -> int:
        """A number of network passes that this world can make a frame in; None: its own.

        Raises:
            ValueError: It cannot.
        """
        return passes or self.passes

    def check_dt(self, dt: Tensor | float | None, rows: int) -> Tensor:
        """Intervals float64 `[B]` in units of the spec's `dt`, of seconds: one number for all, or `[B]`; None: 1.

        Raises:
            ValueError: The world's frames are of one length, and another is wanted.
        """
        if dt is not None:
            raise ValueError(f"the frames of this world are {self.spec.dt:g} s long, it takes no dt")
        return torch.ones(rows, dtype=torch.float64, device=self.device)

    def seconds(self, state: S, steps: np.ndarray) -> np.ndarray:
        """Seconds float64 `[B]` since the start, so many steps `[B]` ago."""
        return steps * self.spec.dt

    @abstractmethod
    def enter(self, scenes: Scenes, seeds: Sequence[int]) -> tuple[S, StepOutput]:
        """Starts one world per scene.

        Args:
            scenes: Scenes (see `drivedit.models.Scene`).
            seeds: Seeds of the worlds' futures.

        Returns:
            The state, and what the world tells of the last moment of each scene.

        Raises:
            ValueError: A scene does not fit the world, or the numbers of scenes and seeds differ.
        """

    def start(self, scenes: Scenes, seeds: Sequence[int]) -> S:
        """`enter` without what is told."""
        return self.enter(scenes, seeds)[0]

    @abstractmethod
    def step(
        self, state: S, controls: Tensor, dt: Tensor | None = None, *, sampling: Sampling | None = None
    ) -> tuple[S, StepOutput]:
        """Dreams one frame of every world. The state that goes in is used up; `clone()` it to keep it.

        A step that is broken off leaves its state as good as before.

        Args:
            state: States of B worlds.
            controls: `[B, A]`, one column for each control of the spec.
            dt: `[B]` seconds; None: the spec's. Only worlds with `spec.any_dt` take others.
            sampling: How; None: the world's own way.

        Returns:
            The new state and what the step tells.
        """

    @abstractmethod
    def observe(self, state: S, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Observations of a state by name, each `[B, ...]`; nothing else is decoded.

        Args:
            state: States of B worlds.
            kinds: Names of the spec's observations, or `latent`.
        """

    @abstractmethod
    def modality(self, kind: str) -> Modality:
        """Shape, type and range of a kind of observation of the spec, or of `latent`.

        Raises:
            ValueError: There is no such kind.
        """

    @abstractmethod
    def condition(self, state: S, values: Mapping[str, Any], rows: Sequence[int] | None = None) -> S:
        """The state with other conditions from now on.

        Args:
            state: States of B worlds.
            values: By names of `spec.conditions`, each as a scene's `conditions` have it; None: it is dreamed freely.
                Those that are left out stay. A `route` may also have `arc`, where on it the cars are in metres; left
                out: at the nearest point. Those of a `layout` are where they are now, and drive on at their speed.
            rows: Which worlds; None: all.

        Raises:
            ValueError: The spec has no such condition (`check_conditions`), or a value does not fit.
        """

    def check_conditions(self, values: Mapping[str, Any]) -> None:
        """Raises ValueError if a condition is named that the spec does not have; both are told."""
        if set(values) - set(self.spec.conditions):
            raise ValueError(f"this world is told the conditions {self.spec.conditions}, got {list(values)}")

    @abstractmethod
    def conditions(self, state: S) -> dict[str, Any]:
        """What the rows have been told, by name, all rows in one: `route` is a `drivedit.utils.Route`."""

    @abstractmethod
    def given(self, state: S) -> dict[str, Tensor]:
        """Which conditions of the spec the rows are told, bool `[B]` by name; what they are not told they dream."""

    @abstractmethod
    def reseed(self, state: S, seeds: Sequence[int]) -> S:
        """The state with other futures."""

    @abstractmethod
    def poses(self, state: S) -> Tensor:
        """Where the worlds' cars are: (x, y, yaw), `[B, 3]`, from wherever the scene began."""

    @abstractmethod
    def check_state(self, state: S) -> None:
        """Checks that a state could be one of this world: types, shapes, place and ranges of all fields.

        Raises:
            ValueError: A field could not; it is named, with what was expected and what was got.
        """

    @abstractmethod
    def check_scene(self, scene: Scene | Mapping[str, Any]) -> Scene:
        """A scene of this world from one, or from a mapping with its fields.

        Raises:
            ValueError: It does not fit.
        """

    @abstractmethod
    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Latents `[B, T, ...]` of pictures `[B, T, H, W, C]` in the order of time."""

    @abstractmethod
    def decode(self, latents: Tensor) -> np.ndarray:
        """Pictures `[B, H, W, C]` of latents `[B, ...]`."""

    @abstractmethod
    def embed(self, observations: np.ndarray) -> Tensor:
        """What `observe` gives as `latent` for pictures `[B, H, W, C]`, each seen alone.

        Raises:
            ValueError: The pictures do not fit, or the world cannot encode one picture alone.
        """
