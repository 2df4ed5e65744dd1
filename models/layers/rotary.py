"""Rotary positions in time (Su et al. 2021).

Legend: B clips, F frames, E width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(time: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines `[B, F, 1, 1, 1, E]` of frame times `[B, F]`, exact however long a drive is.

    As complex numbers they are made once also in a compiled graph, which would else compute them for every token.
    """
    half = width // 2
    rate = base ** -(torch.arange(half, device=time.device, dtype=torch.float64) / half)
    angle = (time.double()[..., None] * rate)[:, :, None, None, None]
    turn = torch.polar(torch.ones_like(angle), angle)
    cos, sin = torch.view_as_real(turn).unbind(-1)
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turns queries and keys `[..., E]`; without a turn they stay."""
    if turn is None:
        return x
    cos, sin = turn
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([second, first], -1), sin).to(x.dtype)
