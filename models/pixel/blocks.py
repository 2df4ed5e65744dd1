"""The two kinds of PixelHDM blocks: of patches, told the time, and of pixels, told what their patch means.

The pixel blocks follow PixelDiT (arXiv 2511.20645): every pixel has scales, shifts and gates of its own, and attention
works on patches into which pixels are compressed, so it costs L^2 and not (P L)^2. Every layer is initialised where it
is built, and never again: a later pass over the whole network would undo the gates and the small `expand`.

Legend: B pictures, N tokens, L patches, P pixels of a patch, D width of a token, C width of a pixel, E of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import PixelHDMConfig
from drivedit.models.layers.blocks import SwiGLU
from drivedit.models.pixel.attention import GatedAttention, Turn


class PatchBlock(nn.Module):
    """Attention and feed-forward under the time, with norms before and after each (Ding et al. 2021, arXiv 2105.13290).

    Args:
        config: Of the whole network.
    """

    def __init__(self, config: PixelHDMConfig) -> None:
        super().__init__()
        width, eps = config.hidden_dim, config.norm_eps
        self.scale = (2 * config.patch_layers) ** -0.5  # of a branch, for a sum that does not grow with depth
        self.before_attention, self.after_attention = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.before_mlp, self.after_mlp = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.attention = GatedAttention(width, config.num_heads, config.num_kv_heads, eps)
        self.mlp = SwiGLU(width, int(config.mlp_ratio * width))
        self.dropout = nn.Dropout(config.dropout)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.normal_(self.modulation.weight, std=0.02)  # with zeros a new network would not see the time
        _init_bias(self.modulation, scale=1.0)

    def forward(self, x: Tensor, time: Tensor, turn: Turn, mask: Tensor | None) -> Tensor:
        """Transforms tokens `[B, N, D]` at embedded times `[B, D]`; `turn` and `mask` as in `GatedAttention`."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(F.silu(time))[:, None].chunk(6, -1)
        y = self.attention(torch.addcmul(shift1, scale1, self.before_attention(x)), turn, mask)
        x = x + self.scale * gate1 * self.dropout(self.after_attention(y))
        y = self.mlp(torch.addcmul(shift2, scale2, self.before_mlp(x)))
        return x + self.scale * gate2 * self.dropout(self.after_mlp(y))


class PixelwiseAdaLN(nn.Module):
    """Scale, shift and gate of every pixel, for each of two branches, of the condition of its patch.

    The condition is not normalised on its way: that would take out most of what the text says.

    Args:
        config: Of the whole network.
    """

    def __init__(self, config: PixelHDMConfig) -> None:
        super().__init__()
        self.pixels = config.patch_size**2
        self.expand = nn.Linear(config.hidden_dim, self.pixels * config.pixel_dim)
        self.maps = nn.Linear(config.pixel_dim, 6 * config.pixel_dim)
        _init_bias(self.maps, scale=0.0)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Six maps `[B, L, P, C]` of conditions `[B, L, D]`: scale (about 0), shift and gate, of each branch."""
        each = F.silu(self.expand(condition)).unflatten(-1, (self.pixels, -1))
        return self.maps(each).chunk(6, -1)


class PixelBlock(nn.Module):
    """Attention between patches of compressed pixels, and a feed-forward layer of single pixels.

    Args:
        config: Of the whole network.
    """

    def __init__(self, config: PixelHDMConfig) -> None:
        super().__init__()
        width, pixel_dim, eps = config.hidden_dim, config.pixel_dim, config.norm_eps
        pixels = config.patch_size**2 * pixel_dim
        self.scale = config.pixel_layers**-0.5
        self.modulation = PixelwiseAdaLN(config)
        self.before_attention, self.before_mlp = nn.RMSNorm(pixel_dim, eps), nn.RMSNorm(pixel_dim, eps)
        self.compress = nn.Linear(pixels, width)
        self.compressed_norm, self.attended_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.attention = GatedAttention(width, config.num_heads, config.num_kv_heads, eps)
        self.expand = nn.Linear(width, pixels)
        nn.init.xavier_uniform_(self.expand.weight, config.token_compaction_expand_gain)
        nn.init.zeros_(self.expand.bias)
        self.mlp = SwiGLU(pixel_dim, int(config.mlp_ratio * pixel_dim))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, condition: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Transforms pixels under what their patches mean.

        Args:
            x: Pixels `[B, L, P, C]`.
            condition: `[B, L, D]`.
            turn: Rotations of the patches, each `[B, L, 1, E]`.

        Returns:
            The pixels, and the mean square of their scales, for a penalty.
        """
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition)
        y = self.attend(torch.addcmul(shift1, 1 + scale1, self.before_attention(x)), turn)
        x = x + self.scale * gate1 * self.dropout(y)
        y = self.mlp(torch.addcmul(shift2, 1 + scale2, self.before_mlp(x)))
        squares = (scale1.float().square().mean() + scale2.float().square().mean()) / 2
        return x + self.scale * gate2 * self.dropout(y), squares

    def attend(self, x: Tensor, turn: Turn) -> Tensor:
        """Pixels `[B, L, P, C]` compressed to tokens, which see each other, and expanded again."""
        tokens = self.attention(self.compressed_norm(self.compress(x.flatten(2))), turn)
        return self.expand(self.attended_norm(tokens)).view_as(x)


def _init_bias(layer: nn.Linear, scale: float) -> None:
    """Biases of six parts, scale, shift and gate twice, at which a block begins: no shift, and an open gate."""
    with torch.no_grad():
        begin = torch.tensor([scale, 0.0, 1.0]).repeat(2)
        layer.bias.copy_(begin.repeat_interleave(layer.out_features // 6))
