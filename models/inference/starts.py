"""Where a dream begins: reset options, the scene they name, and start states, which are computed once per scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from drivedit.inference.drawn_layouts import draw_layout
from drivedit.inference.layouts import RANDOM, Source, find_layout
from drivedit.inference.routes import draw_route, random_route
from drivedit.models import RowState, Scene, StepOutput, World
from drivedit.models.scenes import OTHERS, ROUTE, origin_of_scene
from drivedit.utils.episodes import check_attributes

OPTIONS = ("scene", "route", "closed", "layout", "attributes", "dt")

_entered: WeakKeyDictionary[World, dict[tuple[int, bool], tuple[RowState, StepOutput]]] = WeakKeyDictionary()


@dataclass
class Start:
    """One beginning.

    Attributes:
        index: Number of the scene in the world, -1 for one that was handed over.
        scene: The scene.
        arc: Where on a hand-drawn route the car is, in metres; None: there is no such route.
        future: Seed of how the dream goes on.
        layout: Others at the start, float32 `[A, 8]`; None: the world is not told of them.
        others: What says where they are from then on.
    """

    index: int
    scene: Scene
    arc: float | None
    future: int
    layout: np.ndarray | None = None
    others: Source = None


def check_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The reset options that were given, or ValueError for an unknown one."""
    if not isinstance(options, (Mapping, type(None))):
        raise ValueError(f"reset options are a dictionary with the keys {list(OPTIONS)}, got {options!r}")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    unknown = set(options or {}) - set(OPTIONS)
    if unknown:
        raise ValueError(f"reset options are {list(OPTIONS)}, got {sorted(map(str, unknown))}")
    if "closed" in given and "route" not in given:
        raise ValueError("option closed speaks of a hand-drawn route: give option route as well")
    if not isinstance(given.get("closed", False), (bool, np.bool_)):
        raise ValueError(f"option closed is True or False, got {given['closed']!r}")
    if isinstance(given.get("dt", 1.0), bool) or not isinstance(given.get("dt", 1.0), Real):
        raise ValueError(f"option dt is a number of seconds, got {given['dt']!r}")
    if not isinstance(given.get("attributes", {}), Mapping):
        raise ValueError(f"option attributes is a dictionary of values by name, got {given['attributes']!r}")
    return given


def options_of_rows(options: Mapping[str, Any], rows: Sequence[int], count: int) -> dict[int, dict[str, Any]]:
    """The reset options of some of `count` worlds, by number.

    A dictionary of values by number of the world stands for any option; those that are left out are not given it. Of
    `scene` there may also be a list with one for each world.

    Raises:
        ValueError: An option is unknown, is given to a world that is not among `rows`, or is none; the world is named.
    """
    check_options(dict.fromkeys(options))
    values = {name: _by_row(name, value, rows, count) for name, value in options.items()}
    found = {}
    for row in rows:
        with naming(row, count):
            found[row] = check_options({name: each[row] for name, each in values.items()})
    return found


@contextmanager
def naming(row: int, count: int) -> Iterator[None]:
    """Says in a ValueError which of `count` worlds it is about, where there are several."""
    try:
        yield
    except ValueError as error:
        if count == 1:
            raise
        raise ValueError(f"world {row}: {error}") from error


def draw_start(world: World, options: dict[str, Any], rng: np.random.Generator) -> Start:
    """Draws what the options leave open.

    Raises:
        ValueError: An option has a value that does not fit the world.
    """
    future = int(rng.integers(2**31))
    wanted = options.get("scene", "random")
    if "attributes" in options:
        wanted = _scene_with(world, options["attributes"], wanted, rng)
    index, scene = _find_scene(world, wanted, rng)
    arc, layout, others = None, None, None
    if "route" in options:
        route = options["route"]
        if isinstance(route, str):
            if route != "random":
                raise ValueError(f"option route is 'random' or an array [M, 2] of points in metres, got {route!r}")
            route = random_route(rng)
        scene, arc = draw_route(scene, route, bool(options.get("closed", False)))
    if isinstance(options.get("layout"), str) and options["layout"] == RANDOM:
        layout = draw_layout(world, scene, rng)
    elif "layout" in options:
        origin = origin_of_scene(wanted) if isinstance(wanted, (Scene, Mapping)) else np.zeros(2)
        layout, others = find_layout(world, options["layout"], scene, origin)
    return Start(index, scene, arc, future, layout, others)


def enter(world: World, start: Start) -> tuple[RowState, StepOutput]:
    """State of one world at a start, the caller's to keep, and what the network reads off the start's last frame.

    Scenes of a world that is on disk are entered once, on their own road; a drawn one begins out of sight. With a
    layout the world is told who was in the scene as well, where that is known.
    """
    told = start.layout is not None
    own = start.index >= 0 and (start.arc is None or ROUTE in world.spec.conditions)
    known = _entered.setdefault(world, {}) if world.fingerprint and own else {}
    if (start.index, told) not in known:
        scene = world.scenes[start.index] if own else start.scene
        if told:
            scene = replace(scene, conditions={**scene.conditions, OTHERS: start.layout})
        known[start.index, told] = world.enter([scene], [start.future])
    state, out = known[start.index, told]
    state = world.reseed(state.clone(), [start.future])
    if start.arc is not None:
        state = world.condition(state, {ROUTE: {**start.scene.conditions[ROUTE], "arc": start.arc}})
    if told:
        state = world.condition(state, {OTHERS: start.layout})
    return state, out


def follow(world: World, state: RowState, sources: Sequence[Source], elapsed: Sequence[int]) -> RowState:
    """The state with others where logs and functions have them so many steps after the start."""
    told = [(row, source) for row, source in enumerate(sources) if source is not None]
    poses = world.poses(state).double().cpu().numpy() if told else ()
    for row, source in told:
        with naming(row, len(sources)):
            boxes = source.at(elapsed[row], elapsed[row] * world.spec.dt, poses[row])
        if boxes is not None:
            state = world.condition(state, {OTHERS: boxes}, [row])
    return state


def _by_row(name: str, value: Any, rows: Sequence[int], count: int) -> Sequence[Any]:
    """The values of an option of all worlds; None where it is not given."""
    if isinstance(value, Mapping) and value and all(_is_number(key) for key in value):
        if not set(value) <= set(rows):
            told = sorted(map(int, value))
            raise ValueError(f"option {name} is given to the worlds {told}, but those that are reset are {list(rows)}")
        return [value.get(row) for row in range(count)]
    if name != "scene" or not isinstance(value, (list, tuple, np.ndarray)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"a list of scenes has one for each of the {count} worlds, got {len(value)}")
    return list(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _scene_with(world: World, wanted: Mapping[str, Any], scene: Any, rng: np.random.Generator) -> int:
    """The number of a scene that was so, drawn of those that are."""
    if not (isinstance(scene, str) and scene == "random"):
        raise ValueError("options scene and attributes exclude each other: attributes draws one of the world's scenes")
    check_attributes(wanted, world.spec, "option attributes")
    fitting = [index for index, each in enumerate(world.scenes) if wanted.items() <= each.attributes.items()]
    if not fitting:
        there = {tuple(each.attributes.get(name) for name in wanted) for each in world.scenes}
        raise ValueError(
            f"no scene of this world has the attributes {dict(wanted)}; of {list(wanted)} there are "
            f"{sorted(there, key=str)}"
        )
    return int(rng.choice(fitting))


def _find_scene(world: World, wanted: Any, rng: np.random.Generator) -> tuple[int, Scene]:
    """Index (-1: handed over) and scene for the option `scene`."""
    known = world.scenes
    if isinstance(wanted, (Scene, Mapping)):
        return -1, world.check_scene(wanted)
    if isinstance(wanted, str) and wanted == "random":
        if not known:
            raise ValueError("this world has no start scenes: hand one over, reset(options={'scene': {...}})")
        wanted = int(rng.integers(len(known)))
    if not _is_number(wanted) or not 0 <= int(wanted) < len(known):
        kinds = f"an index from 0 to {len(known) - 1}, 'random', a Scene or a dictionary of its fields"
        raise ValueError(f"option scene is {kinds}, got {wanted!r}")
    return int(wanted), known[int(wanted)]
