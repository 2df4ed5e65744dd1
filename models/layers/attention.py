"""Attention of queries to keys, and to memory beside them.

Legend: B clips, H heads, N queries, K keys, M memories, E width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Recall(NamedTuple):
    """What an attention needs to see memory, which has a meaning but no place in time.

    Attributes:
        keys: `[B, H, M, E]`, not turned by any position.
        values: `[B, H, M, E]`.
        present: `[B, M]` bool: which memories are there.
    """

    keys: Tensor
    values: Tensor
    present: Tensor


def attention(
    q: Tensor, plain: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, recall: Recall | None = None
) -> Tensor:
    """Attention of `[B, H, N, E]` to `[B, H, K, E]` where `mask` (`[N, K]` or `[B, 1, 1, K]`) is true, and to memory.

    One softmax goes over keys and memories: turned queries `q` meet the keys, the `plain` queries before the turn meet
    memory. To that end both lie side by side in heads of twice the width, with zeros where they must not meet.
    """
    if recall is None:
        return _attention(q, k, v, mask, None)
    width = q.shape[-1]
    keys = torch.cat([F.pad(k, (0, width)), F.pad(recall.keys.to(k), (width, 0))], 2)
    values = torch.cat([v, recall.values.to(v)], 2)
    seen = recall.present.new_ones(1, k.shape[2]) if mask is None else mask
    seen = seen.expand(len(q), 1, *seen.shape[-2:])
    present = recall.present[:, None, None].expand(-1, 1, seen.shape[2], -1)
    return _attention(torch.cat([q, plain], -1), keys, values, torch.cat([seen, present], -1), width**-0.5)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Attention with scores times `scale` (None: one over the root of the width).

    On a CPU in bfloat16 plain matrix products take a third of the fused kernel's time.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    keys = k.flatten(0, 1).transpose(1, 2)
    score = torch.bmm(q.flatten(0, 1) * (scale or q.shape[-1] ** -0.5), keys)
    if mask is not None:
        bias = mask.to(q.dtype).log()
        score = score + (bias.expand(*q.shape[:2], -1, -1).flatten(0, 1) if mask.ndim == 4 else bias)
    return torch.bmm(score.softmax(-1), v.flatten(0, 1)).unflatten(0, q.shape[:2])
