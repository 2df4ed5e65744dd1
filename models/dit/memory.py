"""Episodic memory: what was seen long ago, beyond the window of the cache.

Tokens of the student's width (its hidden tokens, `DiTStudent.features`, or what was seen and where, as in
`drivedit.training.methods.recall`) are stored with an importance; what resembles a stored token is merged into it.
`retrieve` gives the entries nearest to a query, and the student sees them through its `memory` argument. Places are
forgotten with age, objects are not (object permanence).

Legend: B streams, N new tokens, S stored entries, E width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 4.0  # more than two cosines can differ


class MemoryBank:
    """Memory of B streams that never see each other.

    Args:
        d_model: Width E of a token.
        max_spatial_memory: Most entries of a stream's spatial memory.
        max_object_memory: Most entries of its object memory, which tokens in the top tenth of importance enter as well.
        similarity_threshold: Cosine from which on two tokens are one entry.
        decay: Factor on the importance of a spatial entry for each frame that it was not seen.

    Raises:
        ValueError: A size is not positive, or the threshold or the decay is out of its range.
    """

    def __init__(
        self,
        d_model: int = 512,
        max_spatial_memory: int = 1000,
        max_object_memory: int = 500,
        similarity_threshold: float = 0.8,
        *,
        decay: float = 0.99,
    ) -> None:
        if min(d_model, max_spatial_memory, max_object_memory) < 1:
            raise ValueError(
                "d_model, max_spatial_memory and max_object_memory must be positive, "
                f"got {d_model}, {max_spatial_memory}, {max_object_memory}"
            )
        if not -1 < similarity_threshold <= 1 or not 0 < decay <= 1:
            raise ValueError(
                f"similarity_threshold must be in (-1, 1] and decay in (0, 1], got {similarity_threshold} and {decay}"
            )
        self.d_model, self.similarity_threshold, self.decay = d_model, similarity_threshold, decay
        self.max_spatial_memory, self.max_object_memory = max_spatial_memory, max_object_memory
        self.clear()

    def clear(self) -> None:
        """Forgets everything; the next update may have another number of streams."""
        self._spatial: list[_Entries] = []
        self._objects: list[_Entries] = []
        self._frame = -1

    def __len__(self) -> int:
        """Entries of the fullest stream, of both kinds."""
        return max(
            (len(s.tokens) + len(o.tokens) for s, o in zip(self._spatial, self._objects, strict=True)), default=0
        )

    @torch.no_grad()
    def update(self, spatial_tokens: Tensor, importance_scores: Tensor, frame_idx: int | None = None) -> None:
        """Stores what was seen in one frame.

        Args:
            spatial_tokens: `[B, N, E]`; tokens of zeros are absent ones and are left out.
            importance_scores: `[B, N]`, at least 0.
            frame_idx: Number of the frame; None: the one after the last.

        Raises:
            ValueError: A shape does not fit, a number is not finite, an importance is negative, the number of streams
                changed without `clear`, or the frame is older than the last.
        """
        if spatial_tokens.ndim != 3 or spatial_tokens.shape[-1] != self.d_model:
            raise ValueError(f"spatial_tokens must be [B, N, {self.d_model}], got {tuple(spatial_tokens.shape)}")
        if importance_scores.shape != spatial_tokens.shape[:2]:
            raise ValueError(
                f"importance_scores must be {list(spatial_tokens.shape[:2])}, got {tuple(importance_scores.shape)}"
            )
        if not spatial_tokens.isfinite().all() or not importance_scores.isfinite().all():
            raise ValueError("spatial_tokens and importance_scores must be finite")
        if (importance_scores < 0).any():
            raise ValueError(f"importance_scores must be at least 0, got {importance_scores.min().item()}")
        if self._spatial and len(self._spatial) != len(spatial_tokens):
            raise ValueError(
                f"the memory holds {len(self._spatial)} streams, got {len(spatial_tokens)}; clear() it first"
            )
        frame = self._frame + 1 if frame_idx is None else frame_idx
        if frame < self._frame:
            raise ValueError(f"frame_idx must be at least {self._frame}, the last one, got {frame}")
        self._frame = frame
        if not self._spatial:
            self._spatial, self._objects = ([_Entries.none(spatial_tokens)] * len(spatial_tokens) for _ in range(2))
        for row, (tokens, importance) in enumerate(zip(spatial_tokens, importance_scores, strict=True)):
            kept = tokens.ne(0).any(-1)
            new = _Entries.seen(tokens[kept], importance[kept].float(), frame)
            spatial = self._spatial[row].merged(new, self.similarity_threshold)
            worth = spatial.importance * self.decay ** (frame - spatial.frame)
            self._spatial[row] = spatial.best(worth, self.max_spatial_memory)
            top = new.best(new.importance, -(-len(new.tokens) // 10))
            objects = self._objects[row].merged(top, self.similarity_threshold)
            self._objects[row] = objects.best(objects.importance, self.max_object_memory)

    @torch.no_grad()
    def retrieve(self, query: Tensor, top_k: int = 32) -> Tensor:
        """The entries of each stream whose cosine with its mean query is largest, the nearest first.

        An object that a spatial entry resembles is told once.

        Args:
            query: `[B, M, E]` or `[B, E]`.
            top_k: Most entries.

        Returns:
            `[B, k, E]`, k the smaller of `top_k` and what the fullest stream has; a stream with fewer is filled up with
            tokens of zeros, which the student does not see. Nothing stored: `[B, 0, E]`.

        Raises:
            ValueError: A shape does not fit, or `top_k` is not positive.
        """
        if query.ndim not in (2, 3) or query.shape[-1] != self.d_model or top_k < 1:
            raise ValueError(
                f"query must be [B, M, {self.d_model}] or [B, {self.d_model}] and top_k at least 1, "
                f"got {tuple(query.shape)} and {top_k}"
            )
        if self._spatial and len(self._spatial) != len(query):
            raise ValueError(f"the memory holds {len(self._spatial)} streams, got a query of {len(query)}")
        if not self._spatial:
            return query.new_zeros(len(query), 0, self.d_model)
        mean = query if query.ndim == 2 else query.mean(1)
        found = []
        for row, wanted in enumerate(mean):
            spatial, objects = self._spatial[row].tokens, self._objects[row].tokens
            known = (_cosines(objects, spatial) >= self.similarity_threshold).any(1)
            stored = torch.cat([spatial, objects[~known]]).to(query)
            nearest = _cosines(wanted[None], stored)[0].topk(min(top_k, len(stored))).indices
            found.append(stored[nearest])
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


@dataclass(frozen=True)
class _Entries:
    """Entries of one stream: tokens `[S, E]`; importance, frame last seen, and how many were merged, each `[S]`."""

    tokens: Tensor
    importance: Tensor
    frame: Tensor
    count: Tensor

    @classmethod
    def seen(cls, tokens: Tensor, importance: Tensor, frame: int) -> _Entries:
        one = torch.ones_like(importance)
        return cls(tokens.detach().float(), importance.detach(), frame * one, one)

    @classmethod
    def none(cls, like: Tensor) -> _Entries:
        return cls.seen(like.new_zeros(0, like.shape[-1]), like.new_zeros(0).float(), 0)

    def best(self, worth: Tensor, most: int) -> _Entries:
        """The `most` worthiest, in the order that they have."""
        if len(worth) <= most:
            return self
        kept = worth.topk(most).indices.sort().values
        return _Entries(*(getattr(self, field.name)[kept] for field in fields(self)))

    def merged(self, new: _Entries, threshold: float) -> _Entries:
        """These entries and new ones; a new one joins the nearest entry, or becomes one if none is near enough.

        The important ones choose first. An entry is the mean of what joined it, and as important as the best of it.
        """
        old = len(self.tokens)
        order = new.importance.argsort(descending=True, stable=True)
        new = _Entries(*(getattr(new, field.name)[order] for field in fields(new)))
        cosines = _cosines(new.tokens, torch.cat([self.tokens, new.tokens])).cpu()
        cosines[:, old:] -= FAR  # a new token can be joined once it is an entry itself
        entry_of = list(range(old + len(new.tokens)))
        joined, count = [], old
        for row in range(len(new.tokens)):
            near, column = cosines[row].max(0)
            if near < threshold:
                column, count = old + row, count + 1
                entry_of[column] = count - 1
                cosines[:, column] += FAR
            joined.append(entry_of[int(column)])
        at = torch.tensor([*range(old), *joined], dtype=torch.long, device=self.tokens.device)
        parts = {f.name: torch.cat([getattr(self, f.name), getattr(new, f.name)]) for f in fields(self)}
        empty = parts["count"].new_zeros(count)
        merged = empty.index_add(0, at, parts["count"])
        weighted = parts["tokens"] * parts["count"][:, None]
        total = weighted.new_zeros(count, weighted.shape[1]).index_add(0, at, weighted)
        importance, frame = (empty.scatter_reduce(0, at, parts[name], "amax") for name in ("importance", "frame"))
        return _Entries(total / merged[:, None], importance, frame, merged)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every pair of `[S, E]` and `[K, E]`, `[S, K]`."""
    return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T
