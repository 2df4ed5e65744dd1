"""Attention of queries to keys, and to memory beside them; and what it asks where clips lie on several processes.

Legend: B clips, H heads, N queries, K keys, M memories, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Span = tuple[slice, slice]  # of queries, and of the keys that they may see


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


class Spread(Protocol):
    """The frames of clips, spread over processes (DeepSpeed-Ulysses, Jacobs et al. 2023).

    Each has some that follow one another, and for attention some heads of all frames. Gradients go back as values came.
    Outside, all processes compute the same on whole clips; `part` and `alike` lead in, `whole` leads out.

    Attributes:
        size: Processes that share a clip.
    """

    size: int

    def part(self, x: Tensor) -> Tensor:
        """This process's part of `[B, F, ...]`, which all have in whole: `[B, F / size, ...]`."""
        ...

    def alike(self, x: Tensor) -> Tensor:
        """A tensor that all have, for use by each on its own part."""
        ...

    def whole(self, x: Tensor) -> Tensor:
        """All parts `[B, F / size, ...]` together, on every process: `[B, F, ...]`."""
        ...

    def by_heads(self, x: Tensor) -> Tensor:
        """Some frames, `[B, F / size, ..., H, E]`, to some heads of all frames, `[B, F, ..., H / size, E]`."""
        ...

    def by_frames(self, x: Tensor) -> Tensor:
        """The reverse of `by_heads`."""
        ...

    def own_heads(self, x: Tensor) -> Tensor:
        """Of all heads `[B, H, ...]` those that `by_heads` gives to this process."""
        ...


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


def clip_attention(
    q: Tensor, plain: Tensor, k: Tensor, v: Tensor, mask: Tensor, recall: Recall | None, spans: Sequence[Span]
) -> Tensor:
    """`attention` within a clip, `[B, H, N, E]` under the mask `[N, N]`, one span of queries after the other.

    Keys that no query of a span may see are not looked at: for a short window in a long clip that is most of the work.
    """
    parts = [
        attention(q[:, :, rows], plain[:, :, rows], k[:, :, seen], v[:, :, seen], mask[rows, seen], recall)
        for rows, seen in spans
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def spans_of(frames: int, window: int, tokens: int) -> list[Span]:
    """Spans of a clip, half a window of queries each, with all tokens that a frame may see `window - 1` frames back.

    Args:
        frames: Of the clip.
        window: Frames that a frame sees, itself included.
        tokens: Of a frame.
    """
    step = max(window // 2, 1)
    ends = [(first, min(first + step, frames)) for first in range(0, frames, step)]
    return [
        (slice(first * tokens, last * tokens), slice(max(first - window + 1, 0) * tokens, last * tokens))
        for first, last in ends
    ]


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
