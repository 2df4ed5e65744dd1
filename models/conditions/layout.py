"""What a network is told of others on the road: where in its camera's picture their boxes stand, how near, how turned.

Legend: B rows, A others, P tokens per frame, n cells along a token's side. A box is (x, y, z of the middle, length,
width, height in m, yaw), as `drivedit.utils.episodes.Agents` has it, and a speed in m/s after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivedit.config import CameraConfig, WorldConfig
from drivedit.models.conditions.route import RouteCoder
from drivedit.utils import Route, from_origin, real_numbers
from drivedit.utils.episodes import Agents

TOLD = 3  # numbers for a cell: nearness, and nearness times where the box faces: ahead, to the right
HALF_NEAR = 10.0  # metres at which nearness is one half
NEAREST = 0.3  # metres before the camera from which on things are in the picture
SPEED = 7  # its column, after the box
LAYOUT = 8  # numbers that tell of another
FARTHEST = 1e6  # metres
MOST = 1000  # boxes of a layout


class LayoutCoder(nn.Module):
    """Boxes of others as maps for the tokens of a picture; `WorldConfig.camera` says how they are seen.

    A cell tells of the box that shows most in it: the share of the cell that the box's outline covers, less the farther
    it is. Height, colour and kind are left to the dream.

    Args:
        config: The world's configuration; it has a camera.
    """

    edges_x: Tensor
    edges_y: Tensor

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        assert config.camera is not None
        height, width = config.image_size
        self.camera, self.cells = config.camera, config.map_cells
        self.columns, self.rows = (side // config.token_pixels for side in (width, height))
        tall = height / width
        for name, count, reach in (("edges_x", self.columns, 1.0), ("edges_y", self.rows, tall)):
            edges = torch.linspace(-reach, reach, count * self.cells + 1, device="cpu")
            self.register_buffer(name, edges, persistent=False)

    def forward(self, boxes: Tensor, pose: Tensor) -> Tensor:
        """What every token is told.

        Args:
            boxes: `[B, A, >= 7]`; a length of 0 means nobody.
            pose: The car's `[B, 3]`.

        Returns:
            `[B, P, n * n * 3]`; zeros where nobody is seen.
        """
        low, high, depth = self.outlines(boxes, pose)
        seen = (depth > 0) & (boxes[..., 3] > 0)
        across = _shares(low[..., 0], high[..., 0], self.edges_x)
        down = _shares(low[..., 1], high[..., 1], self.edges_y)
        near = seen / (1 + depth.clamp(min=0) / HALF_NEAR)
        shown, who = (near[..., None, None] * down[..., :, None] * across[..., None, :]).max(1)
        turn = pose[:, None, 2] - boxes[..., 6]  # to the right
        facing = torch.stack([turn.cos(), turn.sin()], -1)  # [B, A, 2]
        facing = facing.gather(1, who.flatten(1)[..., None].expand(-1, -1, 2)).unflatten(1, who.shape[1:])
        told = torch.cat([shown[..., None], shown[..., None] * facing], -1)
        n = self.cells
        told = told.unflatten(1, (self.rows, n)).unflatten(3, (self.columns, n)).transpose(2, 3)
        return told.reshape(len(told), self.rows * self.columns, -1)

    def outlines(self, boxes: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rectangles that boxes fill in the picture, see `outlines`."""
        return outlines(self.camera, boxes, pose)


def outlines(camera: CameraConfig, boxes: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rectangles that boxes `[B, A, >= 7]` fill in a camera's picture, of cars at `[B, 3]`.

    Returns:
        Least and greatest (to the right, down) `[B, A, 2]`, in half widths of the picture from its middle; and the
        depth of the middle `[B, A]` in metres, negative where no corner is before the camera.
    """
    corner = boxes.new_tensor([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])
    offset = corner * boxes[..., None, 3:6]  # [B, A, 8, 3]: along, across to the left, up
    cos, sin = boxes[..., None, 6].cos(), boxes[..., None, 6].sin()
    x = boxes[..., None, 0] + offset[..., 0] * cos - offset[..., 1] * sin
    y = boxes[..., None, 1] + offset[..., 0] * sin + offset[..., 1] * cos
    depth, right, up = seen_from(camera, pose[:, None, None], x, y, boxes[..., None, 2] + offset[..., 2])
    ahead = depth.amax(-1) > NEAREST
    scale = depth.clamp(min=NEAREST) * math.tan(math.radians(camera.fov) / 2)
    place = torch.stack([right / scale, -up / scale], -1)
    middle = depth.mean(-1).clamp(min=NEAREST)
    return place.amin(-2), place.amax(-2), torch.where(ahead, middle, -1.0)


def check_layout(boxes: Any, origin: Sequence[float] = (0.0, 0.0)) -> Tensor | None:
    """Others that a world is told of, as a tensor `[A, 8]`; None: it is not told.

    Args:
        boxes: `[A, 8]`, or None.
        origin: Where they are told from, in metres.

    Raises:
        ValueError: They are no boxes with speeds, or not finite, have no size, or are too many.
    """
    if boxes is None:
        return None
    expected = f"a layout is an array [A, {LAYOUT}] of x, y, z, length, width, height, yaw and speed"
    array = real_numbers(boxes, expected)
    if array.ndim != 2 or array.shape[1] != LAYOUT or len(array) > MOST:
        raise ValueError(f"{expected}, of at most {MOST} boxes, got {[*array.shape]}")
    array = from_origin(array, np.asarray(origin))
    if not (np.abs(array) <= FARTHEST).all() or not (array[:, 3:6] > 0).all():
        raise ValueError(f"boxes of a layout are finite, within {FARTHEST:g} m, and have sizes above 0")
    return torch.from_numpy(array.astype(np.float32))


def moving(agents: Agents, times: np.ndarray) -> list[np.ndarray]:
    """Agents at every state as a layout has them: with their speeds, which are those to the next state.

    An agent that is not there any more at the next state has the speed since the last one; one that is there once, 0.

    Args:
        agents: Those of n states.
        times: `[n]` seconds of the states.

    Returns:
        float64 `[A, 8]` for each state.
    """
    boxes, speeds = agents.boxes.astype(np.float64), np.zeros(len(agents.ids))
    states = [agents.at(state) for state in range(len(times))]
    for now, then, seconds in zip(states, states[1:], np.diff(times), strict=False):
        _, old, new = np.intersect1d(agents.ids[now], agents.ids[then], return_indices=True)
        old, new = old + now.start, new + then.start
        x, y = (boxes[new, :2] - boxes[old, :2]).T
        speeds[old] = speeds[new] = (x * np.cos(boxes[old, 6]) + y * np.sin(boxes[old, 6])) / seconds
    return [np.concatenate([boxes[rows], speeds[rows, None]], 1) for rows in states]


def nearest(boxes: Tensor | None, pose: Tensor, most: int) -> Tensor:
    """The `most` nearest of others `[A, 8]` to each of the cars `[B, 3]`: `[B, most, 8]`, filled up with zeros."""
    told = torch.zeros(len(pose), most, LAYOUT, device=pose.device)
    if boxes is not None and len(boxes) and most:
        boxes = boxes.to(pose.device)
        order = (boxes[None, :, :2] - pose[:, None, :2]).norm(dim=-1).argsort(1)[:, :most]
        told[:, : order.shape[1]] = boxes[order]
    return told


def join(code: Tensor, told: Tensor, layout: Tensor) -> Tensor:
    """The code of `RouteCoder` with that of the others in it.

    Args:
        code: `[B, K]`, the map of as many cells as others are told for at its end.
        told: `[B]` bool, whether it is told who is there, though it may be nobody.
        layout: Of `LayoutCoder`, `[B, P, n * n * 3]`.

    Returns:
        `[B, WorldConfig.code_widths()[0]]`.
    """
    cells = layout.shape[1] * layout.shape[2] // TOLD
    flat, maps = code.split([code.shape[1] - cells, cells], 1)
    maps = torch.cat([maps.unflatten(1, (layout.shape[1], -1)), layout], -1)
    return torch.cat([flat, told[:, None].to(flat), maps.flatten(1)], 1)


def layout_part(config: WorldConfig) -> Tensor:
    """1 for the numbers of a world's code that tell of others, 0 for those that do not: `[K]`."""
    tokens, cells = config.student.tokens_per_frame, config.map_cells**2
    told = torch.ones(1, tokens, TOLD * cells) if config.others else torch.zeros(1, tokens, 0)
    code = torch.zeros(1, RouteCoder(config).width)
    return (join(code, torch.ones(1), told) if config.others else code)[0]


def seen_from(camera: CameraConfig, pose: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth, and metres to the right and up, of points in a camera's directions, of a car at `pose` `[..., 3]`."""
    cos, sin = pose[..., 2].cos(), pose[..., 2].sin()
    dx, dy = x - pose[..., 0], y - pose[..., 1]
    forward, right, above = dx * cos + dy * sin - camera.ahead, dx * sin - dy * cos, z - camera.height
    pitch = math.radians(camera.pitch)
    down, level = math.sin(pitch), math.cos(pitch)
    return forward * level - above * down, right, forward * down + above * level


def drive_on(boxes: Tensor, route: Route, dt: float) -> Tensor:
    """Others `[B, A, 8]` after `dt` seconds at their speed: along the route where there is one, else straight on."""
    rows, others, _ = boxes.shape
    if not others:
        return boxes
    path = Route(*(value.repeat_interleave(others, 0) for value in vars(route).values()))
    flat = boxes.flatten(0, 1)
    arc, offset, tangent = path.locate(flat[:, :2], None)
    facing = torch.stack([flat[:, 6].cos(), flat[:, 6].sin()], -1)
    along = (tangent * facing).sum(-1)
    step = flat[:, SPEED] * dt
    point, ahead = path.at((arc + step * along.sign())[:, None])
    point, ahead = point[:, 0], ahead[:, 0]
    moved = point + offset[:, None] * torch.stack([ahead[:, 1], -ahead[:, 0]], -1)
    turned = flat[:, 6] + torch.atan2(
        tangent[:, 0] * ahead[:, 1] - tangent[:, 1] * ahead[:, 0], (tangent * ahead).sum(-1)
    )
    follows = (path.count > 0) & (along.abs() > 0.7)
    straight = flat[:, :2] + step[:, None] * facing
    xy = torch.where(follows[:, None], moved, straight)
    yaw = torch.where(follows, turned, flat[:, 6])
    there = flat[:, 3] > 0
    new = torch.cat([xy, flat[:, 2:6], yaw[:, None], flat[:, SPEED:]], -1)
    return torch.where(there[:, None], new, flat).unflatten(0, (rows, others))


def _shares(low: Tensor, high: Tensor, edges: Tensor) -> Tensor:
    """What share of each cell between neighbouring `edges` `[c + 1]` lies between `low` and `high`: `[..., c]`."""
    left, right = edges[:-1], edges[1:]
    covered = torch.minimum(high[..., None], right) - torch.maximum(low[..., None], left)
    return (covered / (right - left)).clamp(0, 1)
