"""Pictures as people see them."""

from __future__ import annotations

import numpy as np


def rgb(pictures: np.ndarray) -> np.ndarray:
    """Pictures `[..., H, W, 3]` of grey ones `[..., H, W, 1]`; those that have three channels are themselves.

    Raises:
        ValueError: They have another number of channels.
    """
    if pictures.ndim < 3 or pictures.shape[-1] not in (1, 3):
        raise ValueError(f"pictures are [..., H, W, 1 or 3], got {list(pictures.shape)}")
    return pictures if pictures.shape[-1] == 3 else pictures.repeat(3, -1)
