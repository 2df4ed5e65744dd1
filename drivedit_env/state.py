"""Snapshots of environments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from drivedit.inference.layouts import Source, pack_sources, unpack_sources
from drivedit.models import RowState, World
from drivedit.models.state import seal, unseal
from drivedit.utils import restored, whole_number

VERSION = 6
LISTS = ("random", "scene", "ended", "elapsed", "dt")  # what there is beside the world's state, one per row


@dataclass
class EnvState:
    """Everything that the future of environments depends on, one row per world (a single environment has one).

    Attributes:
        world: State of the worlds, N rows of `World.State`.
        fingerprint: The world that they belong to.
        random: States of the random streams that resets without a seed draw from.
        scene: Indices of the start scenes, -1 for one that was handed over.
        ended: Whether each episode has ended.
        elapsed: Steps of each episode so far.
        dt: Seconds of the coming steps of each.
        others: What says where others are from now on: a log, which is kept by value, or a function; None: nothing
            does, they are part of the worlds.
    """

    world: Any
    fingerprint: str
    random: list[dict[str, Any]]
    scene: list[int]
    ended: list[bool]
    elapsed: list[int]
    dt: list[float]
    others: list[Source]

    def __len__(self) -> int:
        return len(self.random)

    def clone(self) -> Self:
        """An independent copy."""
        return self.select(range(len(self)))

    def select(self, rows: Sequence[int]) -> Self:
        """A copy of some rows; a row may be named several times."""
        return type(self)(
            self.world.select(list(rows)),
            self.fingerprint,
            [self.random[row] for row in rows],
            [self.scene[row] for row in rows],
            [self.ended[row] for row in rows],
            [self.elapsed[row] for row in rows],
            [self.dt[row] for row in rows],
            [self.others[row] for row in rows],
        )

    def check(self, world: World) -> None:
        """Whether a world can go on from here; the random streams are for `restored` to read.

        Raises:
            ValueError: A part is none of this world, is damaged, or speaks of another number of worlds.
        """
        if not isinstance(self.world, world.State):
            raise ValueError(f"the state of the worlds is a {world.State.__name__}, got {type(self.world).__name__}")
        world.check_state(self.world)
        parts = {name: getattr(self, name) for name in (*LISTS, "others")}
        wrong = [name for name, part in parts.items() if not isinstance(part, list) or len(part) != len(self.world)]
        if wrong:
            raise ValueError(f"a state of {len(self.world)} worlds has as many entries of {wrong}, in lists")
        for _, scene, ended, elapsed, dt, others in zip(*parts.values(), strict=True):
            whole_number(scene, f"scenes are numbered from -1 to {len(world.scenes) - 1}", -1, len(world.scenes) - 1)
            whole_number(elapsed, "elapsed steps are a whole number of at least 0", 0, 2**53)
            if not isinstance(dt, (float, np.floating)) or not 0 < dt < np.inf:
                raise ValueError(f"a step takes a number of seconds above 0, got {dt!r}")
            if not isinstance(ended, (bool, np.bool_)):
                raise ValueError(f"an episode has ended or not, True or False, got {ended!r}")
            if not isinstance(others, Source):
                raise ValueError(f"others are where a log or a function has them, or None, got {others!r:.80}")

    def to_bytes(self) -> bytes:
        """Serialises the state; no pickle, and every bit is covered by a checksum.

        A function that says where others are is left out: `set_state` takes the one that its world has been reset with.
        """
        lists = {name: getattr(self, name) for name in LISTS}
        head = seal(json.dumps({"version": VERSION, **lists, **pack_sources(self.others)}).encode())
        return len(head).to_bytes(8, "little") + head + self.world.to_bytes(self.fingerprint)

    @classmethod
    def from_bytes(
        cls, data: bytes, kind: type[RowState], fingerprint: str, device: torch.device | str = "cpu"
    ) -> Self:
        """Restores what `to_bytes` wrote.

        Args:
            data: The bytes.
            kind: Class of the worlds' state, `World.State`.
            fingerprint: The world that the state must belong to.
            device: Where to put the state.

        Raises:
            ValueError: A bit of the bytes is not what was written, or they are of another version or another world.
        """
        size = int.from_bytes(data[:8], "little")
        try:
            head = json.loads(unseal(data[8 : 8 + size]))
            version, lists = head["version"], [head[name] for name in LISTS]
            if version != VERSION:
                raise ValueError(f"version {version}, this package reads {VERSION}")
            worlds = kind.from_bytes(memoryview(data)[8 + size :], fingerprint, device)
            state = cls(worlds, fingerprint, *lists, others=unpack_sources(head, len(worlds)))
            for name, type_, values in zip(LISTS, (dict, int, bool, int, float), lists, strict=True):
                if type(values) is not list or [type(value) for value in values] != [type_] * len(state.world):
                    raise ValueError(f"{name} must be {len(state.world)} of {type_.__name__}, got {values!r:.80}")
            for random in state.random:
                restored(random)
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"these {len(data)} bytes are no state of this environment ({error})") from None
        return state
