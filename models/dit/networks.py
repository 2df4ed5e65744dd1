"""The networks of a `DiTWorld`: pictures to latents and back, a denoised frame, what is read off it and told of it.

Legend: B worlds, T frames, C h w latent, P tokens per frame, D token width.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from drivedit.config import WorldConfig
from drivedit.models.dit.generation import KVCache
from drivedit.models.dit.student import DiTStudent
from drivedit.models.dit.tokens import FrameTokenizer
from drivedit.models.dit.vae import VAE3D
from drivedit.models.layers.heads import HeadOutputs, Heads
from drivedit.models.layers.past import as_channels
from drivedit.models.told import ToldNetworks
from drivedit.models.world import Sampling
from drivedit.utils import load_object, noise, truncate

BACKBONES = {"transformer": "drivedit.models.dit.student:DiTStudent"}  # networks of the dynamics by name
OF_A_BACKBONE = (
    "features", "read", "empty_cache", "blocks", "position", "capacity", "window", "max_seq_len", "tokens_per_frame",
    "history",
)  # fmt: skip


def without_controls(driven: Tensor, null_control: Tensor, where: Tensor | None = None) -> Tensor:
    """What is told of the driving `[..., 2 A + 3]` where the controls `[2 A]` are not; `where` `[..., 1]`, or all."""
    width = len(null_control)
    controls = null_control.expand(*driven.shape[:-1], width)
    if where is not None:
        controls = torch.where(where, controls, driven[..., :width])
    return torch.cat([controls, driven[..., width:]], -1)


class DiTNetworks(ToldNetworks):
    """Autoencoder, causal diffusion transformer, and heads.

    Args:
        config: Configuration of the networks, the picture and the heads.

    Raises:
        ValueError: The spec shows no picture, there is no such backbone or it lacks a part of one, or the student wants
            more controls than a world tells.
    """

    config: WorldConfig
    latent_mean: Tensor
    latent_std: Tensor
    null_control: Tensor  # stands for controls that are not told, now and before: beyond their ranges

    def __init__(self, config: WorldConfig) -> None:
        super().__init__(config)
        spec = config.spec
        if config.student.control_dim > config.driven:
            raise ValueError(
                f"a world of {len(spec.controls)} controls tells its student at most {config.driven}: these, those "
                f"before and the ego-motion; got student.control_dim {config.student.control_dim}"
            )
        if config.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {config.backbone!r}")
        self.vae = VAE3D.from_config(config.vae)
        self.dynamics: DiTStudent = load_object(BACKBONES[config.backbone]).from_config(config.student)
        lacking = [name for name in OF_A_BACKBONE if not hasattr(self.dynamics, name)]
        if lacking:
            raise ValueError(f"the backbone {config.backbone!r} lacks {', '.join(lacking)}; it has what DiTStudent has")
        height, width = config.image_size
        self._latent_shape = config.vae.latent_dim, height // 8, width // 8
        self.tokenizer = FrameTokenizer(config.vae.latent_dim, config.patch)
        self.heads = Heads(
            config.student.d_model, config.student.tokens_per_frame, len(spec.telemetry), len(spec.learned())
        )
        channels = (1, config.vae.latent_dim, 1, 1)
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        null = [1.5 * control.low - 0.5 * control.high for control in spec.controls]
        self.register_buffer("null_control", torch.tensor(2 * null), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """In which the dynamics compute."""
        return self.dynamics.position.dtype

    @property
    def kept(self) -> int:
        """Latents that a state keeps: those that the student looks back on, and the last one, which is seen."""
        return max(self.config.student.history, 1)

    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        return self._latent_shape

    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Encodes uint8 frames `[B, T, H, W, 3]` to latents `[B, T, C, h, w]`."""
        x = torch.as_tensor(frames).to(self.device)
        mean, _ = self.vae.encode(rearrange(x, "b t h w c -> b c t h w").float() / 127.5 - 1)
        return (mean.transpose(1, 2) - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor) -> np.ndarray:
        """Decodes latents `[B, C, h, w]` to uint8 frames `[B, H, W, 3]`."""
        return self.picture(latents).cpu().numpy()

    def picture(self, latents: Tensor) -> Tensor:
        """`decode` to a tensor where the world is."""
        z = (latents * self.latent_std + self.latent_mean)[:, :, None]
        x = self.vae.decode(z.to(next(self.vae.to_frame.parameters()).dtype))[:, :, 0]
        return ((x + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents `[..., C, h, w]` to tokens `[..., P, D]`."""
        return self.tokenizer.tokens(latents)

    def untokens(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., P, D]` to latents `[..., C, h, w]`."""
        return self.tokenizer.latents(tokens, *self.latent_shape()[1:])

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        control: Tensor,
        code: Tensor,
        past: Tensor,
        cache: KVCache,
        last: bool = False,
    ) -> tuple[Tensor, HeadOutputs]:
        """One pass of the network for one frame of every row; x `[B, C, h, w]`, past `[B, history, C, h, w]`."""
        tokens, network = self.tokens(x), self.dynamics
        before = as_channels(self.tokens(past).unbind(1)[: network.history], tokens)
        hidden, modulation, _ = network.features(
            tokens.to(self.dtype),
            cache,
            last,
            sigma=sigma[:, None].to(self.dtype),
            control=control[:, None, : network.control_dim].to(self.dtype),
            route=code[:, None].to(self.dtype),
            past=before.to(self.dtype),
        )
        clean = network.read(hidden, modulation, None).float()
        if network.history:
            clean = clean + before[..., : network.latent_dim]
        return self.untokens(clean), self.heads(hidden[:, 0])

    def noise(self, seeds: list[int], stream: str, steps: list[int], sampling: Sampling | None = None) -> Tensor:
        """Noise `[B, C, h, w]` of rows with these seeds at these steps of a stream, scaled as it is sampled."""
        sampling = sampling or Sampling()
        scale = self.config.temperature if sampling.temperature is None else sampling.temperature
        return scale * truncate(noise(seeds, stream, steps, self.latent_shape()), sampling.top_p).to(self.device)
