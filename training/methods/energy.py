"""The energy score (Gneiting and Raftery 2007) of frames that a network makes in a few passes on its own rollouts.

Two samples are drawn for each frame. Their score is least for samples of the true distribution: neither blur nor
invention pays. Rollouts grow over the first half of the run: on true pasts a step is cheaper, and what a network makes
before it has learned to sample is no past to learn from.

Legend: B clips, T frames, D token width.
"""

from __future__ import annotations

from torch import Tensor

from drivedit.training.methods.clips import Clip, Rngs
from drivedit.training.methods.dynamics import DynamicsMethod, squared_error
from drivedit.training.methods.forcing import forcing_loss, mean_loss
from drivedit.training.methods.method import Logs, Progress

GROWN_AT = 0.5  # share of the run from which on rollouts are as long as `rollout` says


class EnergyScore(DynamicsMethod):
    """Learns to be right in one pass, or in any number up to `exits`, on a past that the network made itself."""

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The score of two samples, and the heads' losses."""
        past, control = self.own_past(clip, rngs, progress.share / GROWN_AT)
        levels = self.levels_to_exit(clip.target, rngs)
        given = control, clip.route, past
        samples = [self.run_to_exit(rngs.normal(*clip.target.shape), levels, given) for _ in range(2)]
        (first, read), (second, _) = samples
        error = squared_error(first, clip.target)
        heads, logs = self.head_losses(read, error, clip)
        energy, apart = energy_score(first, second, clip.target)
        loss = energy + self.config.head_weight * heads
        return loss, {"energy": energy.detach(), "mse": error.detach().mean(), "apart": apart.detach(), **logs}


class ForcingThenEnergy(EnergyScore):
    """The `student` stage: means until `mean_until`, diffusion forcing, from `few_step_from` on the energy score."""

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The loss at a share of the run."""
        if progress.share < self.config.mean_until:
            return mean_loss(self, clip, rngs)
        if progress.share < self.config.few_step_from:
            return forcing_loss(self, clip, rngs)
        few_step = (progress.share - self.config.few_step_from) / max(1 - self.config.few_step_from, 1e-9)
        return super().clip_loss(clip, progress._replace(share=few_step), rngs)


def energy_score(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Energy score of two samples, each a vector `[..., D]`, and how far apart they are; both means per sqrt(D)."""
    size = target.shape[-1] ** 0.5
    far = (_norm(first - target) + _norm(second - target)).mean() / (2 * size)
    apart = _norm(first - second).mean() / size
    return far - 0.5 * apart, apart


def _norm(difference: Tensor) -> Tensor:
    return (difference.square().sum(-1) + 1e-6).sqrt()
