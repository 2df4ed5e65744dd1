"""Range images inside networks: the logarithm of metres on a fixed scale, and the mask, both in [-1, 1].

The scale is fixed, so a network's picture has metres: rewards and telemetry need them.

Legend: B rows, H W rows and columns of a picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def encode_range(image: Tensor, reach: float = 85.0) -> Tensor:
    """What a network sees of range images.

    Args:
        image: `[..., H, W, 2]`: metres (0 where nothing came back) and a mask.
        reach: The greatest distance, which becomes 1; 0 m becomes -1.

    Returns:
        `[..., 2, H, W]`.
    """
    metres, mask = image.unbind(-1)
    depth = 2 * torch.log1p(metres.clamp(0, reach)) / math.log1p(reach) - 1
    return torch.stack([depth, 2 * mask - 1], -3)


def decode_range(shown: Tensor, reach: float = 85.0) -> Tensor:
    """The range images `[..., H, W, 2]` that `encode_range` makes into `[..., 2, H, W]`, or a network's guess of such.

    The mask is 0 or 1, and metres are 0 where it is 0.
    """
    depth, mask = shown.unbind(-3)
    seen = (mask > 0).to(shown)
    metres = torch.expm1((depth.clamp(-1, 1) + 1) / 2 * math.log1p(reach)) * seen
    return torch.stack([metres, seen], -1)
