"""The loss of the autoencoder: thin lines on plain ground are learned, and pictures that are washed out are told of."""

import logging

import pytest
import torch
from helpers.training import make_episode
from helpers.worlds import make_world

from drivedit.config import DataConfig, LoopConfig, VAEStageConfig
from drivedit.data import write_shard
from drivedit.models import VAE3D
from drivedit.training.methods.method import Progress
from drivedit.training.methods.vae import VAEMethod, picture_loss, vae_figures
from drivedit.training.stages import vae


def lines(count: int, seed: int = 0, size: int = 32) -> torch.Tensor:
    """Pictures `[N, 3, H, W]` of a row and a column of light on plain ground: a median without any line."""
    rng = torch.Generator().manual_seed(seed)
    frames = torch.full((count, 3, size, size), 100, dtype=torch.uint8)
    for frame in frames:
        row, column = torch.randint(size, (2,), generator=rng).tolist()
        frame[:, row], frame[:, :, column] = 250, 250
    return frames


def learned(steps: int, at_least: float) -> dict[str, float]:
    """Figures on other pictures after some steps, of which none counts as earlier than `at_least`, a share."""
    torch.manual_seed(0)
    method = VAEMethod(
        VAE3D(3, 16, [8, 16, 32, 64], 1, False, 0.002, temporal_kernel=1), VAEStageConfig(focus_boxes=[])
    )
    optimizer, rng, frames = torch.optim.Adam(method.parameters(), 3e-3), torch.Generator().manual_seed(0), lines(512)
    for step in range(steps):
        batch = frames[torch.randint(512, (8,), generator=rng)][:, None]
        loss, _ = method.loss({"frames": batch}, Progress(step, max(step / steps, at_least)), rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
    return vae_figures(method.vae, lines(64, 1))


def test_thin_lines_on_plain_ground_are_learned_and_would_not_be_with_absolute_errors_from_the_start():
    assert learned(160, at_least=0.0)["sharpness"] > 0.4
    assert learned(160, at_least=1.0)["sharpness"] < 0.02


def test_the_absolute_errors_are_faded_in():
    frames, config = lines(2), VAEStageConfig(l1=1.0, edges=1.0, focus_boxes=[])
    x = frames[:, None].transpose(1, 2).float() / 127.5 - 1
    shown = x + 0.5
    losses = [picture_loss(shown, x, config, absolute)[0].item() for absolute in (0.0, 0.5, 1.0)]
    assert losses == pytest.approx([0.25, 0.5, 0.75])


def test_washed_out_pictures_are_told_of(tmp_path, caplog):
    episode = make_episode(40, 0)
    episode.observations["camera"][:] = lines(41, size=64).permute(0, 2, 3, 1).numpy()
    write_shard(tmp_path / "recordings" / "shard-00000.h5", [episode, episode])
    loop = LoopConfig(steps=60, batch_size=8, lr=3e-3, warmup=10, bf16=False)
    with caplog.at_level(logging.WARNING, "drivedit"):
        data = DataConfig(str(tmp_path / "recordings"), validation_fraction=0.5)
        vae(make_world().config, loop, data, VAEStageConfig(), str(tmp_path), "cpu")
    assert "washed-out pictures" in caplog.text
