"""Rotary positions in time, or on several axes (Su et al. 2021).

Legend: B clips, F frames, N tokens, A axes, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rotations(time: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines `[B, F, 1, 1, 1, E]` of frame times `[B, F]`, exact however long a drive is.

    As complex numbers they are made once also in a compiled graph, which would else compute them for every token.
    """
    return _turn(_angles(time, width, base)[:, :, None, None, None], dtype)


def axial_rotations(places: Tensor, widths: Sequence[int], base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines `[B, N, 1, E]` of places `[B, N, A]` (M-RoPE; Qwen2-VL, Wang et al. 2024).

    Every axis has channels of its own, as many as `widths` says, and they sum to E. As in `rotate` channel i turns with
    channel i + E / 2, so an axis lies in both halves; that orders channels otherwise than neighbouring pairs would.

    Raises:
        ValueError: There is not one even width for every axis.
    """
    if len(widths) != places.shape[-1] or any(width % 2 for width in widths):
        raise ValueError(f"every one of {places.shape[-1]} axes has an even width, got {list(widths)}")
    angles = [_angles(place, width, base) for place, width in zip(places.unbind(-1), widths, strict=True)]
    return _turn(torch.cat(angles, -1)[:, :, None], dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turns queries and keys `[..., E]`; without a turn they stay."""
    if turn is None:
        return x
    cos, sin = turn
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([second, first], -1), sin).to(x.dtype)


def _angles(place: Tensor, width: int, base: float) -> Tensor:
    """Angles `[..., E / 2]` of places `[...]` on one axis."""
    half = width // 2
    rate = base ** -(torch.arange(half, device=place.device, dtype=torch.float64) / half)
    return place.double()[..., None] * rate


def _turn(angle: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines `[..., E]` of angles `[..., E / 2]`."""
    turn = torch.polar(torch.ones_like(angle), angle)
    cos, sin = torch.view_as_real(turn).unbind(-1)
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)
