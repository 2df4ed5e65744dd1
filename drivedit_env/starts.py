"""Where a dream begins: reset options, the scene they name, and start states, which are computed once per scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from drivedit.models import RowState, Scene, StepOutput, World
from drivedit.models.scenes import ROUTE
from drivedit_env.routes import draw_route, random_route

OPTIONS = ("scene", "route", "closed")

_entered: WeakKeyDictionary[World, dict[int, tuple[RowState, StepOutput]]] = WeakKeyDictionary()


@dataclass
class Start:
    """One beginning.

    Attributes:
        index: Number of the scene in the world, -1 for one that was handed over.
        scene: The scene.
        arc: Where on a hand-drawn route the car is, in metres; None: there is no such route.
        future: Seed of how the dream goes on.
    """

    index: int
    scene: Scene
    arc: float | None
    future: int


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
    return given


def draw_start(world: World, options: dict[str, Any], rng: np.random.Generator) -> Start:
    """Draws what the options leave open.

    Raises:
        ValueError: An option has a value that does not fit the world.
    """
    future = int(rng.integers(2**31))
    index, scene = _find_scene(world, options.get("scene", "random"), rng)
    arc = None
    if "route" in options:
        route = options["route"]
        if isinstance(route, str):
            if route != "random":
                raise ValueError(f"option route is 'random' or an array [M, 2] of points in metres, got {route!r}")
            route = random_route(rng)
        scene, arc = draw_route(scene, route, bool(options.get("closed", False)))
    return Start(index, scene, arc, future)


def enter(world: World, start: Start) -> tuple[RowState, StepOutput]:
    """State of one world at a start, the caller's to keep, and what the network reads off the start's last frame.

    Scenes of a world that is on disk are entered once, on their own road; a drawn one begins out of sight.
    """
    own = start.index >= 0 and (start.arc is None or ROUTE in world.spec.conditions)
    known = _entered.setdefault(world, {}) if world.fingerprint and own else {}
    if start.index not in known:
        scene = world.scenes[start.index] if own else start.scene
        known[start.index] = world.enter([scene], [start.future])
    state, out = known[start.index]
    state = world.reseed(state.clone(), [start.future])
    if start.arc is not None:
        state = world.condition(state, {ROUTE: {**start.scene.conditions[ROUTE], "arc": start.arc}})
    return state, out


def _find_scene(world: World, wanted: Any, rng: np.random.Generator) -> tuple[int, Scene]:
    """Index (-1: handed over) and scene for the option `scene`."""
    known = world.scenes
    if isinstance(wanted, (Scene, Mapping)):
        return -1, world.check_scene(wanted)
    if isinstance(wanted, str) and wanted == "random":
        if not known:
            raise ValueError("this world has no start scenes: hand one over, reset(options={'scene': {...}})")
        wanted = int(rng.integers(len(known)))
    if isinstance(wanted, bool) or not isinstance(wanted, Integral) or not 0 <= int(wanted) < len(known):
        kinds = f"an index from 0 to {len(known) - 1}, 'random', a Scene or a dictionary of its fields"
        raise ValueError(f"option scene is {kinds}, got {wanted!r}")
    return int(wanted), known[int(wanted)]
