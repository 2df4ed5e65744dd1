"""ZClip: norms of gradients that stand out of those before are brought down (Kumar et al. 2025, arXiv 2504.02507)."""

from __future__ import annotations

import math

WARM = 25  # norms that are seen before one can stand out


class ZClip:
    """A bound for norms, of the mean and the spread of those so far.

    Args:
        threshold: Standard deviations above the mean at which the bound is.
        decay: Share of mean and variance that a norm leaves, once there were many; the first ones count alike.
    """

    def __init__(self, threshold: float = 2.5, decay: float = 0.99) -> None:
        self.threshold, self.decay = threshold, decay
        self.mean = self.variance = 0.0
        self.count = 0

    def bound(self) -> float:
        """The largest norm that is left as it is; infinite as long as few were seen."""
        if self.count < WARM:
            return math.inf
        return self.mean + self.threshold * math.sqrt(self.variance)

    def add(self, norm: float) -> None:
        """Takes in a norm, as it is after it was bounded."""
        self.count += 1
        share = max(1 - self.decay, 1 / self.count)
        off = norm - self.mean
        self.mean += share * off
        self.variance = (1 - share) * (self.variance + share * off**2)

    def state_dict(self) -> dict[str, float]:
        """What it has seen."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from what was seen."""
        self.mean, self.variance, self.count = state["mean"], state["variance"], int(state["count"])
