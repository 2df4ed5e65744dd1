"""Communication between processes."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def all_reduce(
    tensor: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Reduces a tensor over processes, in its place, and returns it; a process that is alone keeps it as it is.

    Args:
        tensor: Of the same shape and type in all processes.
        op: How; their sum.
        group: The processes; None: all.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, op, group)
    return tensor
