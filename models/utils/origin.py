"""One origin per drive: float32 knows the coordinates of a map projection (5,400 km) to half a metre only."""

from __future__ import annotations

import numpy as np

FAR = 2000.0  # metres from zero up to which coordinates stay as they are: float32 tells .1 mm there
GRID = 1000.0  # metres; origins are whole kilometres, so that moving a drive by kilometres changes nothing


def origin_of(*places: np.ndarray | None) -> np.ndarray:
    """The origin for places that belong together, to be subtracted before they become float32 (`from_origin`).

    Args:
        places: Arrays `[M, >= 2]` (x, y, ...) in metres, or None, the most important first.

    Returns:
        float64 `[2]`: zero where the first place that is known lies within 2 km of zero, else the whole kilometres
        nearest to it.
    """
    for array in places:
        known = np.zeros((0, 2)) if array is None else np.asarray(array, np.float64)[:, :2]
        known = known[np.isfinite(known).all(1)]
        if len(known):
            return np.round(known[0] / GRID) * GRID if np.abs(known[0]).max() > FAR else np.zeros(2)
    return np.zeros(2)


def from_origin(places: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Places seen from an origin.

    Args:
        places: `[M, >= 2]`, x and y first; bounds `[4]` are two places one after the other.
        origin: float64 `[2]`.

    Returns:
        float64 of the same shape.
    """
    moved = np.array(places, np.float64)
    moved.reshape(-1, moved.shape[-1] if moved.ndim > 1 else 2)[:, :2] -= origin
    return moved
