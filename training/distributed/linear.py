"""Linear layers that processes share: by columns of what comes out, or by rows of what goes in (Shoeybi et al. 2019).

A column-parallel layer and a row-parallel one after it need one sum over the processes, and in training one for the
gradient of their input.

Legend: I inputs, O outputs, n processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.parameter import BasevLLMParameter, ModelWeightParameter
from drivedit.training.distributed import (
    all_reduce,
    get_tensor_model_parallel_group,
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
)


class ColumnParallelLinear(nn.Module):
    """Every process makes some of the outputs: `[..., I]` to `[..., O / n]`.

    Args:
        inputs: I.
        outputs: O.
        bias: Whether there is one.

    Raises:
        ValueError: The outputs do not divide over the processes.
        RuntimeError: Nobody said who shares.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        own, self.rank = _share(outputs, "outputs"), get_tensor_model_parallel_rank()
        self.weight = ModelWeightParameter(torch.empty(own, inputs), self._load)
        self.bias = BasevLLMParameter(torch.empty(own), self._load_bias) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """This process's outputs."""
        return F.linear(_Entering.apply(x), self.weight, self.bias)  # type: ignore[arg-type]

    def _load(self, weight: ModelWeightParameter, loaded: Tensor) -> None:
        weight.load_column_parallel_weight(loaded, self.rank)

    def _load_bias(self, bias: BasevLLMParameter, loaded: Tensor) -> None:
        bias.load_whole(loaded[self.rank * len(bias) : (self.rank + 1) * len(bias)])


class RowParallelLinear(nn.Module):
    """Every process has some of the inputs, and all get the sum: `[..., I / n]` to `[..., O]`.

    Args:
        inputs: I.
        outputs: O.
        bias: Whether there is one, which all have.

    Raises:
        ValueError: The inputs do not divide over the processes.
        RuntimeError: Nobody said who shares.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        own, self.rank = _share(inputs, "inputs"), get_tensor_model_parallel_rank()
        self.weight = ModelWeightParameter(torch.empty(outputs, own), self._load)
        self.bias = BasevLLMParameter(torch.empty(outputs), BasevLLMParameter.load_whole) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """All outputs, on every process."""
        out: Any = _Leaving.apply(F.linear(x, self.weight))
        return out if self.bias is None else out + self.bias

    def _load(self, weight: ModelWeightParameter, loaded: Tensor) -> None:
        weight.load_row_parallel_weight(loaded, self.rank)


def _share(width: int, what: str) -> int:
    """What one process has of a width."""
    size = get_tensor_model_parallel_world_size()
    if width % size:
        raise ValueError(f"{width} {what} do not divide over {size} processes")
    return width // size


def _sum(x: Tensor) -> Tensor:
    if get_tensor_model_parallel_world_size() == 1:
        return x
    return all_reduce(x.contiguous().clone(), group=get_tensor_model_parallel_group())


class _Entering(torch.autograd.Function):
    """What all have goes in; its gradient is the sum of what the processes find."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _sum(grad)


class _Leaving(torch.autograd.Function):
    """The sum over the processes, whose gradient all have."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad
