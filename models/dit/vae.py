"""Causal video autoencoder: frames to an 8x smaller grid of latents and back, every frame keeping its place in time.

A convolution sees the present frame and `temporal_kernel - 1` past ones (the first frame is replicated before the
start), attention works within a frame, so nothing ever looks ahead. With `temporal_kernel=1` frames are coded
independently, which a world wants that decodes one frame at a time.
The objective is the beta-VAE's (Higgins et al. 2017).

Legend: B clips, T frames, C channels, H W pixels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import VAEConfig


class CausalConv3d(nn.Module):
    """A 2-D convolution over the present and the past `kernel_t - 1` frames, stacked as channels."""

    def __init__(self, in_channels: int, out_channels: int, kernel_t: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel_t = kernel_t
        self.conv = nn.Conv2d(in_channels * kernel_t, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Convolves `[B * T, C, H, W]`, T = `frames`."""
        if self.kernel_t > 1:
            clips = x.unflatten(0, (-1, frames))
            past = [clips[:, :1]] * (self.kernel_t - 1)
            padded = torch.cat([*past, clips], 1)
            x = torch.cat([padded[:, k : k + frames] for k in range(self.kernel_t)], 2).flatten(0, 1)
        return self.conv(x)


class ToFrame(CausalConv3d):
    """The last convolution of the decoder, of what is positive."""

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Convolves `[B * T, C, H, W]`, T = `frames`."""
        return super().forward(F.relu(x), frames)


class ResBlock(nn.Module):
    """Two convolutions around an identity, without norms: those cost as much time as the convolutions here.

    Args:
        channels: Width of the identity.
        kernel_t: Frames that the first convolution sees.
        inner: Width between the two; None: that of the identity.
    """

    def __init__(self, channels: int, kernel_t: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or channels
        self.conv1 = CausalConv3d(channels, inner, kernel_t)
        self.conv2 = CausalConv3d(inner, channels, 1)
        nn.init.zeros_(self.conv2.conv.weight)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transforms `[B * T, C, H, W]`, T = `frames`."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x), frames)), frames)


class SpatialAttention(nn.Module):
    """Self-attention within each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transforms `[B * T, C, H, W]`, T = `frames`."""
        q, k, v = rearrange(self.qkv(self.norm(x)), "n (three c) h w -> three n 1 (h w) c", three=3)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(y, "n 1 (h w) c -> n c h w", h=x.shape[2]))


class VAE3D(nn.Module):
    """Causal variational autoencoder for video; `drivedit.config.VAEConfig` tells its arguments.

    Raises:
        ValueError: `hidden_dims`, `decoder_dims` or `decoder_inner` has not four entries.
    """

    def __init__(
        self,
        in_channels: int = 3,
        latent_dim: int = 64,
        hidden_dims: Sequence[int] = (64, 128, 256, 512),
        num_res_blocks: int = 2,
        use_attention: bool = True,
        beta: float = 4.0,
        *,
        temporal_kernel: int = 3,
        decoder_dims: Sequence[int] | None = None,
        decoder_inner: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        dims = list(hidden_dims)
        out = list(decoder_dims or dims)
        inner = list(decoder_inner or out)
        for name, widths in (("hidden_dims", dims), ("decoder_dims", out), ("decoder_inner", inner)):
            if len(widths) != 4:
                raise ValueError(f"{name} must have 4 entries (three halvings make the 8x grid), got {widths}")
        self.in_channels, self.latent_dim, self.beta = in_channels, latent_dim, beta
        kt = temporal_kernel
        down: list[nn.Module] = [CausalConv3d(in_channels, dims[0], kt)]
        for width, wider in zip(dims[:-1], dims[1:], strict=True):
            down += [ResBlock(width, kt) for _ in range(num_res_blocks)]
            down += [_Down(width, wider)]
        middle = [ResBlock(dims[-1], kt) for _ in range(num_res_blocks)]
        down += middle + ([SpatialAttention(dims[-1])] if use_attention else [])
        up: list[nn.Module] = [CausalConv3d(latent_dim, out[-1], kt)]
        up += [SpatialAttention(out[-1])] if use_attention else []
        up += [ResBlock(out[-1], kt, inner[-1]) for _ in range(num_res_blocks)]
        for size in (2, 1, 0):
            up += [Up(out[size + 1], out[size])]
            if size or decoder_dims is None:
                up += [ResBlock(out[size], kt, inner[size]) for _ in range(num_res_blocks)]
        self.encoder, self.decoder = nn.ModuleList(down), nn.ModuleList(up)
        self.to_moments = nn.Conv2d(dims[-1], 2 * latent_dim, 1)
        self.to_frame = ToFrame(out[0], in_channels, 1)
        self.config = VAEConfig(
            in_channels, latent_dim, dims, num_res_blocks, use_attention, beta, kt,
            None if decoder_dims is None else out, None if decoder_inner is None else inner,
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: VAEConfig) -> VAE3D:
        """Builds the network that a configuration describes."""
        return cls(**config.to_dict())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes frames `[B, C, T, H, W]` in [-1, 1] to mean and log-variance, each `[B, latent_dim, T, H/8, W/8]`.

        Raises:
            ValueError: The shape is another one, or H, W are not multiples of 8.
        """
        if x.ndim != 5 or x.shape[1] != self.in_channels or x.shape[-1] % 8 or x.shape[-2] % 8:
            raise ValueError(
                f"frames must be [B, {self.in_channels}, T, H, W] with H and W multiples of 8, got {tuple(x.shape)}"
            )
        frames = x.shape[2]
        y = rearrange(x, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        for layer in self.encoder:
            y = layer(y, frames)
        moments = rearrange(self.to_moments(F.relu(y)).float(), "(b t) c h w -> b c t h w", t=frames)
        mean, logvar = moments.chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """Decodes latents `[B, latent_dim, T, h, w]` to frames `[B, C, T, 8h, 8w]`, about [-1, 1].

        Raises:
            ValueError: The shape is another one.
        """
        if z.ndim != 5 or z.shape[1] != self.latent_dim:
            raise ValueError(f"latents must be [B, {self.latent_dim}, T, h, w], got {tuple(z.shape)}")
        frames = z.shape[2]
        y = rearrange(z, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        for layer in self.decoder:
            y = layer(y, frames)
        y = self.to_frame(y, frames)
        return rearrange(y.float(), "(b t) c h w -> b c t h w", t=frames)

    def reparameterize(self, mean: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws a latent in training mode; returns the mean in evaluation mode."""
        if not self.training:
            return mean
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        return mean + noise * (0.5 * logvar).exp()

    def loss_function(self, recon_x: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        """Mean squared error plus beta times the divergence from N(0, 1), both per value of `x`.

        Raises:
            ValueError: The reconstruction has another shape than the frames.
        """
        if recon_x.shape != x.shape:
            raise ValueError(f"the reconstruction must be {tuple(x.shape)} as the frames, got {tuple(recon_x.shape)}")
        divergence = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum()
        return F.mse_loss(recon_x, x) + self.beta * divergence / x.numel()

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes, draws and decodes; returns reconstruction, mean and log-variance."""
        mean, logvar = self.encode(x)
        return self.decode(self.reparameterize(mean, logvar, generator=generator)), mean, logvar


class _Down(nn.Module):
    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, wider, 3, stride=2, padding=1)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    """Twice the size: a 1x1 convolution and a pixel shuffle (Shi et al. 2016)."""

    def __init__(self, wider: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wider, 4 * width, 1)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transforms `[B, C, H, W]` to `[B, C', 2 H, 2 W]`."""
        return F.pixel_shuffle(self.conv(x), 2)
