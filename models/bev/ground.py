"""The ground around the car, as a window of cells seen from above: where its cells lie, how it is read, how it moves.

The window stays while the car drives on; so nothing that is remembered blurs. When the car comes near its end it
follows by whole cells, and only when the car has turned it is turned too.

Legend: B rows, C numbers of a cell, X Y rows (ahead) and columns (to the right) of cells. A place is seen from a pose:
metres ahead and to the right. `rel` `[B, 3]` is where one pose lies, seen from another: forward, right, turn.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import BevWorldConfig
from drivedit.models.conditions.layout import seen_from
from drivedit.utils import Route, advance_pose, motion_between

TURN = 0.25  # rad that the car turns before the window does
ASIDE = 8.0  # metres that it goes aside before the window follows
BACK = -8.0  # metres that it goes back
STEP = 4.0  # metres between the points of a route that are looked at
NEAR, WIDE = 4.0, 16.0  # metres from a route; where it is told half as loudly, and to how far the side is told
ROAD = 6  # numbers that a cell is told of the route
FINER = 4  # parts of a cell along a side, whose colours are told apart
NEAREST = 0.5  # metres before a camera
WHOLE = 0.99  # of a cell that is known


def beside(rel: Tensor, ahead: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Places `[B, ...]` that are seen from a pose, seen from the one from which that pose is `rel` `[B, 3]`."""
    forward, aside, turn = (part.view(-1, *[1] * (ahead.ndim - 1)) for part in rel.unbind(1))
    cos, sin = turn.cos(), turn.sin()
    return forward + ahead * cos - right * sin, aside + ahead * sin + right * cos


class Ground(nn.Module):
    """Where cells lie.

    Args:
        config: The world's configuration.
    """

    ahead: Tensor
    right: Tensor
    ahead_finer: Tensor
    right_finer: Tensor

    def __init__(self, config: BevWorldConfig) -> None:
        super().__init__()
        self.window, self.stride, self.cell, self.camera = config.window, config.stride, config.cell, config.camera
        self.tall = config.image_size[0] / config.image_size[1]
        rows, columns = config.cells
        for kind, parts in (("", 1), ("_finer", FINER)):
            ahead = (torch.arange(rows * parts, device="cpu") + 0.5) * config.cell / parts - config.window[0]
            right = (torch.arange(columns * parts, device="cpu") + 0.5) * config.cell / parts - config.window[2]
            for name, places in zip(("ahead", "right"), torch.meshgrid(ahead, right, indexing="ij"), strict=True):
                self.register_buffer(name + kind, places[None].clone(), persistent=False)

    def places(self, rel: Tensor) -> tuple[Tensor, Tensor]:
        """All cells `[B, X, Y]`, seen from where the window's pose is `rel`."""
        return beside(rel, self.ahead.expand(len(rel), -1, -1), self.right.expand(len(rel), -1, -1))

    def read(self, ground: Tensor, ahead: Tensor, right: Tensor) -> Tensor:
        """What the ground `[B, C, X, Y]` has at places `[B, n, m]` seen from the window's pose: `[B, C, n, m]`."""
        back, front, side = self.window
        grid = torch.stack([right / side, (ahead + back) / (back + front) * 2 - 1], -1)
        return F.grid_sample(ground, grid.clamp(-4, 4), align_corners=False)

    def lifted(self, features: Tensor, rel: Tensor, heights: tuple[float, ...]) -> Tensor:
        """What pictures have to say of the cells, at several heights above them (Simple-BEV, arXiv 2206.07959).

        Args:
            features: `[B, D, h, w]` of pictures.
            rel: The window's pose, seen from the camera's car.
            heights: Metres.

        Returns:
            `[B, heights * (D + 1), X, Y]`, with a flag whether a place is in the picture.
        """
        return torch.cat([_looked_up(features, *self.shown_at(rel, height)) for height in heights], 1)

    def painted(self, pictures: Tensor, rel: Tensor) -> Tensor:
        """What pictures `[B, C, H, W]` show of parts of cells on level ground: `[B, C * FINER**2 + 1, X, Y]`."""
        found = _looked_up(pictures, *self.shown_at(rel, 0.0, finer=True))
        parts = rearrange(found, "b c (x r) (y s) -> b (c r s) x y", r=FINER, s=FINER)
        colours, there = parts.split([parts.shape[1] - FINER**2, FINER**2], 1)
        return torch.cat([colours, there.amin(1, keepdim=True)], 1)

    def shown_at(self, rel: Tensor, height: float, finer: bool = False) -> tuple[Tensor, Tensor]:
        """Where a picture shows cells at a height, in [-1, 1] to the right and down.

        Args:
            rel: The window's pose, seen from the camera's car.
            height: Metres.
            finer: Parts of cells in place of cells.

        Returns:
            `[B, X, Y, 2]`, and whether they are in the picture `[B, X, Y]`.
        """
        along, side = (self.ahead_finer, self.right_finer) if finer else (self.ahead, self.right)
        ahead, right = beside(rel, *(rel.new_tensor(each).expand(len(rel), 1, 3) for each in ([1, 0, 0], [0, 1, 0])))
        ends = seen_from(self.camera, torch.zeros(3, device=rel.device), ahead, -right, torch.full_like(ahead, height))
        by_ahead, by_right, here = torch.stack(ends, 1)[:, :, 0, :, None, None].unbind(2)  # where three cells are seen
        depth, aside, up = (here + (by_ahead - here) * along + (by_right - here) * side).unbind(1)
        scale = depth.clamp(min=NEAREST) * math.tan(math.radians(self.camera.fov / 2))
        grid = torch.stack([aside / scale, up / (-self.tall * scale)], -1)
        return grid.clamp(-2, 2), (depth > NEAREST) & (grid.abs().amax(-1) < 1)

    def road(self, route: Route, arc: Tensor, pose: Tensor) -> Tensor:
        """Where cells lie beside a route: `[B, ROAD, X, Y]` of windows at poses `[B, 3]`; zeros where there is none.

        They are told how near it is, that there is one, on which side they lie and how far, finely and coarsely, and
        where it leads.
        """
        back, front, side = self.window
        reach = max(back, side) + STEP
        offsets = torch.arange(-reach, front + STEP, STEP, device=pose.device)
        points, tangents = route.ahead(arc, pose[:, 2], offsets)
        seen = motion_between(pose[:, None], torch.cat([points, 0 * points[..., :1]], -1))[..., :2]
        cos, sin = pose[:, None, 2].cos(), pose[:, None, 2].sin()
        along = torch.stack([tangents[..., 0] * cos + tangents[..., 1] * sin,
                             tangents[..., 0] * sin - tangents[..., 1] * cos], -1)  # fmt: skip
        least = torch.full((len(pose), *self.ahead.shape[1:]), torch.inf, device=pose.device)
        best = least.new_zeros(3, *least.shape)  # how far to the right of it, and where it leads: ahead, to the right
        for point, way in zip(seen[..., None, None].unbind(1), along[..., None, None].unbind(1), strict=True):
            ahead, right = self.ahead - point[:, 0], self.right - point[:, 1]
            past = ((ahead * way[:, 0] + right * way[:, 1]).abs() - STEP / 2).clamp(min=0)
            across = right * way[:, 0] - ahead * way[:, 1]
            nearer = across.abs() + past < least
            least = torch.where(nearer, across.abs() + past, least)
            found = torch.stack([across, *(each.expand_as(across) for each in way.unbind(1))])
            best = torch.where(nearer, found, best)
        told = (route.count > 0).to(least)[:, None, None]
        across, *way = best
        sides = [(across / scale).tanh() for scale in (NEAR, WIDE)]
        near = 1 / (1 + (least / NEAR) ** 2)
        return torch.stack([near, torch.ones_like(near), *sides, *way], 1) * told[:, None]

    def left(self, anchor: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Which cars `[B]` at poses have left the place of their window, and the windows' poses that follow them."""
        rel = motion_between(anchor, pose)
        forward, aside, turn = rel.unbind(1)
        turned = turn.abs() > TURN
        gone = turned | (forward > self.stride) | (forward < BACK) | (aside.abs() > ASIDE)
        whole = torch.stack([*(rel[:, :2] / self.cell).round().mul(self.cell).unbind(1), torch.zeros_like(turn)], 1)
        following = torch.where(turned[:, None], pose, advance_pose(anchor, whole))
        return gone, torch.where(gone[:, None], following, anchor)

    def moved(self, ground: Tensor, anchor: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """Grounds in windows that follow `[B, C, X, Y]`, and which of their cells are known `[B, 1, X, Y]`."""
        ahead, right = self.places(motion_between(anchor, following))
        both = self.read(torch.cat([ground, torch.ones_like(ground[:, :1])], 1), ahead, right)
        known = (both[:, -1:] > WHOLE).to(ground)
        return both[:, :-1] * known, known


def _looked_up(pictures: Tensor, grid: Tensor, there: Tensor) -> Tensor:
    """Pictures `[B, D, h, w]` at places `[B, X, Y, 2]`, with a flag whether these are in the picture."""
    seen = F.grid_sample(pictures, grid, align_corners=False)
    return torch.cat([seen * there[:, None], there[:, None].to(seen)], 1)
