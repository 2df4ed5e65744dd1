"""Consistency in continuous time (sCM, Lu and Song 2024, arXiv 2410.11081): no grid, but a derivative.

Along the teacher's flow the student's estimate f must not change: its derivative there, which forward-mode
differentiation gives together with the estimate, is what it is moved against. In the terms of MeanFlow (Geng et al.
2025, arXiv 2505.13447) the mean velocity u down to data has to be `v - s du/ds`. What depends on the derivative enters
by and by, and each frame's change is divided by its own size; both keep training stable (sCM). At the beginning the
student learns the teacher's estimates.

Every frame has a level of its own. The flow goes along by its logarithm, the same for all frames of a clip: a frame at
level s moves by `s v = x - clean`, and s by s.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from drivedit.models.flow.path import add_noise, over
from drivedit.training.methods.clips import Clip, Given, Rngs
from drivedit.training.methods.dynamics import error_from_noise, predict_clean, squared_error
from drivedit.training.methods.method import Logs, Progress
from drivedit.training.methods.taught import TaughtMethod

ANCHOR = 0.1  # the level below which an estimate passes into the frame itself
LEAST_TANGENT = 0.1  # beside the size by which a frame's change is divided (sCM's c)


class ContinuousConsistency(TaughtMethod):
    """Trains a student on the flow of its teacher, or with `data_flow` on that of the data.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.
    """

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The change that the derivative asks for, and the heads' losses."""
        given = self.given(clip, rngs)
        shape = clip.target.shape[:2]
        sigma = rngs.uniform(*shape)
        sigma = torch.where(rngs.uniform(*shape) < self.config.pure_noise, torch.ones_like(sigma), sigma)
        noisy = add_noise(clip.target, rngs.normal(*clip.target.shape), sigma)
        with torch.no_grad():
            clean = clip.target if self.distill.data_flow else self.teach(noisy, sigma, given)
            derivative = self.derivative(noisy, sigma, given, noisy - clean)
        out, read = self.run(noisy, sigma, *given)
        end = anchored(noisy, out, sigma)
        share = min(1.0, progress.share / self.distill.warmup_share) if self.distill.warmup_share else 1.0
        change = (1 - share) * (end.detach() - clean) + share * derivative
        size = change.square().mean((2, 3), keepdim=True).sqrt()
        loss = (end - (end - change / (size + LEAST_TANGENT)).detach()).square().mean()
        error = squared_error(out, clip.target)
        heads, logs = self.head_losses(read, error, clip)
        told = {"tangent": size.mean(), "mse": error_from_noise(error, sigma)}
        return loss + self.config.head_weight * heads, {**told, **logs}

    def derivative(self, noisy: Tensor, sigma: Tensor, given: Given, motion: Tensor) -> Tensor:
        """How the estimates `[B, T, P, D]` change where frames move by `motion` and levels `[B, T]` by themselves.

        It is taken in float32, with plain products for attention, which know forward-mode differentiation.
        """

        def estimate(x: Tensor, level: Tensor) -> Tensor:
            return anchored(x, predict_clean(self.dynamics, x, level, *given)[0], level)

        with torch.autocast(noisy.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            return jvp(estimate, (noisy, sigma), (motion, sigma))[1]


def anchored(x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """The consistency function of clean estimates: these from level `ANCHOR` on, and `x` itself at 0."""
    share = 1 - (1 - sigma / ANCHOR).clamp(min=0).square()
    return torch.lerp(x, clean, over(share, x))
