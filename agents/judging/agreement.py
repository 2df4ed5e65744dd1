"""How well one set of scores predicts another: correlations, rank violation, and bootstrap intervals.

Legend: P policies, S starts, R bootstrap replicas; scores are `[..., P]`, higher is better. A figure that cannot be
computed, because a side does not vary, is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivedit.utils import extra

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
LEVEL = 0.95  # of every interval
REPLICAS = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval.

    Attributes:
        value: The figure.
        low: Lower end of the 95% percentile interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """For people: `0.93 [0.85, 0.97]`."""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def pearson(real: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Pearson's linear correlation of scores `[..., P]`, in [-1, 1]."""
    real, dream = (np.asarray(side, np.float64) for side in (real, dream))
    real, dream = real - real.mean(-1, keepdims=True), dream - dream.mean(-1, keepdims=True)
    size = np.sqrt((real * real).sum(-1) * (dream * dream).sum(-1))
    return _ratio((real * dream).sum(-1), size)


def spearman(real: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of scores `[..., P]`, in [-1, 1]; equal scores share their mean rank."""
    with extra("agents", "judging policies"):
        from scipy.stats import rankdata

    return pearson(rankdata(real, axis=-1), rankdata(dream, axis=-1))


def kendall(real: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of scores `[..., P]`, in [-1, 1]: pairs in the same order minus pairs in the other one."""
    first, second = _orders(real), _orders(dream)
    size = np.sqrt((first * first).sum((-2, -1)) * (second * second).sum((-2, -1)))
    return _ratio((first * second).sum((-2, -1)), size)


def mean_maximum_rank_violation(real: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Mean maximum rank violation in [0, 1]; 0 is best (SIMPLER: Li et al. 2024, arXiv 2405.05941).

    The violation of a pair is |real_i - real_j| if the dream orders the two otherwise than reality, else 0. Every
    policy counts with the worst of its pairs, so small mistakes between equally good policies cost little:

        MMRV = 1/P sum_i max_j |real_i - real_j| [(dream_i < dream_j) != (real_i < real_j)]

    The real scores are scaled so that the worst policy has 0 and the best has 1.

    Args:
        real: Scores in reality, `[..., P]`.
        dream: Scores in the dream, `[..., P]`.
    """
    gaps = np.abs(_differences(real))
    gaps = _ratio(gaps, gaps.max((-2, -1), keepdims=True))
    wrong = (_differences(dream) < 0) != (_differences(real) < 0)
    return (gaps * wrong).max(-1).mean(-1)


MEASURES: dict[str, Measure] = {
    "Pearson": pearson,
    "Spearman": spearman,
    "Kendall": kendall,
    "MMRV": mean_maximum_rank_violation,
}


def agreement(
    measure: Measure, real: np.ndarray, dream: np.ndarray, seed: int = 0, replicas: int = REPLICAS
) -> Estimate:
    """A measure of the policies' mean scores, with the interval of a bootstrap over policies and starts.

    Policies and starts are both drawn anew with replacement, the same in dream and reality: the interval says what
    other policies of this kind from other starts might have given.

    Args:
        measure: One of `MEASURES`.
        real: Scores `[P, S]`.
        dream: Scores `[P, S]` of the same policies from the same starts; NaN is left out of a mean.
        seed: Seed of the draws.
        replicas: Number of draws.

    Raises:
        ValueError: The two differ in shape, or there are fewer than 3 policies.
    """
    if real.shape != dream.shape or real.ndim != 2 or len(real) < 3:
        raise ValueError(f"expected scores [P >= 3, S] of both, got {list(real.shape)} and {list(dream.shape)}")
    rng = np.random.default_rng(seed)
    policies, starts = real.shape
    rows = rng.integers(policies, size=(replicas, policies, 1))
    columns = rng.integers(starts, size=(replicas, 1, starts))
    value = float(measure(mean(real), mean(dream)))
    drawn = [mean(side[rows, columns]) for side in (real, dream)]  # [R, P]
    whole = np.isfinite(drawn[0]).all(-1) & np.isfinite(drawn[1]).all(-1)
    return Estimate(value, *_interval(measure(drawn[0][whole], drawn[1][whole])))


def halves(measure: Measure, scores: np.ndarray, seed: int = 0, replicas: int = REPLICAS) -> Estimate:
    """A measure of how one side agrees with itself: half of its starts against the other half.

    The value is the mean over random halves; the interval is of single halves, the policies drawn anew as well. No
    other side can be expected to agree better with so few starts.

    Args:
        measure: One of `MEASURES`.
        scores: Scores `[P, S]`.
        seed: Seed of the draws.
        replicas: Number of draws.

    Raises:
        ValueError: There are fewer than 3 policies or 2 starts.
    """
    policies, starts = scores.shape
    if policies < 3 or starts < 2:
        raise ValueError(f"expected scores [P >= 3, S >= 2], got {list(scores.shape)}")
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(starts), (replicas, 1)), axis=1)[:, None]  # [R, 1, S]
    parts = (order[..., : starts // 2], order[..., starts // 2 : starts // 2 * 2])
    every, drawn = np.arange(policies)[None, :, None], rng.integers(policies, size=(replicas, policies, 1))
    found = [measure(*(mean(scores[rows, columns]) for columns in parts)) for rows in (every, drawn)]
    return Estimate(float(mean(found[0])), *_interval(found[1]))


def starts_needed(half: float, starts: int, wanted: float) -> int | None:
    """From how many starts scores would agree with those from as many others as well as is wanted.

    By the formula of Spearman and Brown (1910): where halves of n starts agree by r, parts of k n agree by
    k r / (1 + (k - 1) r).

    Args:
        half: Correlation of the halves, see `halves`.
        starts: Number of all starts.
        wanted: The correlation that is wanted, in (0, 1).

    Returns:
        The number; None where halves do not agree at all.
    """
    if not 0.0 < half:
        return None
    return math.ceil(starts // 2 * wanted * (1.0 - half) / (half * (1.0 - wanted)) - 1e-9) or 1


def mean_score(scores: np.ndarray, seed: int = 0, replicas: int = REPLICAS) -> Estimate:
    """Mean of the scores `[S]` of one policy, with the interval of a bootstrap over starts."""
    drawn = scores[np.random.default_rng(seed).integers(len(scores), size=(replicas, len(scores)))]
    return Estimate(float(mean(scores)), *_interval(mean(drawn)))


def better_half(real: np.ndarray) -> np.ndarray:
    """Indices of the policies whose real mean score is at least the median, of scores `[P, S]`."""
    means = mean(real)
    return np.flatnonzero(means >= np.median(means))


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN of nothing."""
    known = np.isfinite(scores)
    return _ratio(np.where(known, scores, 0.0).sum(-1), known.sum(-1))


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    """The central interval of replicas; NaN if none could be computed."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _differences(scores: np.ndarray) -> np.ndarray:
    """score_i - score_j, `[..., P, P]`."""
    scores = np.asarray(scores, np.float64)
    return scores[..., :, None] - scores[..., None, :]


def _orders(scores: np.ndarray) -> np.ndarray:
    """The order of every pair: 1, 0 (equal) or -1, `[..., P, P]`."""
    return np.sign(_differences(scores))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The quotient; NaN where the bottom is 0."""
    good = np.asarray(bottom) > 1e-12
    return np.where(good, top / np.where(good, bottom, 1.0), np.nan)
