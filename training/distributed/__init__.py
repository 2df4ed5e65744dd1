"""Tensor parallelism: processes that share one network by the rows or columns of its weights (Shoeybi et al. 2019).

The networks here are small: this is for loading checkpoints whose weights lie in shards, and for layers too wide for
one process (`linear.py`). Who shares is the state of a process, as in the published interface: it is set once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.distributed as dist

from drivedit.training.distributed.communication_op import all_reduce

__all__ = [
    "all_reduce",
    "destroy_model_parallel",
    "get_tensor_model_parallel_group",
    "get_tensor_model_parallel_rank",
    "get_tensor_model_parallel_world_size",
    "initialize_model_parallel",
]


class _Shared(NamedTuple):
    rank: int
    size: int
    group: dist.ProcessGroup | None


_shared: _Shared | None = None


def initialize_model_parallel(tensor_model_parallel_size: int = 1, pipeline_model_parallel_size: int = 1) -> None:
    """Says how many processes share a network; all processes call it, after `torch.distributed` began.

    Neighbours by number share. A process that is alone may call it too.

    Args:
        tensor_model_parallel_size: Processes that share its weights.
        pipeline_model_parallel_size: Processes that share its layers; there is no such network here: 1.

    Raises:
        ValueError: The first size does not divide the number of processes, or the second one is not 1.
        RuntimeError: It was called before.
    """
    global _shared
    if _shared is not None:
        raise RuntimeError("model parallelism is initialized already: call destroy_model_parallel() first")
    size, processes, place = tensor_model_parallel_size, 1, 0
    if dist.is_available() and dist.is_initialized():
        processes, place = dist.get_world_size(), dist.get_rank()
    if size < 1 or processes % size:
        raise ValueError(f"tensor_model_parallel_size must divide the {processes} processes, got {size}")
    if pipeline_model_parallel_size != 1:
        raise ValueError(f"pipeline_model_parallel_size must be 1, got {pipeline_model_parallel_size}")
    groups = [list(range(first, first + size)) for first in range(0, processes, size)] if size > 1 else []
    made = [dist.new_group(ranks) for ranks in groups]
    mine = made[place // size] if made else None
    _shared = _Shared(place % size, size, mine if isinstance(mine, dist.ProcessGroup) else None)


def destroy_model_parallel() -> None:
    """Forgets what `initialize_model_parallel` said."""
    global _shared
    _shared = None


def get_tensor_model_parallel_rank() -> int:
    """Number of this process among those that share a network.

    Raises:
        RuntimeError: Nobody said who shares.
    """
    return _known().rank


def get_tensor_model_parallel_world_size() -> int:
    """How many processes share a network; errors are those of the rank."""
    return _known().size


def get_tensor_model_parallel_group() -> dist.ProcessGroup | None:
    """The processes that share a network; None where it is one. Errors are those of the rank."""
    return _known().group


def _known() -> _Shared:
    if _shared is None:
        raise RuntimeError("nothing is known of model parallelism: call initialize_model_parallel() first")
    return _shared
