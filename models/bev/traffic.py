"""Traffic that nobody told of: how others drive on, and who comes into the window of ground that is kept.

Each other sees the ground around it, and everybody else, the car among them, from where it is; by that it speeds up,
brakes and turns. Who comes is a map of the ground: how probable it is in each cell, and how fast, how large and which
way.

Legend: B rows, A others, G numbers of a cell of the ground, X Y its rows and columns, p q those of the map of who
comes. A box is as `drivedit.models.conditions.layout` has it, `[8]` with its speed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import BevWorldConfig
from drivedit.config.bev import BLOCK
from drivedit.models.bev.ground import Ground, beside
from drivedit.models.conditions.layout import SPEED
from drivedit.models.layers.convnext import Conv
from drivedit.utils import advance_pose, motion_between

PLACES = (0.0, 0.0), (6.0, 0.0), (14.0, 0.0), (26.0, 0.0), (8.0, -3.5), (8.0, 3.5)  # m ahead and right, that one sees
WIDTH = 64
FAST, LONG, WIDE = 10.0, 5.0, 2.0  # units of speeds (m/s), of lengths and of widths (m)
GAP, BESIDE = 20.0, 4.0  # units of distances ahead and to the right, in metres
NEAR = 5.0  # of these units: what is farther away is told to be there
BRAKING, BENDING = 3.0, 0.02  # units of what another does: m/s^2, and 1/m
OWN = 4.6, 1.9, 1.5  # metres of the car itself
KEPT = 160.0  # metres from the car to others that are kept
APART = 8.0  # metres at least from a newcomer to anybody
RARE = -9.0  # logit of a newcomer in a cell, at first
TOLD = 6  # numbers of a cell of the map, beside the ground: who is there already, where the car is, and how fast
NEWCOMER = 9  # whether one comes; where in the cell (2), which way (2), its speed and sizes


class Traffic(nn.Module):
    """How others drive, and who comes.

    Args:
        config: The world's configuration.
    """

    points: Tensor

    def __init__(self, config: BevWorldConfig) -> None:
        super().__init__()
        self.dt, self.cell = config.spec.dt, config.cell * BLOCK
        self.back, self.side = config.window[0], config.window[2]
        self.pair = nn.Sequential(nn.Linear(7, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        seen = len(PLACES) * config.ground + WIDTH + 3
        self.drive = nn.Sequential(nn.Linear(seen, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH), nn.SiLU())
        self.does = nn.Linear(WIDTH, 2)
        nn.init.zeros_(self.does.weight)
        nn.init.zeros_(self.does.bias)  # at first they go straight on, as fast as they are
        self.first, self.second = Conv(config.ground + TOLD, WIDTH, 3), Conv(WIDTH, WIDTH, 3)
        self.coming = Conv(WIDTH, NEWCOMER, 1, zero=True)
        self.coming.bias.data[0] = RARE  # type: ignore[index]
        self.register_buffer("points", torch.tensor(PLACES, device="cpu"), persistent=False)

    def driven(self, window: Ground, ground: Tensor, anchor: Tensor, others: Tensor, car: Tensor) -> Tensor:
        """Others `[B, A, 8]` one frame later.

        Args:
            window: Where the cells of the ground lie.
            ground: `[B, G, X, Y]`.
            anchor: Poses of the windows `[B, 3]`.
            others: Boxes.
            car: The car as a box `[B, 8]`, see `as_box`.
        """
        rows, most = others.shape[:2]
        where = others[..., [0, 1, 6]]
        rel = motion_between(anchor[:, None], where).flatten(0, 1)
        ahead, right = beside(rel, *(each.expand(len(rel), -1) for each in self.points.unbind(1)))
        seen = window.read(ground, ahead.unflatten(0, (rows, most)), right.unflatten(0, (rows, most)))  # [B, G, A, P]
        everybody = torch.cat([others, car[:, None]], 1)
        pair = motion_between(where[:, :, None], everybody[:, None, :, [0, 1, 6]])  # [B, A, A + 1, 3]
        speeds = (
            everybody[:, None, :, SPEED:].expand(-1, most, -1, -1),
            others[:, :, None, SPEED:].expand(-1, -1, most + 1, -1),
        )
        far = torch.stack([pair[..., 0] / GAP, pair[..., 1] / BESIDE], -1).clamp(-NEAR, NEAR)
        turned = torch.stack([pair[..., 2].cos(), pair[..., 2].sin()], -1)
        lengths = everybody[:, None, :, 3:4].expand(-1, most, -1, -1) / LONG
        felt = self.pair(torch.cat([far, turned, *(speed / FAST for speed in speeds), lengths], -1))
        there = (everybody[:, None, :, 3] > 0) & ~torch.eye(most, most + 1, dtype=torch.bool, device=others.device)
        felt = torch.where(there[..., None], felt, -torch.inf).amax(2)
        own = torch.cat([others[..., SPEED:] / FAST, others[..., 3:4] / LONG, others[..., 4:5] / WIDE], -1)
        does = self.does(self.drive(torch.cat([seen.transpose(1, 2).flatten(2), felt, own], -1))).float()
        speed = (others[..., SPEED] + does[..., 0] * BRAKING * self.dt).clamp(min=0)
        way = speed * self.dt
        pose = advance_pose(where, torch.stack([way, torch.zeros_like(way), way * does[..., 1] * BENDING], -1))
        moved = torch.cat([pose[..., :2], others[..., 2:6], pose[..., 2:], speed[..., None]], -1)
        return torch.where(others[..., 3:4] > 0, moved, others)

    def forward(self, ground: Tensor, anchor: Tensor, others: Tensor, car: Tensor, begun: Tensor) -> Tensor:
        """Who comes: `[B, NEWCOMER, p, q]`, the first one a logit.

        Args:
            ground: `[B, G, X, Y]`.
            anchor: Poses of the windows `[B, 3]`.
            others: Boxes `[B, A, 8]` of who is there.
            car: The car as a box `[B, 8]`.
            begun: `[B]` 1 where others are those whom a start picture shows, and all the rest are wanted.
        """
        coarse = F.avg_pool2d(ground, BLOCK)
        rows, (high, wide) = len(ground), coarse.shape[-2:]
        rel = motion_between(anchor, car[:, [0, 1, 6]])
        ahead = (torch.arange(high, device=ground.device) + 0.5) * self.cell - self.back
        right = (torch.arange(wide, device=ground.device) + 0.5) * self.cell - self.side
        away = [(ahead - rel[:, :1])[..., None].expand(-1, -1, wide) / GAP / NEAR,
                (right - rel[:, 1:2])[:, None].expand(-1, high, -1) / BESIDE / NEAR]  # fmt: skip
        flat = [each[:, None, None].expand(-1, high, wide) for each in (car[:, SPEED] / FAST, begun)]
        cell, inside = self.cells_of(anchor, others, (high, wide))
        taken = ground.new_zeros(rows, 2, high * wide)
        told = torch.stack([torch.ones_like(others[..., SPEED]), others[..., SPEED] / FAST], 1) * inside[:, None]
        taken = taken.scatter_add(2, cell[:, None].expand(-1, 2, -1), told).unflatten(2, (high, wide))
        x = torch.cat([coarse, taken, torch.stack([*away, *flat], 1)], 1)
        return self.coming(F.silu(self.second(F.silu(self.first(x))))).float()

    def cells_of(self, anchor: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """In which cell of the map boxes `[B, A, 8]` stand, `[B, A]`, and whether they are somebody in it."""
        rel = motion_between(anchor[:, None], boxes[..., [0, 1, 6]])
        row = ((rel[..., 0] + self.back) / self.cell).floor()
        column = ((rel[..., 1] + self.side) / self.cell).floor()
        inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1]) & (boxes[..., 3] > 0)
        return torch.where(inside, row * size[1] + column, 0).long(), inside

    def placed(self, coming: Tensor, anchor: Tensor, cell: Tensor) -> Tensor:
        """Boxes `[B, n, 8]` of newcomers in cells `[B, n]` of a map `[B, NEWCOMER, p, q]`."""
        wide = coming.shape[-1]
        told = coming[:, 1:].flatten(2).gather(2, cell[:, None].expand(-1, NEWCOMER - 1, -1)).transpose(1, 2)
        place = torch.stack([cell // wide, cell % wide], -1) + 0.5 + told[..., :2].clamp(-0.5, 0.5)
        turn = torch.atan2(told[..., 3:4], told[..., 2:3])
        rel = torch.cat([place * self.cell - place.new_tensor([self.back, self.side]), turn], -1)
        pose = advance_pose(anchor[:, None].expand_as(rel), rel)
        sizes = (told[..., 5:] * LONG).clamp(0.5, 20)
        speed = (told[..., 4:5] * FAST).clamp(min=0)
        return torch.cat([pose[..., :2], sizes[..., 2:] / 2, sizes, pose[..., 2:], speed], -1)

    def unplaced(self, anchor: Tensor, boxes: Tensor) -> Tensor:
        """What the map should tell of boxes `[B, n, 8]` in their cells, `[B, n, NEWCOMER - 1]`."""
        rel = motion_between(anchor[:, None], boxes[..., [0, 1, 6]])
        place = (rel[..., :2] + rel.new_tensor([self.back, self.side])) / self.cell
        turn = torch.stack([rel[..., 2].cos(), rel[..., 2].sin()], -1)
        return torch.cat([place - place.floor() - 0.5, turn, boxes[..., SPEED:] / FAST, boxes[..., 3:6] / LONG], -1)


def as_box(pose: Tensor, forward: Tensor, dt: float) -> Tensor:
    """The car at `[B, 3]`, that has gone `forward` metres `[B]` in the last frame, as a box `[B, 8]`."""
    size = pose.new_tensor([OWN[2] / 2, *OWN]).expand(len(pose), -1)
    return torch.cat([pose[:, :2], size, pose[:, 2:], forward[:, None] / dt], 1)


def gone_from(others: Tensor, pose: Tensor) -> Tensor:
    """Others `[B, A, 8]` without those who are too far from the car to matter."""
    far = (others[..., :2] - pose[:, None, :2]).norm(dim=-1, keepdim=True) > KEPT
    return torch.where(far, 0.0, others)


def joined(others: Tensor, looks: Tensor, new: tuple[Tensor, Tensor, Tensor], car: Tensor) -> tuple[Tensor, Tensor]:
    """Others `[B, A, 8]` and their looks with newcomers among them; they take free places, else the farthest one's.

    Args:
        others: Who is there.
        looks: `[B, A, L]`.
        new: Newcomers `[B, n, 8]`, whether they come `[B, n]`, and how they look `[B, n, L]`. One that would stand too
            near to anybody does not come.
        car: The car as a box `[B, 8]`.
    """
    for box, comes, look in zip(*(each.unbind(1) for each in new), strict=True):
        everybody = torch.cat([others, car[:, None]], 1)
        apart = (everybody[..., :2] - box[:, None, :2]).norm(dim=-1)
        near = ((apart < APART) & (everybody[..., 3] > 0)).any(1)
        far = (others[..., :2] - car[:, None, :2]).norm(dim=-1)
        place = torch.where(others[..., 3] > 0, far, torch.inf).argmax(1)
        row = torch.arange(len(others), device=others.device)
        taken = (comes & ~near & ((box[:, :2] - car[:, :2]).norm(dim=-1) < KEPT))[:, None]
        others = others.index_put((row, place), torch.where(taken, box, others[row, place]))
        looks = looks.index_put((row, place), torch.where(taken, look, looks[row, place]))
    return others, looks


def one_of(coming: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One cell of maps `[B, NEWCOMER, p, q]` drawn by numbers `[B]` in [0, 1), `[B, 1]`, and whether anybody comes."""
    share = coming[:, 0].flatten(1).sigmoid().cumsum(1)
    cell = (share <= uniform[:, None]).sum(1, keepdim=True)
    return cell.clamp(max=share.shape[1] - 1), cell < share.shape[1]


def all_of(coming: Tensor, uniform: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Cells of maps where somebody stands, drawn by numbers `[B, p, q]`: at most so many `[B, most]`, and whether."""
    sure = coming[:, 0].sigmoid() - uniform
    best, cell = sure.flatten(1).topk(min(most, sure[0].numel()), 1)
    return cell, best > 0
