"""Text-to-video transformers under the field's names: the package's own trunk, which sees a whole clip and its text.

Text is memory (`drivedit.models.layers.attention`): every token of a clip sees it beside the other tokens. The network
tells the velocity `n - x0` of the package's path at 1000 times its level. It is no copy of the models of these names:
latents and patches are theirs (`drivedit.config.MODEL_TYPES`), and no weights of theirs fit.

Legend: B clips, C channels, T latents in time, h w cells, p side of a patch, L words, D width of a word.
"""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import MODEL_TYPES, VideoTransformerConfig
from drivedit.models.dit.student import DiTStudent
from drivedit.models.dit.teacher import Bidirectional
from drivedit.models.dit.tokens import FrameTokenizer
from drivedit.models.saved import SavedNetwork

TIMESTEPS = 1000.0  # of level 1
TOLD_GUIDANCE = 10.0  # a scale that is told as 1


class VideoTransformer3DModel(SavedNetwork):
    """Velocity of noisy clips of latents; `drivedit.config.VideoTransformerConfig` tells its arguments.

    Raises:
        ValueError: `d_model` is not a multiple of `2 * n_heads`.
    """

    file_format = "drivedit-video-transformer-1"
    config_type = VideoTransformerConfig

    def __init__(
        self,
        in_channels: int = 16,
        patch: int = 2,
        d_model: int = 512,
        n_layers: int = 12,
        n_heads: int = 8,
        text_dim: int = 512,
        grid: tuple[int, int] = (16, 16),
        guidance_embeds: bool = False,
        max_tokens: int = 65_536,
    ) -> None:
        super().__init__()
        self.config: VideoTransformerConfig = VideoTransformerConfig(
            in_channels, patch, d_model, n_layers, n_heads, text_dim, (grid[0], grid[1]), guidance_embeds, max_tokens
        )
        self.tokenizer = FrameTokenizer(in_channels, patch)
        self.trunk = Bidirectional(
            in_channels * patch**2, d_model, n_layers, n_heads, None, max_tokens, 0.0,
            tokens_per_frame=grid[0] * grid[1], control_dim=int(guidance_embeds),
        )  # fmt: skip
        self.of_text = nn.Linear(text_dim, d_model)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        encoder_attention_mask: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predicts the velocity `[B, C, T, h, w]` of noisy latents of that shape, of any h and w.

        Args:
            hidden_states: The latents.
            encoder_hidden_states: Text `[B, L, D]`.
            timestep: 1000 times the level of noise, `[B]`, or `[B, T]` where every latent has its own.
            encoder_attention_mask: `[B, L]`, true where there is a word; None: everywhere.
            guidance: `[B]` scales that a model with `guidance_embeds` is told; None or 0: it is told none.

        Raises:
            ValueError: A shape does not fit, the clip has too many tokens, or a guidance is told to a model without.
        """
        x, words = hidden_states, encoder_hidden_states
        if x.ndim != 5 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"latents must be [B, {self.config.in_channels}, T, h, w], got {tuple(x.shape)}")
        if words.ndim != 3 or words.shape[::2] != (len(x), self.config.text_dim):
            raise ValueError(f"text must be [{len(x)}, L, {self.config.text_dim}], got {tuple(words.shape)}")
        frames, height, width = x.shape[2:]
        patch = self.config.patch
        x = F.pad(x, (0, -width % patch, 0, -height % patch))
        rows, columns = x.shape[3] // patch, x.shape[4] // patch
        memory = self.of_text(words)
        if encoder_attention_mask is not None:
            memory = memory * encoder_attention_mask[..., None].to(memory)
        sigma = (timestep / TIMESTEPS).reshape(len(x), -1).expand(-1, frames)
        trunk = _with_grid(self.trunk, self.config.grid, (rows, columns))
        hidden, modulation, _ = trunk.features(
            self.tokenizer.tokens(x.transpose(1, 2)).flatten(1, 2), sigma=sigma.to(x), memory=memory,
            control=self._told(guidance, x),
        )  # fmt: skip
        tokens = trunk.read(hidden, modulation, None).unflatten(1, (frames, -1))
        out = self.tokenizer.latents(tokens, *x.shape[3:]).transpose(1, 2)
        return out[..., :height, :width]

    def _told(self, guidance: Tensor | None, x: Tensor) -> Tensor | None:
        """Scales of guidance `[B]` as each of the latents is told them, `[B, T, 1]`."""
        if guidance is None:
            return None
        if not self.config.guidance_embeds:
            raise ValueError("this model is told no guidance (guidance_embeds is False): leave `guidance` out")
        return (guidance.to(x) / TOLD_GUIDANCE)[:, None, None].expand(-1, x.shape[2], -1)


class HunyuanVideoTransformer3DModel(VideoTransformer3DModel):
    """The configuration of the name `hunyuan`: latents of 16 channels, and guidance told as a number."""

    def __init__(self, in_channels: int = 16, *sizes: Any, guidance_embeds: bool = True, **more: Any) -> None:
        super().__init__(in_channels, *sizes, guidance_embeds=guidance_embeds, **more)


class WanVideoTransformer3DModel(VideoTransformer3DModel):
    """The configuration of the name `wan`: latents of 16 channels."""


TRANSFORMERS: dict[str, type[VideoTransformer3DModel]] = {
    **dict.fromkeys(MODEL_TYPES, VideoTransformer3DModel),
    **dict.fromkeys(("hunyuan", "hunyuan_hf"), HunyuanVideoTransformer3DModel),
    "wan": WanVideoTransformer3DModel,
}


def _with_grid(trunk: DiTStudent, own: tuple[int, int], wanted: tuple[int, int]) -> DiTStudent:
    """The trunk with the positions of another grid of tokens, interpolated between its own; weights are shared."""
    if wanted == tuple(own):
        return trunk
    grid = trunk.position.unflatten(0, own).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, wanted, mode="bilinear", align_corners=False)
    other = copy.copy(trunk)
    other._parameters = {**trunk._parameters, "position": grid[0].flatten(1).T}  # type: ignore[assignment]
    other.tokens_per_frame = wanted[0] * wanted[1]
    return other
