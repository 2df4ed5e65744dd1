"""Losses of the published API: reconstruction, flow matching, and their weighted sum; distances and hinges.

Each of the modules returns a dictionary of named scalars with the sum under "total", except flow matching, which is
one number, as those of the functions are.

Legend: B clips, T frames, C channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.flow.parametrisations import level_of_edm
from drivedit.models.flow.path import velocity as path_velocity
from drivedit.utils import extra

SCALES = 3  # picture sizes, each half of the one before, at which edges are compared


class ReconstructionLoss(nn.Module):
    """How far pictures are from what they should be: pixels, edges at several sizes, structure.

    The perceptual part needs no network: it compares the horizontal and vertical gradients of the picture at full,
    half and quarter size. The structural part is 1 - SSIM (Wang et al. 2004).

    Args:
        pixel_weight: Of the mean squared error.
        perceptual_weight: Of the mean absolute error of gradients.
        ssim_weight: Of 1 - SSIM. Its window needs pictures of at least 11 x 11 pixels; 0 leaves it out.
    """

    def __init__(self, pixel_weight: float = 1.0, perceptual_weight: float = 0.1, ssim_weight: float = 0.1) -> None:
        super().__init__()
        self.weights = {"pixel": pixel_weight, "perceptual": perceptual_weight, "ssim": ssim_weight}

    def forward(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compares pictures `[..., C, H, W]` in [0, 1].

        Returns:
            "pixel", "perceptual" and "ssim" (those whose weight is not 0), unweighted, and "total", their weighted sum.

        Raises:
            ValueError: The shapes differ or are no pictures.
        """
        if pred.shape != target.shape or pred.ndim < 4:
            raise ValueError(
                f"pred and target must be pictures [..., C, H, W] of one shape, got {tuple(pred.shape)} and "
                f"{tuple(target.shape)}"
            )
        pred, target = pred.flatten(0, -4), target.flatten(0, -4)
        parts = {"pixel": F.mse_loss, "perceptual": gradient_difference, "ssim": _dissimilarity}
        losses = {name: part(pred, target) for name, part in parts.items() if self.weights[name]}
        total = sum((self.weights[name] * value for name, value in losses.items()), pred.new_zeros(()))
        return {**losses, "total": total}


def gradient_difference(pred: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the gradients of pictures `[B, C, H, W]`, averaged over `SCALES` sizes."""
    difference, total = pred - target, pred.new_zeros(())
    for scale in range(SCALES):
        if scale:
            difference = F.avg_pool2d(difference, 2, ceil_mode=True)
        steps = [difference.diff(dim=axis).abs() for axis in (-1, -2) if difference.shape[axis] > 1]
        total = total + sum((step.mean() for step in steps), pred.new_zeros(())) / SCALES
    return total


def _dissimilarity(pred: Tensor, target: Tensor) -> Tensor:
    with extra("train", "structural similarity"):
        from torchmetrics.functional.image import structural_similarity_index_measure

    similarity = structural_similarity_index_measure(pred, target, data_range=1.0)
    assert isinstance(similarity, Tensor)
    return 1 - similarity


class FlowMatchingLoss(nn.Module):
    """Mean squared error of the velocity n - x0 (Lipman et al. 2023) on the package's path.

    Noise levels are told as in EDM (Karras et al. 2022), x0 + s n with s from `sigma_min` to `sigma_max`: divided by
    1 + s that is a point of the path, (1 - tau) x0 + tau n with tau = s / (1 + s).

    Args:
        sigma_min: Least noise s.
        sigma_max: Most noise s.

    Raises:
        ValueError: Not 0 < sigma_min <= sigma_max.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        super().__init__()
        if not 0 < sigma_min <= sigma_max:
            raise ValueError(f"0 < sigma_min <= sigma_max is needed, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def draw(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels tau in [0, 1) of that shape, log s uniform; `generator` None: torch's own randomness."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return level_of_edm(low + (high - low) * torch.rand(shape, generator=generator))

    def forward(self, velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        """The loss of a predicted velocity, all three of one shape.

        Raises:
            ValueError: The shapes differ.
        """
        if not velocity.shape == clean.shape == noise.shape:
            raise ValueError(
                "velocity, clean and noise must have one shape, got "
                f"{tuple(velocity.shape)}, {tuple(clean.shape)} and {tuple(noise.shape)}"
            )
        return F.mse_loss(velocity.float(), path_velocity(clean, noise).float())


class CompositeLoss(nn.Module):
    """A weighted sum of named losses.

    With `uncertainty_weighting` each loss L also gets a learned log-variance s, and exp(-s) L + s takes its place
    (Kendall et al. 2018): give `parameters()` of this module to the optimizer as well.

    Args:
        loss_weights: Weight of each loss by name.
        uncertainty_weighting: Whether the log-variances are learned.

    Raises:
        ValueError: There are no losses.
    """

    def __init__(self, loss_weights: Mapping[str, float], uncertainty_weighting: bool = False) -> None:
        super().__init__()
        if not loss_weights:
            raise ValueError("loss_weights must name at least one loss")
        self.loss_weights = dict(loss_weights)
        self.log_variances = nn.Parameter(torch.zeros(len(loss_weights))) if uncertainty_weighting else None

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adds up the losses.

        Returns:
            The losses as they came, and "total".

        Raises:
            KeyError: A loss has no weight, or a weight no loss.
        """
        if losses.keys() != self.loss_weights.keys():
            raise KeyError(f"losses must be {sorted(self.loss_weights)}, got {sorted(losses)}")
        total: Tensor | float = 0.0
        for index, (name, weight) in enumerate(self.loss_weights.items()):
            term = losses[name]
            if self.log_variances is not None:
                term = torch.exp(-self.log_variances[index]) * term + self.log_variances[index]
            total = total + weight * term
        return {**losses, "total": torch.as_tensor(total)}


def pseudo_huber(difference: Tensor, c: float = 1e-3) -> Tensor:
    """Mean of `sqrt(d^2 + c^2) - c` (Song and Dhariwal 2024): squares below c, absolute values above."""
    squares = difference.square()
    return (squares / ((squares + c**2).sqrt() + c)).mean()


def prediction_decay(prediction: Tensor, kind: str) -> Tensor:
    """How large a prediction is: mean of its absolute values ("l1") or of their squares ("l2").

    Raises:
        ValueError: The kind is another.
    """
    if kind not in ("l1", "l2"):
        raise ValueError(f"pred_decay_type must be 'l1' or 'l2', got {kind!r}")
    return prediction.abs().mean() if kind == "l1" else prediction.square().mean()


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The hinge loss of a discriminator (Lim and Ye 2017): scores of 1 and more are real, of -1 and less are not."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_hinge(fake: Tensor, saturating: bool = False) -> Tensor:
    """The loss of what is scored: minus the mean score; `saturating`: no gradient any more where the score is 1."""
    return F.relu(1 - fake).mean() if saturating else -fake.mean()
