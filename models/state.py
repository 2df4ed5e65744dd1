"""Everything that the future of a world depends on, one row per world: any dataclass of tensors.

Snapshots, forks, resets of single rows and batches are row operations, which are written here once for all worlds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

VERSION = 6
CHECKSUM = 4  # bytes

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass
class RowState:
    """State of B independent worlds; a kind of world has a dataclass of its own, all of whose fields are tensors.

    A field counts its worlds along axis 0, unless its metadata say another one: `field(metadata={"rows": 1})`.
    `World.step` uses a state up: clone what you want to keep.

    Attributes:
        COUNT: Name of a field `[B]`.
    """

    COUNT: ClassVar[str]

    def __len__(self) -> int:
        return len(getattr(self, self.COUNT))

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def size(self) -> int:
        """Bytes of all fields."""
        return sum(value.numel() * value.element_size() for value in self.tensors().values())

    def select(self, rows: Tensor | list[int]) -> Self:
        """A new state with copies of some rows (a row may be named several times)."""
        index = torch.as_tensor(rows, device=getattr(self, self.COUNT).device)
        return type(self)(
            **{name: value.index_select(_axes(type(self))[name], index) for name, value in self.tensors().items()}
        )

    def write(self, rows: Tensor | list[int], other: Self) -> None:
        """Overwrites rows in place with those of another state.

        Raises:
            ValueError: The number of rows or a shape differs.
        """
        index = torch.as_tensor(rows, device=getattr(self, self.COUNT).device)
        if len(index) != len(other):
            raise ValueError(f"{len(index)} rows to write, but the other state has {len(other)}")
        for name in self.tensors():
            mine, new = (getattr(state, name).movedim(_axes(type(self))[name], 0) for state in (self, other))
            if new.shape[1:] != mine.shape[1:]:
                raise ValueError(f"{name}: rows have shape {tuple(mine.shape[1:])}, got {tuple(new.shape[1:])}")
            mine[index] = new.to(mine)

    @classmethod
    def cat(cls, states: Sequence[Self]) -> Self:
        """A new state with the rows of several, one after another."""
        names = [f.name for f in fields(cls)]
        return cls(**{name: torch.cat([getattr(state, name) for state in states], _axes(cls)[name]) for name in names})

    def clone(self) -> Self:
        """An independent copy."""
        return type(self)(**{name: value.clone() for name, value in self.tensors().items()})

    def check_layout(self, layout: Layout, device: torch.device) -> None:
        """Checks types, shapes and places of all fields.

        Args:
            layout: Type and shape of each field's part of one world.
            device: Where the fields must be.

        Raises:
            ValueError: A field is none of a world with this layout.
        """
        count = getattr(self, self.COUNT)
        rows = count.shape[0] if isinstance(count, Tensor) and count.ndim == 1 else 0
        if not rows:
            raise ValueError(f"a state holds at least one world; its {self.COUNT} must be [B >= 1]")
        axes = _axes(type(self))
        for name, value in vars(self).items():
            axis, (dtype, shape) = axes[name], layout[name]
            wanted = (*shape[:axis], rows, *shape[axis:])
            tensor = isinstance(value, Tensor)
            if not tensor or value.shape != wanted or value.dtype != dtype or value.device != device:
                got = f"{value.dtype} {list(value.shape)} on {value.device}" if tensor else repr(value)
                raise ValueError(f"the state's {name} must be {dtype} {list(wanted)} on {device}, got {got}")

    def check_whole(self, **most: int) -> None:
        """Checks fields of whole numbers, by name: from 0 to at most so much.

        Raises:
            ValueError: A value is out of its range.
        """
        for name, greatest in most.items():
            values = getattr(self, name).tolist()
            if min(values) < 0 or max(values) > greatest:
                raise ValueError(f"the state's {name} must be from 0 to {greatest}, got {values}")

    def check_sizes(self, **most: float) -> None:
        """Checks fields of numbers, by name: finite, and at most so far from zero.

        Raises:
            ValueError: A value is not.
        """
        for name, greatest in most.items():
            value = getattr(self, name)
            least, largest = (end.item() for end in value.aminmax()) if value.numel() else (0.0, 0.0)
            if not (-greatest <= least and largest <= greatest):  # NaN is neither
                got = f"{least:g} to {largest:g}"
                raise ValueError(f"the state's {name} must be finite, from {-greatest:g} to {greatest:g}, got {got}")

    def check_rows(self, name: str, wanted: str, good: Tensor) -> None:
        """Raises ValueError unless a field is as it is wanted in all rows: bool `[B]`."""
        if not good.all():
            row = int((~good).nonzero()[0])
            raise ValueError(f"the state's {name} must be {wanted}, got {getattr(self, name)[row].tolist()}")

    def with_rows(self, rows: Tensor, **values: Tensor) -> Self:
        """The state with other values of some fields in some rows; what it was is left alone."""
        changed = {name: getattr(self, name).clone() for name in values}
        for name, value in values.items():
            changed[name][rows] = value
        return replace(self, **changed)

    def to_bytes(self, world: str) -> bytes:
        """Serialises the state (safetensors, after a checksum of it) together with the fingerprint of its world."""
        meta = {"drivedit": json.dumps({"version": VERSION, "world": world})}
        return seal(save({name: value.contiguous().cpu() for name, value in self.tensors().items()}, metadata=meta))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, world: str, device: torch.device | str = "cpu") -> Self:
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
        if version != VERSION:
            raise ValueError(f"the state has version {version}, this package reads {VERSION}")
        if name != world:
            raise ValueError(f"the state belongs to world {name}, this is {world}")
        names = {f.name for f in fields(cls)}
        if set(tensors) != names:
            raise ValueError(f"the state holds {sorted(tensors)}, expected {sorted(names)}")
        return cls(**{name: value.to(device) for name, value in tensors.items()})


def seal(data: bytes) -> bytes:
    """The bytes after their checksum (CRC-32, as of zip and PNG: against damage, not against forgery)."""
    return zlib.crc32(data).to_bytes(CHECKSUM, "little") + data


def unseal(data: bytes | memoryview) -> bytes:
    """The bytes that `seal` was given.

    Raises:
        ValueError: They are not those, to the bit.
    """
    checksum, rest = data[:CHECKSUM], memoryview(data)[CHECKSUM:]
    if zlib.crc32(rest).to_bytes(CHECKSUM, "little") != checksum:
        raise ValueError("their checksum differs: damaged, cut off, or of another version")
    return bytes(rest)


@cache
def _axes(kind: type[RowState]) -> dict[str, int]:
    """Which axis of each field of a kind of state counts the worlds."""
    return {f.name: f.metadata.get("rows", 0) for f in fields(kind)}
