"""The file format of recordings: HDF5 shards of whole episodes, lossless, sealed, and read without trust.

A shard is composed in memory and written in one move, so a shard that exists is whole. A seal stands in front (see
`drivedit.utils.hdf5`). The spec stands in it once, for all its episodes. Observations are gzipped in chunks of 16.
What `drivedit.utils.earlier_shards` knows is read as well.

Legend: n steps of an episode, K telemetry values, R reward terms.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from drivedit.config import WorldSpec
from drivedit.utils import earlier_shards
from drivedit.utils.episodes import Agents, Episode, Shape, arrays_of, check_arrays, check_episode, columns, shapes
from drivedit.utils.files import write_atomically
from drivedit.utils.hdf5 import (
    BLOCK,
    MOST_BYTES,
    attributes,
    check_bytes,
    check_texts,
    dataset,
    member,
    seal,
    text,
)

FORMAT = "drivedit-recording"
VERSION = 2
MEND = (
    "copy it again, or delete it and, if collect wrote it, run collect again with the same settings: it refills what "
    "is missing"
)

_OWN = ("format", "version", "spec")  # attributes of a shard that nobody gives
_BAD_FILE = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError)  # h5py raises

Datasets = dict[str, h5py.Dataset]


class ShardError(ValueError):
    """A shard that cannot be used: truncated, corrupt, or not a recording."""


def write_shard(
    path: str | Path, episodes: Sequence[Episode], attrs: dict[str, Any] | None = None, compression: int = 4
) -> None:
    """Writes episodes as one shard, atomically.

    Args:
        path: The file to be; its folder is made.
        episodes: At least one; all of the same spec.
        attrs: Attributes of the shard: `held_out` (whether it is kept for judging; default no), `env` (Gymnasium id of
            what was recorded; default empty), `made_from` (a dictionary that tells the code and the recipe); others.
        compression: Of the observations, 0 (fast) to 9 (small).

    Raises:
        ValueError: An episode does not fit its spec or the others.
        OSError: The file could not be written, for instance because the disk is full; nothing else is touched.
    """
    if not episodes:
        raise ValueError("a shard needs at least one episode")
    told: dict[str, Any] = {"held_out": False, "env": "", "made_from": {}, **(attrs or {})}
    if set(_OWN) & set(told):
        raise ValueError(f"the attributes {list(_OWN)} of a shard are told by its episodes, not by attrs")
    spec = episodes[0].spec
    _check_names(spec)
    for number, episode in enumerate(episodes):
        check_episode(episode)
        if episode.spec != spec:
            spec.check_same(episode.spec, "the first episode of a shard", f"episode {number}")
            raise ValueError(f"the episodes of a shard must have the same spec, the first has {spec}, {number} has "
                             f"{episode.spec}")  # fmt: skip
    told |= {"format": FORMAT, "version": VERSION}
    told["spec"] = json.dumps(WorldSpec.from_dict(spec.to_dict()).to_dict())  # numbers of one type
    told["made_from"] = json.dumps(told["made_from"])
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=BLOCK) as file:
        _write_attributes(file, told)
        for number, episode in enumerate(episodes):
            _write_episode(file.create_group(f"episode_{number:06d}"), episode, compression)
        file.flush()
        attributes(file, is_sealed=True)  # can it be read?
        for group, _ in _parts(file, spec, _located):
            _attributes(group)
    data = buffer.getbuffer()
    if len(data) > MOST_BYTES:
        raise ValueError(f"a shard can have {MOST_BYTES} bytes at most, got {len(data)}; write fewer episodes in it")
    data[:BLOCK] = seal(hashlib.sha256(data[BLOCK:]).hexdigest())
    write_atomically(path, lambda file: file.write(data))


def _check_names(spec: WorldSpec) -> None:
    """Raises ValueError if the name of an observation cannot be that of a dataset."""
    bad = [name for name in spec.observations if "/" in name or "\0" in name or name == "."]
    if bad:
        raise ValueError(f"the names of observations in a file must be without / and zeros, got {bad}")


def _write_episode(group: Any, episode: Episode, compression: int) -> None:
    """One episode as an HDF5 group."""
    arrays, n = arrays_of(episode), len(episode)
    for part, names, length in (("telemetry", episode.spec.names("telemetry"), n + 1),
                                ("rewards", episode.spec.rewards, n)):  # fmt: skip
        columns = [arrays.pop(f"{part}/{name}") for name in names]
        arrays[part] = np.stack(columns, 1) if columns else np.zeros((length, 0), np.float32)
    for name, array in sorted(arrays.items()):
        packing: dict[str, Any] = {}
        if name.startswith("observations/"):
            packing = {"chunks": (min(16, len(array)), *array.shape[1:]), "compression": "gzip",
                       "compression_opts": compression, "shuffle": array.dtype.itemsize > 1}  # fmt: skip
        group.create_dataset(name, data=array, **packing)
    told = {name: getattr(episode, name) for name in ("seed", "driver", "closed", "ending")}
    told |= {name: json.dumps(getattr(episode, name)) for name in ("start", "attributes")}
    told |= {} if episode.bounds is None else {"bounds": np.asarray(episode.bounds, np.float32)}
    _write_attributes(group, told)
    if episode.agents is not None:
        _write_attributes(group["agents"], {"names": json.dumps(episode.agents.names)})
    if episode.extra:
        extra = group.create_group("extra")
        for name, value in sorted(episode.extra.items()):
            if isinstance(value, np.ndarray):
                extra.create_dataset(name, data=value)
            else:
                _write_attributes(extra, {name: value})


def _write_attributes(owner: Any, told: dict[str, Any]) -> None:
    """Attributes of a file or group; texts declare their length."""
    owner.attrs.update({name: text(value) if isinstance(value, str) else value for name, value in told.items()})


def read_attrs(path: str | Path) -> dict[str, Any]:
    """The attributes of a shard, checked: `spec` (a `WorldSpec`), `held_out`, `env`, `made_from`, `version`, others.

    Raises:
        FileNotFoundError: There is no such file.
        ShardError: The file is truncated, corrupt or not a recording.
    """
    with _opened(path) as (_, attrs, _):
        return attrs


def read_shard(path: str | Path, kinds: Sequence[str] | None = None) -> list[Episode]:
    """Reads all episodes of a shard.

    Args:
        path: The file.
        kinds: Names of the observations that are wanted, the others are not read and not in the spec; None: all.

    Raises:
        FileNotFoundError: There is no such file.
        ShardError: The file is truncated, corrupt or not a recording, or it points out of itself.
    """
    with _opened(path) as (file, attrs, is_sealed):
        spec = attrs["spec"]
        if attrs["version"] == VERSION:
            parts = _parts(file, spec, _located)
            episodes = [_episode(*_wanted(spec, found, kinds), _attributes(group)) for group, found in parts]
        else:
            parts = _parts(file, spec, earlier_shards.located)
            spec = spec if kinds is None else spec.only(kinds)
            episodes = [earlier_shards.episode(spec, found, attributes(group, is_sealed)) for group, found in parts]
        for episode in episodes:
            check_episode(episode)
        return episodes


def _wanted(spec: WorldSpec, found: Datasets, kinds: Sequence[str] | None) -> tuple[WorldSpec, Datasets]:
    """The spec and the arrays of an episode with some kinds of observation alone."""
    if kinds is None:
        return spec, found
    left_out = {f"observations/{name}" for name in spec.observations if name not in kinds}
    return spec.only(kinds), {name: data for name, data in found.items() if name not in left_out}


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[h5py.File, dict[str, Any], bool]]:
    """An open shard, its attributes, and whether it is sealed; whatever goes wrong in the block is a `ShardError`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no shard {path}")
    try:
        is_sealed = check_bytes(path)
        if not is_sealed:
            check_texts(path)
        with h5py.File(path, "r") as file:
            attrs = attributes(file, is_sealed)
            attrs["version"] = int(attrs.get("version", 0))
            known = [earlier_shards.VERSION, *([VERSION] if is_sealed else [])]
            if attrs.pop("format", None) != FORMAT or attrs["version"] not in known:
                raise ShardError(
                    f"{path} is not a {FORMAT} of version {VERSION}, sealed, or {earlier_shards.VERSION} "
                    f"(version {attrs['version']}, {'' if is_sealed else 'not '}sealed)"
                )
            if attrs["version"] == VERSION:
                attrs |= {name: json.loads(attrs[name]) for name in ("spec", "made_from")}
                attrs["spec"] = WorldSpec.from_dict(attrs["spec"])
            else:
                attrs = earlier_shards.attributes_now(file, attrs)
            yield file, attrs, is_sealed
    except (ShardError, PermissionError):
        raise
    except _BAD_FILE as error:
        raise ShardError(f"shard {path} is truncated or corrupt ({error}); {MEND}") from error


def _parts(
    file: Any, spec: WorldSpec, locate: Callable[[Any, WorldSpec], Datasets]
) -> list[tuple[h5py.Group, Datasets]]:
    """The group of every episode, and its arrays before they are read, of shapes and sizes that can be meant."""
    parts, size = [], 0
    for number in sorted(file):
        group = member(file, number, h5py.Group)
        found = locate(group, spec)
        size += sum(data.dtype.itemsize * math.prod(data.shape) for data in found.values())
        if size > MOST_BYTES:
            raise ValueError(f"the arrays take {size} bytes and more, those of a shard can take {MOST_BYTES} at most")
        parts.append((group, found))
    if not parts:
        raise ValueError("there is no episode")
    return parts


def _located(group: Any, spec: WorldSpec) -> Datasets:
    """The arrays of an episode, which are not read yet; those of `extra` too."""
    steps = dataset(group, "controls").shape[0]
    wanted = _stored(spec, steps)
    within = {part: member(group, part, h5py.Group) for part in ("agents", "extra") if part in group}
    within["observations"] = member(group, "observations", h5py.Group)
    found: Datasets = {}
    for name in wanted:
        part, _, rest = name.rpartition("/")
        if part in within:
            found[name] = dataset(within[part], rest)
        elif not part and (name != "times" or name in group):
            found[name] = dataset(group, name)
    check_arrays(found, wanted, steps)
    return found | {f"extra/{name}": dataset(within["extra"], name) for name in within.get("extra", ())}


def _stored(spec: WorldSpec, steps: int) -> dict[str, Shape]:
    """The shapes of an episode as they are stored: telemetry `[n + 1, K]` and rewards `[n, R]` are an array each."""
    wanted = {
        name: shape for name, shape in shapes(spec, steps).items() if not name.startswith(("telemetry/", "rewards/"))
    }
    wanted["telemetry"] = ("float32", (steps + 1, len(spec.telemetry)))
    wanted["rewards"] = ("float32", (steps, len(spec.rewards)))
    return wanted


def _attributes(group: Any) -> dict[str, Any]:
    """The attributes of an episode, of its agents and of what it only carries."""
    told = attributes(group, is_sealed=True)
    for part in ("agents", "extra"):
        if part in group:
            told[part] = attributes(member(group, part, h5py.Group), is_sealed=True)
    return told


def _episode(spec: WorldSpec, found: Datasets, told: dict[str, Any]) -> Episode:
    """One episode of its datasets and its attributes."""
    arrays = {name: np.asarray(data[()]) for name, data in found.items()}

    def of(part: str) -> dict[str, np.ndarray]:
        return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{part}/")}

    start, chosen = json.loads(told["start"]), json.loads(told["attributes"])
    if not isinstance(start, dict) or not isinstance(chosen, dict):
        raise ValueError(f"start and attributes must be dictionaries, got {start!r} and {chosen!r}")
    return Episode(
        spec=spec,
        observations=of("observations"),
        rewards=columns(arrays["rewards"], spec.rewards),
        telemetry=columns(arrays["telemetry"], spec.names("telemetry")),
        **{name: arrays[name] for name in ("controls", "reward", "terminated", "poses", "route")},
        times=arrays.get("times"),
        agents=Agents(**of("agents"), names=tuple(json.loads(told["agents"]["names"]))) if "agents" in told else None,
        closed=bool(told["closed"]),
        bounds=np.asarray(told["bounds"], np.float32) if "bounds" in told else None,
        attributes=chosen,
        ending=str(told["ending"]),
        seed=int(told["seed"]),
        driver=str(told["driver"]),
        start=start,
        extra=of("extra") | told.get("extra", {}),
    )
