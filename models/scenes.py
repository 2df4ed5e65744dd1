"""Start scenes: the moments from which a world can be dreamed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import deserialize

from drivedit.config import WorldSpec
from drivedit.utils import from_origin, origin_of, real_numbers

MOST_FRAMES = 100_000
MOST_POINTS = 1_000_000  # of a route
FARTHEST = 1e8  # metres from zero, which is beyond every map of the Earth
MOST_TURNS = 1e5  # rad
TYPES = {"U8": np.uint8, "F32": np.float32, "BOOL": np.bool_, "I64": np.int64}  # of arrays in files


@dataclass
class Scene:
    """A moment of a recording; `check_scene` takes places far from zero as well, in float64.

    Attributes:
        frames: The world's picture, uint8 `[n + 1, H, W, C]`, n >= 1, the last one is now.
        controls: float32 `[n, A]`; `controls[i]` led from `frames[i]` to `frames[i + 1]`.
        route: float32 `[M, 2]` centre line in metres, or None to dream freely.
        closed: Whether the route is a loop.
        poses: float32 `[n + 1, 3]` (x, y, yaw counter-clockwise) of the car at the frames, on the route's plane; None
            puts the car at the beginning of the route, in its direction.
        bounds: float32 `[4]` of the playfield on the same plane, beyond which an episode ends: x and y at least, x and
            y at most; None: not known.
    """

    frames: np.ndarray
    controls: np.ndarray
    route: np.ndarray | None = None
    closed: bool = False
    poses: np.ndarray | None = None
    bounds: np.ndarray | None = None

    def poses_or_start(self) -> np.ndarray:
        """The poses, or the beginning of the route once per frame."""
        if self.poses is not None:
            return self.poses
        if self.route is None:
            return np.zeros((len(self.frames), 3), np.float32)
        step = self.route[1] - self.route[0]
        start = [*self.route[0], np.arctan2(step[1], step[0])]
        return np.tile(np.asarray(start, np.float32), (len(self.frames), 1))


def check_scene(scene: Scene | Mapping[str, Any], spec: WorldSpec) -> Scene:
    """Turns a mapping with the fields of `Scene` into one, and checks it.

    Route, poses and bounds may be given in float64 and far from zero; they are told from an origin near the car then
    (`drivedit.utils.origin_of`).

    Raises:
        ValueError: It is no scene, a key is unknown or missing, or a value has the wrong shape, type or range.
    """
    if not isinstance(scene, (Scene, Mapping)):
        raise ValueError(f"a scene is a Scene or a dictionary of its fields, got {type(scene).__name__}")
    if not isinstance(scene, Scene):
        known = set(Scene.__dataclass_fields__)
        unknown, missing = set(scene) - known, {"frames", "controls"} - set(scene)
        if unknown or missing:
            what = f"unknown {sorted(map(repr, unknown))}" if unknown else f"missing {sorted(missing)}"
            raise ValueError(f"a scene has the keys {sorted(known)} (frames and controls are needed); {what}")
        scene = Scene(**scene)
    picture = spec.observations[spec.picture]
    sides = ", ".join(map(str, picture.shape))
    frames = real_numbers(scene.frames, f"scene frames must be {picture.dtype} [n + 1, {sides}]")
    expected = f"{picture.dtype} [n + 1, {sides}] with 2 to {MOST_FRAMES} frames"
    if frames.dtype != picture.dtype or frames.shape[1:] != picture.shape or frames.ndim != 1 + len(picture.shape):
        raise ValueError(f"scene frames must be {expected}, got {frames.dtype} {list(frames.shape)}")
    if not 2 <= len(frames) <= MOST_FRAMES:
        raise ValueError(f"scene frames must be {expected}, got {len(frames)} of them")
    count = len(frames)
    controls = _controls(scene.controls, count - 1, spec)
    route = None if scene.route is None else _within(scene.route, "a scene's route", (2, MOST_POINTS), 2, FARTHEST)
    poses = None if scene.poses is None else _within(scene.poses, "scene poses", (count, count), 3, FARTHEST)
    if poses is not None and np.abs(poses[:, 2]).max() > MOST_TURNS:
        raise ValueError(f"the yaw of scene poses lies within {MOST_TURNS:g} rad, got {np.abs(poses[:, 2]).max():g}")
    if not isinstance(scene.closed, (bool, np.bool_)):
        raise ValueError(f"whether a scene's route is closed is True or False, got {scene.closed!r}")
    expected = "scene bounds must be [x_min, y_min, x_max, y_max] with x_min < x_max and y_min < y_max"
    bounds = None if scene.bounds is None else real_numbers(scene.bounds, expected).astype(np.float64)
    if bounds is not None and bounds.shape != (4,):
        raise ValueError(f"{expected}, got shape {list(bounds.shape)}")
    origin = origin_of(None if poses is None else poses[::-1], route)
    with np.errstate(over="ignore"):  # bounds beyond float32 are infinite
        places = (None if p is None else from_origin(p, origin).astype(np.float32) for p in (route, poses, bounds))
        route, poses, bounds = places
    if bounds is not None and not (bounds[:2] < bounds[2:]).all():
        raise ValueError(f"{expected}, got {scene.bounds!r}")
    return Scene(frames, controls, route, bool(scene.closed), poses, bounds)


def _controls(values: Any, rows: int, spec: WorldSpec) -> np.ndarray:
    """float32 `[rows, A]` of controls in their ranges, or ValueError."""
    width, names = len(spec.controls), spec.names("controls")
    least = np.array([control.low for control in spec.controls])
    greatest = np.array([control.high for control in spec.controls])
    most = float(np.abs([least, greatest]).max())
    array = _within(values, "scene controls", (rows, rows), width, most, f" ({', '.join(names)})")
    outside = ((array < least) | (array > greatest)).any(1)
    if outside.any():
        ranges = ", ".join(
            f"{name} from {low:g} to {high:g}" for name, low, high in zip(names, least, greatest, strict=True)
        )
        raise ValueError(f"scene controls are {ranges}, got {array[outside][0]}")
    return array.astype(np.float32)


def _within(values: Any, name: str, rows: tuple[int, int], width: int, most: float, columns: str = "") -> np.ndarray:
    """float64 `[rows, width]` of numbers that are at most `most` from zero, or ValueError."""
    least, greatest = rows
    count = f"{least}" if least == greatest else f"{least} to {greatest}"
    expected = f"{name} must be finite numbers [{count}, {width}]{columns} within +-{most:g}"
    array = real_numbers(values, expected)
    if array.ndim != 2 or array.shape[1] != width or not least <= len(array) <= greatest:
        raise ValueError(f"{expected}, got shape {list(array.shape)}")
    if not (np.abs(array) <= most).all():
        raise ValueError(f"{expected}, got {array[~(np.abs(array) <= most).all(1)][0]}")
    return array.astype(np.float64)


def pack_scenes(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Arrays of scenes by name, `count` of them and `0.frames`, `0.controls`, ...; what is None is left out."""
    arrays: dict[str, np.ndarray] = {"count": np.array(len(scenes))}
    for index, scene in enumerate(scenes):
        for name, value in vars(scene).items():
            if value is not None:
                arrays[f"{index}.{name}"] = np.ascontiguousarray(value)
    return arrays


def unpack_scenes(data: bytes) -> list[Scene]:
    """Scenes from the bytes of a safetensors file with the arrays of `pack_scenes`.

    Raises:
        SafetensorError: The bytes are no such file.
        ValueError: They hold other arrays, or fewer scenes than they count.
    """
    arrays = {}
    for name, told in deserialize(data):
        if told["dtype"] not in TYPES:
            raise ValueError(f"{name} of the scenes has the type {told['dtype']}, scenes have {sorted(TYPES)}")
        arrays[name] = np.frombuffer(told["data"], TYPES[told["dtype"]]).reshape(told["shape"]).copy()
    count, rows = arrays.pop("count", np.array(-1)), {}
    for name, array in arrays.items():
        index, _, field = name.partition(".")
        rows.setdefault(index, {})[field] = array
    if count.shape != () or {str(index) for index in range(len(rows))} != set(rows) or len(rows) != count:
        raise ValueError(f"the scenes are counted as {count}, and there are {len(rows)}")
    for row in rows.values():
        unknown = set(row) - set(Scene.__dataclass_fields__)
        missing = {"frames", "controls", "closed"} - set(row)
        if unknown or missing or row["closed"].size != 1:
            raise ValueError(f"a scene has the arrays {sorted(row)}")
    return [Scene(**{**rows[str(i)], "closed": bool(rows[str(i)]["closed"])}) for i in range(len(rows))]
