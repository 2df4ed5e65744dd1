"""Alignment of a network's features with those of a frozen encoder, which ends at a fixed step.

It is REPA (Yu et al. 2024, arXiv 2410.06940) with a convolution as projector and a target normalised over its tokens
(Singh et al. 2025, arXiv 2512.10794), stopped early as in HASTE (Wang et al. 2025, arXiv 2505.16792): it speeds up the
beginning of training, and holds back its end.

Legend: B pictures, C channels, H W pixels, L tokens of the network, M of the encoder, D and E their widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config.pixel import PixelHDMConfig


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the square patches of a picture, of how many there are.

    Raises:
        ValueError: So many square patches do not make up such a picture.
    """
    side = math.sqrt(height * width / max(tokens, 1))
    rows, columns = round(height / side), round(width / side)
    if rows * columns != tokens:
        raise ValueError(f"tokens must be of square patches of the {height} x {width} picture, got {tokens}")
    return rows, columns


class AlignmentLoss(nn.Module):
    """One minus the cosine between projected features and the encoder's, averaged over tokens.

    The projector is a part of this module: give its `parameters()` to the optimizer, or it stays as it was drawn.

    Args:
        hidden_dim: Width D of the network's features.
        target_dim: Width E of the encoder's.
        weight: Of the loss, which lies between 0 and twice that.
        early_stop: Step from which the loss is 0 and the encoder is not asked.
        encoder: Of pictures `[B, C, H, W]` it gives features `[B, M, E]`. It is no part of this module. None: features
            must be told.
    """

    def __init__(
        self,
        hidden_dim: int = 1024,
        target_dim: int = 768,
        weight: float = 0.5,
        early_stop: int = 250_000,
        encoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.projector = nn.Conv2d(hidden_dim, target_dim, kernel_size=3, padding=1)
        self.weight, self.early_stop = weight, early_stop
        self._encoder = (encoder,)  # in a tuple, so that a module is neither trained nor saved with this one

    @classmethod
    def from_config(cls, config: PixelHDMConfig, encoder: Callable[[Tensor], Tensor] | None = None) -> AlignmentLoss:
        """The alignment that a configuration tells."""
        return cls(config.hidden_dim, config.repa_hidden_size, config.repa_lambda, config.repa_early_stop, encoder)

    def active(self, step: int) -> bool:
        """Whether features are aligned at a step, counted from 0."""
        return step < self.early_stop

    def forward(self, h_t: Tensor, x_clean: Tensor, step: int = 0, dino_features: Tensor | None = None) -> Tensor:
        """The loss at a step.

        Args:
            h_t: Features of the network `[B, L, D]`.
            x_clean: Clean pictures `[B, C, H, W]`.
            step: Training step.
            dino_features: Features of the encoder `[B, M, E]`; None: it is asked.

        Raises:
            RuntimeError: There are neither features nor an encoder.
            ValueError: Tokens do not make up the picture.
        """
        if not self.active(step):
            return h_t.new_zeros(())
        target = self._features(x_clean) if dino_features is None else dino_features
        grid, target_grid = (token_grid(each.shape[1], *x_clean.shape[2:]) for each in (h_t, target))
        projected = self.projector(h_t.transpose(1, 2).unflatten(2, grid))
        if grid != target_grid:
            projected = F.interpolate(projected, target_grid, mode="bilinear", align_corners=False)
        target = target.to(torch.promote_types(target.dtype, torch.float32))
        target = (target - target.mean(1, keepdim=True)) / (target.std(1, correction=0, keepdim=True) + 1e-6)
        cosine = F.cosine_similarity(projected.flatten(2).transpose(1, 2).to(target), target, dim=-1)
        return self.weight * (1 - cosine).mean()

    def _features(self, x_clean: Tensor) -> Tensor:
        (encoder,) = self._encoder
        if encoder is None:
            raise RuntimeError("alignment needs dino_features or an encoder, got neither; or set repa_enabled to False")
        with torch.no_grad():
            return encoder(x_clean)
