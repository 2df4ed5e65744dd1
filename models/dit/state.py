"""Everything that the future of a world depends on, one row per world."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from drivedit.utils import Route

STATE_VERSION = 3
DIGEST = 16  # bytes
LARGEST = 1e9  # of all numbers but seeds and clocks: their squares still fit into float32
FRAMES = 2**53  # most frames that a clock counts, exact in float64

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass
class WorldState:
    """State of B independent worlds. `World.step` uses it up: clone what you want to keep.

    Attributes:
        k: Attention keys `[L, B, H, W, P, E / H]`, a ring of the last W frames.
        v: Attention values, likewise.
        clock: `[B]` frames in the ring so far.
        seeds: `[B]` seeds of the random streams.
        latents: `[B, max(history, 1), C, h, w]` last clean latents, the latest first.
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

    def check_layout(self, layout: Layout, device: torch.device) -> None:
        """Checks all that memory depends on: types, shapes, places, and the values that say where to read and write.

        Args:
            layout: Type and shape of each field's part of one world.
            device: Where the fields must be.

        Raises:
            ValueError: A field is none of a world with this layout.
        """
        rows = self.clock.shape[0] if isinstance(self.clock, Tensor) and self.clock.ndim == 1 else 0
        if not rows:
            raise ValueError("a state holds at least one world; its clock must be int64 [B >= 1]")
        for name, value in vars(self).items():
            axis, (dtype, shape) = _AXES[name], layout[name]
            wanted = (*shape[:axis], rows, *shape[axis:])
            tensor = isinstance(value, Tensor)
            if not tensor or value.shape != wanted or value.dtype != dtype or value.device != device:
                got = f"{value.dtype} {list(value.shape)} on {value.device}" if tensor else repr(value)
                raise ValueError(f"the state's {name} must be {dtype} {list(wanted)} on {device}, got {got}")
        for name, most in (("clock", FRAMES), ("count", self.points.shape[1])):
            values = getattr(self, name).tolist()
            if min(values) < 0 or max(values) > most:
                raise ValueError(f"the state's {name} must be from 0 to {most}, got {values}")

    def check_values(self) -> None:
        """Checks the ranges of all fields, whose layout has been checked.

        Raises:
            ValueError: A value cannot be part of a world's present moment.
        """
        for name in ("k", "v", "latents", "control", "motion", "pose", "arc", "points", "spacing"):
            value, most = getattr(self, name), 1.0 if name == "control" else LARGEST
            largest = value.abs().amax().item() if value.numel() else 0.0
            if not largest <= most:
                raise ValueError(f"the state's {name} must be finite, from {-most:g} to {most:g}, got {largest:g}")
        for name, wanted, good in (
            ("count", "0 or at least 2 points", self.count != 1),
            ("spacing", "more than 0 m", self.spacing > 0),
            ("closed", "True or False", self.closed.view(torch.uint8) < 2),
            ("bounds", "[x_min, y_min, x_max, y_max]", (self.bounds[:, :2] < self.bounds[:, 2:]).all(1)),
        ):
            if not good.all():
                row = int((~good).nonzero()[0])
                raise ValueError(f"the state's {name} must be {wanted}, got {getattr(self, name)[row].tolist()}")

    def to_bytes(self, world: str) -> bytes:
        """Serialises the state (safetensors, after a digest of it) together with the fingerprint of its world."""
        meta = {"drivedit": json.dumps({"version": STATE_VERSION, "world": world})}
        return seal(save({name: value.contiguous().cpu() for name, value in self.tensors().items()}, metadata=meta))

    @classmethod
    def from_bytes(cls, data: bytes, world: str, device: torch.device | str = "cpu") -> Self:
        """Restores what `to_bytes` wrote; whether it fits the world is for `World.check_state` to say.

        Raises:
            ValueError: A bit of the bytes is not what was written, or they are of another version or of another world.
        """
        try:
            stored = unseal(data)
            size = int.from_bytes(stored[:8], "little")
            meta = json.loads(json.loads(stored[8 : 8 + size])["__metadata__"]["drivedit"])
            version, name = meta["version"], meta["world"]
            tensors = load(stored)
        except (SafetensorError, ValueError, LookupError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"these {len(data)} bytes are no state of a world ({error})") from None
        if version != STATE_VERSION:
            raise ValueError(f"the state has version {version}, this package reads {STATE_VERSION}")
        if name != world:
            raise ValueError(f"the state belongs to world {name}, this is {world}")
        names = {f.name for f in fields(cls)}
        if set(tensors) != names:
            raise ValueError(f"the state holds {sorted(tensors)}, expected {sorted(names)}")
        return cls(**{name: value.to(device) for name, value in tensors.items()})


def seal(data: bytes) -> bytes:
    """The bytes after their digest."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest() + data


def unseal(data: bytes) -> bytes:
    """The bytes that `seal` was given.

    Raises:
        ValueError: They are not those, to the bit.
    """
    digest, rest = data[:DIGEST], data[DIGEST:]
    if hashlib.blake2b(rest, digest_size=DIGEST).digest() != digest:
        raise ValueError("their digest differs: damaged, cut off, or of another version")
    return rest


def _axis(of: Field) -> int:
    """Which axis of a field counts the worlds."""
    return of.metadata.get("rows", 0)


_AXES = {f.name: _axis(f) for f in fields(WorldState)}
