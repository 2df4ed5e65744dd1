"""Convolutions whose columns may wrap around, and blocks of them as in ConvNeXt (Liu et al. 2022) under a code.

Legend: B rows, C channels, H W (h w) rows and columns of a picture (of its cells), E width of a code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Conv2d):
    """A convolution of odd size that keeps height and width, or halves them.

    Args:
        inputs: Channels.
        outputs: Channels.
        size: Rows and columns of the kernel.
        circular: Whether the last column lies beside the first one. Above and below there are zeros.
        stride: 1 keeps the size, 2 halves it.
        zero: Whether weights begin at zero.
        groups: Of channels, each of which is convolved alone.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, circular: bool = False, stride: int = 1, zero: bool = False,
        groups: int = 1,
    ) -> None:  # fmt: skip
        margin = size // 2
        super().__init__(inputs, outputs, size, stride, (margin, 0 if circular else margin), groups=groups)
        self.wrapped = margin if circular else 0
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H, W]`, or half the size."""
        if self.wrapped:
            input = F.pad(input, (self.wrapped, self.wrapped, 0, 0), mode="circular")
        return super().forward(input)


class ConvNextBlock(nn.Module):
    """A depthwise convolution, and a wider layer at every cell, whose input is scaled and shifted by a code.

    Args:
        width: C.
        expand: How many times wider it is inside.
        kernel: Rows and columns that it looks at, an odd number.
        code_dim: E.
        circular: Whether the last column lies beside the first one.
    """

    def __init__(self, width: int, expand: int, kernel: int, code_dim: int, circular: bool = False) -> None:
        super().__init__()
        self.near = Conv(width, width, kernel, circular, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.up, self.down = Conv(width, expand * width, 1), Conv(expand * width, width, 1)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.1))
        self.film = nn.Linear(code_dim, 2 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Features `[B, C, h, w]` under codes `[B, E]`."""
        scale, shift = self.film(code)[..., None, None].chunk(2, 1)
        inner = self.norm(self.near(x)) * (1 + scale) + shift
        return x + self.scale * self.down(F.silu(self.up(inner)))
