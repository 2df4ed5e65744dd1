"""Sets in the one loop: what is learnt, resuming, and the study whose answer is known."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drivedit.config import LoopConfig
from drivedit.data.ksin import make_sin
from drivedit.models.sets.ksin import ksin_flow
from drivedit.models.sets.tokens import assignment_distance
from drivedit.training import ksin_study
from drivedit.training.__main__ import main
from drivedit.training.ksin_study import Cell, as_table, in_words
from drivedit.training.loop import train
from drivedit.training.methods.method import Progress
from drivedit.training.methods.sets import SetFlowMethod, SetRegression
from drivedit.utils import generator

LENGTH = 32


def make_flow(k: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    told = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "conditioning_dim": 16, "channels": (8, 12)}
    return ksin_flow(k, LENGTH, cfg_dropout_rate=0.0, **{**told, **options})


def signals(rng: torch.Generator, rows: int = 64, broken: bool = False) -> dict[str, torch.Tensor]:
    params = torch.rand(rows, 4, generator=rng) * 2 - 1
    return {"params": params, "observation": make_sin(params, LENGTH, broken)}


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
    def run(folder: str, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            config = LoopConfig(steps=stop, lr=1e-3, warmup=1, cooldown=0.0, bf16=False, log_every=1)
            train(SetFlowMethod(make_flow()), signals, config, tmp_path / folder)
        return torch.load(tmp_path / folder / "last.pt", weights_only=True)["stage"]

    whole, parts = run("whole", 4), run("parts", 2, 4)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "curve.jsonl").read_text().splitlines()]
    assert {"flow", "penalty"} <= set(rows[0])


def test_the_noise_is_coupled_as_it_is_said():
    """The better the noise lies beside the data, the less the field has to do."""
    batch, losses = signals(generator(0, "batch"), 256), {}
    for ot in (False, True, "token", "both"):
        method = SetFlowMethod(make_flow(), ot)
        for weight in method.flow.vector_field.projection.back.parameters():
            weight.data.zero_()  # the field is zero: the loss is the mean squared way from noise to data
        losses[ot] = method.loss(batch, Progress(0, 0.0), generator(0, "noise"))[0].item()
    assert losses["both"] < losses[True] < losses["token"] < losses[False]
    for ot, width in (("batch", 2), ("token", None)):
        with pytest.raises(ValueError, match="ot"):
            SetFlowMethod(make_flow(), ot, width)


def test_masks_and_weights_reach_the_loss():
    batch = signals(generator(0, "batch"), 8)
    method = SetFlowMethod(make_flow(), False)

    def loss(**more: torch.Tensor) -> float:
        return method.loss({**batch, **more}, Progress(0, 0.0), generator(0, "noise"))[0].item()

    assert loss(weight=torch.ones(8, 4)) == pytest.approx(loss(), rel=1e-6)
    first = torch.tensor([1.0, 0, 1, 0]).expand(8, -1)
    assert loss(weight=first) != pytest.approx(loss(), rel=1e-3)
    nearly = {"params": torch.cat([batch["params"][:, :1], torch.full((8, 1), 9.0), batch["params"][:, 2:]], 1)}
    mask = torch.tensor([[True, False]]).expand(8, -1)
    told = [{"weight": first, "mask": mask}, {"weight": first, "mask": mask, **nearly}]
    method.flow.vector_field.layers[0].out.weight.data += 1.0
    assert loss(**told[0]) == pytest.approx(loss(**told[1]), rel=1e-5)
    assert loss(weight=first) != pytest.approx(loss(weight=first, **nearly), rel=1e-3)


def test_flow_beats_regression_where_there_is_symmetry_and_not_where_there_is_none(tmp_path):
    """Two points are seen without their order. Regression tells the mean of both orders, which is neither of them.

    `python -m drivedit.training ksin` compares the same on sines, which takes longer.
    """

    def points(rng: torch.Generator, broken: bool, rows: int = 64) -> dict[str, torch.Tensor]:
        params = torch.rand(rows, 4, generator=rng) * 2 - 1
        order = params[:, :2].argsort(1)
        ordered = torch.cat([params[:, :2].gather(1, order), params[:, 2:].gather(1, order)], 1)
        return {"params": ordered if broken else params, "observation": ordered}

    def encoder(width: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.GELU(), torch.nn.Linear(32, width))

    def cost(method: Any, broken: bool) -> float:
        name = tmp_path / f"{type(method).__name__}-{broken}"
        best: Any = train(method, lambda rng: points(rng, broken), config, name)
        with torch.no_grad():
            told = best.flow.sample(seen, noise, 4) if hasattr(best, "flow") else best.encoder(seen)
        return assignment_distance(told, seen, 2, squared=True).mean().item()

    config = LoopConfig(steps=400, lr=5e-3, warmup=20, bf16=False, ema=0.98, log_every=100)
    seen = points(generator(0, "judged"), True, 512)["observation"]
    noise = torch.randn(512, 4, generator=generator(0, "noise"))
    torch.manual_seed(0)
    flow = make_flow(d_model=32, d_ff=64, num_layers=2)
    flow.encoder = encoder(16)
    found = (
        cost(SetFlowMethod(flow), False),
        cost(SetRegression(encoder(4)), False),
        cost(SetRegression(encoder(4)), True),
    )
    assert found[0] < 0.8 * found[1] and found[2] < 0.1 * found[0], found


def test_an_equivariant_field_under_alignment_does_not_see_the_order_of_the_data():
    batch, method = signals(generator(0, "batch"), 8), SetFlowMethod(make_flow())
    other = {**batch, "params": batch["params"][:, [1, 0, 3, 2]]}
    losses = [method.loss(each, Progress(0, 0.0), generator(0, "noise"))[0].item() for each in (batch, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_study_runs_and_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    words = ["ksin", "--quick", "--ks", "[2]", "--seeds", "1", "--out", str(tmp_path), "--equivariances"]
    assert main([*words, '["exact"]']) == 0
    before = json.loads((tmp_path / "ksin.json").read_text())["cells"]
    assert len(before) == 8 and all(len(costs) == 6 for costs in before.values())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    run, asked = ksin_study.run, []
    monkeypatch.setattr(ksin_study, "run", lambda cell, *rest: asked.append(cell.name()) or run(cell, *rest))
    capsys.readouterr()
    assert main([*words, '["exact", "none"]']) == 0
    assert len(asked) == 6 and all("-none-" in name for name in asked)
    printed = capsys.readouterr().out
    assert printed.count("\n| 2 |") == 14 and "of independent coupling" in printed
    assert (tmp_path / "ksin.md").read_text().strip() in printed
    after = json.loads((tmp_path / "ksin.json").read_text())["cells"]
    assert {name: after[name] for name in before} == before
    assert main(["ksin", "--ks", "[2]", "--out", str(tmp_path)]) == 1
    assert "take another folder" in capsys.readouterr().err
    assert main(["ksin", "--couplings", '["best"]', "--out", str(tmp_path)]) == 1
    assert "alignment, got best" in capsys.readouterr().err


def test_a_training_of_the_study_is_the_same_every_time(tmp_path):
    cell, size = Cell(2, "broken", "learnt", "alignment", 1), ksin_study.Size(3, 8, 16, 16, 1)
    first, second = (ksin_study.run(cell, size, Path(tmp_path / name)) for name in "ab")
    assert first == second != ksin_study.run(Cell(2, "broken", "learnt", "alignment", 2), size, tmp_path / "c")


def test_the_study_says_in_words_what_its_figures_are():
    costs = {"independent": [0.4, 0.3, 0.25, 0.21, 0.2, 0.2], "alignment": [0.3, 0.2, 0.19, 0.18, 0.18, 0.18],
             "batch": [0.3, 0.3, 0.3, 0.3, 0.3, 0.3], "regression": [0.36] * 6}  # fmt: skip
    found = {
        Cell(4, "symmetric", "exact", name, seed): {
            str(step): value * (1 + seed) for step, value in zip(ksin_study.STEPS, values, strict=True)
        }
        for name, values in costs.items()
        for seed in (0, 1)
    }
    said = "\n".join(in_words(found))
    assert "batch costs 1.500 of independent coupling at 32 steps; it is below it for 0 of 2 seeds" in said
    assert "alignment costs 0.900 of independent coupling at 32 steps; it is below it for 2 of 2 seeds" in said
    assert "4 steps after alignment cost 0.950 of 32 of independent coupling" in said
    assert "the flow (alignment) costs 0.500 of regression, which is better here" in said
    assert "| 4 | symmetric | exact | alignment | 0.4500 |" in as_table(found)
    assert "| 0.2700 | 0.1800 to 0.3600 |" in as_table(found)
