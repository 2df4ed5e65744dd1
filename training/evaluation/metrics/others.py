"""Others on the road as pictures show them: how many there are, and whether one is where it should be.

Legend: H x W pixels; an outline is left, top, right and bottom in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from drivedit.utils import Probes

CERTAIN = 0.5  # how likely a pixel shows another one from which on it counts
LEAST = 8  # pixels of one that is counted
LATER = slice(150, 250)  # steps of a long drive in which others are counted


def patches(shown: np.ndarray) -> np.ndarray:
    """Outlines `[n, 4]` of the connected parts of bool `[H, W]`, and their number of pixels as a fifth column."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(shown.astype(np.uint8), connectivity=8)
    left, top, width, height, area = stats[1:].T
    return np.stack([left, top, left + width, top + height, area], 1)


def count(cars: np.ndarray) -> np.ndarray:
    """How many others pictures show `[N]`, of how likely each pixel shows one `[N, H, W]`."""
    return np.array([(patches(each >= CERTAIN)[:, 4] >= LEAST).sum() for each in cars], np.float32)


def others_seen(probes: Probes, frames: np.ndarray, step: int) -> np.ndarray:
    """How many others pictures `[N, H, W, 3]` of a step show `[N]`; zeros in domains without, and but for `LATER`."""
    if probes.others is None or not LATER.start <= step < LATER.stop:  # finding them takes its time
        return np.zeros(len(frames), np.float32)
    return count(probes.others.cars(frames))


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of outlines `[..., 4]`; 0 where both are empty."""
    inner = np.clip(np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]), 0, None)
    sizes = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(-1) for each in (first, second)]
    shared = inner.prod(-1)
    return shared / np.maximum(sizes[0] + sizes[1] - shared, 1e-9)


def found_at(cars: np.ndarray, outline: np.ndarray) -> float:
    """How well what a picture shows fits an outline `[4]`: the best overlap of a connected part `[H, W]` with it."""
    seen = patches(cars >= CERTAIN)
    return float(overlap(seen[:, :4], outline).max()) if len(seen) else 0.0


def filled(cars: np.ndarray, outline: np.ndarray) -> float:
    """Share of the pixels within an outline `[4]` that show another one."""
    left, top = np.floor(outline[:2]).astype(int)
    right, bottom = np.ceil(outline[2:]).astype(int)
    inside = cars[top:bottom, left:right]
    return float((inside >= CERTAIN).mean()) if inside.size else 0.0
