"""The `vae` stage: a reconstruction that keeps edges sharp, and a light pull of the latents towards N(0, 1).

The `decoder` stage: a narrower decoder for the latents of a trained world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import VAEStageConfig
from drivedit.models import VAE3D
from drivedit.models.dit.vae import ResBlock


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
        loss, logs = picture_loss(recon, x, self.config)
        divergence = self.vae.loss_function(x, x, mean, logvar)
        return loss + divergence, {**logs, "kl": divergence.detach() / self.vae.beta}


def picture_loss(recon: Tensor, x: Tensor, config: VAEStageConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared and absolute error of pixels and absolute error of edges, of frames `[B, C, T, H, W]` in [-1, 1]."""
    height, width = x.shape[-2:]
    weight = torch.ones(height, width, device=x.device)
    for top, bottom, left, right in config.focus_boxes:
        rows = slice(round(top * height), round(bottom * height))
        weight[rows, round(left * width) : round(right * width)] += config.focus
    difference = recon - x
    squared = (weight * difference.square()).mean()
    absolute = (weight * difference.abs()).mean()
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    mse = difference.detach().square().mean() / 4
    loss = squared + config.l1 * absolute + config.edges * edges
    return loss, {"psnr": -10 * mse.log10(), "edges": edges.detach()}


class DecoderStage(nn.Module):
    """Trains the decoder of a `VAE3D` alone, on latents as uncertain as the encoder says they are.

    Args:
        vae: The network.
        config: Weights of the loss.
        moments: Mean and standard deviation of the latents, and the encoder's own, each `[1, C, 1, 1]`.
    """

    def __init__(self, vae: VAE3D, config: VAEStageConfig, moments: tuple[Tensor, Tensor, Tensor]) -> None:
        super().__init__()
        self.vae, self.config = vae.requires_grad_(False), config
        for part in (vae.decoder, vae.to_frame):
            part.requires_grad_(True)
        self.moments: Tensor
        self.register_buffer("moments", torch.stack(moments))

    def forward(
        self, batch: dict[str, Tensor], progress: float, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of latents `[B, C, h, w]` in a world's units and their frames `[B, 3, H, W]` uint8."""
        latents, (mean, spread, uncertain) = batch["latents"], self.moments
        noise = torch.randn(latents.shape, generator=rng).to(latents)
        recon = self.vae.decode((latents * spread + mean + uncertain * noise)[:, :, None])
        return picture_loss(recon, to_network(batch["frames"][:, None]), self.config)


@torch.no_grad()
def narrowed(vae: VAE3D, inner: Sequence[int], latents: Tensor) -> VAE3D:
    """The same network with narrower residual blocks in its decoder, of the channels that say most.

    A channel says as much as it varies on the latents `[N, C, h, w]` times what the next convolution makes of it
    (structured pruning). The result needs training.

    Raises:
        ValueError: `inner` has not four entries, or one is wider than what is there.
    """
    small = VAE3D.from_config(replace(vae.config, decoder_inner=list(inner)))
    y, weights = latents.contiguous(memory_format=torch.channels_last), small.state_dict()
    kept = {name: value for name, value in vae.state_dict().items() if weights[name].shape == value.shape}
    small.load_state_dict(kept, strict=False)
    for layer, target in zip(vae.decoder, small.decoder, strict=True):
        if isinstance(layer, ResBlock) and isinstance(target, ResBlock):
            first, second = layer.conv1.conv.state_dict(), layer.conv2.conv.state_dict()
            there, count = len(first["bias"]), target.conv1.conv.out_channels
            if count > there:
                raise ValueError(f"decoder_inner {list(inner)} is wider than the decoder: {count} > {there}")
            says = F.relu(layer.conv1(F.relu(y), 1)).std((0, 2, 3)) * second["weight"].square().sum((0, 2, 3)).sqrt()
            chosen = says.topk(count).indices.sort().values
            target.conv1.conv.load_state_dict({name: value[chosen] for name, value in first.items()})
            target.conv2.conv.load_state_dict({"weight": second["weight"][:, chosen], "bias": second["bias"]})
        y = layer(y, 1)
    return small


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
