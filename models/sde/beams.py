"""Range images as points: moved by an ego-motion, nearer ones before farther ones, and what they leave free ahead.

Legend: B rows, H W rows and columns of a scan.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from drivedit.models.sde.ranges import decode_range, encode_range
from drivedit.utils.ranges import RangeView

CLEARANCE = 0.3  # m above the ground, from where on something is in the way
CEILING = 0.3  # m above the sensor, from where on nothing is
TOGETHER = 1.0  # m between two points of one thing
LOOKED_AT = 64  # nearest points that may be something
LEAST_CLOSING = 0.1  # m/s, below which nothing comes nearer
MOST_CLOSING = 60.0  # m/s; what comes nearer faster is something else than before
LONGEST = 30.0  # s that a time to collision is at most


class Beams(nn.Module):
    """Where the cells of a range image look, as tensors; `ground` `[H, 1]` is the depth of flat ground there.

    Args:
        view: How the LiDAR looks around.
        height: Metres from the ground to the sensor.
        corridor: Half the width (m) of what must be free ahead.
    """

    up: Tensor
    right: Tensor
    ground: Tensor

    def __init__(self, view: RangeView, height: float, corridor: float) -> None:
        super().__init__()
        self.view, self.height, self.corridor = view, height, corridor
        self.apart = float(view.elevations[0] - view.elevations[1]) if view.rows > 1 else math.pi
        self.register_buffer("up", torch.from_numpy(view.elevations.astype(np.float32)[:, None]), persistent=False)
        self.register_buffer("right", torch.from_numpy(view.azimuths.astype(np.float32)), persistent=False)

        down = (-view.elevations).clip(1e-6, None)
        metres = np.where(height / np.sin(down) < view.reach, height / np.sin(down), view.reach).astype(np.float32)
        flat = encode_range(torch.from_numpy(np.stack([metres, np.ones_like(metres)], -1))[:, None], view.reach)
        self.register_buffer("ground", flat[0], persistent=False)

    def points(self, metres: Tensor) -> Tensor:
        """X ahead, y left and z up `[3, B, H, W]` of distances `[B, H, W]`."""
        flat = metres * self.up.cos()
        return torch.stack([flat * self.right.cos(), -flat * self.right.sin(), metres * self.up.sin()])

    def moved(self, shown: Tensor, motion: Tensor) -> Tensor:
        """Scans as they look after an ego-motion, if all else stands still.

        Each point goes into the cell of the beam next to it, the nearest one of a cell stays; cells that none falls in
        are empty.

        Args:
            shown: `[B, 2, H, W]` as networks see them (`encode_range`).
            motion: `[B, 3]` forward, right (m) and turn to the right (rad).

        Returns:
            `[B, 2, H, W]`.
        """
        image = decode_range(shown, self.view.reach)
        metres, mask = image.unbind(-1)
        x, y, z = self.points(metres)
        forward, right, turn = (each[:, None, None] for each in motion.to(metres).unbind(-1))
        x, y = x - forward, y + right
        x, y = x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()
        distance = (x * x + y * y + z * z).sqrt()
        height, width = metres.shape[1:]
        column = torch.floor((0.5 - torch.atan2(y, x) / (2 * math.pi)) * width + 0.5).long() % width
        level = torch.asin((z / distance.clamp(min=1e-3)).clamp(-1, 1))
        row = torch.floor((self.view.highest - level) / self.apart + 0.5).long()
        seen = (mask > 0) & (row >= 0) & (row < height) & (distance <= self.view.reach)
        cell = torch.where(seen, row * width + column, height * width).flatten(1)
        nearest = torch.full((len(metres), height * width + 1), torch.inf, device=metres.device)
        nearest = nearest.scatter_reduce(1, cell, distance.flatten(1), "amin")[:, :-1].unflatten(1, (height, width))
        there = nearest.isfinite()
        found = torch.stack([torch.where(there, nearest, 0.0), there.to(nearest)], -1)
        return encode_range(found, self.view.reach)

    def free_distance(self, shown: Tensor) -> Tensor:
        """Metres `[B]` straight ahead to what stands in a corridor, at most the sensor's reach.

        Two points near each other are something; one alone may be a raindrop.

        Args:
            shown: `[B, 2, H, W]` as networks see them.
        """
        metres, mask = decode_range(shown, self.view.reach).unbind(-1)
        x, y, z = self.points(metres)
        hit = (mask > 0) & (x > 0) & (y.abs() < self.corridor) & (z > CLEARANCE - self.height) & (z < CEILING)
        near = torch.where(hit, x, torch.inf).flatten(1)
        near = near.topk(min(LOOKED_AT, near.shape[1]), largest=False).values
        whole = near.diff() < TOGETHER  # nothing less nothing is no number, and not below
        return torch.where(whole, near[:, :-1], self.view.reach).amin(1)


def time_to_collision(before: Tensor, now: Tensor, forward: Tensor, dt: Tensor) -> Tensor:
    """Seconds `[B]` until what is ahead is reached, at most `LONGEST`, as fast as it came nearer.

    Where it jumped, something else is ahead now: then it counts as standing.

    Args:
        before: Free distance `[B]` before the step.
        now: After it.
        forward: How far the car went, m.
        dt: In how many seconds.
    """
    closing = (before - now) / dt
    closing = torch.where(closing.abs() <= MOST_CLOSING, closing, forward / dt)
    return torch.where(closing > LEAST_CLOSING, now / closing.clamp(min=LEAST_CLOSING), LONGEST).clamp(max=LONGEST)
