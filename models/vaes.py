"""A video autoencoder that halves time twice and space three times: the package's own, of four frames at once.

Four frames lie side by side in the channels. The first frame makes a group with copies of itself, so 4 k + 1 frames
become k + 1 latents, a latent sees no frame after its own four, and the first frame is decoded from its own alone.

Legend: B clips, T frames, H W pixels, C channels of a latent.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from drivedit.config import VAEConfig
from drivedit.models.dit.vae import VAE3D
from drivedit.models.saved import SavedNetwork

FRAMES = 4  # of a latent
PIXELS = 8  # of a latent's side


def latent_frames(frames: int) -> int:
    """Latents in time of so many frames.

    Raises:
        ValueError: They are not 4 k + 1.
    """
    if frames < 1 or (frames - 1) % FRAMES:
        raise ValueError(f"a clip has {FRAMES} k + 1 frames (1, 5, 9, ...), got {frames}")
    return (frames - 1) // FRAMES + 1


class WanVAE(SavedNetwork):
    """Causal autoencoder of videos.

    Args:
        config: Sizes, as of `VAE3D`; `in_channels` are those of a picture.
    """

    file_format = "drivedit-video-vae-1"
    config_type = VAEConfig

    def __init__(self, config: VAEConfig | None = None) -> None:
        super().__init__()
        self.config: VAEConfig = config or VAEConfig(latent_dim=16)
        sizes = {**self.config.to_dict(), "in_channels": FRAMES * self.config.in_channels}
        self.coder = VAE3D(**sizes)

    @classmethod
    def from_config(cls, config: VAEConfig) -> WanVAE:  # type: ignore[override]
        """Builds the network that a configuration describes."""
        return cls(config)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each `[B, C, k + 1, H/8, W/8]`, of videos as `encode` takes them."""
        if x.ndim != 5 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"videos must be [B, {self.config.in_channels}, T, H, W], got {tuple(x.shape)}")
        latent_frames(x.shape[2])
        x = torch.cat([x[:, :, :1].expand(-1, -1, FRAMES - 1, -1, -1), x], 2)
        return self.coder.encode(rearrange(x, "b c (t f) h w -> b (f c) t h w", f=FRAMES))

    def encode(self, x: Tensor) -> Tensor:
        """The latents (means) `[B, C, k + 1, H/8, W/8]` of videos `[B, 3, 4 k + 1, H, W]` in [-1, 1].

        Raises:
            ValueError: The shape is another one, there are not 4 k + 1 frames, or H, W are not multiples of 8.
        """
        return self.moments(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Videos `[B, 3, 4 k + 1, H, W]`, about [-1, 1], of latents.

        Raises:
            ValueError: The shape is another one.
        """
        groups = rearrange(self.coder.decode(z), "b (f c) t h w -> b c (t f) h w", f=FRAMES)
        return groups[:, :, FRAMES - 1 :]
