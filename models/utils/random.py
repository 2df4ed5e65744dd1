"""Random numbers that are a function of (seed, stream, step), so that a world is the same alone and in a batch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """Returns a CPU generator that depends on nothing but its arguments."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextmanager
def global_state_kept(device: torch.device | str = "cpu") -> Iterator[None]:
    """Leaves the global generators of Python, numpy and torch (CPU and `device`) as they were before the block."""
    device = torch.device(device)
    kinds = [torch] if device.type == "cpu" else [torch, torch.get_device_module(device)]
    before = random.getstate(), np.random.get_state(), [kind.get_rng_state() for kind in kinds]
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        for kind, state in zip(kinds, before[2], strict=True):
            kind.set_rng_state(state)


@contextmanager
def seeded(rng: torch.Generator, device: torch.device | str = "cpu") -> Iterator[None]:
    """Lets what draws from torch's global generators (dropout, fresh weights) draw what a generator's seed says.

    Args:
        rng: Whose seed counts; nothing is drawn from it.
        device: Whose global generator is seeded beside that of the CPU; afterwards both are as they were.
    """
    device = torch.device(device)
    with global_state_kept(device):
        torch.default_generator.manual_seed(rng.initial_seed())
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(rng.initial_seed())
        yield


def noise(seeds: list[int], stream: str, steps: list[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Draws one standard normal tensor per row; a row depends on its own seed and step only.

    Returns:
        Float tensor `[B, *shape]` on the CPU.
    """
    drawn = torch.empty(len(seeds), *shape)
    for row, seed, step in zip(drawn.unbind(), seeds, steps, strict=True):
        row.normal_(generator=generator(seed, stream, step))
    return drawn


def truncate(normal: torch.Tensor, top_p: float | None) -> torch.Tensor:
    """Squeezes standard normal numbers into the central part of their distribution (Brock et al. 2019).

    Each number keeps its rank, so the same draws under another `top_p` are the same futures, more or less surprising.

    Args:
        normal: Standard normal numbers.
        top_p: Central probability mass in (0, 1] that they are to come from; None or 1: they stay as they are.

    Raises:
        ValueError: `top_p` is not in (0, 1].
    """
    if top_p is None or top_p == 1:
        return normal
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    return torch.special.ndtri(0.5 + top_p * (torch.special.ndtr(normal.double()) - 0.5)).to(normal)
