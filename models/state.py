"""Everything that the future of a world depends on, one row per world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from drivedit.utils import Route

STATE_VERSION = 2


@dataclass
class WorldState:
    """State of B independent worlds. `World.step` uses it up: clone what you want to keep.

    Attributes:
        k: Attention keys `[L, B, H, W, P, E / H]`, a ring of the last W frames.
        v: Attention values, likewise.
        clock: `[B]` frames in the ring so far.
        seeds: `[B]` seeds of the random streams.
        latents: `[B, history, C, h, w]` last clean latents, the latest first.
        control: `[B, 2]` the last control.
        motion: `[B, 3]` the last ego-motion, in units of `WorldConfig.motion_scale`.
        pose: `[B, 3]` (x, y, yaw) on the route's plane.
        arc: `[B]` foot point on the route in metres.
        points: `[B, M, 2]` the route.
        count: `[B]` points of the route that count; 0: no route.
        spacing: `[B]` metres between two points.
        closed: `[B]` whether the route is a loop.
        bounds: `[B, 4]` of the playfield: x and y at least, x and y at most.
    """

    k: Tensor = field(metadata={"rows": 1})
    v: Tensor = field(metadata={"rows": 1})
    clock: Tensor
    seeds: Tensor
    latents: Tensor
    control: Tensor
    motion: Tensor
    pose: Tensor
    arc: Tensor
    points: Tensor
    count: Tensor
    spacing: Tensor
    closed: Tensor
    bounds: Tensor

    def __len__(self) -> int:
        return len(self.clock)

    @property
    def route(self) -> Route:
        """The routes of all rows."""
        return Route(self.points, self.count, self.spacing, self.closed, self.bounds)

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def select(self, rows: Tensor | list[int]) -> Self:
        """A new state with copies of some rows (a row may be named several times)."""
        index = torch.as_tensor(rows, device=self.clock.device)
        return type(self)(**{f.name: getattr(self, f.name).index_select(_axis(f), index) for f in fields(self)})

    def write(self, rows: Tensor | list[int], other: WorldState) -> None:
        """Overwrites rows in place with those of another state.

        Raises:
            ValueError: The number of rows or a shape differs.
        """
        index = torch.as_tensor(rows, device=self.clock.device)
        if len(index) != len(other):
            raise ValueError(f"{len(index)} rows to write, but the other state has {len(other)}")
        for f in fields(self):
            mine, new = (getattr(state, f.name).movedim(_axis(f), 0) for state in (self, other))
            if new.shape[1:] != mine.shape[1:]:
                raise ValueError(f"{f.name}: rows have shape {tuple(mine.shape[1:])}, got {tuple(new.shape[1:])}")
            mine[index] = new.to(mine)

    @classmethod
    def cat(cls, states: Sequence[WorldState]) -> Self:
        """A new state with the rows of several, one after another."""
        return cls(**{f.name: torch.cat([getattr(state, f.name) for state in states], _axis(f)) for f in fields(cls)})

    def clone(self) -> Self:
        """An independent copy."""
        return type(self)(**{name: value.clone() for name, value in self.tensors().items()})

    def to_bytes(self, world: str) -> bytes:
        """Serialises the state (safetensors) together with the fingerprint of its world."""
        meta = {"drivedit": json.dumps({"version": STATE_VERSION, "world": world})}
        return save({name: value.contiguous().cpu() for name, value in self.tensors().items()}, metadata=meta)

    @classmethod
    def from_bytes(cls, data: bytes, world: str, device: torch.device | str = "cpu") -> Self:
        """Restores what `to_bytes` wrote.

        Raises:
            ValueError: The bytes are damaged, of another version or of another world.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            meta = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["drivedit"])
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, MemoryError) as error:
            raise ValueError(f"these {len(data)} bytes are no state of a world, or cut off ({error})") from None
        if meta.get("version") != STATE_VERSION:
            raise ValueError(f"the state has version {meta.get('version')}, this package reads {STATE_VERSION}")
        if meta.get("world") != world:
            raise ValueError(f"the state belongs to world {meta.get('world')}, this is {world}")
        names = {f.name for f in fields(cls)}
        if set(tensors) != names:
            raise ValueError(f"the state holds {sorted(tensors)}, expected {sorted(names)}")
        return cls(**{name: value.to(device) for name, value in tensors.items()})


def _axis(of: Field) -> int:
    """Which axis of a field counts the worlds."""
    return of.metadata.get("rows", 0)
