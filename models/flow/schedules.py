"""Levels of noise that a sampler steps between, moved towards noise."""

from __future__ import annotations

from torch import Tensor


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Levels moved towards noise: `a s / (1 + (a - 1) s)` with a = `shift`, which is above 0 (1: as they are)."""
    return shift * sigma / (1 + (shift - 1) * sigma)
