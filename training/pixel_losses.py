"""The loss of a pixel-space transformer: velocity, frequencies, alignment with an encoder, and their sum."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from drivedit.config.pixel import PixelHDMConfig
from drivedit.models.flow.path import velocity
from drivedit.models.pixel.network import channels_last
from drivedit.training.alignment import AlignmentLoss
from drivedit.training.frequency import FrequencyLoss
from drivedit.training.losses import FlowMatchingLoss


class PixelLoss(nn.Module):
    """The sum of what a configuration switches on.

    Its `parameters()` are those of the projector of alignment: give them to the optimizer.

    Args:
        config: Which parts there are, and their weights.
        encoder: Of alignment (`AlignmentLoss`); None: its features must be told.
    """

    def __init__(self, config: PixelHDMConfig, encoder: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.channels, self.gamma_weight = config.in_channels, config.pixel_gamma_l2_lambda
        self.flow = FlowMatchingLoss()
        self.frequency = self.alignment = None
        if config.freq_loss_enabled:
            self.frequency = FrequencyLoss(
                config.freq_loss_quality, config.freq_loss_lambda, config.freq_loss_use_ycbcr
            )
        if config.repa_enabled:
            self.alignment = AlignmentLoss.from_config(config, encoder)

    def forward(
        self,
        v_pred: Tensor,
        x_clean: Tensor,
        noise: Tensor,
        h_t: Tensor | None = None,
        step: int = 0,
        dino_features: Tensor | None = None,
        gamma_l2: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a predicted velocity.

        Args:
            v_pred: `[B, H, W, C]`, or `[B, C, H, W]`; the former where both fit.
            x_clean: Clean pictures of that shape.
            noise: Likewise.
            h_t: Features of the network `[B, L, D]`; None: nothing is aligned.
            step: Training step, counted from 0.
            dino_features: Features of the encoder `[B, M, E]`; None: it is asked.
            gamma_l2: Mean square of the pixel level's scales; None: they are not held down.

        Returns:
            "total", which has the gradient, and its parts without one: "vloss", "freq_loss" and "repa_loss", 0.0 where
            there is none, and "gamma_l2" where it is told. They are weighted: the total is their sum.

        Raises:
            RuntimeError: Features are to be aligned, and there are neither the encoder's nor an encoder.
            ValueError: Shapes differ, or are no pictures of C channels.
        """
        none = v_pred.new_zeros(())
        parts = {"vloss": self.flow(-v_pred, x_clean, noise), "freq_loss": none, "repa_loss": none}
        if self.frequency is not None:
            pictures = (channels_last(each, self.channels) for each in (v_pred, -velocity(x_clean, noise)))
            parts["freq_loss"] = self.frequency(*(each.movedim(-1, 1) for each in pictures))
        if self.alignment is not None and h_t is not None:
            clean = channels_last(x_clean, self.channels).movedim(-1, 1)
            parts["repa_loss"] = self.alignment(h_t, clean, step, dino_features)
        if gamma_l2 is not None:
            parts["gamma_l2"] = self.gamma_weight * gamma_l2
        total = sum(parts.values(), none)
        return {"total": total} | {name: part.detach() for name, part in parts.items()}


def create_combined_loss_from_config(
    config: PixelHDMConfig, *, encoder: Callable[[Tensor], Tensor] | None = None
) -> PixelLoss:
    """The loss that a configuration tells; `encoder` gives the features of alignment where they are not told."""
    return PixelLoss(config, encoder)
