"""Averaged weights: an average that forgets where it began, and whether it is better than the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Figures = dict[str, float]


def averaged(stage: nn.Module, decay: float) -> AveragedModel:
    """A copy of a stage whose weights follow the stage's, in whole or in shards.

    Args:
        stage: The stage.
        decay: Share of the average that an update leaves, once there were many: after n updates it is at most
            `(1 + n) / (10 + n)`, so that the average is one over the last tenth of a short run and not over its start.
    """

    def update(means: Any, values: Any, count: Any) -> None:
        updates = int(count)
        follow(means, values, 1 - min(decay, (1 + updates) / (10 + updates)))

    return AveragedModel(stage, multi_avg_fn=update, use_buffers=True)


@torch.no_grad()
def follow(means: Iterable[Tensor], values: Iterable[Tensor], share: float) -> None:
    """Moves averages a share of the way to values; counts, which have no average, are copied."""
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, share)
        else:
            mean.copy_(value)


def better(judge: str, first: Figures, second: Figures) -> bool:
    """Whether the first is at least as good by a figure; `-name`: less is better. What is not finite is worst.

    Raises:
        KeyError: There is no such figure.
    """
    name, sign = judge.removeprefix("-"), -1 if judge.startswith("-") else 1
    if name not in first:
        raise KeyError(f"there is no figure {name!r} to choose by; known figures: {', '.join(first)}")
    one, other = (sign * figures[name] if math.isfinite(figures[name]) else -math.inf for figures in (first, second))
    return one >= other


@torch.no_grad()
def swap(one: nn.Module, other: nn.Module) -> None:
    """Exchanges the weights and buffers of two networks that are built alike."""
    pairs = zip([*one.parameters(), *one.buffers()], [*other.parameters(), *other.buffers()], strict=True)
    for a, b in pairs:
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
