"""Continuations of a clip, frame after frame, by a student that keeps clean frames in its cache.

A new frame starts as noise and goes down the levels of noise. Then it is cached, clean.

Legend: B clips, F frames, P tokens per frame, N = F * P, D token width, M memories, E model width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.sampler import Denoiser, sample
from drivedit.models.layers.past import past_of, past_of_next
from drivedit.utils import truncate


@dataclass
class KVCache:
    """Attention keys and values of the last W frames, a ring.

    Attributes:
        k: Keys `[L, B, H, W, P, E / H]`.
        v: Values, likewise.
        clock: `[B]` frames seen so far.
    """

    k: Tensor
    v: Tensor
    clock: Tensor


Generators = torch.Generator | Sequence[torch.Generator] | None


class CausalNetwork(Protocol):
    """What sampling needs of a network: `DiTStudent.forward`, and how its tokens stand in frames."""

    tokens_per_frame: int
    history: int
    window: int | None
    capacity: int

    def __call__(
        self, x: Tensor, kv_cache: KVCache | None = None, use_cache: bool = False, **conditions: Tensor | None
    ) -> tuple[Tensor, KVCache | None]:
        """See `DiTStudent.forward`."""
        ...


@torch.no_grad()
def generate(
    student: CausalNetwork,
    context: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    sampling_steps: int = 4,
    control: Tensor | None = None,
    memory: Tensor | None = None,
    generator: Generators = None,
) -> Tensor:
    """Continues clean tokens by whole frames.

    Args:
        student: The network, in evaluation mode unless its dropout is wanted.
        context: Clean tokens `[B, N, D]`, at least one frame.
        max_new_tokens: Tokens to add, a multiple of P.
        temperature: Scale of the noise that a frame is made from; towards 0 all futures become one.
        top_k: Must be None: continuous tokens have no k best ones.
        top_p: Central mass of the normal distribution that noise comes from (the truncation trick, Brock et al. 2019);
            None or 1: all of it.
        sampling_steps: Network passes for one frame.
        control: `[B, F, control_dim]` of all frames, old and new: what led to each. None: zeros.
        memory: `[B, M, E]`, or None.
        generator: One for all rows, or one for each, so that a row is the same alone and in a batch; None: torch's own.

    Returns:
        Context and new tokens `[B, N + max_new_tokens, D]`.

    Raises:
        ValueError: An argument is out of its range, or the whole does not fit into the cache of a student that has no
            window.
    """
    if top_k is not None:
        raise ValueError(f"top_k needs discrete tokens, these are continuous: use top_p or temperature, got {top_k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if sampling_steps < 1:
        raise ValueError(f"sampling_steps must be at least 1, got {sampling_steps}")
    per_frame = student.tokens_per_frame
    clip, new = _checked(student, context, max_new_tokens, control)
    rows, old = clip.shape[:2]
    levels = noise_levels(sampling_steps, context.device)
    if not new:
        return context
    start = max(0, old - student.capacity)
    _, cache = student(
        context[:, start * per_frame :], None, True, memory=memory,
        control=None if control is None else control[:, start:old],
        past=past_of(clip, student.history)[:, start:].flatten(1, 2),
    )  # fmt: skip
    assert cache is not None
    for index in range(old, old + new):
        before = past_of_next(clip, student.history)
        now = None if control is None else control[:, index : index + 1]
        noise = temperature * truncated_noise((rows, per_frame, clip.shape[-1]), top_p, generator).to(context)
        conditions = {"control": now, "past": before, "memory": memory}
        frame = sample(cached(student, cache), noise, levels, conditions)
        student(frame, cache, True, **conditions)
        clip = torch.cat([clip, frame[:, None]], 1)
    return clip.flatten(1, 2)


def _checked(student: CausalNetwork, context: Tensor, add: int, control: Tensor | None) -> tuple[Tensor, int]:
    """The context as a clip `[B, F, P, D]`, and the frames to add, or ValueError where they do not go together."""
    per_frame = student.tokens_per_frame
    if add < 0 or add % per_frame:
        raise ValueError(f"max_new_tokens must be a multiple of {per_frame}, at least 0, got {add}")
    if context.ndim != 3 or context.shape[1] % per_frame or not context.shape[1]:
        raise ValueError(f"context must be [B, k * {per_frame}, D] with k > 0, got {tuple(context.shape)}")
    clip = context.unflatten(1, (-1, per_frame))
    rows, old, new = len(clip), clip.shape[1], add // per_frame
    if student.window is None and old + new > student.capacity:
        raise ValueError(
            f"{old} + {new} frames do not fit into a cache of {student.capacity}: raise max_seq_len or set window"
        )
    if control is not None and control.shape[:2] != (rows, old + new):
        raise ValueError(f"control must be [{rows}, {old + new}, control_dim], got {tuple(control.shape)}")
    return clip, new


def cached(student: CausalNetwork, cache: KVCache) -> Denoiser:
    """A denoiser of the frame `[B, P, D]` after those in a cache, whose clock stands still; given are conditions."""

    def denoiser(x: Tensor, sigma: Tensor, given: Mapping[str, Tensor | None]) -> Tensor:
        return student(x, cache, False, sigma=sigma[:, None].to(x), **given)[0]

    return denoiser


def truncated_noise(shape: tuple[int, ...], top_p: float | None, generator: Generators) -> Tensor:
    """Standard normal numbers `[B, ...]`, squeezed into the central `top_p` of the distribution.

    Raises:
        ValueError: `top_p` is not in (0, 1], or the number of generators is not the number of rows.
    """
    if isinstance(generator, torch.Generator) or generator is None:
        noise = torch.randn(shape, generator=generator)
    elif len(generator) != shape[0]:
        raise ValueError(f"one generator, or one for each of {shape[0]} rows is needed, got {len(generator)}")
    else:
        noise = torch.stack([torch.randn(shape[1:], generator=row) for row in generator])
    return truncate(noise, top_p)
