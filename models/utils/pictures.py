"""Pictures as people see them."""

from __future__ import annotations

import math

import cv2
import numpy as np

from drivedit.utils.ranges import RangeView

FROM_ABOVE = 40.0  # m to each side of what is seen from above
TALLER = 3  # times that the rows of a range image are taller for people
SCALE_ABOVE = 3.0  # m from the lowest to the highest colour of points from above


def rgb(pictures: np.ndarray) -> np.ndarray:
    """Pictures `[..., H, W, 3]` of grey ones `[..., H, W, 1]`; those that have three channels are themselves.

    Raises:
        ValueError: They have another number of channels.
    """
    if pictures.ndim < 3 or pictures.shape[-1] not in (1, 3):
        raise ValueError(f"pictures are [..., H, W, 1 or 3], got {list(pictures.shape)}")
    return pictures if pictures.shape[-1] == 3 else pictures.repeat(3, -1)


def shown(frame: np.ndarray) -> np.ndarray:
    """A frame as people see it, uint8 `[H, W, 1 or 3]`.

    Pictures are themselves. Of a range image float32 `[h, w, 2]` the metres are shown in colours, near ones red and far
    ones blue, and below that its points from above, straight ahead up, coloured by their height.
    """
    if frame.dtype == np.uint8 or frame.ndim != 3 or frame.shape[-1] != 2:
        return frame
    metres, mask = frame[..., 0], frame[..., 1] > 0.5
    view = RangeView(*metres.shape)
    shade = 1 - np.log1p(metres.clip(0, view.reach)) / math.log1p(view.reach)
    image = _coloured(shade) * mask[..., None]
    image = image.repeat(TALLER, 0)
    return np.concatenate([image, _from_above(view.unproject(frame), image.shape[1])])


def _from_above(points: np.ndarray, side: int) -> np.ndarray:
    """Points `[N, 3]` from above, uint8 `[side, side, 3]`, the sensor in the middle, what is ahead up."""
    picture = np.zeros((side, side, 3), np.uint8)
    low = points[np.argsort(points[:, 2])]  # higher ones last
    place = np.floor((1 - low[:, :2] / FROM_ABOVE) * side / 2).astype(int)
    inside = ((place >= 0) & (place < side)).all(1)
    rows, columns = place[inside].T
    ground = np.quantile(points[:, 2], 0.1) if len(points) else 0.0
    picture[rows, columns] = _coloured(((low[inside, 2] - ground) / SCALE_ABOVE).clip(0, 1)[None])[0]
    first, last = (int(side * (0.5 + metre / FROM_ABOVE)) for metre in (-1, 1))
    cv2.rectangle(picture, (first, first), (last, last), (255, 255, 255), -1)
    return picture


def _coloured(shares: np.ndarray) -> np.ndarray:
    """Colours uint8 `[H, W, 3]` of shares `[H, W]` in [0, 1]: blue, green, red."""
    return cv2.applyColorMap((255 * shares).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]


def enlarged(frame: np.ndarray, height: int) -> np.ndarray:
    """A frame for people (`shown`), uint8 `[height, W, 3]`; even sides, as films need them."""
    frame = shown(frame)
    width = 2 * round(height * frame.shape[1] / frame.shape[0] / 2)
    return cv2.resize(rgb(frame), (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
