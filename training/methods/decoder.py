"""The `decoder` stage: a narrower decoder for the latents of a trained world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import VAEStageConfig
from drivedit.models import VAE3D
from drivedit.models.dit.vae import ResBlock
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.training.methods.vae import picture_loss, to_network


class DecoderMethod(Method):
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

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """Loss of latents `[B, C, h, w]` in a world's units and their frames `[B, 3, H, W]` uint8."""
        latents, (mean, spread, uncertain) = batch["latents"], self.moments
        noise = torch.randn(latents.shape, generator=rng).to(latents)
        recon = self.vae.decode((latents * spread + mean + uncertain * noise)[:, :, None])
        return picture_loss(recon, to_network(batch["frames"][:, None]), self.config)


@torch.no_grad()
def prune_decoder(vae: VAE3D, inner: Sequence[int], latents: Tensor) -> VAE3D:
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
