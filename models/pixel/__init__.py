"""Pictures from texts, pixel by pixel: the network of PixelHDM and the encoders of what it is told."""

from drivedit.models.pixel.encoders import (
    ImageEncoder,
    TextEncoder,
    create_dinov3_encoder_from_config,
    create_text_encoder_from_config,
)
from drivedit.models.pixel.network import PixelHDM, patchify, unpatchify
from drivedit.models.pixel.text_to_image import (
    PixelHDMForT2I,
    create_pixelhdm_for_t2i,
    create_pixelhdm_for_t2i_from_config,
    create_pixelhdm_from_config,
)

__all__ = [
    "ImageEncoder",
    "PixelHDM",
    "PixelHDMForT2I",
    "TextEncoder",
    "create_dinov3_encoder_from_config",
    "create_pixelhdm_for_t2i",
    "create_pixelhdm_for_t2i_from_config",
    "create_pixelhdm_from_config",
    "create_text_encoder_from_config",
    "patchify",
    "unpatchify",
]
