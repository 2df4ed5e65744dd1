"""k-sin: sums of k sines, whose frequencies and amplitudes are an unordered set that is known (Hayes et al. 2025).

Parameters are numbers in [-1, 1] in blocks: all frequencies, then all amplitudes. Item i of a split is a function of
the split's seed and i alone, and no two splits share one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SPREAD = 1 / 3  # standard deviation of shifted frequencies, and how far their mean is from 0


def make_sin(params: Tensor, length: int, break_symmetry: bool = False) -> Tensor:
    """Sums of sines.

    Args:
        params: `[..., 2k]` in [-1, 1]: all frequencies, of 0 to pi a sample, then all amplitudes, of 0 to 1.
        length: Samples S.
        break_symmetry: Give each sine a band of its own, a k-th of all frequencies.

    Returns:
        `[..., S]`.

    Raises:
        ValueError: The number of parameters is odd, or there are none.
    """
    if not params.shape[-1] or params.shape[-1] % 2:
        raise ValueError(f"each sine has a frequency and an amplitude, got {params.shape[-1]} parameters")
    frequency, amplitude = ((part + 1) / 2 for part in params.chunk(2, -1))
    if break_symmetry:
        k = frequency.shape[-1]
        frequency = (torch.arange(k, device=params.device) + frequency) / k
    angle = math.pi * frequency[..., None] * torch.arange(length, device=params.device, dtype=params.dtype)
    return (amplitude[..., None, :] @ angle.sin()).squeeze(-2)


def ksin_params(seed: int, count: int, k: int, sort_frequencies: bool = False, shift: float | None = None) -> Tensor:
    """The first parameters of a split, `[count, 2k]`.

    Args:
        seed: Of the split.
        count: How many.
        k: Sines of an item.
        sort_frequencies: Sort each item's frequencies; amplitudes are alike, so they stay.
        shift: The frequencies are normal numbers of this mean and deviation 1/3, truncated to [-1, 1]; None: uniform.

    Raises:
        ValueError: There are no sines.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    drawn = [np.random.Generator(np.random.PCG64([seed, index])).random(2 * k) for index in range(count)]
    params = torch.from_numpy(np.array(drawn).reshape(count, 2 * k)) * 2 - 1
    if shift is not None:
        low, high = (torch.special.ndtr(torch.tensor((end - shift) / SPREAD)).double() for end in (-1, 1))
        share = torch.lerp(low, high, (params[:, :k] + 1) / 2)
        params[:, :k] = (shift + SPREAD * torch.special.ndtri(share)).clamp(-1, 1)
    if sort_frequencies:
        params[:, :k] = params[:, :k].sort(-1).values
    return params.float()
