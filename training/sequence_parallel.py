"""Clips spread over processes: frames for everything but attention, heads for attention (Ulysses, Jacobs et al. 2023).

Processes that share a clip draw the same batch and the same noise and compute the same, but for the transformer, inside
which each has its own frames: there the memory of a long clip is. Its gradients come out n times too large, for the
mean over all processes, which data-parallel training takes of every gradient, makes them the sum of the parts.

Legend: B clips, F frames, H heads, E width of a head, n processes that share a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from drivedit.models import DiTStudent

HEADS = -2  # axis
Function = TypeVar("Function", bound=Callable[..., Any])


def _uncompiled(function: Function) -> Function:
    """Leaves a function out of compiled graphs."""
    return cast(Function, torch.compiler.disable(function))


class Ulysses:
    """The processes that share clips with this one, a `drivedit.models.layers.attention.Spread`; copies are the same.

    Every process has to make it. Neighbours by number share: 0 to n - 1, n to 2 n - 1, ...

    Args:
        size: Processes that share a clip; 1: none does, and nothing here does anything.
        device: Whose processes talk.

    Attributes:
        rank: Of this process among those that share.
        clips: How many groups there are, each with clips of its own.
        number: Of this group among them.

    Raises:
        ValueError: The size does not divide the number of processes.
    """

    def __init__(self, size: int = 1, device: torch.device | str = "cpu") -> None:
        started = dist.is_available() and dist.is_initialized()
        processes, place = (dist.get_world_size(), dist.get_rank()) if started else (1, 0)
        if size < 1 or processes % size:
            raise ValueError(
                f"sequence_parallel must divide the number of processes, got {size} of {processes}; start others with "
                "torchrun --nproc-per-node"
            )
        self.size, self.clips = size, processes // size
        self.number, self.rank = divmod(place, size)
        self.group: dist.ProcessGroup | None = None
        if size > 1:
            sizes = (self.clips, size)
            names = ("clips", "frames")
            mesh = init_device_mesh(torch.device(device).type, sizes, mesh_dim_names=names)
            self.group = mesh.get_group("frames")

    def __deepcopy__(self, memo: dict[int, Any]) -> Ulysses:
        return self

    @contextmanager
    def spreading(self, module: nn.Module) -> Iterator[None]:
        """Spreads the clips of all transformers in a module as long as it is open.

        Raises:
            ValueError: There is none, or its heads do not divide over the processes.
        """
        found = [part for part in module.modules() if isinstance(part, DiTStudent)] if self.size > 1 else []
        if self.size > 1 and not found:
            raise ValueError(f"sequence_parallel = {self.size} is for transformers over clips, there is none here")
        for part in found:
            if part.n_heads % self.size:
                raise ValueError(
                    f"{part.n_heads} heads do not divide over {self.size} processes: choose another n_heads or "
                    "sequence_parallel"
                )
            part.spread = self
        try:
            yield
        finally:
            for part in found:
                part.spread = None

    def share(self, tensor: Tensor) -> Tensor:
        """The tensor of the first process of the group, for instance noise levels, which all must have alike."""
        if self.size > 1:
            tensor = tensor.contiguous()
            dist.broadcast(tensor, group=self.group, group_src=0)
        return tensor

    @_uncompiled
    def part(self, x: Tensor) -> Tensor:
        """This process's part of `[B, F, ...]`, which all have in whole: `[B, F / n, ...]`."""
        return _through(x, self._part, lambda grad: self._whole(grad) / self.size)

    @_uncompiled
    def alike(self, x: Tensor) -> Tensor:
        """A tensor that all have, for use by each on its own part."""
        return _through(x, lambda x: x.view_as(x), self._mean)

    @_uncompiled
    def whole(self, x: Tensor) -> Tensor:
        """All parts `[B, F / n, ...]` together, on every process: `[B, F, ...]`."""
        return _through(x, self._whole, lambda grad: self._part(grad) * self.size)

    @_uncompiled
    def by_heads(self, x: Tensor) -> Tensor:
        """Some frames, `[B, F / n, ..., H, E]`, to some heads of all frames, `[B, F, ..., H / n, E]`."""
        return _through(x, self._by_heads, self._by_frames)

    @_uncompiled
    def by_frames(self, x: Tensor) -> Tensor:
        """The reverse of `by_heads`."""
        return _through(x, self._by_frames, self._by_heads)

    def own_heads(self, x: Tensor) -> Tensor:
        """Of all heads `[B, H, ...]` those that `by_heads` gives to this process."""
        return x.chunk(self.size, 1)[self.rank]

    def _part(self, x: Tensor) -> Tensor:
        return x.chunk(self.size, 1)[self.rank].contiguous()

    def _mean(self, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x, group=self.group)
        return x / self.size

    def _whole(self, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, 1)

    def _by_heads(self, x: Tensor) -> Tensor:
        return self._exchange(x, x.ndim + HEADS, 1)

    def _by_frames(self, x: Tensor) -> Tensor:
        return self._exchange(x, 1, x.ndim + HEADS)

    def _exchange(self, x: Tensor, apart: int, together: int) -> Tensor:
        """Cuts an axis, sends a piece to every process, and joins what comes along another axis."""
        pieces = x.unflatten(apart, (self.size, -1)).movedim(apart, 0).contiguous()
        came = torch.empty_like(pieces)
        dist.all_to_all_single(came, pieces, group=self.group)
        return came.movedim(0, together).flatten(together, together + 1)


class _Through(torch.autograd.Function):
    """A linear exchange between processes, and that of its gradient."""

    @staticmethod
    def forward(x: Tensor, there: Callable[[Tensor], Tensor], _back: Callable[[Tensor], Tensor]) -> Tensor:
        return there(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.there, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.back(grad), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:  # type: ignore[override]
        return ctx.there(tangent)


def _through(x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
    return _Through.apply(x, there, back)  # type: ignore[return-value]
