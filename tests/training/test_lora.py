"""Low-rank adapters: nothing changes before the first step, they alone are trained, and a file brings them back."""

import copy

import pytest
import torch
from torch import nn

from drivedit.models import DiTStudent
from drivedit.training.lora import AdaptedLinear, add_lora, load_lora, merge_lora, save_lora


def network() -> DiTStudent:
    torch.manual_seed(0)
    made = DiTStudent(4, 16, 2, 2, dropout=0.0)
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.2)
    return made


def told(student: nn.Module) -> torch.Tensor:
    return student(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)))[0]


def trained(student: nn.Module) -> nn.Module:
    optimizer = torch.optim.Adam([weight for weight in student.parameters() if weight.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (told(student) - 1).square().mean().backward()
        optimizer.step()
    return student


def test_new_adapters_change_nothing_and_they_alone_are_trained():
    plain, student = network(), network()
    layers = add_lora(student, 2, 4.0, ["to_k", "to_q", "to_v", "to_out.0"])
    assert layers == ["blocks.0.qkv", "blocks.0.out", "blocks.1.qkv", "blocks.1.out"]
    assert torch.equal(told(student), told(plain))
    wanted = {f"{layer}.{part}" for layer in layers for part in ("a", "b")}
    assert {name for name, weight in student.named_parameters() if weight.requires_grad} == wanted
    trained(student)
    assert not torch.allclose(told(student), told(plain), atol=1e-3)
    merge_lora(student)
    before, after = plain.state_dict(), student.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [f"{layer}.weight" for layer in layers]


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_merged_weights_tell_the_same(dtype, apart):
    student = network()
    add_lora(student, 2, 4.0)
    trained(student)
    student = student.to(dtype)
    x = torch.randn(2, 5, 4, dtype=dtype)
    before = student(x, sigma=torch.zeros(2, 5, dtype=dtype))[0]
    merge_lora(student)
    assert (student(x, sigma=torch.zeros(2, 5, dtype=dtype))[0] - before).abs().max() <= apart
    assert set(student.state_dict()) == set(network().state_dict())


def test_adapters_are_scaled_by_alpha_over_rank_and_copies_keep_them():
    student = network()
    add_lora(student, 4, 8.0, ["head"])
    head = student.head
    assert isinstance(head, AdaptedLinear)
    with torch.no_grad():
        head.b.fill_(1.0)
    wanted = network().head.weight + 2.0 * torch.ones(4, 4) @ head.a
    assert torch.allclose(head.whole(), wanted) and torch.equal(told(copy.deepcopy(student)), told(student))


def test_a_file_brings_the_adapters_back(tmp_path):
    student = network()
    add_lora(student, 2, 6.0)
    trained(student)
    save_lora(student, tmp_path / "lora.safetensors")
    other = network()
    load_lora(other, tmp_path / "lora.safetensors")
    assert torch.equal(told(other), told(student))
    losses = [(told(trained(each)) - 1).square().mean().item() for each in (student, other)]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="does not fit"):
        load_lora(DiTStudent(4, 32, 2, 2), tmp_path / "lora.safetensors")
    with pytest.raises(FileNotFoundError, match="no file"):
        load_lora(network(), tmp_path / "none.safetensors")


def test_what_cannot_be_adapted_is_told():
    with pytest.raises(ValueError, match="lora_rank must be at least 1, got 0"):
        add_lora(network(), 0, 1.0)
    with pytest.raises(ValueError, match="no linear layer is called nothing"):
        add_lora(network(), 1, 1.0, ["nothing"])
