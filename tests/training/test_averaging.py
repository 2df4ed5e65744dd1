"""Averaged weights forget where a run began, and the better ones of averaged and last weights are kept."""

import json
import logging

import pytest
import torch
from helpers.training import Line, line_batch
from torch import nn

from drivedit.config import LoopConfig
from drivedit.training.averaging import averaged, better
from drivedit.training.loop import train

GOAL = torch.tensor([[1.0, 2], [3, -1]])


def distance(stage: nn.Module) -> float:
    assert isinstance(stage, Line)
    return (stage.weight - GOAL).norm().item()


def test_a_short_run_is_no_average_of_its_start(tmp_path):
    config = LoopConfig(lr=0.05, warmup=2, steps=150, bf16=False, log_every=50, ema=0.999)
    assert distance(train(Line(), line_batch, config, tmp_path)) < 0.1 * GOAL.norm()


def test_the_average_becomes_that_of_its_decay():
    stage = Line()
    mean = averaged(stage, 0.9)
    assert isinstance(mean.module, Line)
    by_hand = torch.zeros(2, 2)
    for update in range(200):
        stage.weight.data = torch.full((2, 2), float(update))
        mean.update_parameters(stage)
        by_hand = by_hand.lerp(stage.weight.data, 1 - min(0.9, (1 + update) / (10 + update)) if update else 1.0)
        assert torch.allclose(mean.module.weight, by_hand)
    assert mean.module.weight[0, 0].item() == pytest.approx(199 - 9, abs=1e-3)  # .9 / (1 - .9) steps behind


def test_counts_are_copied():
    stage = nn.BatchNorm1d(2)
    mean = averaged(stage, 0.9)
    for _ in range(3):
        stage(torch.randn(8, 2))
        mean.update_parameters(stage)
    found = mean.module.get_buffer("running_mean")
    assert mean.module.num_batches_tracked == 3 and not torch.equal(found, stage.get_buffer("running_mean"))


@pytest.mark.parametrize(("judge", "keeps"), [("far", "last"), ("-far", "averaged"), (None, "averaged")])
def test_the_better_weights_are_kept_and_named(tmp_path, caplog, judge, keeps):
    """The last weights are farther from where the run began than the averaged ones."""

    def figures(stage):
        return {"far": stage.weight.norm().item()}

    config = LoopConfig(lr=0.02, warmup=2, steps=20, bf16=False, log_every=10, ema=0.99)
    with caplog.at_level(logging.INFO, "drivedit"):
        kept = train(Line(), line_batch, config, tmp_path, validate=figures, judge=judge)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    name = {"last": ("stage", "weight"), "averaged": ("ema", "module.weight")}[keeps]
    assert torch.equal(kept.get_parameter("weight"), state[name[0]][name[1]])
    row = json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[-1])
    assert row["val/far"] < row["raw/far"] and row["kept_averaged"] == (keeps == "averaged")
    assert f"kept the {keeps} weights" in caplog.text and f"far {row['val/far']:.4g} averaged" in caplog.text


def test_what_is_not_finite_is_not_better():
    assert better("psnr", {"psnr": 3.0}, {"psnr": float("nan")}) and not better("-e", {"e": float("nan")}, {"e": 9.0})
    with pytest.raises(KeyError, match="known figures: psnr"):
        better("sharpness", {"psnr": 3.0}, {"psnr": 2.0})
