"""Start scenes: the moments from which a world can be dreamed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.utils import from_origin, origin_of


@dataclass
class Scene:
    """A moment of a recording; `check_scene` takes places far from zero as well, in float64.

    Attributes:
        frames: uint8 `[n + 1, H, W, 3]`, n >= 1, the last one is now.
        controls: float32 `[n, 2]`; `controls[i]` led from `frames[i]` to `frames[i + 1]`.
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


def check_scene(scene: Scene | Mapping[str, Any], image_size: tuple[int, int]) -> Scene:
    """Turns a mapping with the fields of `Scene` into one, and checks it.

    Route, poses and bounds may be given in float64 and far from zero; they are told from an origin near the car then
    (`drivedit.utils.origin_of`).

    Raises:
        ValueError: A key is unknown or missing, or a value has the wrong shape, type or range.
    """
    if not isinstance(scene, Scene):
        known = set(Scene.__dataclass_fields__)
        unknown, missing = set(scene) - known, {"frames", "controls"} - set(scene)
        if unknown or missing:
            what = f"unknown {sorted(unknown)}" if unknown else f"missing {sorted(missing)}"
            raise ValueError(f"a scene has the keys {sorted(known)} (frames and controls are needed); {what}")
        scene = Scene(**scene)
    frames, controls = np.asarray(scene.frames), np.asarray(scene.controls, np.float32)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*image_size, 3) or len(frames) < 2:
        expected = f"uint8 [n + 1 >= 2, {image_size[0]}, {image_size[1]}, 3]"
        raise ValueError(f"scene frames must be {expected}, got {frames.dtype} {list(frames.shape)}")
    if controls.shape != (len(frames) - 1, 2) or not np.isfinite(controls).all() or np.abs(controls).max() > 1:
        raise ValueError(f"scene controls must be [{len(frames) - 1}, 2] in [-1, 1], got {list(controls.shape)}")
    route = None if scene.route is None else np.asarray(scene.route, np.float64)
    if route is not None and (route.ndim != 2 or route.shape[1] != 2 or len(route) < 2 or not np.isfinite(route).all()):
        raise ValueError(f"a scene's route must be a finite array [M >= 2, 2], got {list(route.shape)}")
    poses = None if scene.poses is None else np.asarray(scene.poses, np.float64)
    if poses is not None and (poses.shape != (len(frames), 3) or not np.isfinite(poses).all()):
        raise ValueError(f"scene poses must be a finite array [{len(frames)}, 3], got {list(poses.shape)}")
    bounds = None if scene.bounds is None else np.asarray(scene.bounds, np.float64)
    if bounds is not None and (bounds.shape != (4,) or not (bounds[:2] < bounds[2:]).all()):
        raise ValueError(f"scene bounds must be [x_min, y_min, x_max, y_max], got {scene.bounds!r}")
    origin = origin_of(None if poses is None else poses[::-1], route)
    places = (None if p is None else from_origin(p, origin).astype(np.float32) for p in (route, poses, bounds))
    route, poses, bounds = places
    return Scene(frames, controls, route, bool(scene.closed), poses, bounds)
