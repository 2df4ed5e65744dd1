"""Start scenes: the moments from which a world can be dreamed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from drivedit.config import Modality, WorldSpec
from drivedit.models.conditions.layout import LAYOUT
from drivedit.utils import from_origin, origin_of, real_numbers
from drivedit.utils.episodes import BOX, Agents, check_agents, check_attributes

MOST_FRAMES = 100_000
MOST_POINTS = 1_000_000  # of a route
MOST_AGENTS = 1_000_000  # of all moments
FARTHEST = 1e8  # metres from zero, which is beyond every map of the Earth
MOST_TURNS = 1e5  # rad
BOUNDS = "scene bounds must be [x_min, y_min, x_max, y_max] with x_min < x_max and y_min < y_max"
ROUTE = "route"  # the condition that has parts
OTHERS = "layout"  # the condition that tells who else is on the road
PLAIN = ("frames", "route", "closed", "bounds")  # fields of a mapping that stand for observations and conditions


@dataclass
class Scene:
    """A moment of a recording, with n steps before it; places in float32, near zero, as `check_scene` makes them.

    Attributes:
        observations: By kind `[n + 1, ...]`, n >= 1, the last one is now; the first kind is the world's picture.
        controls: float32 `[n, A]`; `controls[i]` led from observation i to observation i + 1.
        times: float64 `[n + 1]` seconds that increase; None: the spec's `dt` from each to the next.
        conditions: What the world is told, by name. `route` is a dictionary of `points`, float32 `[M, 2]` centre line
            in metres (None: not known); `closed`, whether it is a loop; and `bounds`, float32 `[4]` of the playfield
            beyond which an episode ends: x and y at least, x and y at most (None: not known). `layout` is float32
            `[A, 8]`, who is there now (x, y, z, length, width, height, yaw, speed); before that it is told who is in
            `agents`, where these are known. Any other is an array.
        poses: float32 `[n + 1, 3]` (x, y, yaw counter-clockwise) of the car at the observations, on the route's plane;
            None puts the car at the beginning of the route, in its direction.
        agents: Who else was there, at every observation, on the same plane; None: not known.
        attributes: What it was like, each a value that the spec allows.
    """

    observations: dict[str, np.ndarray]
    controls: np.ndarray
    times: np.ndarray | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    poses: np.ndarray | None = None
    agents: Agents | None = None
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def frames(self) -> np.ndarray:
        """The pictures `[n + 1, H, W, C]`: the first kind of observation."""
        return next(iter(self.observations.values()))

    @property
    def route(self) -> np.ndarray | None:
        """The centre line `[M, 2]`; None: not known, it is dreamed freely."""
        return self.conditions.get(ROUTE, {}).get("points")

    @property
    def closed(self) -> bool:
        """Whether the route is a loop."""
        return self.conditions.get(ROUTE, {}).get("closed", False)

    @property
    def bounds(self) -> np.ndarray | None:
        """The playfield `[4]`; None: not known."""
        return self.conditions.get(ROUTE, {}).get("bounds")

    def with_route(self, points: np.ndarray | None, closed: bool = False, bounds: np.ndarray | None = None) -> Scene:
        """The scene on another route; the rest stays."""
        route = {"points": points, "closed": closed, "bounds": bounds}
        return replace(self, conditions={**self.conditions, ROUTE: route})

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
    """Makes a scene of a spec, and checks it.

    A mapping has the fields of `Scene`, or `frames` for the observations of the spec's picture, and `route` (its
    points), `closed` and `bounds` for the condition of that name. The picture is needed, other kinds may be left out.
    A route of no points tells only where the field ends; it is left out for a world that is told no route.

    Places (route, poses, bounds, boxes of agents and of a layout) may be given in float64 and far from zero; they are
    told from an origin near the car then (`origin_of_scene`). Conditions of other names stay as they are.

    Raises:
        ValueError: It is no scene, a key is unknown, missing or given twice, or a value has the wrong shape, type or
            range.
    """
    given = _given(scene, spec)
    observations = _observations(_named(given["observations"], "observations"), spec)
    count = len(observations[spec.picture])
    agents = given.get("agents")
    if not isinstance(agents, Agents | None):
        raise ValueError(f"agents of a scene are drivedit.utils.episodes.Agents or None, got {type(agents).__name__}")
    attributes = dict(_named(given.get("attributes", {}), "attributes"))
    check_attributes(attributes, spec, "a scene")
    poses = None if "poses" not in given else _within(given["poses"], "scene poses", (count, count), 3, FARTHEST)
    if poses is not None and np.abs(poses[:, 2]).max() > MOST_TURNS:
        raise ValueError(f"the yaw of scene poses lies within {MOST_TURNS:g} rad, got {np.abs(poses[:, 2]).max():g}")
    found = Scene(
        observations,
        _controls(given["controls"], count - 1, spec),
        None if "times" not in given else _times(given["times"], count),
        _conditions(_named(given.get("conditions", {}), "conditions"), spec),
        poses,
        agents,
        attributes,
    )
    return _near_zero(found)


def _given(scene: Any, spec: WorldSpec) -> dict[str, Any]:
    """The fields of a scene that were given, those of `PLAIN` in their places, or ValueError."""
    if not isinstance(scene, (Scene, Mapping)):
        raise ValueError(f"a scene is a Scene or a dictionary of its fields, got {type(scene).__name__}")
    told = vars(scene) if isinstance(scene, Scene) else scene
    given = {name: value for name, value in told.items() if value is not None}
    seen = "observations" if "observations" in given else "frames"
    known = dict.fromkeys((*Scene.__dataclass_fields__, *PLAIN))
    unknown, missing = [name for name in told if name not in known], {seen, "controls"} - set(given)
    if unknown or missing:
        what = f"unknown {sorted(map(repr, unknown))}" if unknown else f"missing {sorted(missing)}"
        needed = "frames, or observations, and controls are needed"
        raise ValueError(f"a scene has the keys {sorted(known)} ({needed}); {what}")
    if "frames" in given and seen == "observations":
        raise ValueError("a scene has frames or observations, which hold them by kind; got both")
    if seen == "frames":
        given["observations"] = {spec.picture: given.pop("frames")}
    plain = {"points" if name == ROUTE else name: given.pop(name) for name in PLAIN[1:] if name in given}
    if plain:
        conditions = _named(given.get("conditions", {}), "conditions")
        if ROUTE in conditions:
            raise ValueError("a scene tells its route in conditions or as route, closed and bounds; got both")
        given["conditions"] = {**conditions, ROUTE: plain}
    return given


def _named(values: Any, what: str) -> Mapping[str, Any]:
    """A mapping, or ValueError."""
    if not isinstance(values, Mapping):
        raise ValueError(f"the {what} of a scene are a dictionary, by name, got {type(values).__name__}")
    return values


def _observations(given: Mapping[str, Any], spec: WorldSpec) -> dict[str, np.ndarray]:
    """What was seen, in the order of the spec, as it says, or ValueError."""
    unknown = sorted(repr(name) for name in given if name not in spec.observations)
    if unknown or spec.picture not in given:
        what = f"unknown {unknown}" if unknown else f"missing {spec.picture!r}"
        raise ValueError(f"a scene shows {list(spec.observations)} (the first is needed); {what}")
    seen: dict[str, np.ndarray] = {}
    for name, kind in spec.observations.items():
        if name in given:
            what = "frames" if name == spec.picture else name
            seen[name] = _seen(given[name], what, kind, len(seen[spec.picture]) if seen else None)
    return seen


def _seen(values: Any, what: str, kind: Modality, count: int | None) -> np.ndarray:
    """Observations of one kind, `count` of them (None: as many as a scene may have), or ValueError."""
    sides = ", ".join(map(str, kind.shape))
    array = real_numbers(values, f"scene {what} must be {kind.dtype} [n + 1, {sides}]")
    least, most = (2, MOST_FRAMES) if count is None else (count, count)
    expected = f"{kind.dtype} [n + 1, {sides}] with {least} to {most} frames"
    if array.dtype != kind.dtype or array.shape[1:] != kind.shape or array.ndim != 1 + len(kind.shape):
        raise ValueError(f"scene {what} must be {expected}, got {array.dtype} {list(array.shape)}")
    if not least <= len(array) <= most:
        raise ValueError(f"scene {what} must be {expected}, got {len(array)} of them")
    low, high = float(array.min()), float(array.max())
    if not (np.float32(kind.low) <= low and high <= np.float32(kind.high)):  # NaN is neither
        raise ValueError(f"scene {what} lie from {kind.low:g} to {kind.high:g}, got {low:g} to {high:g}")
    return array


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


def _times(values: Any, count: int) -> np.ndarray:
    """float64 `[count]` of seconds that increase, or ValueError."""
    expected = f"scene times must be {count} finite numbers of seconds that increase"
    times = real_numbers(values, expected).astype(np.float64)
    if times.shape != (count,):
        raise ValueError(f"{expected}, got shape {list(times.shape)}")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError(f"{expected}, got {times}")
    return times


def _conditions(given: Mapping[str, Any], spec: WorldSpec) -> dict[str, Any]:
    """What a world of the spec is told, places still in float64, or ValueError."""
    told = {name: value for name, value in given.items() if value is not None}
    if ROUTE in told:
        told[ROUTE] = _route(told[ROUTE])
        if told[ROUTE]["points"] is None and (ROUTE not in spec.conditions or told[ROUTE]["bounds"] is None):
            del told[ROUTE]
    unknown = [name for name in told if name not in spec.conditions]
    if unknown:
        raise ValueError(
            f"this world has learned nothing about {', '.join(f'{name}s' for name in unknown)} (its recordings had "
            f"none); it is told {spec.conditions}, the scene tells {unknown}"
        )
    found = {name: told[name] for name in spec.conditions if name in told}
    return {name: _checked(value, name) for name, value in found.items()}


def _checked(values: Any, name: str) -> Any:
    """A condition, a layout in float64 still, others as float32 of any shape, or ValueError; routes are checked."""
    if name == ROUTE:
        return values
    if name == OTHERS:
        return _within(values, "a scene's layout", (0, MOST_AGENTS), LAYOUT, FARTHEST)
    expected = f"the condition {name} of a scene must be finite numbers"
    array = real_numbers(values, expected).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{expected}, got {array[~np.isfinite(array)][0]}")
    return array


def _route(value: Any) -> dict[str, Any]:
    """The parts of a route, places in float64, or ValueError."""
    route = {"points": None, "closed": False, "bounds": None}
    if not isinstance(value, Mapping) or set(value) - set(route):
        got = sorted(map(repr, value)) if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"the route among a scene's conditions is a dictionary of {list(route)}, got {got}")
    route |= value
    points, closed, bounds = route.values()
    if not isinstance(closed, (bool, np.bool_)):
        raise ValueError(f"whether a scene's route is closed is True or False, got {closed!r}")
    if points is not None:
        points = _within(points, "a scene's route", (2, MOST_POINTS), 2, FARTHEST)
    if bounds is not None:
        bounds = real_numbers(bounds, BOUNDS).astype(np.float64)
        if bounds.shape != (4,):
            raise ValueError(f"{BOUNDS}, got shape {list(bounds.shape)}")
    return {"points": points, "closed": bool(closed), "bounds": bounds}


def _near_zero(scene: Scene) -> Scene:
    """The scene with all places in float32, seen from an origin near the car; ValueError where they do not fit."""
    agents, boxes = scene.agents, None
    if agents is not None:
        boxes = _within(agents.boxes, "boxes of a scene's agents", (0, MOST_AGENTS), BOX, FARTHEST)
    origin, layout = origin_of_scene(scene), scene.conditions.get(OTHERS)
    with np.errstate(over="ignore"):  # bounds beyond float32 are infinite
        points, poses, bounds, boxes, layout = (
            None if places is None else from_origin(places, origin).astype(np.float32)
            for places in (scene.route, scene.poses, scene.bounds, boxes, layout)
        )
    if bounds is not None and not (bounds[:2] < bounds[2:]).all():
        raise ValueError(f"{BOUNDS}, got {scene.bounds}")
    if agents is not None:
        agents = replace(agents, boxes=boxes)
        check_agents(agents, len(scene.frames))
    if ROUTE in scene.conditions:
        scene = scene.with_route(points, scene.closed, bounds)
    conditions = scene.conditions if layout is None else {**scene.conditions, OTHERS: layout}
    return replace(scene, conditions=conditions, poses=poses, agents=agents)


def origin_of_scene(scene: Scene | Mapping[str, Any]) -> np.ndarray:
    """The origin float64 `[2]` from which `check_scene` tells the places of a scene, or of a mapping that it takes."""
    told = vars(scene) if isinstance(scene, Scene) else scene
    poses, route = told.get("poses"), told.get(ROUTE)
    if route is None:
        route = ((told.get("conditions") or {}).get(ROUTE) or {}).get("points")
    return origin_of(None if poses is None else np.asarray(poses)[::-1], route)


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
