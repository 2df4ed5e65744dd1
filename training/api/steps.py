"""What the published steps share: draws that do not depend on how a batch is split, and one step of an optimizer.

Legend: B clips, C channels, T latents in time, h w cells, L words, D width of a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.config import MODEL_TYPES
from drivedit.training.methods.text_video import Words
from drivedit.training.sequence_parallel import Ulysses

EMBEDDED_GUIDANCE = 6.0
Batch = Sequence[Tensor]  # latents, text, and where words are masked last of all the mask


def check_model_type(model_type: str) -> None:
    """Raises ValueError for a name that no transformer has."""
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {', '.join(MODEL_TYPES)}, got {model_type!r}")


def told_guidance(model_type: str, disabled: bool) -> float | None:
    """The scale of guidance that transformers of the hunyuan family are told as a number; None: none is told."""
    return None if disabled or not model_type.startswith("hunyuan") else EMBEDDED_GUIDANCE


def sharing(sp_size: int, device: torch.device) -> Ulysses:
    """The processes that share clips with this one; they are found once.

    Raises:
        ValueError: The size does not divide the number of processes.
    """
    if sp_size == 1:
        return Ulysses()
    return _sharing(sp_size, device.type, torch.distributed.group.WORLD)


@lru_cache(maxsize=1)
def _sharing(sp_size: int, device: str, _processes: object) -> Ulysses:
    return Ulysses(sp_size, device)


def draws(
    latents: Tensor, generator: torch.Generator, number: Callable[[], Tensor], shared: Ulysses
) -> tuple[Tensor, Tensor]:
    """Of every clip a number and noise, clip by clip: what a clip gets does not depend on how batches are split.

    Args:
        latents: `[B, C, T, h, w]`.
        generator: Of the noise.
        number: Draws `[1]`.
        shared: Processes that get the same.

    Returns:
        The numbers `[B]`, and noise like the latents.
    """
    drawn = [(number(), torch.randn(row.shape, generator=generator, device=generator.device)) for row in latents]
    numbers, noise = zip(*drawn, strict=True)
    return shared.share(torch.cat(numbers).to(latents.device)), shared.share(torch.stack(noise).to(latents))


def taken(batch: Batch, network: nn.Module, guidance: float | None = None) -> tuple[Tensor, Words]:
    """The latents and the words of a batch, where the network is."""
    weight = next(network.parameters())
    latents, text, *masks = batch
    mask = masks[-1].to(weight.device).bool() if masks else None
    return latents.to(weight.device), Words(text.to(weight.device), mask, guidance)


def optimizer_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: Any,
    loader: Iterator[Batch],
    accumulate: int,
    max_grad_norm: float,
    loss_of: Callable[[Batch], Tensor],
) -> tuple[float, float]:
    """One step with the mean gradient of several batches.

    Args:
        network: What is trained.
        optimizer: Of its parameters.
        lr_scheduler: Takes a step after it; None: there is none.
        loader: An iterator, from which `accumulate` batches are taken.
        accumulate: At least 1.
        max_grad_norm: Largest norm of the gradient.
        loss_of: The loss of a batch.

    Returns:
        The mean loss, over all processes, and the norm of the gradient before it was clipped.

    Raises:
        ValueError: `accumulate` is less than 1.
    """
    if accumulate < 1:
        raise ValueError(f"gradient_accumulation_steps must be at least 1, got {accumulate}")
    optimizer.zero_grad()
    losses = []
    for _ in range(accumulate):
        loss = loss_of(next(loader)) / accumulate
        loss.backward()
        losses.append(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
    optimizer.step()
    if lr_scheduler is not None:
        lr_scheduler.step()
    return float(_over_processes(torch.stack(losses).sum())), float(norm)


def _over_processes(value: Tensor) -> Tensor:
    """The mean over all processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value / torch.distributed.get_world_size()
        torch.distributed.all_reduce(value)
    return value
