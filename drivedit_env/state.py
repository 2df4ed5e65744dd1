"""Snapshots of environments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from drivedit.models import WorldState

VERSION = 2


@dataclass
class EnvState:
    """Everything that the future of environments depends on, one row per world (a single environment has one).

    Attributes:
        world: State of the worlds, N rows.
        fingerprint: The world that they belong to.
        random: States of the random streams that resets without a seed draw from.
        scene: Indices of the start scenes, -1 for one that was handed over.
        ended: Whether each episode has ended.
        elapsed: Steps of each episode so far; a single environment, whose wrapper counts them, says 0.
    """

    world: WorldState
    fingerprint: str
    random: list[dict[str, Any]]
    scene: list[int]
    ended: list[bool]
    elapsed: list[int]

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
        )

    def to_bytes(self) -> bytes:
        """Serialises the state; no pickle."""
        lists = {name: getattr(self, name) for name in ("random", "scene", "ended", "elapsed")}
        head = json.dumps({"version": VERSION, **lists}).encode()
        return len(head).to_bytes(8, "little") + head + self.world.to_bytes(self.fingerprint)

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: str, device: torch.device | str = "cpu") -> Self:
        """Restores what `to_bytes` wrote.

        Args:
            data: The bytes.
            fingerprint: The world that the state must belong to.
            device: Where to put the state.

        Raises:
            ValueError: The bytes are damaged, of another version, or belong to another world.
        """
        size = int.from_bytes(data[:8], "little")
        try:
            head = json.loads(data[8 : 8 + size])
            version = head.pop("version")
            if version != VERSION:
                raise ValueError(f"version {version}, this package reads {VERSION}")
            state = cls(WorldState.from_bytes(data[8 + size :], fingerprint, device), fingerprint, **head)
            if {len(state.world), len(state.scene), len(state.ended), len(state.elapsed)} != {len(state)}:
                raise ValueError("its parts have different numbers of worlds")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"these {len(data)} bytes are no state of this environment ({error})") from None
        return state


def restored(random: dict[str, Any]) -> np.random.Generator:
    """A generator in a stored state.

    Raises:
        ValueError: It is none of numpy's default generator.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = random
    return generator
