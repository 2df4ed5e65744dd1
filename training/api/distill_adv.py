"""Losses of adversarial distillation (ADD, arXiv 2311.17042; LADD, 2403.12015), under the published names.

They take scores at two scales, of which the coarser one ("32": pooled to 32 x 32) may be left out. The training method
of that kind is `drivedit.training.methods.adversarial`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from drivedit.training.losses import discriminator_hinge, generator_hinge

COARSE = 32  # cells of a side


def pooled_scores(scores: Tensor) -> Tensor:
    """A map of scores `[..., h, w]`, averaged down to at most 32 x 32."""
    height, width = scores.shape[-2:]
    return F.adaptive_avg_pool2d(scores, (min(height, COARSE), min(width, COARSE)))


def gan_g_loss(
    fake_output: Tensor,
    discriminator_weight: float | Tensor = 1.0,
    fake_output_32: Tensor | None = None,
    *,
    saturating: bool = False,
) -> Tensor:
    """The generator's loss: minus the mean score at each scale, weighted alike.

    Args:
        fake_output: Scores of generated samples.
        discriminator_weight: Weight of the loss.
        fake_output_32: Their scores at the coarser scale; None: left out.
        saturating: `relu(1 - score)` instead, which is content with a score of 1.
    """
    scales = [fake_output] if fake_output_32 is None else [fake_output, fake_output_32]
    return discriminator_weight * sum(
        (generator_hinge(scores, saturating) for scores in scales), fake_output.new_zeros(())
    )


def gan_d_loss(
    real_output: Tensor,
    fake_output: Tensor,
    discriminator_weight: float | Tensor = 1.0,
    real_output_32: Tensor | None = None,
    fake_output_32: Tensor | None = None,
    discriminator_weight_32: float | Tensor | None = None,
) -> Tensor:
    """The discriminator's hinge loss at each scale, weighted.

    Args:
        real_output: Scores of real samples.
        fake_output: Scores of generated ones.
        discriminator_weight: Weight of the finer scale.
        real_output_32: Scores of real samples at the coarser scale; None: it is left out.
        fake_output_32: Those of generated ones.
        discriminator_weight_32: Its weight; None: that of the finer one.

    Raises:
        ValueError: Scores of the coarser scale are given for one of both only.
    """
    if (real_output_32 is None) != (fake_output_32 is None):
        raise ValueError("give both real_output_32 and fake_output_32, or neither")
    loss = discriminator_weight * discriminator_hinge(real_output, fake_output)
    if real_output_32 is None or fake_output_32 is None:
        return loss
    weight = discriminator_weight if discriminator_weight_32 is None else discriminator_weight_32
    return loss + weight * discriminator_hinge(real_output_32, fake_output_32)
