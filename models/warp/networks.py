"""The networks of a `WarpWorld`, and the parts of a step: the car moves, the picture is warped, painted, and read.

Training and dreaming run the same parts.

Legend: B rows, C H W the picture, h w cells of the painter, M channels of the memory, A controls, K numbers of a code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from drivedit.config import WarpWorldConfig
from drivedit.config.warp import POOLED
from drivedit.models.layers.blocks import mlp
from drivedit.models.layers.ego import EgoMotion
from drivedit.models.layers.heads import HeadOutputs, Heads
from drivedit.models.told import ToldNetworks
from drivedit.models.warp.painter import FramePainter
from drivedit.models.warp.planes import Planes

CODE = 96  # width of what the painter is told for all cells


@dataclass
class Sight:
    """What an ego-motion makes of the last frame.

    Attributes:
        warped: The frame on those planes that the painter is shown, `[B, ..., C, H, W]`.
        costs: How wrong each plane was for the frame itself (`FramePainter.costs`).
        places: Where to look for what lies on each plane, `[B, K, H, W, 2]`.
    """

    warped: Tensor
    costs: Tensor
    places: Tensor

    def repeated(self, copies: int) -> Sight:
        """So many times the same, one after another."""
        return Sight(*(each.repeat(copies, *[1] * (each.ndim - 1)) for each in (self.warped, self.costs, self.places)))


@dataclass
class Painted:
    """A frame, and what was found on the way to it.

    Attributes:
        frame: `[B, C, H, W]`, in about [-1, 1].
        memory: `[B, M, h, w]` afterwards.
        read: What the heads read; their `motion` is the given one, corrected by what is seen.
    """

    frame: Tensor
    memory: Tensor
    read: HeadOutputs


class WarpNetworks(ToldNetworks):
    """Ego-motion, planes, painter, and heads.

    Args:
        config: Configuration of the networks, the picture and the heads.

    Raises:
        ValueError: The spec shows no picture, or has no controls.
    """

    config: WarpWorldConfig

    def __init__(self, config: WarpWorldConfig) -> None:
        super().__init__(config)
        spec = config.spec
        self.planes = Planes(config.camera, config.image_size, config.depths)
        place = config.place_width if config.route_dim else 0
        self.code_net = mlp(config.driven + 3 + place, CODE)
        self.painter = FramePainter(config, len(self.planes), CODE)
        self.ego = EgoMotion(len(spec.controls))
        cells = config.map_tokens // POOLED**2
        self.heads = Heads(config.painter.width, cells, len(spec.telemetry), len(spec.learned()))

    def memory_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the memory."""
        return self.config.memory, *self.config.cells

    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a picture whose patches are channels."""
        return self.config.channels * self.config.token_pixels**2, *self.config.cells

    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Latents `[B, T, D, h, w]` of uint8 frames `[B, T, H, W, C]`: their patches, in [-1, 1]. Nothing is lost."""
        side = self.config.token_pixels
        x = torch.as_tensor(frames).to(self.device).float() / 127.5 - 1
        return rearrange(x, "b t (h r) (w s) c -> b t (c r s) h w", r=side, s=side)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Uint8 frames `[B, H, W, C]` of latents `[B, D, h, w]`."""
        side = self.config.token_pixels
        return shown(rearrange(latents, "b (c r s) h w -> b c (h r) (w s)", r=side, s=side)).cpu().numpy()

    # -- a step --------------------------------------------------------------------------------------------------

    def foretold(self, controls: Tensor, motion: Tensor) -> Tensor:
        """Ego-motion `[B, 3]` on the way to the coming frame, of controls `[B, A]` and the ego-motion before."""
        return self.ego(controls, motion, motion.new_ones(len(motion)))

    def pooled(self, cells: Tensor) -> Tensor:
        """Features `[B, D, h, w]` of the painter's cells, averaged over some: tokens `[B, P, D]` for the heads."""
        return F.avg_pool2d(cells, POOLED).flatten(2).transpose(1, 2)

    def parts(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Of the code `[B, K]` what all cells are told `[B, ...]`, and the maps `[B, L, h, w]`; K may be 0."""
        config = self.config
        rows, columns = config.cells
        if not code.shape[1]:
            return code, code.new_zeros(len(code), config.map_width, rows, columns)
        place, maps = code.split([config.place_width, code.shape[1] - config.place_width], 1)
        return place, maps.reshape(len(code), rows, columns, config.map_width).permute(0, 3, 1, 2)

    @torch.no_grad()
    def sight(self, frames: Tensor, driven: Tensor, motion: Tensor) -> Sight:
        """What the ego-motion makes of the last frame.

        Args:
            frames: The last two `[B, 2, C, H, W]`, the newest at the end.
            driven: `[B, 2 A + 3]` controls, those before, and the ego-motion before: that between the two.
            motion: `[B, 3]` on the way to the coming frame.
        """
        before = self.planes(frames[:, 0], self.planes.places(driven[:, -3:] * self.motion_scale))
        places = self.planes.places(motion * self.motion_scale)
        warped = self.planes(frames[:, -1], places[:, self.painter.shown])
        return Sight(warped, self.painter.costs(before, frames[:, -1]), places)

    def paint(
        self, frames: Tensor, sight: Sight, memory: Tensor, driven: Tensor, code: Tensor, motion: Tensor, noise: Tensor
    ) -> Painted:
        """The coming frame.

        Args:
            frames: The last two `[B, 2, C, H, W]`, the newest at the end.
            sight: Of `sight`.
            memory: `[B, M, h, w]`.
            driven: As `sight` takes it.
            code: `[B, K]`.
            motion: `[B, 3]` ego-motion that led to the frame.
            noise: `[B, 1, H, W]`.
        """
        place, maps = self.parts(code)
        told = self.code_net(torch.cat([driven, motion, place], 1))
        seen = sight.warped, sight.costs, sight.places
        strokes, memory, features = self.painter(frames, *seen, maps, memory, told, noise)
        frame = self.planes(frames[:, -1], strokes.places[:, None], "bicubic")[:, 0] + strokes.paint
        read = self.heads(self.pooled(features))
        read.motion = motion + read.motion
        return Painted(frame, memory, read)


def shown(frames: Tensor) -> Tensor:
    """Pictures uint8 `[B, H, W, C]` of such in [-1, 1] `[B, C, H, W]`."""
    return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
