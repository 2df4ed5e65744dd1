"""What can be read off the pictures alone, so that a dream need not be believed: the road under the car, and turns.

The pictures are CarRacing's at 64 x 64: the car stands at row 48 of column 32 and points up, one column is 0.96 m wide,
one row 0.77 m high, and the lowest 8 rows are the dashboard.
"""

from __future__ import annotations

import cv2
import numpy as np

DASHBOARD = 8  # rows
BESIDE_CAR = (slice(44, 53), (28, 29, 30, 34, 35, 36))  # rows and columns of the ground around the car
ROW_STRETCH = 80  # columns that make a picture's pixels square
CAR = (40.0, 48.0)  # centre of rotation in the stretched picture
TRIED_TURNS = np.radians([0.0, -7.0, 7.0])  # rad around the last turn


def hide_dashboard(frames: np.ndarray) -> np.ndarray:
    """Frames `[..., H, W, 3]` without the dashboard."""
    return frames[..., :-DASHBOARD, :, :]


def road_share(frames: np.ndarray) -> np.ndarray:
    """Share of the ground beside the car that is road or kerb and not grass or void, `[...]` of `[..., 64, 64, 3]`."""
    rows, columns = BESIDE_CAR
    ground = frames[..., rows, :, :][..., columns, :].astype(np.int32)
    green = ground[..., 1] - np.maximum(ground[..., 0], ground[..., 2])
    return ((green < 40) & (ground.max(-1) > 60)).mean((-2, -1))


def road_threshold(share: np.ndarray, on_road: np.ndarray) -> tuple[float, float]:
    """The road share from which on the car counts as on the road.

    Args:
        share: Road shares of true pictures.
        on_road: What the simulator says, bool.

    Returns:
        The threshold with the best balanced accuracy, and that accuracy.
    """
    candidates = np.linspace(0.05, 0.95, 37)
    on_road = np.asarray(on_road, bool).ravel()
    if on_road.all() or not on_road.any():
        return 0.5, float(((share.ravel() >= 0.5) == on_road).mean())
    hits = [0.5 * ((share.ravel() >= c)[on_road].mean() + (share.ravel() < c)[~on_road].mean()) for c in candidates]
    best = np.flatnonzero(np.array(hits) == max(hits))
    return float(candidates[best].mean()), float(max(hits))


def picture_turns(frames: np.ndarray) -> np.ndarray:
    """Turn of the car to the right between pictures, found by registering each one with the next.

    The dashboard and the car are hidden; rotation and shift of the ground are fitted by enhanced correlation
    (Evangelidis and Psarakis 2008).

    Args:
        frames: uint8 `[T + 1, 64, 64, 3]`.

    Returns:
        Radians `[T]`.
    """
    ground = [_ground(frame) for frame in frames]
    mask = np.full(ground[0].shape, 255, np.uint8)
    mask[43:54, 36:45] = 0
    found, last = np.zeros(len(ground) - 1), (0.0, 3.0)
    for index, (before, after) in enumerate(zip(ground[:-1], ground[1:], strict=True)):
        fits = [_register(before, after, mask, last[0] + turn, last[1]) for turn in TRIED_TURNS]
        score, turn, shift = max(fits)
        last = (turn, shift) if score > 0 else last
        found[index] = last[0]
    return found


def _ground(frame: np.ndarray) -> np.ndarray:
    """Green of a picture in square pixels without the dashboard: bright grass, dark road."""
    green = cv2.resize(frame[..., 1], (ROW_STRETCH, frame.shape[0]), interpolation=cv2.INTER_LINEAR)
    return green[:-DASHBOARD]


def _register(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, turn: float, shift: float
) -> tuple[float, float, float]:
    """Fits a turn (rad, to the right) and a shift of the ground (px, down): score, turn, shift; score -1: no fit."""
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = CAR
    warp = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y + shift]], np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-4)
    try:
        score, warp = cv2.findTransformECC(before, after, warp, cv2.MOTION_EUCLIDEAN, stop, mask, 3)
    except cv2.error:  # the pictures do not overlap from this start
        return -1.0, turn, shift
    turned = float(-np.arctan2(warp[1, 0], warp[0, 0]))
    moved = float(warp[1, 0] * x + warp[1, 1] * y + warp[1, 2] - y)
    return float(score), turned, moved
