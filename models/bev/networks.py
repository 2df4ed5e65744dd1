"""The networks of a `BevWorld` that have to do with pictures: one looks at them, one renders them.

Legend: B rows, C H W channels, rows and columns of a picture, h w cells of it, G numbers of a cell of the ground, X Y
its rows and columns, E numbers of a code, K planes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import BevWorldConfig
from drivedit.models.bev.columns import Columns
from drivedit.models.bev.ground import FINER
from drivedit.models.bev.others import TOLD as OTHERS_TOLD
from drivedit.models.bev.planes import Planes
from drivedit.models.layers.blocks import mlp
from drivedit.models.layers.convnext import Conv, ConvNextBlock

LIFTED = 20  # channels of a picture that are lifted onto the ground
HEIGHTS = 0.0, 1.2, 4.0, 9.0  # metres above a cell at which pictures are looked up for it
MORE = 1  # numbers of a part of a cell that the renderer reads at every pixel, beside its colours
SURE = 3.0  # how sure the renderer is at first that all lies on the ground of the start picture
NEVER = -1e4  # logit of what is not to be seen
REFINED = 24  # width of the layers that refine a picture
SHUT = 0.0  # logit of the gate that opens for paint, at first: shut, the ground would hardly be learned
PERIODS = 8.0, 4.0  # metres, ahead and across, after which a place in the window is told alike again
FILM = 16  # numbers that tell the renderer of the driving


@dataclass
class Seen:
    """What two pictures tell.

    Attributes:
        lifted: Features of each `[B, 2, LIFTED, h, w]`.
        code: Of the scene as a whole, `[B, E]`.
        looks: Features of the newer one, by which others are remembered, `[B, L, h, w]`.
        motion: Ego-motion of a frame, `[B, 3]`.
    """

    lifted: Tensor
    code: Tensor
    looks: Tensor
    motion: Tensor

    def repeated(self, copies: int) -> Seen:
        """So many times the same, one after another."""
        return Seen(*(each.repeat(copies, *[1] * (each.ndim - 1)) for each in vars(self).values()))


def patches(pictures: Tensor, side: int) -> Tensor:
    """Pictures `[B, C, H, W]` by cells, `[B, C * side * side, h, w]`."""
    return rearrange(pictures, "b c (h r) (w s) -> b (c r s) h w", r=side, s=side)


class Looker(nn.Module):
    """Looks at two pictures of a drive.

    Args:
        config: The world's configuration.
    """

    def __init__(self, config: BevWorldConfig) -> None:
        super().__init__()
        self.side, (width, blocks) = config.token_pixels, config.looker
        self.first = Conv(2 * config.channels * self.side**2, width, 1)
        self.blocks = nn.ModuleList(ConvNextBlock(width, 3, 3, 1) for _ in range(blocks))
        self.lift, self.looks = Conv(width, LIFTED, 1), Conv(width, config.looks, 1)
        self.code, self.motion = mlp(2 * width, config.code), mlp(2 * width, 3)

    def forward(self, frames: Tensor) -> Seen:
        """What two pictures `[B, 2, C, H, W]` tell, the newer one at the end."""
        x = self.features(frames.flatten(0, 1), frames.flip(1).flatten(0, 1))
        newer = x.unflatten(0, (-1, 2))[:, 1]
        whole = torch.cat([newer.mean((2, 3)), newer.amax((2, 3))], 1)
        lifted = self.lift(x).unflatten(0, (-1, 2))
        told = self.code(whole), self.looks(newer), self.motion(whole)
        return Seen(lifted.float(), *(each.float() for each in told))

    def features(self, pictures: Tensor, others: Tensor) -> Tensor:
        """Features `[B, width, h, w]` of pictures `[B, C, H, W]`, each beside another of its drive."""
        x = self.first(patches(torch.cat([pictures, others], 1), self.side))
        for block in self.blocks:
            x = block(x, x.new_zeros(len(x), 1))
        return x


class Renderer(nn.Module):
    """Renders a picture of what lies on each pixel's ray, and of the start picture where that still helps.

    Args:
        config: The world's configuration.
        where: Where the pixels of the camera look.
    """

    def __init__(self, config: BevWorldConfig, where: Planes) -> None:
        super().__init__()
        planes = len(where)
        self.side, self.planes = config.token_pixels, planes + 1  # the last one: what others show of themselves
        pixels, painter, channels = self.side**2, config.renderer, config.channels
        self.shown = sorted({0, 1, *range(1, planes, 2), planes})  # planes on which it is shown the start picture
        told = OTHERS_TOLD + config.looks
        self.columns = Columns(config, where)
        texture = channels + MORE
        inputs = self.columns.values_dim + (texture + len(self.shown) * (channels + 1)) * pixels + told + 4
        self.parts = Conv(config.ground, texture * FINER**2, 1)
        self.look = Conv(inputs, painter.width, 1)
        self.place = nn.Parameter(torch.zeros(painter.width, *config.tokens))
        self.told = mlp(config.code + 3 + 4 + len(config.spec.controls), FILM)
        sizes = painter.width, painter.expand, painter.kernel, config.code + FILM
        self.blocks = nn.ModuleList(ConvNextBlock(*sizes) for _ in range(painter.blocks))
        self.norm = nn.GroupNorm(1, painter.width)
        self.out = Conv(painter.width, (self.planes + 1 + channels) * pixels, 1, zero=True)
        first = torch.zeros(self.planes + 1 + channels, pixels, device="cpu")
        first[0], first[planes], first[planes + 1] = SURE, 2 * SURE, SHUT
        self.out.bias.data.copy_(first.flatten())  # type: ignore[union-attr]
        self.fine = nn.Sequential(
            Conv(channels + texture + 1, REFINED, 3), nn.SiLU(), Conv(REFINED, REFINED, 3), nn.SiLU(),
            Conv(REFINED, channels, 3, zero=True),
        )  # fmt: skip

    def forward(
        self,
        rays: Tensor,
        pixels: Tensor,
        spot: Tensor,
        start: Tensor,
        others: Tensor,
        code: Tensor,
        driven: Tensor,
        there: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of planes `[B, K + 1, H, W]`, gate `[B, 1, H, W]`, paint `[B, C, H, W]` and features `[B, D, h, w]`.

        Args:
            rays: The ground along the ray of each column, `[B, G, D, U]`, where `columns` reads it.
            pixels: Its texture at each pixel `[B, C + MORE, H, W]`.
            spot: Where in the window each cell's ground lies, ahead and to the right `[B, 2, h, w]` in metres.
            start: The start picture on the planes `shown`, and where it shows others, faded `[B, ..., C + 1, H, W]`.
            others: `[B, ..., h, w]` of `told_maps`.
            code: `[B, E]`.
            driven: `[B, ...]` of the driving.
            there: Which pixels show another that the start picture shows, `[B, 1, H, W]`.
        """
        period = spot.new_tensor(PERIODS)[:, None, None]
        turns = 2 * math.pi * spot / period
        parts = self.columns(rays, code), patches(pixels, self.side), patches(start.flatten(1, 2), self.side)
        x = self.look(torch.cat([*parts, others, turns.sin(), turns.cos()], 1)) + self.place
        told = torch.cat([code, self.told(torch.cat([code, driven], 1))], 1)
        for block in self.blocks:
            x = block(x, told)
        x = F.silu(self.norm(x))
        out = rearrange(self.out(x), "b (c r s) h w -> b c (h r) (w s)", r=self.side, s=self.side).float()
        weights, gate, paint = out.split([self.planes, 1, out.shape[1] - self.planes - 1], 1)
        weights = torch.cat([weights[:, :-1], torch.where(there > 0, weights[:, -1:], NEVER)], 1)
        return weights.softmax(1), gate.sigmoid(), paint, x

    def texture(self, ground: Tensor) -> Tensor:
        """Of the ground `[B, G, X, Y]` its texture, of parts of cells: `[B, C + MORE, FINER * X, FINER * Y]`."""
        return F.pixel_shuffle(self.parts(ground), FINER).float()

    def refined(self, picture: Tensor, pixels: Tensor, copies: Tensor) -> Tensor:
        """The picture `[B, C, H, W]` with what is finer than a cell, and does not care where cells begin.

        Args:
            picture: As it is copied and painted.
            pixels: The ground's texture at each pixel `[B, C + MORE, H, W]`.
            copies: How much of it is copied `[B, 1, H, W]`.
        """
        return picture + self.fine(torch.cat([picture, pixels, copies], 1)).float()
