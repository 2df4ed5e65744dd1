"""Random numbers that are a function of (seed, stream, step), so that a world is the same alone and in a batch."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """Returns a CPU generator that depends on nothing but its arguments."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def noise(seeds: list[int], stream: str, steps: list[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Draws one standard normal tensor per row; a row depends on its own seed and step only.

    Returns:
        Float tensor `[B, *shape]` on the CPU.
    """
    rows = [torch.randn(shape, generator=generator(s, stream, t)) for s, t in zip(seeds, steps, strict=True)]
    return torch.stack(rows)
