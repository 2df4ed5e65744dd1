"""How far the pictures of long dreams drift away from true ones: a Frechet distance at several horizons.

Both drive the same tracks with the same driver, so pictures cannot be compared one by one; their distributions can.
Features are those of the world's own encoder: mean and deviation over the picture of every latent channel.

Legend: N drives, S sampled steps, C latent channels.
"""

from __future__ import annotations

import numpy as np
import torch

from drivedit.models import World

HORIZONS = (10, 50, 100, 300, 1000)
SPAN = 50  # steps up to a horizon that stand for it
SAMPLES = 10  # pictures of a drive at each horizon


def windows(steps: int) -> dict[int, np.ndarray]:
    """The steps that stand for each horizon that drives of `steps` steps reach."""
    return {
        horizon: np.linspace(max(0, horizon - SPAN), horizon - 1, SAMPLES).round().astype(int)
        for horizon in HORIZONS
        if horizon <= steps
    }


def sampled(steps: int) -> np.ndarray:
    """All steps `[S]` whose pictures are needed, in order."""
    return np.unique(np.concatenate([np.zeros(0, int), *windows(steps).values()]))


@torch.no_grad()
def encoder_features(world: World, frames: np.ndarray) -> np.ndarray:
    """Features `[n, 2 C]` of uint8 pictures `[n, H, W, 3]`."""
    parts = []
    for at in range(0, len(frames), 64):
        latents = world.encode(frames[at : at + 64, None])[:, 0].flatten(2)
        parts.append(torch.cat([latents.mean(-1), latents.std(-1)], -1).double().cpu().numpy())
    return np.concatenate(parts)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance of the normal distributions fitted to two samples (Dowson and Landau 1982).

    Few samples make it too large, so compare distances of equally many.

    Args:
        first: `[n, F]`, n >= 2.
        second: `[m, F]`, m >= 2.

    Raises:
        ValueError: The numbers of features differ, or a sample is too small.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"samples must be [n >= 2, F] and [m >= 2, F], got {first.shape} and {second.shape}")
    apart = first.mean(0) - second.mean(0)
    one, two = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    return float(apart @ apart + np.trace(one) + np.trace(two) - 2 * shared)


def drift_figures(world: World, true: np.ndarray, dreamed: np.ndarray, steps: int) -> dict[str, float]:
    """Distances at each horizon, and between true pictures at the last two horizons as a yardstick.

    The yardstick is what equally many pictures of the same true driving differ by; NaN where drives are too short.

    Args:
        world: The world, for its encoder.
        true: uint8 `[N, S, H, W, 3]`, the pictures at `sampled(steps)` of true drives.
        dreamed: The same of dreamed ones.
        steps: Steps of the drives.
    """
    at, kept = windows(steps), sampled(steps)
    places = {horizon: np.searchsorted(kept, chosen) for horizon, chosen in at.items()}
    features = [
        {horizon: encoder_features(world, frames[:, place].reshape(-1, *frames.shape[2:]))
         for horizon, place in places.items()}
        for frames in (true, dreamed)
    ]  # fmt: skip
    figures = {f"frechet_{horizon}": float("nan") for horizon in HORIZONS}
    figures |= {f"frechet_{horizon}": frechet_distance(features[0][horizon], features[1][horizon]) for horizon in at}
    late, last = (features[0].get(horizon) for horizon in HORIZONS[-2:])
    return figures | {"frechet_true": float("nan") if late is None or last is None else frechet_distance(late, last)}
