"""Configurations of the text-to-video transformers (`drivedit.models.dits`), by the names that the field knows.

They have the latent channels and patches of the models of these names, and the package's own blocks: no pretrained
weights are shipped, and none of other projects fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from drivedit.config.base import BaseConfig
from drivedit.config.models import MANY


@dataclass
class VideoTransformerConfig(BaseConfig):
    """Arguments of `drivedit.models.dits.VideoTransformer3DModel`.

    Attributes:
        in_channels: Channels of a latent cell.
        patch: Side of the square of cells that makes a token; in time a token is one latent.
        d_model: Width.
        n_layers: Transformer blocks.
        n_heads: Attention heads; twice their number divides the width.
        text_dim: Width of a text token.
        grid: Tokens of a frame, down and across, that have a learned position; other sizes interpolate between them.
        guidance_embeds: Whether it is told a scale of guidance as a number.
        max_tokens: Most tokens of a clip.
    """

    in_channels: int = 16
    patch: int = 2
    d_model: int = 512
    n_layers: int = 12
    n_heads: int = 8
    text_dim: int = 512
    grid: tuple[int, int] = (16, 16)
    guidance_embeds: bool = False
    max_tokens: int = 65_536

    def __post_init__(self) -> None:
        self.check_ranges(
            in_channels=(1, MANY), patch=(1, 64), d_model=(1, MANY), n_layers=(0, 512), n_heads=(1, 1024),
            text_dim=(1, MANY), grid=(1, 1024), max_tokens=(1, 2**24),
        )  # fmt: skip


MODEL_TYPES = {
    "mochi": VideoTransformerConfig(12),
    "hunyuan": VideoTransformerConfig(16, guidance_embeds=True),
    "hunyuan_hf": VideoTransformerConfig(16, guidance_embeds=True),
    "wan": VideoTransformerConfig(16),
}
