"""What is observed, as a condition: a convolutional network on a spectrum, a transformer on patches of a spectrogram.

Legend: B rows, S samples, M x N mel bands and frames, E model width, O width of the condition, Q queries.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.layers.attention import attention
from drivedit.models.layers.blocks import norm, squared_relu


class SpectrumCNN(nn.Module):
    """Convolutions over the magnitudes of a signal's spectrum.

    Args:
        signal_length: Samples S.
        d_out: Width O.
        channels: Of the convolutions, each of which halves the spectrum, rounded up.
        d_hidden: Width before the output.

    Raises:
        ValueError: The signal has fewer than two samples.
    """

    def __init__(
        self, signal_length: int = 1024, d_out: int = 128, channels: tuple[int, ...] = (32, 48, 48), d_hidden: int = 256
    ) -> None:
        super().__init__()
        if signal_length < 2:
            raise ValueError(f"signal_length must be at least 2, got {signal_length}")
        self.signal_length = signal_length
        widths, bins = [2, *channels], signal_length // 2 + 1
        self.convolutions = nn.ModuleList(nn.Linear(5 * one, other) for one, other in pairwise(widths))
        for _ in channels:
            bins = (bins + 1) // 2
        self.out = nn.Sequential(nn.Linear(widths[-1] * bins, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_out))

    def forward(self, signal: Tensor) -> Tensor:
        """Signals `[B, S]` to conditions `[B, O]`.

        Raises:
            ValueError: They have another length.
        """
        if signal.shape[-1] != self.signal_length:
            raise ValueError(f"signals must have {self.signal_length} samples, got {signal.shape[-1]}")
        size = torch.fft.rfft(signal, norm="forward").abs()
        x = torch.stack([size * 4, (size + 1e-4).log() / 4 + 1], -1)  # [B, bins, 2], both of the size of one
        for layer in self.convolutions:  # of five bins each; a matrix product is many times faster than `conv1d` here
            x = F.gelu(layer(F.pad(x, (0, 0, 2, 2)).unfold(1, 5, 2).flatten(2)))
        return self.out(x.flatten(1))


class ASTWithProjectionHead(nn.Module):
    """A transformer on overlapping patches of a spectrogram (AST, Gong et al. 2021), read by queries.

    Args:
        d_model: Width E.
        d_out: Width O.
        n_heads: Attention heads.
        n_layers: Layers.
        patch_size: Bands and frames of a patch.
        patch_stride: Bands and frames from one to the next, less than a patch.
        input_channels: Channels of the spectrogram.
        spec_shape: Bands M and frames N; what patches do not fill is padded with zeros.
        n_queries: Conditions that are read, one for each layer of a field; None: a single one for all.

    Raises:
        ValueError: Patches do not overlap, or heads do not divide the width.
    """

    def __init__(
        self,
        d_model: int = 768,
        d_out: int = 16,
        n_heads: int = 8,
        n_layers: int = 16,
        patch_size: int = 16,
        patch_stride: int = 10,
        input_channels: int = 2,
        spec_shape: tuple[int, int] = (128, 401),
        *,
        n_queries: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < patch_stride < patch_size:
            raise ValueError(f"patches overlap: patch_stride must be from 1 to {patch_size - 1}, got {patch_stride}")
        if d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got {n_heads} and {d_model}")
        self.shape, self.n_queries = (input_channels, *spec_shape), n_queries
        counts = [max(0, -(-(side - patch_size) // patch_stride)) + 1 for side in spec_shape]
        full = [(count - 1) * patch_stride + patch_size for count in counts]
        self.padding = (0, full[1] - spec_shape[1], 0, full[0] - spec_shape[0])
        self.patches = nn.Conv2d(input_channels, d_model, patch_size, patch_stride)
        self.queries = nn.Parameter(torch.randn(n_queries or 1, d_model) / d_model**0.5)
        self.positions = nn.Parameter(torch.randn(counts[0] * counts[1], d_model) / d_model**0.5)
        self.layers = nn.ModuleList(_PlainLayer(d_model, n_heads) for _ in range(n_layers))
        self.out = nn.Linear(d_model, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Spectrograms `[B, channels, M, N]` to `[B, O]`, or with `n_queries` to `[B, Q, O]`.

        Raises:
            ValueError: They have another shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"spectrograms must be of shape [B, {self.shape}], got {list(x.shape)}")
        tokens = self.patches(F.pad(x, self.padding)).flatten(2).transpose(1, 2) + self.positions
        tokens = torch.cat([self.queries.expand(len(x), -1, -1), tokens], 1)
        for layer in self.layers:
            tokens = layer(tokens)
        read = self.out(norm(tokens[:, : len(self.queries)]))
        return read[:, 0] if self.n_queries is None else read


class _PlainLayer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms tokens `[B, N, E]`."""
        q, k, v = self.qkv(norm(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        x = x + self.out(attention(q, q, k, v, None).transpose(1, 2).flatten(2))
        return x + self.down(squared_relu(self.up(norm(x))))
