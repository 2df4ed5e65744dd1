"""Transformer blocks behind adaptive norms (DiT, Peebles and Xie 2023), and the small layers around them.

Legend: B clips, F frames, P tokens per frame, E model width, H heads, M memories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.layers.attention import Recall, Spread

LONGEST = 10_000.0  # of the wave lengths of `waves`


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm that the condition scales, shifts and gates.

    The activation is the squared ReLU (So et al. 2021): as good as GELU, and many times faster on a CPU in bfloat16.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.activate: Callable[[Tensor], Tensor] = squared_relu

    def forward(
        self, x: Tensor, modulation: Sequence[Tensor], attend: Any, memory: Tensor | None = None,
        spread: Spread | None = None,
    ) -> Tensor:  # fmt: skip
        """Transforms tokens `[B, F, P, E]` under six modulations `[B, F, 1, E]`.

        `attend(qk, v, recall)` does the attention, also to the tokens of a memory `[B, M, E]`. Where clips are `spread`
        the tokens are those of this process's frames.
        """
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation
        y = adaptive_norm(x, scale1, shift1)
        qkv = self.qkv(y).unflatten(-1, (3, self.heads, -1))  # [B, F, P, 3, H, E/H]
        y = self.out(attend(norm(qkv[..., :2, :, :]), qkv[..., 2, :, :], self.recall(memory)))
        x = torch.addcmul(x, gate1, self.drop(y, spread))
        y = adaptive_norm(x, scale2, shift2)
        return torch.addcmul(x, gate2, self.drop(self.down(self.activate(self.up(y))), spread))

    def drop(self, y: Tensor, spread: Spread | None) -> Tensor:
        """Dropout; processes that share a clip leave out what one alone would."""
        if not self.training or not self.dropout.p:
            return y
        if spread is None:
            return self.dropout(y)
        return y * spread.part(self.dropout(y.new_ones(len(y), spread.size * y.shape[1], *y.shape[2:])))

    def recall(self, memory: Tensor | None) -> Recall | None:
        """Keys and values of memory tokens `[B, M, E]`; a token of zeros is an absent one."""
        if memory is None:
            return None
        _, k, v = self.qkv(norm(memory)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        return Recall(norm(k), v, memory.ne(0).any(-1))


class SwiGLU(nn.Module):
    """A feed-forward layer one half of which gates the other (Shazeer 2020), without biases.

    Args:
        width: E.
        hidden: Channels of each half.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms `[..., E]`."""
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


def squared_relu(x: Tensor) -> Tensor:
    """The square of the positive part."""
    return F.relu(x).square()


def norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis, without parameters (on a CPU much faster than the root-mean-square norm)."""
    return F.layer_norm(x, (x.shape[-1],))


def adaptive_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`norm` with a scale and a shift that a condition sets."""
    return torch.addcmul(shift, norm(x), scale)


def mlp(inputs: int, width: int) -> nn.Sequential:
    """Two linear layers with a SiLU between them."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


def fourier_features(sigma: Tensor) -> Tensor:
    """Sixteen smooth functions `[..., 16]` of the noise level `[...]`: cosines and sines of its multiples."""
    angle = sigma[..., None] * (math.pi * torch.arange(8, device=sigma.device) / 2 + 0.5)
    return torch.cat([angle.cos(), angle.sin()], -1)


def waves(index: Tensor, width: int) -> Tensor:
    """Cosines and sines `[B, width]` of numbers `[B]`, of wave lengths from 2 pi up (Vaswani et al. 2017)."""
    half = width // 2
    speed = torch.exp(-math.log(LONGEST) * torch.arange(half, device=index.device) / half)
    angle = index[:, None] * speed.to(index)
    return F.pad(torch.cat([angle.cos(), angle.sin()], -1), (0, width - 2 * half))
