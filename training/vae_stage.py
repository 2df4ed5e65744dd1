"""The `vae` stage: a reconstruction that keeps edges sharp, and a light pull of the latents towards N(0, 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import VAEStageConfig
from drivedit.models import VAE3D


class VAEStage(nn.Module):
    """Trains a `VAE3D` on single frames or clips.

    Args:
        vae: The network.
        config: Weights of the loss.
    """

    def __init__(self, vae: VAE3D, config: VAEStageConfig) -> None:
        super().__init__()
        self.vae, self.config = vae, config

    def forward(
        self, batch: dict[str, Tensor], progress: float, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of frames `[B, T, C, H, W]` uint8."""
        x = to_network(batch["frames"])
        recon, mean, logvar = self.vae(x, rng)
        weight = self.weights(x.shape[-2:], x.device)
        difference = recon - x
        squared = (weight * difference.square()).mean()
        absolute = (weight * difference.abs()).mean()
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        divergence = self.vae.loss_function(x, x, mean, logvar)
        loss = squared + self.config.l1 * absolute + self.config.edges * edges + divergence
        mse = difference.detach().square().mean() / 4
        return loss, {"psnr": -10 * mse.log10(), "edges": edges.detach(), "kl": divergence.detach() / self.vae.beta}

    def weights(self, size: torch.Size, device: torch.device) -> Tensor:
        """Weight of every pixel `[H, W]`."""
        weight = torch.ones(size, device=device)
        for top, bottom, left, right in self.config.focus_boxes:
            rows = slice(round(top * size[0]), round(bottom * size[0]))
            weight[rows, round(left * size[1]) : round(right * size[1])] += self.config.focus
        return weight


def to_network(frames: Tensor) -> Tensor:
    """uint8 `[B, T, C, H, W]` to float `[B, C, T, H, W]` in [-1, 1]."""
    return frames.transpose(1, 2).float() / 127.5 - 1


def laplacian_energy(frames: Tensor) -> Tensor:
    """Mean squared response of the 4-neighbour Laplacian: how sharp pictures `[..., H, W]` are."""
    inner = frames[..., 1:-1, 1:-1]
    around = frames[..., 2:, 1:-1] + frames[..., :-2, 1:-1] + frames[..., 1:-1, 2:] + frames[..., 1:-1, :-2]
    return (around - 4 * inner).square().mean()


@torch.no_grad()
def vae_figures(stage: nn.Module, frames: Tensor) -> dict[str, float]:
    """PSNR (dB) and sharpness ratio of reconstructions of uint8 frames `[N, C, H, W]`."""
    assert isinstance(stage, VAEStage)
    was, stage = stage.training, stage.eval()
    pairs = []
    for part in frames.split(64):
        x = to_network(part[:, None])
        recon, *_ = stage.vae(x)
        pairs.append((recon.clamp(-1, 1), x))
    stage.train(was)
    recon, x = (torch.cat(side)[:, :, 0] for side in zip(*pairs, strict=True))
    return {
        "psnr": -10 * torch.log10(F.mse_loss(recon, x) / 4).item(),
        "sharpness": (laplacian_energy(recon) / laplacian_energy(x)).item(),
    }
