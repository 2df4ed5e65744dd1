"""The clean frames before a frame, as input channels of its tokens: the latest first, the first frame before the first.

Legend: B clips, F frames, P tokens per frame, D token width, N = F * P.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def as_channels(past: Sequence[Tensor], like: Tensor) -> Tensor:
    """Frames `[..., P, D]`, the latest first, as channels `[..., P, len(past) * D]`; without any as wide as nothing."""
    return torch.cat([like[..., :0], *past], -1)


def past_of(clip: Tensor, history: int) -> Tensor:
    """The `history` frames before each frame of `[B, F, P, D]`, as channels `[B, F, P, history * D]`."""
    order = torch.arange(clip.shape[1], device=clip.device)
    return as_channels([clip[:, (order - lag).clamp(min=0)] for lag in range(1, history + 1)], clip)


def past_of_next(clip: Tensor, history: int) -> Tensor:
    """The same `[B, P, history * D]` for the frame that follows the clip."""
    recent = clip[:, -history - 1 :]
    return past_of(torch.cat([recent, recent[:, -1:]], 1), history)[:, -1]
