"""Processes that share a network by its weights compute what one alone computes."""

import pytest
import torch
from helpers.processes import run_processes
from torch import nn

from drivedit.models.parameter import BasevLLMParameter
from drivedit.training.distributed import (
    all_reduce,
    destroy_model_parallel,
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    initialize_model_parallel,
)
from drivedit.training.distributed.linear import ColumnParallelLinear, RowParallelLinear


@pytest.fixture
def alone():
    initialize_model_parallel()
    yield
    destroy_model_parallel()


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """Two layers in whole and in shards, with the same weights."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    shared = nn.Sequential(ColumnParallelLinear(6, 8), nn.Tanh(), RowParallelLinear(8, 4))
    for weight, loaded in zip(shared.parameters(), whole.parameters(), strict=True):
        assert isinstance(weight, BasevLLMParameter)
        weight.load(loaded.data)
    return whole, shared


def same_as_whole(rank: int, size: int) -> None:
    """Outputs, and the gradients of weights and inputs."""
    whole, shared = networks()
    mine = torch.randn(3, 6, requires_grad=True)
    given = mine.detach().clone().requires_grad_()
    ours, theirs = shared(mine), whole(given)
    assert torch.allclose(ours, theirs, atol=1e-6)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    assert mine.grad is not None and given.grad is not None
    assert torch.allclose(mine.grad, given.grad, atol=1e-5) and given.grad.abs().max() > 0.01
    for weight, other, axis in zip(shared.parameters(), whole.parameters(), (0, 0, 1, None), strict=True):
        assert weight.grad is not None and other.grad is not None
        part = other.grad if axis is None else other.grad.chunk(size, axis)[rank]
        assert torch.allclose(weight.grad, part, atol=1e-5)


def in_pairs(rank: int) -> None:
    torch.distributed.init_process_group("gloo")
    assert all_reduce(torch.tensor([rank + 1.0])).item() == 3
    with pytest.raises(ValueError, match="divide the 2 processes, got 3"):
        initialize_model_parallel(3)
    initialize_model_parallel(2)
    assert (get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()) == (rank, 2)
    same_as_whole(rank, 2)
    with pytest.raises(ValueError, match="3 outputs do not divide over 2"):
        ColumnParallelLinear(2, 3)
    destroy_model_parallel()
    initialize_model_parallel(1)  # each for itself
    assert (get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()) == (0, 1)
    same_as_whole(0, 1)


def test_two_processes_share_a_network():
    run_processes(2, in_pairs)


def test_one_process_is_alone(alone):
    assert (get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()) == (0, 1)
    assert all_reduce(torch.ones(2)).tolist() == [1, 1]
    same_as_whole(0, 1)
    with pytest.raises(RuntimeError, match="already"):
        initialize_model_parallel()


def test_who_shares_must_be_said_first():
    with pytest.raises(RuntimeError, match="initialize_model_parallel"):
        get_tensor_model_parallel_rank()
    with pytest.raises(ValueError, match="pipeline"):
        initialize_model_parallel(1, 2)
