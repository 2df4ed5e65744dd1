"""Figures of range images and of the points in them.

Legend: N M points, H W rows and columns of a scan.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 1024  # points of one cloud that are compared with all of another
EXTENT, CELL = 40.0, 1.0  # m: how far the view from above goes to each side, and its cells


def chamfer(first: Tensor, second: Tensor) -> float:
    """Chamfer distance of two clouds `[N, 3]` and `[M, 3]`: mean metres to the nearest point of the other, both ways.

    NaN where one of them is empty.
    """
    if not len(first) or not len(second):
        return float("nan")
    near, back = [], torch.full((len(second),), torch.inf)
    for part in first.float().split(AT_ONCE):
        apart = torch.cdist(part, second.float(), compute_mode="donot_use_mm_for_euclid_dist")
        near.append(apart.amin(1))
        back = torch.minimum(back, apart.amin(0))
    return float((torch.cat(near).mean() + back.mean()) / 2)


def range_error(found: np.ndarray, true: np.ndarray) -> float:
    """Median error in metres of scans `[..., H, W, 2]` where something came back in both; NaN where nowhere."""
    both = (found[..., 1] > 0.5) & (true[..., 1] > 0.5)
    return float(np.median(np.abs(found[..., 0] - true[..., 0])[both])) if both.any() else float("nan")


def mask_iou(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of the masks of scans `[..., H, W, 2]`; 1 where both are empty."""
    first, second = found[..., 1] > 0.5, true[..., 1] > 0.5
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def from_above(points: np.ndarray) -> np.ndarray:
    """Shares of points `[N, 3]` in cells seen from above, float64 `[C, C]` that sum to 1 (0 where none is inside)."""
    edges = np.arange(-EXTENT, EXTENT + CELL / 2, CELL)
    counts = np.histogram2d(points[:, 0], points[:, 1], (edges, edges))[0]
    return counts / max(counts.sum(), 1.0)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms of shares, in bits: 0 of equal ones, 1 of ones apart."""
    middle = (first + second) / 2

    def toward(shares: np.ndarray) -> float:
        some = shares > 0
        return float((shares[some] * np.log2(shares[some] / middle[some])).sum())

    return max(0.0, (toward(first) + toward(second)) / 2)


def mmd(first: np.ndarray, second: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two sets of vectors `[N, D]` and `[M, D]`, unbiased (Gretton et al. 2012).

    The kernel is Gaussian, as wide as the median distance of all pairs. Sets of one law have 0 on average.

    Raises:
        ValueError: There are fewer than two of either.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"two vectors of each set are needed at least, got {len(first)} and {len(second)}")
    both = torch.from_numpy(np.concatenate([first, second]).astype(np.float64))
    apart = torch.cdist(both, both).square()
    n, m = len(first), len(second)
    pairs = apart[~torch.eye(n + m, dtype=torch.bool)]
    kernel = torch.exp(-apart / pairs.median().clamp(min=1e-12)).numpy()
    within = [
        (block.sum() - len(block)) / (len(block) * (len(block) - 1)) for block in (kernel[:n, :n], kernel[n:, n:])
    ]
    return float(sum(within) - 2 * kernel[:n, n:].mean())


def crps(samples: np.ndarray, truth: np.ndarray) -> float:
    """Mean continuous ranked probability score of samples `[K, ...]` of numbers `[...]`, fair for few samples.

    Raises:
        ValueError: There are fewer than two samples.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"two samples are needed at least, got {count}")
    rank = np.arange(1, count + 1).reshape(-1, *[1] * truth.ndim)
    spread = ((2 * rank - count - 1) * np.sort(samples, 0)).sum(0) / (count * (count - 1))
    return float((np.abs(samples - truth).mean(0) - spread).mean())
