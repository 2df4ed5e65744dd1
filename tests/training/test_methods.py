"""Methods: groups are clipped and moved by themselves, and what is frozen is nobody's weight."""

import copy
import json
from importlib import resources

import pytest
import torch
import yaml
from helpers.training import clips
from helpers.worlds import make_world
from torch import nn

from drivedit.config import DistillConfig, LoopConfig
from drivedit.training.loop import train
from drivedit.training.methods import METHODS
from drivedit.training.methods.method import Frozen, Method, ParameterGroup, Progress
from drivedit.training.optimizers import make_optimizers
from drivedit.training.steps import Steps
from drivedit.utils import load_object


class Duel(Method):
    """Two weights, each with a loss of its own, one a thousand times as steep; a frozen network gives the goal."""

    def __init__(self) -> None:
        super().__init__()
        self.goal = Frozen(nn.Linear(2, 2))
        self.steep, self.flat = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))

    def groups(self, step: int) -> list[ParameterGroup]:
        steep = self.group("steep", [self.steep], [self.steep], clip=0.5)
        return [steep, *([self.group("flat", [self.flat])] if step % 2 == 0 else [])]

    def loss(self, batch, progress, rng):
        wanted = self.goal.network(batch["x"])
        steep, flat = ((batch["x"] @ weight - wanted).square().mean() for weight in (self.steep, self.flat))
        return 1000 * steep + flat, {}


def batch(rng: torch.Generator) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(8, 2, generator=rng)}


def test_a_steep_group_takes_nothing_from_another():
    torch.manual_seed(0)
    method = Duel()
    steps = Steps(method, make_optimizers(method.groups(0), LoopConfig()), 10.0, 0, False, torch.device("cpu"))
    steps.loss(batch(torch.Generator().manual_seed(0)), Progress(0, 0.0), "")[0].backward()
    assert method.steep.grad is not None and method.flat.grad is not None
    alone, before = method.flat.grad.clone(), method.steep.grad.clone()
    norms = steps.norms(0)
    assert norms == pytest.approx({"steep": before.norm().item(), "flat": alone.norm().item()}) and norms["steep"] > 100
    assert torch.equal(method.flat.grad, alone)  # below its limit of 10
    assert torch.allclose(method.steep.grad, 0.5 * before / before.norm(), rtol=1e-4)
    kinds = [[type(optimizer).__name__ for optimizer in steps.optimizers[name]] for name in ("steep", "flat")]
    assert kinds == [["Muon"], ["AdamW"]]
    steep, flat = method.steep.detach().clone(), method.flat.detach().clone()
    steps.take(1)
    assert torch.equal(method.flat, flat) and not torch.equal(method.steep, steep)
    steps.clear()
    assert method.flat.grad is None and method.steep.grad is None


def test_weights_that_a_loss_leaves_out_are_named_at_the_first_step(tmp_path):
    method = Duel()
    method.forgotten = nn.Parameter(torch.zeros(2))
    method.groups = lambda step: [method.group("all", method.parameters())]  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"leaves out \['forgotten'\].*untouched"):
        train(method, batch, LoopConfig(steps=2, bf16=False, log_every=1), tmp_path)
    method.forgotten.requires_grad_(False)
    train(method, batch, LoopConfig(steps=2, bf16=False, log_every=1), tmp_path)


def test_a_frozen_network_is_nobodys_weight_and_moves_along():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    method = Duel()
    method.goal = Frozen(network)  # type: ignore[assignment]
    assert [name for name, _ in method.named_parameters()] == ["steep", "flat"] == list(method.state_dict())
    assert copy.deepcopy(method).goal is method.goal and method.goal.network is not network
    frozen = method.train().double().goal.network
    assert not frozen.training and not any(weight.requires_grad for weight in frozen.parameters())
    assert {weight.dtype for weight in frozen.parameters()} == {torch.float64}
    assert network.training and next(network.parameters()).dtype == torch.float32


def test_a_run_keeps_what_is_trained_and_logs_each_norm(tmp_path):
    train(Duel(), batch, LoopConfig(steps=2, bf16=False, log_every=1), tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(state["stage"]) == {"steep", "flat"} and {"module.steep", "module.flat"} <= set(state["ema"])
    assert not [name for name in state["ema"] if "goal" in name] and len(state["optimizers"]) == 2
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert {"grad_norm", "grad_norm_steep", "grad_norm_flat"} <= set(rows[0]) and "grad_norm_steep" not in rows[1]


@pytest.mark.parametrize("name", ["matching", "phased", "adversarial", "continuous"])
def test_a_method_resumed_in_the_critics_turn_equals_going_through(tmp_path, name):
    loss = DistillConfig(clip_frames=4, rollout=1, critic_steps=3, phases="3-4,4-2", warmup_share=0.0)

    def run(folder: str, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            torch.manual_seed(0)
            config = LoopConfig(steps=stop, lr=1e-3, warmup=1, cooldown=0.0, bf16=False, log_every=1)
            method = load_object(METHODS[name])(make_world(), loss)
            train(method, clips, config, tmp_path / folder)
        return torch.load(tmp_path / folder / "last.pt", weights_only=True)["stage"]

    whole, parts = run("whole", 5), run("parts", 2, 5)
    assert list(whole) == list(parts) and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not [name for name in whole if name.startswith("teacher")]


def test_a_group_has_a_rate_of_its_own_and_the_others_the_loops():
    method = Duel()
    method.groups = lambda step: [  # type: ignore[method-assign]
        method.group("steep", [method.steep], lr=1e-5),
        method.group("flat", [method.flat]),
    ]
    steps = Steps(method, make_optimizers(method.groups(0), LoopConfig()), 10.0, 0, False, torch.device("cpu"))
    steps.rates(1e-3, 0.5)
    rates = {name: {part["lr"] for part in steps.optimizers[name][0].param_groups} for name in ("steep", "flat")}
    assert rates == {"steep": {5e-6}, "flat": {5e-4}}


@pytest.mark.parametrize("name", ["phased", "adversarial", "continuous"])
def test_a_preset_of_a_method_builds_it(name):
    preset = resources.files("drivedit.training") / "presets" / "distill" / f"{name}.yaml"
    told = yaml.safe_load(preset.read_text())
    loop, loss = LoopConfig.from_dict(told["train"]), DistillConfig.from_dict(told["loss"])
    assert loss.method == name and loop.steps == 1000
    load_object(METHODS[name])(make_world(), loss)
