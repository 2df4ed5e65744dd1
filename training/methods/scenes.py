"""Flow matching of start scenes: frames that are drawn together, under what they are like and how fast the car is.

The loss is that of PixelHDM (velocity, frequencies, the pixels' scales) of every frame as a picture of its own, in one
mean. Some scenes are told nothing, and of the others some things are withheld, each by itself: any part may be left
open, and guidance leads away from what is told nothing (Ho and Salimans 2022, arXiv 2207.12598).

Batches have `frames`, uint8 `[B, n, H, W, C]`, `values`, whole numbers `[B, A]`, and `speeds`, `[B]` in m/s, NaN where
they are not known, as `SceneGenerator.tell` takes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drivedit.config import ScenesStageConfig
from drivedit.models.pixel.generator import OPEN, SceneGenerator
from drivedit.training.flow_matching import create_flow_matching_from_config
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.training.pixel_losses import create_combined_loss_from_config


class ScenesMethod(Method):
    """Trains a `SceneGenerator`.

    Args:
        scenes: The generator; its configuration tells the losses.
        config: What is withheld.
    """

    def __init__(self, scenes: SceneGenerator, config: ScenesStageConfig) -> None:
        super().__init__()
        self.scenes, self.config = scenes, config
        network = scenes.config.network
        self.losses = create_combined_loss_from_config(network)
        self.flow = create_flow_matching_from_config(network)

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch, and its parts."""
        values, speeds = self.withheld(batch["values"], batch["speeds"], rng)
        losses = self.error(batch["frames"], values, speeds, rng)
        return losses.pop("total"), losses

    def error(self, frames: Tensor, values: Tensor, speeds: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The losses of frames under exactly what is told; times and noise are drawn from `rng`."""
        t, noisy, clean, noise = self.flow.prepare_training(self.scenes.stack(frames), generator=rng)
        velocity, gamma = self.scenes.velocity(noisy, t, self.scenes.tell(values, speeds))
        velocity, clean, noise = (self.scenes.unstack(each) for each in (velocity, clean, noise))
        return self.losses(velocity, clean, noise, gamma_l2=gamma)

    def withheld(self, values: Tensor, speeds: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Values and speeds of which some are left open: all of a scene's, or each by itself."""
        rows, width = values.shape
        everything = torch.rand(rows, 1, generator=rng) < self.scenes.config.network.cfg_dropout
        left = (torch.rand(rows, width + 1, generator=rng) < self.config.drop) | everything
        left = left.to(values.device)
        return values.masked_fill(left[:, :-1], OPEN), speeds.masked_fill(left[:, -1], torch.nan)
