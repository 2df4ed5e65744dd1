"""A survey of the ground: what latents have to tell of it, read off pictures from all along a recorded drive.

Pictures are lifted onto the ground, and what those say counts most that were nearest; what is hidden by others counts
nothing. It is the encoder of an autoencoder whose decoder are `Drawer` and `Renderer` of a `BevWorld`; a dream needs it
no more.

Legend: B clips, n states of a clip, X Y cells, Z x y latents, E numbers of a code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import BevWorldConfig
from drivedit.config.bev import BLOCK, GAP
from drivedit.models import BevWorld
from drivedit.models.bev.filling import FINE, placed
from drivedit.models.bev.ground import FINER
from drivedit.models.bev.networks import HEIGHTS, LIFTED, Seen
from drivedit.models.layers.convnext import Conv, ConvNextBlock
from drivedit.utils import motion_between

NEAR = 8.0  # metres, over which what a picture says counts by a factor e less
NEAR_ENOUGH = 40.0  # metres to a cell that is seen well enough to learn what lies there
AT_HAND = 16.0  # metres to a cell whose colours are taken for those of level ground
LEAST = 1e-4  # weight of what a picture says


class Surveyor(nn.Module):
    """Tells latents of what many pictures say.

    Args:
        config: The world's configuration.
    """

    place: Tensor

    def __init__(self, config: BevWorldConfig) -> None:
        super().__init__()
        width = config.filler[0]
        self.first = Conv(len(HEIGHTS) * (LIFTED + 1) + config.channels * FINER**2 + 1 + 2, FINE, 1)
        self.near = ConvNextBlock(FINE, 2, 3, config.code)
        self.down = Conv(FINE, width, BLOCK + 1, stride=BLOCK)
        self.blocks = nn.ModuleList(ConvNextBlock(width, 2, 3, config.code) for _ in range(3))
        self.out = Conv(width, config.latent, 1)
        self.norm = nn.BatchNorm2d(
            config.latent, affine=False
        )  # or what all places have in common would be all there is
        self.register_buffer("place", placed(config), persistent=False)

    def forward(self, said: Tensor, code: Tensor) -> Tensor:
        """Latents `[B, Z, x, y]`, each number 0 in the mean and 1 in size, of what is said `[B, ..., X, Y]`."""
        x = self.near(self.first(torch.cat([said, self.place.expand(len(said), -1, -1, -1)], 1)), code)
        x = self.down(x)
        for block in self.blocks:
            x = block(x, code)
        return self.norm(self.out(x).float())


@dataclass
class Survey:
    """What is known of the ground of a clip.

    Attributes:
        latents: `[B, Z, x, y]`.
        sure: Share of each latent's cells that were seen well, `[B, 1, x, y]`.
        colours: Of parts of cells, as if all were level, `[B, C * FINER**2, X, Y]`.
        level: Which cells were seen from so near that these are true, `[B, 1, X, Y]`.
        seen: What the first two pictures tell.
    """

    latents: Tensor
    sure: Tensor
    colours: Tensor
    level: Tensor
    seen: Seen


def survey(world: BevWorld, surveyor: Surveyor, batch: dict[str, Any], moments: Sequence[int], now: int) -> Survey:
    """Surveys the windows of cars at a state.

    Args:
        world: The world; its looker looks at the pictures.
        surveyor: Who tells latents.
        batch: Clips of `drivedit.training.bev_clips.BevClips`.
        moments: States whose pictures are looked at, each beside the one GAP before it.
        now: The state.
    """
    anchor, rows = batch["pose"][:, now], len(batch["pose"])
    seen = world.looker(shown_frames(batch, [0, GAP]))
    newer, older = (shown_frames(batch, [state - before for state in moments]) for before in (0, GAP))
    features = world.looker.lift(world.looker.features(newer.flatten(0, 1), older.flatten(0, 1))).float()
    features = features.unflatten(0, (rows, -1))  # [B, views, LIFTED, h, w]
    said, weights, colours, levels = (torch.zeros((), device=anchor.device) for _ in range(4))
    for picture, frame, moment in zip(features.unbind(1), newer.unbind(1), moments, strict=True):
        grid, counts = counted(world, batch["others"][:, moment], batch["pose"][:, moment], anchor)
        seen_there = F.grid_sample(picture, grid.flatten(1, 2), align_corners=False)
        said, weights = torch.addcmul(said, seen_there, counts.flatten(2, 3)), weights + counts
        parts = world.window.painted(frame, motion_between(batch["pose"][:, moment], anchor))
        level = counts[:, :, 0] * parts[:, -1:]
        colours, levels = torch.addcmul(colours, parts[:, :-1], level), levels + level
    heights = said.unflatten(2, (len(HEIGHTS), -1)) / weights.clamp(min=LEAST)  # [B, LIFTED, heights, X, Y]
    logs = [(weight + LEAST).log() / NEAR for weight in (weights[:, 0], levels)]
    colours = colours / levels.clamp(min=LEAST)
    told = torch.cat([heights.transpose(1, 2).flatten(1, 2), colours, *logs], 1)
    well = (weights.amax(2) > math.exp(-NEAR_ENOUGH / NEAR)).to(told)
    level = (levels > math.exp(-AT_HAND / NEAR)).to(told)
    return Survey(surveyor(told, seen.code), F.avg_pool2d(well, BLOCK), colours, level, seen)


def shown_frames(batch: dict[str, Any], states: Sequence[int]) -> Tensor:
    """The pictures of some states of clips in [-1, 1], `[B, states, C, H, W]`."""
    return (batch["frames"][:, list(states)].float() / 127.5 - 1).permute(0, 1, 4, 2, 3)


def counted(world: BevWorld, others: Tensor, pose: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """Where a picture shows cells at each height, and how much it counts there.

    Args:
        world: The world.
        others: Whom the picture shows `[B, A, 8]`.
        pose: From where it was seen `[B, 3]`.
        anchor: Poses of the windows `[B, 3]`.

    Returns:
        Places in [-1, 1] `[B, heights, X, Y, 2]`, and weights `[B, 1, heights, X, Y]`.
    """
    open_ = 1 - F.max_pool2d(world.told((others, others[..., :0]), pose)[:, :1], 3, 1, 1)
    rel = motion_between(pose, anchor)
    grids, there = zip(*(world.window.shown_at(rel, height) for height in HEIGHTS), strict=True)
    grid = torch.stack(grids, 1)
    free = F.grid_sample(open_, grid.flatten(1, 2), align_corners=False).unflatten(2, (len(HEIGHTS), -1))
    near = torch.exp(-world.window.places(rel)[0].clamp(min=0) / NEAR)[:, None, None]
    return grid, free.clamp(min=0).square() * near * torch.stack(there, 1)[:, None]
