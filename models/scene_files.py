"""Start scenes as arrays of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import deserialize

from drivedit.models.scenes import ROUTE, Scene
from drivedit.utils.episodes import Agents, agent_shapes

TYPES = {"U8": np.uint8, "F32": np.float32, "F64": np.float64, "BOOL": np.bool_, "I64": np.int64}  # of arrays in files
AGENTS = {*agent_shapes(0), "names"}  # what a file tells of agents


def pack_scenes(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Arrays of scenes by name: `count` of them, and `0.observations/camera`, `0.controls`, ...

    What is None is left out. Texts are JSON in UTF-8.
    """
    arrays: dict[str, np.ndarray] = {"count": np.array(len(scenes))}
    for index, scene in enumerate(scenes):
        arrays |= {f"{index}.{name}": np.require(array, None, "C") for name, array in _packed(scene).items()}
    return arrays


def _packed(scene: Scene) -> dict[str, np.ndarray]:
    """The arrays of a scene by name."""
    arrays = {f"observations/{kind}": seen for kind, seen in scene.observations.items()}
    arrays |= {name: getattr(scene, name) for name in ("controls", "times", "poses")}
    for name, value in scene.conditions.items():
        parts = {f"{name}/{part}": told for part, told in value.items()} if name == ROUTE else {name: value}
        arrays |= {f"conditions/{part}": told for part, told in parts.items()}
    if scene.agents is not None:
        arrays |= {f"agents/{name}": getattr(scene.agents, name) for name in agent_shapes(0)}
        arrays["agents/names"] = _text(scene.agents.names)
    arrays |= {"attributes": _text(scene.attributes)} if scene.attributes else {}
    return {name: np.asarray(array) for name, array in arrays.items() if array is not None}


def _text(value: Any) -> np.ndarray:
    """Something as JSON, uint8 `[N]`."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpack_scenes(data: bytes) -> list[dict[str, Any]]:
    """Scenes from the bytes of a safetensors file with the arrays of `pack_scenes`, or of those before it.

    Files before it have `0.frames`, `0.route`, `0.closed` and `0.bounds`, as a mapping of `check_scene` may.

    Returns:
        A mapping for `check_scene` of each.

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
    return [_unpacked(rows[str(index)]) for index in range(len(rows))]


def _unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The reverse of `_packed`, not checked yet, or ValueError."""
    told = _nested(arrays, ("observations", "conditions", "agents"))
    told["conditions"] = _nested(told.get("conditions", {}), (ROUTE,))
    for place in (told, told["conditions"].get(ROUTE, {})):
        if "closed" in place:
            place["closed"] = place["closed"].item()
    if "attributes" in told:
        told["attributes"] = json.loads(told["attributes"].tobytes())
    if "agents" in told:
        agents = told["agents"]
        if set(agents) != AGENTS:
            raise ValueError(f"the agents of a scene have the arrays {sorted(agents)}, not {sorted(AGENTS)}")
        names = json.loads(agents["names"].tobytes())
        if not isinstance(names, list):
            raise ValueError(f"the names of kinds of agents are a list, got {names!r}")
        told["agents"] = Agents(**{**agents, "names": tuple(names)})
    return told


def _nested(arrays: Mapping[str, np.ndarray], parts: Sequence[str]) -> dict[str, Any]:
    """Arrays by name, those of `part/name` in a dictionary of that part; ValueError if a part is an array itself."""
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        if part not in parts:
            nested[name] = array
        elif not rest:
            raise ValueError(f"{name} of a scene is an array, and should be several")
        else:
            nested.setdefault(part, {})[rest] = array
    return nested
