"""Parameters that know how to be loaded: whole, as a shard of a whole tensor, or packed, several numbers in one.

The classes and their names are those of vLLM (Kwon et al. 2023), as far as checkpoints in shards need them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter

Loader = Callable[[Any, Tensor], None]  # of a parameter and what is loaded


class _Numbers(Parameter):
    """A parameter that wants a gradient if its numbers can have one."""

    def __new__(cls, data: Tensor, *_args: Any, **_options: Any) -> Self:
        return super().__new__(cls, data, requires_grad=data.is_floating_point())


class BasevLLMParameter(_Numbers):
    """A parameter with what loads it.

    Args:
        data: Its values.
        weight_loader: Called as `weight_loader(parameter, loaded)`, with a loaded tensor.
    """

    def __init__(self, data: Tensor, weight_loader: Loader) -> None:
        self.weight_loader = weight_loader

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self), self.data.clone())
        vars(copied).update(vars(self))
        copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    def load(self, loaded: Tensor) -> None:
        """Loads a tensor as the `weight_loader` does."""
        self.weight_loader(self, loaded)

    @torch.no_grad()
    def load_whole(self, loaded: Tensor) -> None:
        """Loads a tensor of the parameter's shape.

        Raises:
            ValueError: It has another shape.
        """
        if loaded.shape != self.shape:
            raise ValueError(f"the parameter has the shape {list(self.shape)}, the loaded tensor {list(loaded.shape)}")
        self.copy_(loaded)


class ModelWeightParameter(BasevLLMParameter):
    """A weight of which every process has a shard.

    Args:
        data: The shard.
        weight_loader: See `BasevLLMParameter`.
        output_dim: Axis that column-parallel layers cut.
        input_dim: Axis that row-parallel layers cut.
    """

    def __init__(
        self, data: Tensor, weight_loader: Loader, *, output_dim: int = 0,
        input_dim: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(data, weight_loader)
        self.output_dim, self.input_dim = output_dim, input_dim

    def load_column_parallel_weight(self, loaded: Tensor, rank: int) -> None:
        """Loads the shard that the process `rank` has of a whole weight, along `output_dim`; errors as `load_whole`."""
        self._load_shard(loaded, rank, self.output_dim)

    def load_row_parallel_weight(self, loaded: Tensor, rank: int) -> None:
        """The same along `input_dim`."""
        self._load_shard(loaded, rank, self.input_dim)

    def _load_shard(self, loaded: Tensor, rank: int, axis: int) -> None:
        size = self.shape[axis]
        if loaded.ndim != self.ndim or loaded.shape[axis] < (rank + 1) * size:
            raise ValueError(
                f"shard {rank} of the shape {list(self.shape)} along axis {axis} is not in a tensor of the shape "
                f"{list(loaded.shape)}"
            )
        self.load_whole(loaded.narrow(axis, rank * size, size))


class PackedvLLMParameter(ModelWeightParameter):
    """A weight that is packed: along one axis an element holds several numbers.

    Args:
        data: The shard, packed.
        weight_loader: See `BasevLLMParameter`.
        packed_factor: Numbers in an element.
        packed_dim: The axis.
        marlin_tile_size: Elements that a number of the packed axis stands for in Marlin's tiles; None: no tiles.
        output_dim: See `ModelWeightParameter`.
        input_dim: See `ModelWeightParameter`.

    Raises:
        ValueError: The factor or the size of tiles is not positive.
    """

    def __init__(
        self, data: Tensor, weight_loader: Loader, *, packed_factor: int = 1,
        packed_dim: int = 0, marlin_tile_size: int | None = None, output_dim: int = 0, input_dim: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(data, weight_loader, output_dim=output_dim, input_dim=input_dim)
        if packed_factor < 1 or (marlin_tile_size is not None and marlin_tile_size < 1):
            raise ValueError(
                f"packed_factor and marlin_tile_size must be positive, got {packed_factor} and {marlin_tile_size}"
            )
        self.packed_factor, self.packed_dim, self.marlin_tile_size = packed_factor, packed_dim, marlin_tile_size

    def adjust_shard_indexes_for_packing(self, shard_size: int, shard_offset: int) -> tuple[int, int]:
        """Size and offset of a shard, counted in numbers, in elements of the packed axis.

        Raises:
            ValueError: The shard would begin or end within an element.
        """
        factor, tile = self.packed_factor, self.marlin_tile_size or 1
        if shard_size % factor or shard_offset % factor:
            raise ValueError(f"size and offset must be multiples of {factor}, got {shard_size} and {shard_offset}")
        return shard_size // factor * tile, shard_offset // factor * tile
