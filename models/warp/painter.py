"""The network that makes the next picture: pixel by pixel it chooses among warped ones, and paints over them.

Pictures are predicted as such mixtures since Finn et al. (2016, arXiv 1605.07157); the motions are given here, by the
ego-motion and by planes (`drivedit.models.warp.planes`). It works on patches, so on few cells. At first it takes all
for ground.

Legend: B rows, C channels, H W rows and columns of a picture, K planes, h w of the painter's cells, E width of a code,
D width of the painter, M channels of the memory, L numbers of the maps at a cell.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import WarpWorldConfig
from drivedit.models.layers.convnext import Conv, ConvNextBlock

SURE = 2.0  # how sure it is at first that all lies on the ground
COST_PIXELS = 2  # pixels along a side, over which the error of a plane is told as one


class FramePainter(nn.Module):
    """Paints pictures.

    Args:
        config: The world's configuration.
        planes: K.
        code_dim: E.
    """

    def __init__(self, config: WarpWorldConfig, planes: int, code_dim: int) -> None:
        super().__init__()
        self.side, channels, painter = config.token_pixels, config.channels, config.painter
        self.shown = sorted({0, 1, *range(1, planes, 2)})  # planes whose pictures it is shown
        pixels = self.side**2
        costs = planes * max(1, self.side // COST_PIXELS) ** 2
        inputs = ((2 + len(self.shown)) * channels + 1) * pixels + costs + config.map_width + config.memory
        self.look = Conv(inputs, painter.width, 1)
        sizes = painter.width, painter.expand, painter.kernel, code_dim
        self.blocks = nn.ModuleList(ConvNextBlock(*sizes) for _ in range(painter.blocks))
        self.norm = nn.GroupNorm(1, painter.width)
        self.out = Conv(painter.width, (planes + 1 + channels) * pixels, 1, zero=True)
        first = torch.zeros(planes + 1 + channels, pixels, device="cpu")
        first[1] = SURE
        self.out.bias.data.copy_(first.flatten())  # type: ignore[union-attr]
        self.gates = Conv(painter.width, 2 * config.memory, 1)

    def costs(self, before: Tensor, last: Tensor) -> Tensor:
        """How wrong each plane was for the last picture, of what it made of the one before `[B, K, C, H, W]`."""
        off = (before - last[:, None]).abs().mean(2)
        side = min(self.side, COST_PIXELS)
        return rearrange(F.avg_pool2d(off, side), "b k (h r) (w s) -> b (k r s) h w", r=self.side // side,
                         s=self.side // side)  # fmt: skip

    def forward(
        self, frames: Tensor, warped: Tensor, costs: Tensor, maps: Tensor, memory: Tensor, code: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Paints.

        Args:
            frames: The last two `[B, 2, C, H, W]`, the newest at the end, in [-1, 1].
            warped: The newest one on each plane `[B, K, C, H, W]`.
            costs: Of `costs`, `[B, ..., h, w]`.
            maps: `[B, L, h, w]`.
            memory: `[B, M, h, w]`.
            code: `[B, E]`.
            noise: `[B, 1, H, W]`.

        Returns:
            The picture `[B, C, H, W]`, the memory afterwards, and features `[B, D, h, w]` for the heads.
        """
        side = self.side
        seen = torch.cat([frames.flatten(1, 2), warped[:, self.shown].flatten(1, 2), noise], 1)
        cells = rearrange(seen, "b c (h r) (w s) -> b (c r s) h w", r=side, s=side)
        x = self.look(torch.cat([cells, costs, maps, memory], 1))
        for block in self.blocks:
            x = block(x, code)
        x = F.silu(self.norm(x))
        out = rearrange(self.out(x), "b (c r s) h w -> b c (h r) (w s)", r=side, s=side).float()
        known = torch.cat([frames[:, -1:], warped], 1)
        weights, paint = out.split([known.shape[1], known.shape[2]], 1)
        picture = (weights.softmax(1)[:, :, None] * known).sum(1) + paint
        keep, new = self.gates(x).float().chunk(2, 1)
        return picture, torch.lerp(new.tanh(), memory, keep.sigmoid()), x
