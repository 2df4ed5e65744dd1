"""Pictures as people see them."""

from __future__ import annotations

import cv2
import numpy as np


def rgb(pictures: np.ndarray) -> np.ndarray:
    """Pictures `[..., H, W, 3]` of grey ones `[..., H, W, 1]`; those that have three channels are themselves.

    Raises:
        ValueError: They have another number of channels.
    """
    if pictures.ndim < 3 or pictures.shape[-1] not in (1, 3):
        raise ValueError(f"pictures are [..., H, W, 1 or 3], got {list(pictures.shape)}")
    return pictures if pictures.shape[-1] == 3 else pictures.repeat(3, -1)


def enlarged(frame: np.ndarray, height: int) -> np.ndarray:
    """A frame uint8 `[H, W, 1 or 3]` for people, uint8 `[height, W, 3]`; even sides, as films need them."""
    width = 2 * round(height * frame.shape[1] / frame.shape[0] / 2)
    return cv2.resize(rgb(frame), (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
