"""Pictures for people."""

from __future__ import annotations

import cv2
import numpy as np


def enlarged(frame: np.ndarray, height: int) -> np.ndarray:
    """A frame uint8 `[H, W, 1 or 3]` for people, uint8 `[height, W, 3]`; even sides, as films need them."""
    width = 2 * round(height * frame.shape[1] / frame.shape[0] / 2)
    if frame.shape[2] == 1:
        frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
