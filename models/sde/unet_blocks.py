"""Blocks of the frame network: residual blocks that motion scales and shifts, attention, and stages of them.

Legend: B rows, C channels, H W rows and columns of a feature map, M channels of a motion state, E width of a time code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.layers.convnext import Conv


class MotionNorm(nn.Module):
    """Instance norm whose scale and shift are read off the motion at every place (SPADE, Park et al. 2019).

    Args:
        channels: C.
        m_channels: M.
        circular: Whether columns wrap around.
        coarse: Whether they are read off the motion in its own size, where that is smaller, and then enlarged.
    """

    def __init__(self, channels: int, m_channels: int, circular: bool = False, coarse: bool = False) -> None:
        super().__init__()
        self.coarse = coarse
        hidden = (m_channels + channels) // 2
        self.hidden = Conv(m_channels, hidden, 3, circular)
        self.gamma, self.beta = (Conv(hidden, channels, 3, circular) for _ in range(2))

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """Features `[B, C, H, W]` under a motion state `[B, M, h, w]`, which is brought to their size (nearest)."""
        size = x.shape[-2:]
        if not self.coarse or m.shape[-2:].numel() > size.numel():
            m = F.interpolate(m, size, mode="nearest")
        hidden = F.relu(self.hidden(m))
        gamma, beta = (F.interpolate(layer(hidden), size, mode="nearest") for layer in (self.gamma, self.beta))
        x = F.instance_norm(x)
        return torch.addcmul(x + beta, x, gamma)


class ResBlock(nn.Module):
    """Two convolutions behind group norms; after the first one motion and time are told.

    Args:
        inputs: Channels.
        channels: C, afterwards.
        m_channels: M.
        time_dim: E.
        groups: Of the group norms.
        eps: Of the group norms.
        dropout: Before the second convolution.
        circular: Whether columns wrap around.
        coarse: As of `MotionNorm`.
    """

    def __init__(
        self, inputs: int, channels: int, m_channels: int, time_dim: int, groups: int, eps: float, dropout: float,
        circular: bool, coarse: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1, self.norm2 = (
            nn.GroupNorm(_divisor(inputs, groups), inputs, eps),
            nn.GroupNorm(groups, channels, eps),
        )
        self.conv1, self.conv2 = Conv(inputs, channels, 3, circular), Conv(channels, channels, 3, circular)
        self.motion = MotionNorm(channels, m_channels, circular, coarse)
        self.time = nn.Linear(time_dim, channels)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if inputs == channels else nn.Conv2d(inputs, channels, 1)

    def forward(self, x: Tensor, m: Tensor, time: Tensor) -> Tensor:
        """Features `[B, inputs, H, W]` to `[B, C, H, W]`, under motion `[B, M, h, w]` and time codes `[B, E]`."""
        y = self.motion(self.conv1(F.silu(self.norm1(x))), m) + self.time(F.silu(time))[..., None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(y))))


class Attention(nn.Module):
    """Attention between all places of a feature map, which knows no positions.

    Args:
        channels: C.
        head_dim: Channels of a head; None: one head.
        groups: Of the group norm.
        eps: Of the group norm.
    """

    def __init__(self, channels: int, head_dim: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = 1 if head_dim is None else channels // head_dim
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, H W, C]
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(y).transpose(1, 2).unflatten(2, x.shape[-2:])


class Stage(nn.Module):
    """Residual blocks of one size, each perhaps with attention after it.

    Args:
        blocks: Residual blocks.
        attentions: As many, or none.
    """

    def __init__(self, blocks: list[ResBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)

    def apply_block(self, index: int, x: Tensor, m: Tensor, time: Tensor) -> Tensor:
        """The features after one block, and its attention."""
        x = self.blocks[index](x, m, time)
        return self.attentions[index](x) if self.attentions else x


def _divisor(channels: int, most: int) -> int:
    """The largest number up to `most` that divides `channels`, which may be the sum of two widths."""
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)
