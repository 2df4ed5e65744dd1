"""PixelHDM together with the frozen encoders of what it is told, and the published ways to make either."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from drivedit.config import PixelHDMConfig
from drivedit.models.pixel.encoders import create_dinov3_encoder_from_config, create_text_encoder_from_config
from drivedit.models.pixel.network import PixelHDM


class PixelHDMForT2I(PixelHDM):
    """A `PixelHDM` with encoders, which are no part of its weights, its parameters or its files.

    Args:
        config: None: the published one.
        load_text_encoder: Whether it has a text encoder.
        load_dino_encoder: Whether it has an image encoder, which training aligns its features with.

    Attributes:
        text_encoder: Or None.
        dino_encoder: Or None.
    """

    def __init__(
        self, config: PixelHDMConfig | None = None, load_text_encoder: bool = True, load_dino_encoder: bool = True
    ) -> None:
        super().__init__(config)
        self.text_encoder = create_text_encoder_from_config(self.config) if load_text_encoder else None
        self.dino_encoder = create_dinov3_encoder_from_config(self.config) if load_dino_encoder else None

    def encode_text(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens `[B, T, D]`, their mask `[B, T]` and pooled vectors `[B, D]`, where and in the type the network is.

        Raises:
            RuntimeError: There is no text encoder, or its weights are absent.
        """
        if self.text_encoder is None:
            raise RuntimeError("this model has no text encoder: make it with load_text_encoder=True")
        hidden, mask, pooled = self.text_encoder(texts)
        like = self.out.weight
        return hidden.to(like), mask.to(like.device), pooled.to(like)


def create_pixelhdm_from_config(config: PixelHDMConfig) -> PixelHDM:
    """The network alone."""
    return PixelHDM(config)


def create_pixelhdm_for_t2i_from_config(
    config: PixelHDMConfig, load_text_encoder: bool = True, load_dino_encoder: bool = True
) -> PixelHDMForT2I:
    """The network with its encoders."""
    return PixelHDMForT2I(config, load_text_encoder, load_dino_encoder)


def create_pixelhdm_for_t2i(
    config: PixelHDMConfig | None = None, load_text_encoder: bool = True, load_dino_encoder: bool = True
) -> PixelHDMForT2I:
    """The network with its encoders; without a configuration the published one."""
    return PixelHDMForT2I(config, load_text_encoder, load_dino_encoder)
