"""The network that makes the next picture: for each pixel it says where in the last one to look, and paints over that.

Where to look is a mean of what the ego-motion makes of planes (`drivedit.models.warp.planes`), and of staying; so it is
a distance, and the picture is looked up once, where a mixture of warped pictures (Finn et al. 2016, arXiv 1605.07157)
blurs. A displacement beside it is for what moves by itself. It works on patches, so on few cells. At first it takes all
for ground.

Legend: B rows, C channels, H W rows and columns of a picture, K planes, h w of the painter's cells, E width of a code,
D width of the painter, M channels of the memory, L numbers of the maps at a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import WarpWorldConfig
from drivedit.models.layers.convnext import Conv, ConvNextBlock

SURE = 4.0  # how sure it is at first that all lies on the ground
COST_PIXELS = 2  # pixels along a side, over which the error of a plane is told as one


@dataclass
class Strokes:
    """How the next picture is made of the last one.

    Attributes:
        places: Where to look, `[B, H, W, 2]` in [-1, 1], to the right and down.
        paint: What is added, `[B, C, H, W]`.
    """

    places: Tensor
    paint: Tensor


class FramePainter(nn.Module):
    """Paints pictures.

    Args:
        config: The world's configuration.
        planes: K.
        code_dim: E.
    """

    still: Tensor
    pixel: Tensor

    def __init__(self, config: WarpWorldConfig, planes: int, code_dim: int) -> None:
        super().__init__()
        self.side, channels, painter = config.token_pixels, config.channels, config.painter
        self.shown = sorted({0, 1, *range(1, planes, 2)})  # planes whose pictures it is shown
        self.planes = planes
        pixels = self.side**2
        costs = planes * max(1, self.side // COST_PIXELS) ** 2
        inputs = ((2 + len(self.shown)) * channels + 1) * pixels + costs + config.map_width + config.memory
        self.look = Conv(inputs, painter.width, 1)
        sizes = painter.width, painter.expand, painter.kernel, code_dim
        self.blocks = nn.ModuleList(ConvNextBlock(*sizes) for _ in range(painter.blocks))
        self.norm = nn.GroupNorm(1, painter.width)
        self.out = Conv(painter.width, (planes + 3 + channels) * pixels, 1, zero=True)
        first = torch.zeros(planes + 3 + channels, pixels, device="cpu")
        first[1] = SURE
        rows, columns = config.image_size
        down, across = ((torch.arange(n, device="cpu") * 2 + 1) / n - 1 for n in (rows, columns))
        still = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
        self.register_buffer("still", still[None, None], persistent=False)
        self.register_buffer("pixel", torch.tensor([2 / columns, 2 / rows], device="cpu"), persistent=False)
        self.out.bias.data.copy_(first.flatten())  # type: ignore[union-attr]
        self.gates = Conv(painter.width, 2 * config.memory, 1)

    def costs(self, before: Tensor, last: Tensor) -> Tensor:
        """How wrong each plane was for the last picture, of what it made of the one before `[B, K, C, H, W]`."""
        off = (before - last[:, None]).abs().mean(2)
        side = min(self.side, COST_PIXELS)
        return rearrange(F.avg_pool2d(off, side), "b k (h r) (w s) -> b (k r s) h w", r=self.side // side,
                         s=self.side // side)  # fmt: skip

    def forward(
        self, frames: Tensor, warped: Tensor, costs: Tensor, places: Tensor, maps: Tensor, memory: Tensor, code: Tensor,
        noise: Tensor,
    ) -> tuple[Strokes, Tensor, Tensor]:  # fmt: skip
        """Paints.

        Args:
            frames: The last two `[B, 2, C, H, W]`, the newest at the end, in [-1, 1].
            warped: The newest one on the planes `shown`, `[B, ..., C, H, W]`.
            costs: Of `costs`, `[B, ..., h, w]`.
            places: Of all planes, `[B, K, H, W, 2]`.
            maps: `[B, L, h, w]`.
            memory: `[B, M, h, w]`.
            code: `[B, E]`.
            noise: `[B, 1, H, W]`.

        Returns:
            How the picture is made, the memory afterwards, and features `[B, D, h, w]` for the heads.
        """
        side = self.side
        seen = torch.cat([frames.flatten(1, 2), warped.flatten(1, 2), noise], 1)
        cells = rearrange(seen, "b c (h r) (w s) -> b (c r s) h w", r=side, s=side)
        x = self.look(torch.cat([cells, costs, maps, memory], 1))
        for block in self.blocks:
            x = block(x, code)
        x = F.silu(self.norm(x))
        out = rearrange(self.out(x), "b (c r s) h w -> b c (h r) (w s)", r=side, s=side).float()
        weights, off, paint = out.split([self.planes + 1, 2, frames.shape[2]], 1)
        known = torch.cat([self.still.expand(len(places), -1, -1, -1, -1), places], 1)
        place = torch.einsum("bkhw,bkhwc->bhwc", weights.softmax(1), known) + off.permute(0, 2, 3, 1) * self.pixel
        keep, new = self.gates(x).float().chunk(2, 1)
        return Strokes(place, paint), torch.lerp(new.tanh(), memory, keep.sigmoid()), x
