"""Frames of latents to tokens and back: a token is a square of latent cells.

Legend: C h w latent, p side of the square, P = h * w / p^2 tokens, D = C * p^2 token width.
"""

from __future__ import annotations

import math

from torch import Tensor


class FrameTokenizer:
    """Cuts latents into squares of cells.

    Args:
        channels: Channels C of a latent cell.
        patch: Side p of a square.
    """

    def __init__(self, channels: int, patch: int) -> None:
        self.channels, self.patch = channels, patch

    @classmethod
    def between(cls, channels: int, width: int) -> FrameTokenizer:
        """The tokenizer that makes tokens of `width` from cells of `channels`.

        Raises:
            ValueError: No square of cells has that width.
        """
        patch = math.isqrt(max(width // channels, 1))
        if channels * patch**2 != width:
            raise ValueError(
                f"a token of width {width} is no square of latent cells of {channels} channels: "
                f"set latent_dim of the transformer to {channels} * p * p"
            )
        return cls(channels, patch)

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents `[..., C, h, w]` to tokens `[..., P, D]`.

        Raises:
            ValueError: The squares do not fill the grid.
        """
        p, (channels, height, width) = self.patch, latents.shape[-3:]
        if channels != self.channels or height % p or width % p:
            raise ValueError(
                f"latents must be [..., {self.channels}, h, w], h and w multiples of {p}, got {tuple(latents.shape)}"
            )
        x = latents.reshape(-1, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(*latents.shape[:-3], height * width // p**2, channels * p**2)

    def latents(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Tokens `[..., P, D]` to latents `[..., C, h, w]`, `height` by `width` cells."""
        p = self.patch
        x = tokens.reshape(-1, height // p, width // p, self.channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(*tokens.shape[:-2], self.channels, height, width)
