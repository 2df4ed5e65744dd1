"""Others on the road: how a renderer is told of them, and how they look.

Legend: B rows, A others, L numbers of how one looks, h w cells of the renderer, H W pixels. A box is as
`drivedit.models.conditions.layout` has it, `[8]` with its speed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import CameraConfig
from drivedit.models.conditions.layout import HALF_NEAR, outlines

TOLD = 7  # numbers for a cell: its share, nearness, where the box faces (2), where in the box it lies (2), somebody
FARTHEST = 80.0  # metres to others whose looks are seen
SEEN_AT = 4  # numbers of the looks that tell where the start picture shows it: its outline, or zeros
SAME = 4.0  # metres within which a box is that of before


def edges_of(tokens: tuple[int, int], tall: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of cells in half widths of the picture, down `[h + 1]` and to the right `[w + 1]`."""
    down = torch.linspace(-tall, tall, tokens[0] + 1, device=like.device)
    return down, torch.linspace(-1, 1, tokens[1] + 1, device=like.device)


def told_maps(
    camera: CameraConfig, tokens: tuple[int, int], tall: float, boxes: Tensor, looks: Tensor, pose: Tensor
) -> Tensor:
    """What cells are told of the nearest other that shows in them: `[B, TOLD + L, h, w]`, zeros where nobody does.

    Args:
        camera: How the car sees.
        tokens: h and w.
        tall: Height of the picture over its width.
        boxes: `[B, A, 8]`; a length of 0 means nobody.
        looks: `[B, A, L]`.
        pose: The car's `[B, 3]`.
    """
    low, high, depth = outlines(camera, boxes, pose)
    down, across = edges_of(tokens, tall, boxes)
    there = (depth > 0) & (boxes[..., 3] > 0)
    shares = [
        ((torch.minimum(high[..., axis, None], edges[1:]) - torch.maximum(low[..., axis, None], edges[:-1]))
         / (edges[1:] - edges[:-1])).clamp(0, 1) for axis, edges in ((1, down), (0, across))
    ]  # fmt: skip
    cover = shares[0][..., :, None] * shares[1][..., None, :] * there[..., None, None]  # [B, A, h, w]
    near = 1 / (1 + depth.clamp(min=0) / HALF_NEAR)
    who = (cover.clamp(max=0.1) * near[..., None, None]).argmax(1, keepdim=True)  # nearer ones hide others
    turn = pose[:, None, 2] - boxes[..., 6]
    inner = [
        (((edges[1:] + edges[:-1]) - low[..., axis, None] - high[..., axis, None])
         / (high[..., axis, None] - low[..., axis, None]).clamp(min=1e-3)).clamp(-1.5, 1.5)
        for axis, edges in ((1, down), (0, across))
    ]  # fmt: skip
    rows, columns = tokens
    size = (*boxes.shape[:2], rows, columns)
    flat = [near, turn.cos(), turn.sin(), torch.ones_like(near), *looks.unbind(-1)]
    parts = [cover, inner[0][..., :, None].expand(size), inner[1][..., None, :].expand(size)]
    parts += [each[..., None, None].expand(size) for each in flat]
    told = torch.stack(parts, 2)  # [B, A, TOLD + L, h, w]
    picked = told.gather(1, who[:, :, None].expand(-1, -1, told.shape[2], -1, -1))[:, 0]
    return picked * (cover.gather(1, who) > 0)


def carried(
    camera: CameraConfig, size: tuple[int, int], tall: float, boxes: Tensor, looks: Tensor, pose: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the start picture shows what now lies within the outlines of others, as if these were flat.

    Args:
        camera: How the car sees.
        size: H and W.
        tall: Height of the picture over its width.
        boxes: `[B, A, 8]`; a length of 0 means nobody.
        looks: `[B, A, L + SEEN_AT]`.
        pose: The car's `[B, 3]`.

    Returns:
        Places in [-1, 1] `[B, H, W, 2]`, and which pixels show another that the start picture shows `[B, H, W]`.
    """
    low, high, depth = outlines(camera, boxes, pose)
    low, high = (edge / edge.new_tensor([1.0, tall]) for edge in (low, high))
    down, across = (((torch.arange(n, device=low.device) + 0.5) / n * 2 - 1) for n in size)
    inside = [(at > low[..., axis, None]) & (at < high[..., axis, None]) for axis, at in ((0, across), (1, down))]
    near = ((depth > 0) & (boxes[..., 3] > 0)) / (1 + depth.clamp(min=0) / HALF_NEAR)
    shares = inside[1][..., :, None] * inside[0][..., None, :] * near[..., None, None]
    best, who = shares.flatten(2).max(1)  # [B, H * W]; nearer ones hide others
    first, last = looks[..., -SEEN_AT:].split(2, -1)
    stretch = (last - first) / (high - low).clamp(min=1e-3)
    shift, known = first - low * stretch, (last > first).all(-1)
    stretch, shift = (each.gather(1, who[..., None].expand(-1, -1, 2)).unflatten(1, size) for each in (stretch, shift))
    place = torch.stack([across.expand(size), down[:, None].expand(size)], -1) * stretch + shift
    shown = ((best > 0) & known.gather(1, who)).unflatten(1, size) & (place.abs() < 1).all(-1)
    return place.clamp(-2, 2), shown


def inherited(boxes: Tensor, before: tuple[Tensor, Tensor], drawn: Tensor) -> Tensor:
    """How others `[B, A, 8]` look `[B, A, L]`: like who was there before, within some metres, or as is drawn.

    Args:
        boxes: Others now.
        before: Others before `[B, K, 8]`, and how they looked `[B, K, L]`.
        drawn: How those look who are new, `[B, A, L]`.
    """
    old, looks = before
    if not old.shape[1] or not boxes.shape[1]:
        return drawn
    apart = torch.cdist(boxes[..., :2], old[..., :2]) + 1e6 * (old[:, None, :, 3] <= 0)
    least, who = apart.min(2)
    kept = looks.gather(1, who[..., None].expand(-1, -1, looks.shape[2]))
    return torch.where((least < SAME)[..., None], kept, drawn)


def seen_looks(
    features: Tensor, camera: CameraConfig, tall: float, boxes: Tensor, pose: Tensor, drawn: Tensor
) -> Tensor:
    """How others `[B, A, 8]` look in a picture of features `[B, L, h, w]`, and where that shows them.

    Those that it does not show look as is drawn, `[B, A, L]`.

    Returns:
        `[B, A, L + SEEN_AT]`.
    """
    low, high, depth = outlines(camera, boxes, pose)
    low, high = (edge / edge.new_tensor([1.0, tall]) for edge in (low, high))
    middle = (low + high) / 2
    there = (depth > 0) & (depth < FARTHEST) & (middle.abs() < 1).all(-1) & (boxes[..., 3] > 0)
    found = F.grid_sample(features, middle[:, :, None].clamp(-2, 2), align_corners=False)[..., 0].transpose(1, 2)
    found = torch.cat([found, low, high], -1)
    return torch.where(there[..., None], found, unseen_looks(drawn))


def unseen_looks(drawn: Tensor) -> Tensor:
    """The looks `[..., L + SEEN_AT]` of others that no picture has shown, as they are drawn `[..., L]`."""
    return F.pad(drawn, (0, SEEN_AT))
