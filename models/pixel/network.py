"""PixelHDM: a flow-matching transformer over pixels, without an autoencoder, on two levels (PixelDiT, 2511.20645).

The patch level sees text and patches and says what is where; the pixel level reads the noisy pixels themselves and
paints each under the condition of its patch. Both cut the picture by `patchify`, so their patches agree. Flow time t
rises from noise at 0 to data at 1, and the network tells the velocity `data - noise`.

Legend: B pictures, H W their pixels, T text tokens, L patches, P pixels of a patch, D width of the patch level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drivedit.config import PixelHDMConfig
from drivedit.models.layers.blocks import mlp, waves
from drivedit.models.layers.rotary import axial_rotations
from drivedit.models.pixel.attention import Turn
from drivedit.models.pixel.blocks import PatchBlock, PixelBlock
from drivedit.models.saved import SavedNetwork

TIMESTEPS = 1000.0  # of flow time 1, for the waves that tell it


class PixelHDM(SavedNetwork):
    """Velocity of noisy pictures; `drivedit.config.PixelHDMConfig` tells its sizes.

    Args:
        config: None: the published one.
    """

    file_format = "drivedit-pixelhdm-1"
    config_type = PixelHDMConfig

    def __init__(self, config: PixelHDMConfig | None = None) -> None:
        super().__init__()
        self.config: PixelHDMConfig = config or PixelHDMConfig.default()
        c = self.config
        width, values = c.hidden_dim, c.in_channels * c.patch_size**2
        bottleneck = c.bottleneck_dim or width
        self.embed_patches = nn.Sequential(
            nn.Linear(values, bottleneck, bias=False), nn.SiLU(), nn.Linear(bottleneck, width, bias=False)
        )
        self.embed_pixels = nn.Linear(c.in_channels, c.pixel_dim)
        self.of_time = mlp(c.time_embed_dim, width)
        same = c.text_hidden_size == width
        self.of_text = nn.Identity() if same else nn.Linear(c.text_hidden_size, width)
        self.of_pooled_text = nn.Identity() if same else nn.Linear(c.text_hidden_size, width)
        self.patch_blocks = nn.ModuleList(PatchBlock(c) for _ in range(c.patch_layers))
        self.pixel_blocks = nn.ModuleList(PixelBlock(c) for _ in range(c.pixel_layers))
        self.norm = nn.RMSNorm(c.pixel_dim, c.norm_eps)
        self.out = nn.Linear(c.pixel_dim, c.out_channels)

    @classmethod
    def from_config(cls, config: PixelHDMConfig) -> PixelHDM:  # type: ignore[override]
        """Builds the network that a configuration describes."""
        return cls(config)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        text_embed: Tensor | None = None,
        text_mask: Tensor | None = None,
        pooled_text_embed: Tensor | None = None,
        return_features: bool = False,
        *,
        return_gamma: bool = False,
    ) -> Any:
        """Predicts the velocity `[B, H, W, 3]` of noisy pictures.

        Args:
            x_t: `[B, H, W, 3]` or `[B, 3, H, W]`, about [-1, 1] where t is 1. A picture whose last axis has 3 entries
                is read as the former, so one of `[B, 3, H, 3]` has 3 rows and is refused.
            t: Flow times `[B]` in [0, 1].
            text_embed: Tokens `[B, T, text_hidden_size]`; None: no text.
            text_mask: `[B, T]`, true or 1 where there is a token; None: everywhere.
            pooled_text_embed: `[B, text_hidden_size]`, one vector for the whole text; None: none.
            return_features: Whether the patches after block `repa_align_layer` are told as well.
            return_gamma: Whether the mean square of the pixel level's scales, a number, is told as well.

        Returns:
            The velocity, always with channels last; or a tuple of it, the features `[B, L, D]` if they are wanted, and
            the mean square if it is wanted.

        Raises:
            ValueError: A shape is another one, or the patch size does not divide H and W.
        """
        x = channels_last(x_t, self.config.in_channels)
        self._check(x, t, text_embed, text_mask, pooled_text_embed)
        rows, columns = (side // self.config.patch_size for side in x.shape[1:3])
        pixels = patchify(x, self.config.patch_size)
        time = self.of_time(waves(TIMESTEPS * t.float(), self.config.time_embed_dim).to(self.out.weight.dtype))
        patches, features = self._patch_level(pixels, (rows, columns), time, text_embed, text_mask)
        condition = patches + time[:, None]
        if pooled_text_embed is not None:
            condition = condition + self.of_pooled_text(pooled_text_embed.to(patches))[:, None]
        y, gamma = self._pixel_level(pixels, (rows, columns), condition)
        velocity = unpatchify(self.out(self.norm(y)), rows, columns)
        told = (velocity, *[features] * return_features, *[gamma] * return_gamma)
        return told if len(told) > 1 else velocity

    def _patch_level(
        self, pixels: Tensor, grid: tuple[int, int], time: Tensor, text: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Patches `[B, L, D]` after the last block and after `repa_align_layer`, of pixels `[B, L, P, 3]`."""
        y = self.embed_patches(pixels.flatten(2))
        words = 0 if text is None else text.shape[1]
        valid = torch.ones(len(y), words, dtype=torch.bool, device=y.device) if mask is None else mask.bool()
        seen = None
        if text is not None:
            y = torch.cat([self.of_text(text.to(y)), y], 1)
        if text is not None and mask is not None:
            seen = F.pad(valid, (0, pixels.shape[1]), value=True)[:, None, None]
        turn, features = self._turn(valid, grid), y
        for layer, block in enumerate(self.patch_blocks, start=1):
            y = self._run(block, y, time, turn, seen)
            if layer == self.config.repa_align_layer:
                features = y
        return y[:, words:], features[:, words:]

    def _pixel_level(self, pixels: Tensor, grid: tuple[int, int], condition: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, L, P, C]` of pixels `[B, L, P, 3]` under conditions `[B, L, D]`; scales' mean square."""
        y, gamma = self.embed_pixels(pixels), torch.zeros((), device=pixels.device)
        turn = self._turn(torch.ones(len(y), 0, dtype=torch.bool, device=y.device), grid)
        for block in self.pixel_blocks:
            y, squares = self._run(block, y, condition, turn)
            gamma = gamma + squares / len(self.pixel_blocks)
        return y, gamma

    def _run(self, block: Callable[..., Any], *given: Any) -> Any:
        """A block's output; in training its inner activations may be computed again instead of kept."""
        if self.config.use_gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *given, use_reentrant=False)
        return block(*given)

    def _turn(self, valid: Tensor, grid: tuple[int, int]) -> Turn:
        """Rotations of T text tokens, `valid` where they are `[B, T]` bool, and of the patches of a grid after them.

        Token n of the text is at (n, 0, 0), and a patch at (valid tokens of its own text, row, column).
        """
        count, order = valid.sum(1), valid.cumsum(1) - 1  # [B], [B, T]
        cells = torch.cartesian_prod(*(torch.arange(side, device=valid.device) for side in grid))  # [L, 2]
        text = F.pad(order[..., None], (0, 2))
        image = torch.cat([count[:, None, None].expand(-1, len(cells), 1), cells.expand(len(valid), -1, -1)], -1)
        places = torch.cat([text, image], 1)
        return axial_rotations(places, self.config.mrope_dims, self.config.mrope_theta, torch.float32)

    def _check(self, x: Tensor, t: Tensor, text: Tensor | None, mask: Tensor | None, pooled: Tensor | None) -> None:
        """ValueError unless the shapes of pictures with channels last, and of what is told of them, fit."""
        rows, (height, width), patch = len(x), x.shape[1:3], self.config.patch_size
        check_size(height, width, patch)
        if t.shape != (rows,):
            raise ValueError(f"times must be [{rows}], one for each picture, got {tuple(t.shape)}")
        wide = self.config.text_hidden_size
        if text is not None and (text.ndim != 3 or text.shape[::2] != (rows, wide)):
            raise ValueError(f"text_embed must be [{rows}, T, {wide}], got {tuple(text.shape)}")
        if mask is not None and (text is None or mask.shape != text.shape[:2]):
            wanted = "None, as there is no text_embed" if text is None else str(tuple(text.shape[:2]))
            raise ValueError(f"text_mask must be {wanted}, got {tuple(mask.shape)}")
        if pooled is not None and pooled.shape != (rows, wide):
            raise ValueError(f"pooled_text_embed must be [{rows}, {wide}], got {tuple(pooled.shape)}")


def check_size(height: int, width: int, patch: int) -> None:
    """Checks the size of a picture.

    Raises:
        ValueError: The side of a patch does not divide it; the error names the nearest size.
    """
    if height % patch or width % patch or height < 1 or width < 1:
        near = " x ".join(str(max(round(side / patch), 1) * patch) for side in (height, width))
        raise ValueError(
            f"height and width must be multiples of the patch size {patch}, got {height} x {width}; take {near}"
        )


def channels_last(x: Tensor, channels: int) -> Tensor:
    """Pictures `[B, H, W, C]` or `[B, C, H, W]` as the former, which they are if their last axis has C entries.

    Raises:
        ValueError: The shape is another one.
    """
    if x.ndim != 4 or channels not in (x.shape[-1], x.shape[1]):
        raise ValueError(f"pictures must be [B, H, W, {channels}] or [B, {channels}, H, W], got {tuple(x.shape)}")
    return x if x.shape[-1] == channels else x.permute(0, 2, 3, 1)


def patchify(x: Tensor, side: int) -> Tensor:
    """Pictures `[B, H, W, C]` as patches `[B, L, P, C]`, both in rows from the upper left."""
    return rearrange(x, "b (h r) (w s) c -> b (h w) (r s) c", r=side, s=side)


def unpatchify(patches: Tensor, rows: int, columns: int) -> Tensor:
    """The reverse of `patchify`, of so many rows and columns of square patches."""
    side = round(patches.shape[2] ** 0.5)
    return rearrange(patches, "b (h w) (r s) c -> b (h r) (w s) c", h=rows, w=columns, r=side, s=side)
