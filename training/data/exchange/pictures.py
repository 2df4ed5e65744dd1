"""Drives as folders of pictures: `<folder>/<drive>/*.png` with `controls.json` and `depth/*.png` beside the pictures.

`controls.json` holds `{"controls": [{"steering": 0.1, "acceleration": 0.3, "goal_x": 0, "goal_y": 0}, ...]}`, one entry
per picture in the order of their names; the entry of a picture acts from that picture to the next one. The goal is told
from the car: `goal_x` to the right, `goal_y` ahead. Goals may be left out (0), and `throttle` may stand for
`acceleration`. Depth pictures are 16-bit PNGs, one per picture.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

KINDS = (".png", ".jpg", ".jpeg")
FIELDS = ("steering", "acceleration", "goal_x", "goal_y")
NEEDED = ("steering", "acceleration")
FITS = ("crop", "letterbox", "stretch")
ALIASES = {"throttle": "acceleration"}


@dataclass(frozen=True)
class PictureDrive:
    """One drive.

    Attributes:
        name: Name of its folder.
        folder: The folder.
        frames: The pictures, in the order of the numbers in their names.
    """

    name: str
    folder: Path
    frames: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def picture(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """A frame, uint8 `[H, W, 3]`."""
        return read_picture(self.frames[index], size)

    def depth(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """The values of a depth picture, float32 `[H, W]`."""
        return read_depth(self.depths[index], size)

    def controls(self) -> np.ndarray:
        """Controls float32 `[T, 4]`: steering, acceleration, goal_x, goal_y, one row per picture.

        Raises:
            FileNotFoundError: There is no controls.json.
            ValueError: It is damaged, lacks a value, or has another length than there are pictures.
        """
        path = self.folder / "controls.json"
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path} with one entry per picture (see {__name__})")
        try:
            entries = json.loads(path.read_text())["controls"]
            rows = [_row(entry) for entry in entries]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not of the form described in {__name__}: {error}") from error
        if len(rows) != len(self.frames):
            raise ValueError(f"{path} has {len(rows)} controls, but {len(self.frames)} pictures lie beside it")
        return np.array(rows, np.float32).reshape(-1, len(FIELDS))

    @cached_property
    def depths(self) -> tuple[Path, ...]:
        """The depth pictures, one per picture.

        Raises:
            FileNotFoundError: There are none.
            ValueError: There are more or fewer than pictures.
        """
        paths = _pictures(self.folder / "depth")
        if not paths:
            raise FileNotFoundError(f"there are no depth pictures in {self.folder / 'depth'}")
        if len(paths) != len(self.frames):
            raise ValueError(f"{self.folder} has {len(self.frames)} pictures, but {len(paths)} depth pictures")
        return paths


def find_drives(folder: str | Path) -> list[PictureDrive]:
    """The drives in a folder, by name; a folder that holds pictures itself is one drive.

    Raises:
        FileNotFoundError: There is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    places = [place for place in sorted(folder.iterdir(), key=_natural) if place.is_dir() and place.name != "depth"]
    drives = [PictureDrive(place.name, place, _pictures(place)) for place in [*places, folder]]
    drives = [drive for drive in drives if drive.frames]
    if not drives:
        raise FileNotFoundError(f"no pictures ({', '.join(KINDS)}) in {folder} or in the folders in it")
    return drives


def read_picture(path: Path, size: tuple[int, int] | None = None, fit: str = "stretch") -> np.ndarray:
    """A picture, uint8 `[H, W, 3]`, red first.

    Args:
        path: The file.
        size: Height and width to bring it to; None: its own.
        fit: How, see `fitted`.

    Raises:
        ValueError: The file is not a picture.
    """
    picture = cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return picture if size is None else fitted(picture, size, fit)


def read_depth(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The values of a depth picture, float32 `[H, W]`; none is mixed of two when it is brought to the size.

    Raises:
        ValueError: The file is not a picture of one channel.
    """
    values = _read(path, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2:
        raise ValueError(f"the depth picture {path} must have one channel, got shape {list(values.shape)}")
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.float32)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture `[H, W, 3]` brought to a height and width, averaged where it shrinks."""
    if picture.shape[:2] == size:
        return picture
    shrinks = size[0] <= picture.shape[0] and size[1] <= picture.shape[1]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def fitted(picture: np.ndarray, size: tuple[int, int], fit: str, aspect: float | None = None) -> np.ndarray:
    """A picture brought to a height and width of perhaps another aspect.

    Args:
        picture: uint8 `[H, W, 3]`.
        size: Height and width.
        fit: crop: what is too high or too wide is cut off on both sides; letterbox: all is kept, between black bars;
            stretch: all is kept, and distorted.
        aspect: Width over height of the picture as it is shown; None: its pixels are square.
    """
    if fit == "stretch":
        return resized(picture, size)
    height, width = picture.shape[:2]
    kept = share(aspect or width / height, size)
    if fit == "crop":
        rows, columns = max(1, round(height * kept[0])), max(1, round(width * kept[1]))
        top, left = (height - rows) // 2, (width - columns) // 2
        return resized(picture[top : top + rows, left : left + columns], size)
    inner = max(1, round(size[0] * kept[1])), max(1, round(size[1] * kept[0]))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    boxed = np.zeros((*size, 3), np.uint8)
    boxed[top : top + inner[0], left : left + inner[1]] = resized(picture, inner)
    return boxed


def share(aspect: float, size: tuple[int, int]) -> tuple[float, float]:
    """The shares of height and width that are left of a picture of some aspect when it is cropped to that of `size`."""
    wanted = size[1] / size[0]
    return min(1.0, aspect / wanted), min(1.0, wanted / aspect)


def _read(path: Path, flags: int) -> np.ndarray:
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    picture = cv2.imdecode(data, flags) if data.size else None
    if picture is None:
        raise ValueError(f"{path} is damaged or not a picture")
    return picture


def _pictures(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted((p for p in folder.iterdir() if p.suffix.lower() in KINDS and p.is_file()), key=_natural))


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts `frame_2` before `frame_10`."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts]


def _row(entry: dict[str, Any]) -> list[float]:
    """The values of one entry in the order of `FIELDS`."""
    named = {ALIASES.get(name, name): float(value) for name, value in entry.items()}
    missing, unknown = set(NEEDED) - set(named), set(named) - set(FIELDS)
    if missing or unknown:
        raise ValueError(f"an entry has {sorted(entry)}; {list(NEEDED)} are needed, {list(FIELDS)} are known")
    if not all(map(math.isfinite, named.values())):
        raise ValueError(f"an entry is not finite: {entry}")
    return [named.get(name, 0.0) for name in FIELDS]
