"""Drift: how the pictures of a long dream leave those of long true drives, as a Frechet distance.

Legend: N drives, S pictures of a drive (one in `SEEN_EVERY` steps), C channels of a latent.
"""

from __future__ import annotations

import numpy as np
import torch

from drivedit.evaluation.closed_loop import Drives
from drivedit.evaluation.twin_drives import SEEN_EVERY
from drivedit.models import World

HORIZONS = (300, 1000)  # steps; the pictures of the 200 steps before count
WINDOW = 200


def drift_figures(world: World, dreamed: Drives, true: Drives) -> dict[str, float]:
    """Frechet distance of dreamed pictures to all true ones, early and late in a drive; and of true ones, the floor.

    Args:
        world: Its encoder gives the features, so distances of worlds with different autoencoders do not compare.
        dreamed: Long dreams.
        true: The simulator's drives from the same starts by the same driver.
    """
    everything = _features(world, true.seen)
    figures = {}
    for horizon in HORIZONS:
        window = slice(max(0, (horizon - WINDOW) // SEEN_EVERY), horizon // SEEN_EVERY)
        for name, drives in (("drift", dreamed), ("drift_floor", true)):
            enough = drives.seen.shape[1] >= horizon // SEEN_EVERY
            pictures = _features(world, drives.seen[:, window]) if enough else None
            distance = frechet(pictures, everything) if pictures is not None else float("nan")
            figures[f"{name}_{horizon}"] = distance
    return figures


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians fitted to features `[n, C]` (Heusel et al. 2017).

    Raises:
        ValueError: Fewer than two features, or widths differ.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"two arrays [n >= 2, C] of equal width are needed, got {first.shape} and {second.shape}")
    means = first.mean(0) - second.mean(0)
    a, b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second))
    # The trace of the root of a b, through the symmetric root of a.
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum()
    return float(means @ means + np.trace(a) + np.trace(b) - 2 * cross)


@torch.no_grad()
def _features(world: World, seen: np.ndarray) -> np.ndarray:
    """Mean latents `[N S, C]` of pictures `[N, S, H, W, 3]`, channels of about unit variance."""
    pictures = seen.reshape(-1, *seen.shape[2:])
    parts = [world.encode(pictures[at : at + 64, None])[:, 0].mean((2, 3)) for at in range(0, len(pictures), 64)]
    return torch.cat(parts).float().cpu().numpy()
