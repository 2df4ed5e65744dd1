"""What a world's card and its confidence say of its training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import make_episode
from helpers.worlds import make_world

from drivedit.config import DataConfig, LoopConfig
from drivedit.data.clips import Drives
from drivedit.data.recordings import write_shard
from drivedit.evaluation.reports.card import HEADING
from drivedit.training.calibration import calibrate
from drivedit.training.cards import Recorded, write_card


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Drives:
    folder = tmp_path_factory.mktemp("recordings")
    write_shard(folder / "shard-00000.h5", [make_episode(40, seed) for seed in range(3)])
    return Drives.open(folder)


def test_a_card_says_data_recipe_and_figures_of_every_stage_once(drives):
    world = make_world()
    world.card = f"{HEADING}\n\nfigures of the world before\n"
    loop, data = LoopConfig(seed=7), DataConfig("films/mine", validation_fraction=0.34)
    recorded = Recorded.of(drives, looked_at=1)
    write_card(world, "vae", {"loss": {"l1": 0.3}}, loop, data, recorded, {"psnr": 31.25})
    write_card(world, "student", {"loss": {"rollout": 6}}, loop, data, recorded, {"mse_8": 0.5})
    write_card(world, "vae", {"loss": {"l1": 0.4}}, loop, data, recorded, {"psnr": 33.5})
    for word in ("Licence: to be filled in", "`films/mine`, 3 drives, 0.1 minutes", drives.fingerprint, "The last 1 of",
                 "seed 7", "| psnr | 33.5 |", "| mse_8 | 0.5 |", '"rollout": 6', '"l1": 0.4'):  # fmt: skip
        assert word in world.card, word
    assert (
        world.card.count("## Stage `vae`") == 1
        and "31.25" not in world.card
        and "before" not in world.card
        and '"l1": 0.3' not in world.card
    )


def test_the_levels_are_quantiles_of_dreamed_errors(drives, monkeypatch):
    """A world whose latents are off by known amounts."""
    world, off = make_world(), iter([1.0, 2.0, 4.0])
    monkeypatch.setattr(world, "encode", lambda frames: torch.zeros(*frames.shape[:2], *world.latent_shape()))
    start = world.start(world.scenes[:1], [0])
    _, out = world.step(start.clone(), torch.zeros(1, 2))
    monkeypatch.setattr(world, "start", lambda scenes, seeds: start)

    def step(state, control):
        latents = torch.full((24, 1, *world.latent_shape()), next(off))
        return replace(state, latents=latents), out

    monkeypatch.setattr(world, "step", step)
    calibrate(world, drives, np.arange(3), frames=3)
    logs = torch.tensor([1.0, 4.0, 16.0]).log().repeat_interleave(24)
    assert torch.allclose(world.error_range, torch.quantile(logs, torch.tensor([0.05, 0.99])))


def test_dreams_are_as_short_as_drives_must_be(tmp_path: Path):
    write_shard(tmp_path / "shard-00000.h5", [make_episode(3, seed) for seed in range(2)])
    world = make_world()
    calibrate(world, Drives.open(tmp_path), np.arange(2), frames=50)
    assert world.error_range.isfinite().all()
