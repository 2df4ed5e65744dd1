"""Which agents a picture shows: those within a distance, in the camera's view, and not hidden by nearer ones.

An agent counts where at least a share of its outline, the rectangle that its box fills in the picture, lies in the
picture and is not covered by outlines of nearer boxes. What else stands in the way (houses, trees, fog) is not known
here: agents behind it count, too.

Legend: A agents. A box is x, y, z of the middle, length, width, height (m), yaw (rad), speed (m/s).
"""

from __future__ import annotations

import numpy as np
import torch

from drivedit.config import AgentsConfig
from drivedit.models.conditions.layout import outlines

FINE = 2  # cells along a pixel in which covered parts are counted
NEAREST = 1.0  # metres of depth from which on middles are before the camera


def shown_shares(outline: np.ndarray, depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share of each outline that is in the picture and that no nearer one covers, in [0, 1].

    Args:
        outline: `[A, 4]` left, top, right, bottom in pixels; they may reach beyond the picture.
        depth: `[A]` metres of their middles; those at 0 or less show nothing and cover nothing.
        size: Height and width of the picture.

    Returns:
        `[A]`; 0 for outlines without area.
    """
    shares = np.zeros(len(outline))
    covered = np.zeros((size[0] * FINE, size[1] * FINE), bool)
    limits = np.array([covered.shape[1], covered.shape[0]] * 2)
    cells = np.round(np.clip(outline * FINE, -1e6, 1e6))
    whole = (cells[:, 2:] - cells[:, :2]).clip(0).prod(1)
    inside = np.clip(cells, 0, limits).astype(int)
    for agent in np.argsort(depth, kind="stable"):
        left, top, right, bottom = inside[agent]
        if depth[agent] > 0 and right > left and bottom > top:
            part = covered[top:bottom, left:right]
            shares[agent] = (part.size - np.count_nonzero(part)) / whole[agent]
            part[:] = True
    return shares


def pixel_outlines(config: AgentsConfig, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outlines `[A, 4]` in pixels `[A, >= 7]` in the own car's frame, and depths `[A]` of their middles."""
    height, width = config.image_size
    told = torch.from_numpy(np.asarray(boxes, np.float64))[None]
    low, high, depth = outlines(config.camera, told, torch.zeros(1, 3, dtype=torch.float64))
    corners = torch.cat([low, high], -1)[0].numpy() * width / 2 + np.array([width, height] * 2) / 2
    depth = depth[0].numpy()
    return corners, np.where(depth < NEAREST, -1.0, depth)


def visible(config: AgentsConfig, boxes: np.ndarray, outline: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Numbers of the agents that count, the nearest first, at most `config.tokens`.

    Args:
        config: What counts.
        boxes: `[A, >= 2]` in the car's own frame, all that there are.
        outline: `[A, 4]`, of `pixel_outlines`.
        depth: `[A]`, likewise.
    """
    away = np.hypot(boxes[:, 0] - config.camera.ahead, boxes[:, 1])
    share = shown_shares(outline, depth, config.image_size)
    area = share * (outline[:, 2:] - outline[:, :2]).clip(0).prod(1)
    counts = (share >= config.least_shown) & (area >= config.least_pixels) & (away <= config.farthest)
    found = np.flatnonzero(counts)
    return found[np.argsort(away[found], kind="stable")][: config.tokens]


def own_frame(boxes: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Boxes `[A, 8]` as cars at `[A, 3]` see them: ahead of them, to their left, and turned to the left."""
    x, y = boxes[:, 0] - poses[:, 0], boxes[:, 1] - poses[:, 1]
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    yaw = (boxes[:, 6] - poses[:, 2] + np.pi) % (2 * np.pi) - np.pi
    return np.stack([cos * x + sin * y, cos * y - sin * x, *boxes[:, 2:6].T, yaw, boxes[:, 7]], 1)
