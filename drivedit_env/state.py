"""Snapshots of an environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

import torch

from drivedit.models import WorldState


@dataclass
class EnvState:
    """Everything that the future of a `DriveDiTEnv` depends on.

    Attributes:
        world: State of the world, one row.
        fingerprint: The world that it belongs to.
        random: State of the random stream that `reset` without a seed draws from.
        scene: Index of the start scene, -1 for one that was handed over.
        ended: Whether the episode has ended.
    """

    world: WorldState
    fingerprint: str
    random: dict[str, Any]
    scene: int
    ended: bool

    def clone(self) -> Self:
        """An independent copy."""
        return type(self)(self.world.clone(), self.fingerprint, dict(self.random), self.scene, self.ended)

    def to_bytes(self) -> bytes:
        """Serialises the state; no pickle."""
        head = json.dumps({"random": self.random, "scene": self.scene, "ended": self.ended}).encode()
        return len(head).to_bytes(8, "little") + head + self.world.to_bytes(self.fingerprint)

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: str, device: torch.device | str = "cpu") -> Self:
        """Restores what `to_bytes` wrote.

        Args:
            data: The bytes.
            fingerprint: The world that the state must belong to.
            device: Where to put the state.

        Raises:
            ValueError: The bytes are damaged, or belong to another world.
        """
        size = int.from_bytes(data[:8], "little")
        try:
            head = json.loads(data[8 : 8 + size])
            random, scene, ended = head["random"], int(head["scene"]), bool(head["ended"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"these {len(data)} bytes are no state of this environment ({error})") from None
        world = WorldState.from_bytes(data[8 + size :], fingerprint, device)
        return cls(world, fingerprint, random, scene, ended)
