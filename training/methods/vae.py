"""The `vae` stage: a reconstruction that keeps edges sharp, and a light pull of the latents towards N(0, 1).

A network that still shows the mean picture cannot learn thin lines on plain ground from absolute errors, whose best
plain answer is the median: no line at all. So squared errors come first, and the absolute ones, which keep edges sharp,
are faded in.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import VAEStageConfig
from drivedit.models import VAE3D
from drivedit.training.methods.method import Logs, Method, Progress

SQUARED_UNTIL, ALL_FROM = 0.25, 0.5  # shares of a run between which the absolute errors are faded in


class VAEMethod(Method):
    """Trains a `VAE3D` on single frames or clips.

    Args:
        vae: The network.
        config: Weights of the loss.
    """

    def __init__(self, vae: VAE3D, config: VAEStageConfig) -> None:
        super().__init__()
        self.vae, self.config = vae, config

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """Loss of frames `[B, T, C, H, W]` uint8."""
        x = to_network(batch["frames"])
        recon, mean, logvar = self.vae(x, rng)
        faded_in = min(max((progress.share - SQUARED_UNTIL) / (ALL_FROM - SQUARED_UNTIL), 0.0), 1.0)
        loss, logs = picture_loss(recon, x, self.config, faded_in)
        divergence = self.vae.loss_function(x, x, mean, logvar)
        return loss + divergence, {**logs, "kl": divergence.detach() / self.vae.beta}


def picture_loss(recon: Tensor, x: Tensor, config: VAEStageConfig, absolute: float = 1.0) -> tuple[Tensor, Logs]:
    """Squared error of pixels and `absolute` times the absolute errors of pixels and edges.

    Frames are `[B, C, T, H, W]` in [-1, 1].
    """
    height, width = x.shape[-2:]
    weight = torch.ones(height, width, device=x.device)
    for top, bottom, left, right in config.focus_boxes:
        rows = slice(round(top * height), round(bottom * height))
        weight[rows, round(left * width) : round(right * width)] += config.focus
    difference = recon - x
    squared = (weight * difference.square()).mean()
    pixels = (weight * difference.abs()).mean()
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    mse = difference.detach().square().mean() / 4
    loss = squared + absolute * (config.l1 * pixels + config.edges * edges)
    return loss, {"psnr": -10 * mse.log10(), "edges": edges.detach()}


def to_network(frames: Tensor) -> Tensor:
    """uint8 `[B, T, C, H, W]` to float `[B, C, T, H, W]` in [-1, 1]."""
    return frames.transpose(1, 2).float() / 127.5 - 1


def laplacian_energy(frames: Tensor) -> Tensor:
    """Mean squared response of the 4-neighbour Laplacian: how sharp pictures `[..., H, W]` are."""
    inner = frames[..., 1:-1, 1:-1]
    around = frames[..., 2:, 1:-1] + frames[..., :-2, 1:-1] + frames[..., 1:-1, 2:] + frames[..., 1:-1, :-2]
    return (around - 4 * inner).square().mean()


@torch.no_grad()
def vae_figures(vae: VAE3D, frames: Tensor) -> dict[str, float]:
    """PSNR (dB) and sharpness ratio of reconstructions of uint8 frames `[N, C, H, W]`."""
    was, vae = vae.training, vae.eval()
    pairs = []
    for part in frames.split(64):
        x = to_network(part[:, None])
        recon, *_ = vae(x)
        pairs.append((recon.clamp(-1, 1), x))
    vae.train(was)
    recon, x = (torch.cat(side)[:, :, 0] for side in zip(*pairs, strict=True))
    return {
        "psnr": -10 * torch.log10(F.mse_loss(recon, x) / 4).item(),
        "sharpness": (laplacian_energy(recon) / laplacian_energy(x)).item(),
    }
