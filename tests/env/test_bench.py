"""The speed table: operations are counted right, ratios are what they say, and everything runs at a tiny size."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from drivedit.models import DiTWorld
from drivedit_env import bench


def test_the_operations_of_a_frame_are_those_of_its_layers(tiny_world: DiTWorld):
    """Against a count of our own: two per multiplication of every convolution and linear layer."""
    counts = {"dynamics": 0, "decoder": 0}

    def count(part: str):
        def hook(layer, inputs, output):
            per_value = layer.weight[0].numel()  # multiplications for one value of the output
            counts[part] += 2 * per_value * output.numel()

        return hook

    parts = {"dynamics": [tiny_world.dynamics, tiny_world.heads], "decoder": [tiny_world.vae]}
    hooks = [
        layer.register_forward_hook(count(part))
        for part, modules in parts.items()
        for module in modules
        for layer in module.modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    state = tiny_world.start(tiny_world.scenes[:1], [0])
    counts.update(dynamics=0, decoder=0)
    tiny_world.step(state, torch.zeros(1, 2))
    tiny_world.decode(state.latents[:, 0])
    for hook in hooks:
        hook.remove()
    student = tiny_world.config.student
    tokens, keys = student.tokens_per_frame, (student.window or 0) * student.tokens_per_frame
    attention = student.n_layers * 2 * 2 * tokens * keys * student.d_model
    found = bench.flops_per_frame(tiny_world)
    assert found["decoder"] == counts["decoder"]
    assert found["dynamics"] == pytest.approx(counts["dynamics"] + attention, rel=0.15)  # and the map's distances


def test_the_whole_table_at_a_tiny_size(tiny_world: DiTWorld, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "BATCHES", (1, 3))
    monkeypatch.setattr(bench, "WINDOWS", (2, 4))
    monkeypatch.setattr(bench, "SIZES", (32, 64))
    tiny_world.save_pretrained(tmp_path / "world")
    report = bench.measure(tmp_path / "world", rounds=1, seconds=0.02, quiet=True)
    assert json.loads(json.dumps(report)) == report
    rates = report["rates"]
    assert {"dream, 1, pixels", "dream, 3, latent", "twin", "twin, one process per core"} <= set(rates)
    assert min(rates.values()) > 0
    assert report["ratios"]["dream, 3, latent / twin"] == rates["dream, 3, latent"] / rates["twin"]
    assert report["snapshots"]["forks per second"] > 0 and report["memory"]["state of a world"] > 0
    assert report["rounding"]["pixels of 255, most"] <= 16
    assert report["curves"]["picture"]["sizes"] == [32, 64] and np.isfinite(report["curves"]["batch"]["exponent"])
    report["endurance"] = bench.endurance(DiTWorld.from_pretrained(tmp_path / "world"), 120, worlds=4, quiet=True)
    assert report["endurance"]["steps of all worlds"] == 120
    text = bench.as_text(report)
    assert all(words in text for words in ("dream, 1, pixels / twin", "GFLOP/s", "forks per second", "exponent"))


def test_every_option_says_its_default(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    told = capsys.readouterr().out.partition("options:")[2].split("\n  -")
    assert len(told) >= 8 and [text for text in told[2:] if "default:" not in text] == []
