"""Muon is torch's, but for the type in which it orthogonalises."""

import pytest
import torch

from drivedit.config import LoopConfig
from drivedit.training import optimizers
from drivedit.training.methods.method import ParameterGroup
from drivedit.training.optimizers import Muon, make_optimizers, orthogonalised

SHAPES = [(24, 96), (96, 24), (32, 32)]


def twins() -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [torch.nn.Parameter(v.clone()) for v in values], [torch.nn.Parameter(v.clone()) for v in values]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0), (torch.float32, 0.02)])
def test_it_takes_the_steps_of_torch(dtype, tolerance, monkeypatch):
    monkeypatch.setattr(optimizers, "fast_dtype", lambda device: dtype)
    ours, theirs = twins()
    mine = Muon(ours, lr=0.1, weight_decay=0.01)
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance
    assert mine.state[ours[0]].keys() == {"momentum_buffer"} == set(other.state[theirs[0]])


def test_without_bfloat16_it_orthogonalises_in_float32(monkeypatch):
    monkeypatch.setattr(optimizers, "fast_dtype", lambda device: torch.bfloat16)
    seen = []
    monkeypatch.setattr(optimizers, "orthogonalised", lambda matrix, dtype: seen.append(dtype) or matrix)
    matrices = [torch.nn.Parameter(torch.ones(2, 3))]
    group = ParameterGroup("all", matrices, matrices)
    for bf16 in (True, False):
        (muon,) = make_optimizers([group], LoopConfig(bf16=bf16))["all"]
        matrices[0].grad = torch.ones(2, 3)
        muon.step()
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonalised(matrix, torch.float32))
    assert values.min() > 0.3 and values.max() < 1.3, "the quintic leaves them in a band around 1"


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"\[\[3\]\]"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
