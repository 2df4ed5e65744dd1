"""Shards of version 1: one kind of picture, two controls, one reward term, and no spec.

Whose they are says the attribute `env`: where it names a domain's simulator the rest is known from that domain. The
first ones have no seal, no rate and no names of telemetry values.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from drivedit.config import Modality, Quantity, RewardTerm, WorldSpec
from drivedit.config.domain import domain_of
from drivedit.utils.episodes import Episode, check_arrays, columns, shapes
from drivedit.utils.hdf5 import dataset, member

VERSION = 1
PICTURE, TERM = "camera", "progress"
PLAIN = WorldSpec(
    controls=[Quantity("steering"), Quantity("throttle")],
    rewards={TERM: RewardTerm("learned")},
    conditions=["route"],
)  # where no domain says more
LARGEST = 1e9  # of a telemetry value that no domain knows

_OWN = ("controls", "reward", "terminated", "poses", "route")  # called so in every version
_NAMES = {"frames": f"observations/{PICTURE}", "telemetry": "telemetry", TERM: f"rewards/{TERM}"} | {n: n for n in _OWN}


def attributes_now(file: Any, attrs: dict[str, Any]) -> dict[str, Any]:
    """The attributes of such a shard as one of today has them.

    Raises:
        ValueError: They are none, or no episode is there.
    """
    env, told = str(attrs.get("env", "")), dict(attrs)
    domain = domain_of(env)
    spec: WorldSpec = PLAIN if domain is None else domain.spec
    groups = sorted(file)
    if not groups:
        raise ValueError("there is no episode")
    shape = dataset(member(file, groups[0], h5py.Group), "frames").shape
    known = {quantity.name: quantity for quantity in spec.telemetry}
    fps = float(told.pop("fps", 1 / spec.dt))
    if not fps > 0:
        raise ValueError(f"its frame rate is {fps}")
    names = json.loads(told.pop("telemetry")) if "telemetry" in told else list(known)
    told["spec"] = replace(
        spec,
        observations={PICTURE: Modality(tuple(shape[1:]))},
        telemetry=[known.get(name) or Quantity(name, -LARGEST, LARGEST) for name in names],
        dt=1 / fps,
    )
    recipe = str(told.pop("recipe", ""))
    told["made_from"] = {"recipe": json.loads(recipe) if recipe.startswith("{") else recipe} if recipe else {}
    return {"held_out": False, **told, "env": env}


def located(group: Any, spec: WorldSpec) -> dict[str, h5py.Dataset]:
    """The arrays of an episode by the names that they have today, which are not read yet."""
    found = {_NAMES.get(name, f"extra/{name}"): dataset(group, name) for name in dict.fromkeys((*_NAMES, *group))}
    steps = found["controls"].shape[0]
    every = shapes(spec, steps)
    wanted = {name: every[name] for name in _NAMES.values() if name != "telemetry"}
    wanted["telemetry"] = ("float32", (steps + 1, len(spec.telemetry)))
    check_arrays({name: data for name, data in found.items() if not name.startswith("extra/")}, wanted, steps)
    return found


def episode(spec: WorldSpec, found: dict[str, h5py.Dataset], told: dict[str, Any]) -> Episode:
    """One episode of its datasets and its attributes; what version 1 does not tell is not known."""
    arrays = {name: np.asarray(data[()]) for name, data in found.items()}
    told = dict(told)
    start, bounds = json.loads(told.pop("start")), told.pop("bounds", None)
    if not isinstance(start, dict):
        raise ValueError(f"start must be a dictionary, got {start!r}")
    return Episode(
        spec=spec,
        observations={PICTURE: arrays[_NAMES["frames"]]},
        rewards={TERM: arrays[_NAMES[TERM]]},
        telemetry=columns(arrays["telemetry"], spec.names("telemetry")),
        **{name: arrays[name] for name in _OWN},
        times=None,
        agents=None,
        attributes={},
        ending="",
        closed=bool(told.pop("closed")),
        bounds=None if bounds is None else np.asarray(bounds, np.float32),
        seed=int(told.pop("seed")),
        driver=str(told.pop("driver")),
        start=start,
        extra={name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("extra/")} | told,
    )
