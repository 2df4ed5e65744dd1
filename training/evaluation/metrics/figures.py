"""The mathematics of the figures: pure functions of arrays.

Headings are right-positive, as steering is: `turns` of a car that goes to the right are positive.
"""

from __future__ import annotations

import numpy as np

from drivedit.utils import extra

BEST_PSNR = 60.0  # dB; equal pictures would have infinitely many


def squared_error(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean squared error of uint8 pictures `[..., H, W, 3]`, in units of the full range, `[...]`."""
    difference = first.astype(np.float32) - second.astype(np.float32)
    return np.square(difference / 255.0).mean((-3, -2, -1))


def psnr(error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of mean squared errors, at most `BEST_PSNR`."""
    return np.minimum(-10.0 * np.log10(np.maximum(error, 1e-12)), BEST_PSNR)


def laplacian_energy(frames: np.ndarray) -> float:
    """Mean squared response of the 4-neighbour Laplacian of uint8 pictures `[..., H, W, 3]`: how sharp they are."""
    x = frames.astype(np.float32) / 255.0
    inner = x[..., 1:-1, 1:-1, :]
    around = x[..., 2:, 1:-1, :] + x[..., :-2, 1:-1, :] + x[..., 1:-1, 2:, :] + x[..., 1:-1, :-2, :]
    return float(np.square(around - 4.0 * inner).mean())


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; NaN where one side does not vary."""
    x, y = np.ravel(x).astype(np.float64), np.ravel(y).astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 1e-12 else float("nan")


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of the least-squares line of y over x; NaN where x does not vary."""
    x, y = np.ravel(x).astype(np.float64), np.ravel(y).astype(np.float64)
    x = x - x.mean()
    size = float(x @ x)
    return float(x @ (y - y.mean())) / size if size > 1e-12 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where one side does not vary."""
    with extra("train", "evaluating a world"):
        from scipy.stats import rankdata

    return correlation(rankdata(x), rankdata(y))


def calibration(confidence: np.ndarray, error: np.ndarray, bins: int) -> dict[str, list[float]]:
    """What confidence is worth: equally full bins from the least confident to the most.

    Args:
        confidence: `[n]`.
        error: Mean squared errors `[n]` of pictures, in units of the full range.
        bins: Bins, fewer if there are fewer values.

    Returns:
        `confidence` (mean), `rmse` (root of the mean error) and `count` of each bin.
    """
    order = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
    return {
        "confidence": [float(confidence[rows].mean()) for rows in order],
        "rmse": [float(np.sqrt(error[rows].mean())) for rows in order],
        "count": [float(len(rows)) for rows in order],
    }


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative (ties count half)."""
    with extra("train", "evaluating a world"):
        from scipy.stats import rankdata

    labels = np.asarray(labels, bool)
    positive, negative = int(labels.sum()), int((~labels).sum())
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(scores)[labels].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def recall_at(scores: np.ndarray, labels: np.ndarray, false_alarms: float) -> float:
    """Share of positives found by the lowest threshold at which at most `false_alarms` of the negatives alarm."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    negatives = np.sort(scores[~labels])[::-1]
    if not labels.any() or not len(negatives):
        return float("nan")
    allowed = int(false_alarms * len(negatives))
    threshold = negatives[allowed] if allowed < len(negatives) else -np.inf
    return float((scores[labels] > threshold).mean())


def road_threshold(share: np.ndarray, on_road: np.ndarray) -> tuple[float, float]:
    """The road share from which on the car counts as on the road.

    Args:
        share: Road shares of true pictures.
        on_road: What the simulator says, bool.

    Returns:
        The threshold with the best balanced accuracy, and that accuracy.
    """
    candidates = np.linspace(0.05, 0.95, 37)
    on_road = np.asarray(on_road, bool).ravel()
    if on_road.all() or not on_road.any():
        return 0.5, float(((share.ravel() >= 0.5) == on_road).mean())
    hits = [0.5 * ((share.ravel() >= c)[on_road].mean() + (share.ravel() < c)[~on_road].mean()) for c in candidates]
    best = np.flatnonzero(np.array(hits) == max(hits))
    return float(candidates[best].mean()), float(max(hits))


def wrap(angle: np.ndarray) -> np.ndarray:
    """Brings angles in radians into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def turns(yaw: np.ndarray) -> np.ndarray:
    """Turn to the right of each step `[..., T]`, from counter-clockwise directions `[..., T + 1]`."""
    return -wrap(np.diff(yaw, axis=-1))


def nearest_branch(dreamed: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Number of the true branch that each dreamed branch looks like.

    Args:
        dreamed: uint8 `[N, K, H, W, 3]`.
        true: uint8 `[N, K, H, W, 3]`.

    Returns:
        `[N, K]`.
    """
    return squared_error(dreamed[:, :, None], true[:, None]).argmin(-1)


def life(driving: np.ndarray, patience: int) -> int:
    """Steps until the first spell of at least `patience` steps without driving; all steps if there is none.

    A spell that reaches the last step counts from half of `patience` on.

    Args:
        driving: bool `[n]`.
        patience: Length of the spell.
    """
    start = None
    for index, good in enumerate(driving):
        if good:
            start = None
        elif start is None:
            start = index
        if start is not None and index + 1 - start >= patience:
            return start
    if start is not None and len(driving) - start >= patience / 2:
        return start
    return len(driving)
