"""Metrics of sets and of the signals that they make, as torchmetrics: added up by items, over batches and processes.

Legend: B rows, P parameters in blocks (all first numbers of the tokens, then all second ones), S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drivedit.models.sets.tokens import assignment_distance, chamfer_distance
from drivedit.utils import extra

with extra("sets", "metrics of sets"):
    from torchmetrics import Metric


def complex_to_dbfs(z: Tensor, eps: float = 1e-8) -> Tensor:
    """The power of complex numbers in dB, `10 log10 max(|z|^2, eps)`.

    Args:
        z: Complex, any shape.
        eps: The least power that is told apart.
    """
    return 10 * (z.real.square() + z.imag.square()).clamp(min=eps).log10()


def log_spectral_distance(predicted: Tensor, target: Tensor, eps: float = 1e-8) -> Tensor:
    """Root of the mean squared difference of two signals' spectra in dB, `[...]`.

    Args:
        predicted: `[..., S]`.
        target: `[..., S]`.
        eps: The least power.
    """
    first, second = (complex_to_dbfs(torch.fft.rfft(x, norm="forward"), eps) for x in (predicted, target))
    return (first - second).square().mean(-1).sqrt()


class _ItemMean(Metric):
    """The mean of a figure of each item; NaN, with torchmetrics' warning, where there was none."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Adds the figures `[B]` of a batch."""
        self.total += values.detach().double().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean over all items, a scalar."""
        return (self.total / self.count).float()


class LogSpectralDistance(_ItemMean):
    """Mean log-spectral distance in dB of the signals that parameters make to those that were observed.

    Args:
        eps: The least power.
        **kwargs: Of `torchmetrics.Metric`.
    """

    def __init__(self, eps: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.eps = eps

    def update(self, predicted_params: Tensor, target_signal: Tensor, synth_fn: Callable[[Tensor], Tensor]) -> None:
        """Adds a batch: parameters `[B, P]`, signals `[B, S]`, and what makes signals of parameters."""
        self.add(log_spectral_distance(synth_fn(predicted_params), target_signal, self.eps))


class ChamferDistance(_ItemMean):
    """Mean Chamfer distance: the squared distance to the nearest token, both ways.

    It does not see how often a token comes: `{A, A, B}` and `{A, B, B}` are at distance 0. Never take it alone.

    Args:
        params_per_token: Numbers of a token.
        **kwargs: Of `torchmetrics.Metric`.
    """

    def __init__(self, params_per_token: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.params_per_token = params_per_token

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds a batch, `[B, P]` each.

        Raises:
            ValueError: Shapes differ, or parameters do not divide into tokens.
        """
        self.add(chamfer_distance(predicted, target, self.params_per_token))


class LinearAssignmentDistance(_ItemMean):
    """Mean distance of tokens under the cheapest assignment (Hungarian method).

    Args:
        params_per_token: Numbers of a token.
        squared: Whether distances are squared before they are assigned and averaged, as in the paper.
        **kwargs: Of `torchmetrics.Metric`.
    """

    def __init__(self, params_per_token: int, *, squared: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.params_per_token, self.squared = params_per_token, squared

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Adds a batch, `[B, P]` each.

        Raises:
            ValueError: Shapes differ, or parameters do not divide into tokens.
        """
        self.add(assignment_distance(predicted, target, self.params_per_token, self.squared))
