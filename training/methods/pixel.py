"""Flow matching of pictures, pixel by pixel, under their captions: the network of PixelHDM and the projector beside it.

What is random is drawn first and for a whole batch (`draw`); what follows (`error`) is a mean over pictures. So a batch
may be cut into parts, and their weighed gradients add up to the one of the whole.

Legend: B pictures, H W their pixels, T tokens of a text, D their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from drivedit.models.pixel.encoders import TextEncoder
from drivedit.models.pixel.network import PixelHDM, channels_last
from drivedit.training.flow_matching import create_flow_matching_from_config
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.training.pixel_losses import create_combined_loss_from_config

TOLD = ("text_embed", "text_mask", "pooled_text_embed")  # what the network is told of a text


class PixelMatching(Method):
    """Trains a `PixelHDM`, and the projector that its features are aligned through.

    Args:
        network: The network; its configuration tells the losses.
        text_encoder: Of captions; None: pictures must have none.
        image_encoder: Of what features are aligned with; needed where the configuration has `repa_enabled`.
    """

    def __init__(
        self,
        network: PixelHDM,
        text_encoder: TextEncoder | None = None,
        image_encoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self._text_encoder = network, text_encoder
        self.losses = create_combined_loss_from_config(network.config, encoder=image_encoder)
        self.flow = create_flow_matching_from_config(network.config)

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of `{"images": [B, 3, H, W] in [-1, 1], "captions": B texts}`, and its parts.

        Raises:
            RuntimeError: Features are to be aligned, and there is no image encoder.
            ValueError: There are captions and no text encoder, or something does not fit.
        """
        return self.error(self.draw(batch, rng), progress)

    def draw(self, batch: dict[str, Any], rng: torch.Generator) -> dict[str, Tensor]:
        """Noisy pictures of a batch, and what is told of them; every tensor has B entries.

        A share `cfg_dropout` of the captions is left out, as an empty text, which guidance leads away from.

        Raises:
            ValueError: There are captions and no text encoder, or not as many as pictures.
        """
        clean = channels_last(batch["images"], self.network.config.in_channels)
        captions = list(batch.get("captions") or [""] * len(clean))
        if len(captions) != len(clean):
            raise ValueError(f"there must be a caption for each of {len(clean)} images, got {len(captions)}")
        if self._text_encoder is None and any(captions):
            raise ValueError(
                f"captions need a text encoder, got {next(filter(None, captions))!r} and none: make the model with "
                "load_text_encoder=True, or give text_encoder"
            )
        t, noisy, clean, noise = self.flow.prepare_training(clean, generator=rng)
        dropped = torch.rand(len(clean), generator=rng) < self.network.config.cfg_dropout
        told = self._tell(["" if drop else text for text, drop in zip(captions, dropped.tolist(), strict=True)])
        return {"t": t, "noisy": noisy, "clean": clean, "noise": noise, **told}

    def error(self, drawn: dict[str, Tensor], progress: Progress) -> tuple[Tensor, Logs]:
        """The loss of what `draw` gave, or of some of its pictures, and its parts."""
        aligned = self.losses.alignment is not None and self.losses.alignment.active(progress.step)
        told = {name: drawn[name] for name in TOLD if name in drawn}
        velocity, *features, gamma = self.network(
            drawn["noisy"], drawn["t"], **told, return_features=aligned, return_gamma=True
        )
        losses = self.losses(velocity, drawn["clean"], drawn["noise"], *features, step=progress.step, gamma_l2=gamma)
        return losses.pop("total"), losses

    @torch.no_grad()
    def _tell(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """What the network is told of captions; nothing without an encoder."""
        if self._text_encoder is None:
            return {}
        hidden, mask, pooled = self._text_encoder(captions)
        like = self.network.out.weight
        return dict(zip(TOLD, (hidden.to(like), mask.to(like.device), pooled.to(like)), strict=True))
