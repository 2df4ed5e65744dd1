"""The file format of recordings: HDF5 shards of whole episodes, lossless, sealed, and read without trust.

A shard is composed in memory and written in one move, so a shard that exists is whole. Frames are gzipped in chunks of
16. A seal stands in front (see `drivedit.utils.hdf5`; shards of earlier versions have none). What a recording does not
know (of a filmed drive often everything but pictures and controls) is NaN, or an empty route.

Legend: n steps of an episode, K telemetry values, M points of a route.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from drivedit.config import WorldConfig
from drivedit.utils.files import write_atomically
from drivedit.utils.hdf5 import (
    BLOCK,
    MOST_BYTES,
    MOST_VALUES,
    attributes,
    check_bytes,
    check_texts,
    dataset,
    member,
    seal,
    text,
)

FORMAT = "drivedit-recording"
VERSION = 1
ENV_ID = "CarRacingTwin-v0"
TELEMETRY = ("speed", "lateral_offset", "heading_error", "wheels_on_road")  # of the twin, and of version 1 unless named
MOST_POINTS = 100_000  # of a route
MEND = (
    "copy it again, or delete it and, if collect wrote it, run collect again with the same settings: it refills what "
    "is missing"
)

_BAD_FILE = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError)  # h5py raises


class ShardError(ValueError):
    """A shard that cannot be used: truncated, corrupt, or not a recording."""


@dataclass
class Episode:
    """One drive of `n` steps; NaN in a float array means that the recording does not know it.

    Attributes:
        frames: uint8 [n+1, H, W, 3].
        controls: float32 [n, 2], [steering, throttle]; `controls[i]` led from `frames[i]` to `frames[i+1]`.
        reward: float32 [n].
        progress: float32 [n], the progress term of the reward.
        terminated: bool [n].
        telemetry: float32 [n+1, K].
        poses: float64 [n+1, 3]: x, y, yaw.
        route: float32 [M, 2], the centre line in driving direction; M = 0: not known. Poses and route of a map
            projection are to be told from an origin near the drive (`drivedit.utils.origin_of`).
        seed: seed of the track.
        driver: name of the driver.
        start: reset options of the twin.
        closed: whether the route is a closed lap.
        bounds: float32 [4] of the playfield, beyond which the episode ends: x and y at least, x and y at most; None:
            not known.
        fps: frames per second.
        telemetry_names: names of the K telemetry values.
        extra: further arrays of numbers, texts and numbers by name, which the format only carries.
    """

    frames: np.ndarray
    controls: np.ndarray
    reward: np.ndarray
    progress: np.ndarray
    terminated: np.ndarray
    telemetry: np.ndarray
    poses: np.ndarray
    route: np.ndarray
    seed: int = 0
    driver: str = ""
    start: dict[str, Any] = field(default_factory=dict)
    closed: bool = True
    bounds: np.ndarray | None = None
    fps: float = WorldConfig.fps
    telemetry_names: tuple[str, ...] = TELEMETRY
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Steps."""
        return len(self.controls)

    def told(self, name: str) -> np.ndarray:
        """A telemetry value by its name, [n+1]; NaN where the recording has none of that name."""
        if name not in self.telemetry_names:
            return np.full(len(self.telemetry), np.nan, np.float32)
        return self.telemetry[:, self.telemetry_names.index(name)]


_ARRAYS: dict[str, tuple[str, int | None, tuple[int | None, ...]]] = {  # dtype, length beyond n, rest (None: free)
    "frames": ("uint8", 1, (None, None, 3)),
    "controls": ("float32", 0, (2,)),
    "reward": ("float32", 0, ()),
    "progress": ("float32", 0, ()),
    "terminated": ("bool", 0, ()),
    "telemetry": ("float32", 1, (None,)),
    "poses": ("float64", 1, (3,)),
    "route": ("float32", None, (2,)),
}
_ATTRIBUTES = ("seed", "driver", "start", "closed", "bounds")  # of an episode


def check_episode(episode: Episode) -> None:
    """Raises ValueError if an array of the episode has the wrong type or shape, or its rate or names are none."""
    _check_arrays({name: np.asarray(getattr(episode, name)) for name in _ARRAYS}, episode.telemetry_names)
    if not (math.isfinite(episode.fps) and episode.fps > 0):
        raise ValueError(f"episode.fps must be positive and finite, got {episode.fps}")
    if episode.bounds is not None and np.shape(episode.bounds) != (4,):
        raise ValueError(f"episode.bounds must have 4 values, got the shape {list(np.shape(episode.bounds))}")
    taken = sorted({*_ARRAYS, *_ATTRIBUTES} & set(episode.extra))
    if taken:
        raise ValueError(f"episode.extra must not have names of the format itself, got {taken}")


def _check_arrays(arrays: dict[str, Any], telemetry_names: Sequence[str]) -> None:
    """The same for arrays, or for HDF5 datasets that are not read yet."""
    n = arrays["controls"].shape[0] if arrays["controls"].ndim else 0
    for name, (dtype, extra, rest) in _ARRAYS.items():
        array = arrays[name]
        length = array.shape[0] if extra is None and array.ndim else n + (extra or 0)
        if name == "telemetry":
            rest = (len(telemetry_names),)
        wanted = tuple(size if size is not None else (array.shape[axis] if axis < array.ndim else 0)
                       for axis, size in enumerate(rest, 1))  # fmt: skip
        if array.dtype != np.dtype(dtype) or array.shape != (length, *wanted):
            expected = str([length, *rest]).replace("None", "any")
            raise ValueError(
                f"episode.{name} must be {dtype} {expected} for {n} steps, got {array.dtype} {list(array.shape)}"
            )
    if n < 1 or 0 in arrays["frames"].shape:
        raise ValueError(f"an episode needs a step and pictures, got frames of shape {list(arrays['frames'].shape)}")
    if len(arrays["route"]) > MOST_POINTS:
        raise ValueError(f"a route can have {MOST_POINTS} points at most, got {len(arrays['route'])}")


def _check_names(names: Any) -> tuple[str, ...]:
    """The names of telemetry values, if they are."""
    names = tuple(names)
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError(f"telemetry names must be different texts, got {names}")
    if len(names) > MOST_VALUES:
        raise ValueError(f"there can be {MOST_VALUES} telemetry values at most, got {len(names)}")
    return names


def write_shard(
    path: str | Path, episodes: Sequence[Episode], attrs: dict[str, Any] | None = None, compression: int = 4
) -> None:
    """Writes episodes as one shard, atomically.

    Args:
        path: the file to be; its folder is made.
        episodes: at least one; all of the same rate and telemetry.
        attrs: further attributes of the shard (`held_out`, `recipe`, `env` where it is not the twin).
        compression: of the frames, 0 (fast) to 9 (small).

    Raises:
        ValueError: an episode does not fit the format or the others.
        OSError: the file could not be written, for instance because the disk is full; nothing else is touched.
    """
    if not episodes:
        raise ValueError("a shard needs at least one episode")
    attrs = attrs or {}
    if {"fps", "telemetry"} & set(attrs):
        raise ValueError("the rate and the telemetry are told by the episodes (fps, telemetry_names), not by attrs")
    for episode in episodes:
        check_episode(episode)
        for name in ("fps", "telemetry_names"):
            first, other = getattr(episodes[0], name), getattr(episode, name)
            if first != other:
                raise ValueError(f"the episodes of a shard must have the same {name}, got {first} and {other}")
    told = {"fps": float(episodes[0].fps), "telemetry": json.dumps(_check_names(episodes[0].telemetry_names))}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=BLOCK) as file:
        _write_attributes(
            file, {"format": FORMAT, "version": VERSION, "env": ENV_ID, "held_out": False, **attrs, **told}
        )
        for number, episode in enumerate(episodes):
            _write_episode(file.create_group(f"episode_{number:06d}"), episode, compression)
        file.flush()
        for owner in (file, *(group for group, _ in _parts(file, episodes[0].telemetry_names))):  # can it be read?
            attributes(owner, is_sealed=True)
    data = buffer.getbuffer()
    if len(data) > MOST_BYTES:
        raise ValueError(f"a shard can have {MOST_BYTES} bytes at most, got {len(data)}; write fewer episodes in it")
    data[:BLOCK] = seal(hashlib.sha256(data[BLOCK:]).hexdigest())
    write_atomically(path, lambda file: file.write(data))


def _write_episode(group: Any, episode: Episode, compression: int) -> None:
    """One episode as an HDF5 group."""
    arrays = {name: np.asarray(getattr(episode, name)) for name in _ARRAYS}
    arrays |= {name: value for name, value in episode.extra.items() if isinstance(value, np.ndarray)}
    for name, array in arrays.items():
        if not array.size:
            group.create_dataset(name, data=array)
            continue
        chunks = (min(16, len(array)), *array.shape[1:]) if name == "frames" else array.shape
        packing = {"compression": "gzip", "compression_opts": compression} if name == "frames" else {}
        group.create_dataset(name, data=array, chunks=chunks, fletcher32=True, **packing)
    told = {"seed": int(episode.seed), "driver": episode.driver, "start": json.dumps(episode.start)}
    told |= {"closed": bool(episode.closed)}
    told |= {} if episode.bounds is None else {"bounds": np.asarray(episode.bounds, np.float32)}
    _write_attributes(group, told | {name: value for name, value in episode.extra.items() if name not in arrays})


def _write_attributes(owner: Any, told: dict[str, Any]) -> None:
    """Attributes of a file or group; texts declare their length."""
    owner.attrs.update({name: text(value) if isinstance(value, str) else value for name, value in told.items()})


def read_attrs(path: str | Path) -> dict[str, Any]:
    """The attributes of a shard, checked for format and version; `fps` and `telemetry` (a tuple) are always there.

    Raises:
        FileNotFoundError: there is no such file.
        ShardError: the file is truncated, corrupt or not a recording.
    """
    with _opened(path) as (_, attrs, _):
        return attrs


def read_shard(path: str | Path) -> list[Episode]:
    """Reads all episodes of a shard.

    Raises:
        FileNotFoundError: there is no such file.
        ShardError: the file is truncated, corrupt or not a recording, or it points out of itself.
    """
    with _opened(path) as (file, attrs, is_sealed):
        parts = _parts(file, attrs["telemetry"])
        return [_read_episode(datasets, attributes(group, is_sealed), attrs) for group, datasets in parts]


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
            if attrs.get("format") != FORMAT or attrs.get("version") != VERSION:
                found = f"format {attrs.get('format')!r}, version {attrs.get('version')!r}"
                raise ShardError(f"{path} is not a {FORMAT} of version {VERSION} ({found})")
            attrs["fps"] = float(attrs.get("fps", WorldConfig.fps))
            if not (math.isfinite(attrs["fps"]) and attrs["fps"] > 0):
                raise ValueError(f"its frame rate is {attrs['fps']}")
            attrs["telemetry"] = _check_names(json.loads(attrs["telemetry"])) if "telemetry" in attrs else TELEMETRY
            yield file, attrs, is_sealed
    except (ShardError, PermissionError):
        raise
    except _BAD_FILE as error:
        raise ShardError(f"shard {path} is truncated or corrupt ({error}); {MEND}") from error


def _parts(file: Any, telemetry_names: tuple[str, ...]) -> list[tuple[Any, dict[str, Any]]]:
    """The group of every episode, and its arrays before they are read, of shapes and sizes that can be meant."""
    parts, size = [], 0
    for number in sorted(file):
        group = member(file, number, h5py.Group)
        found = {name: dataset(group, name) for name in dict.fromkeys((*_ARRAYS, *group))}
        _check_arrays({name: found[name] for name in _ARRAYS}, telemetry_names)
        size += sum(data.dtype.itemsize * math.prod(data.shape) for data in found.values())
        if size > MOST_BYTES:
            raise ValueError(f"the arrays take {size} bytes and more, those of a shard can take {MOST_BYTES} at most")
        parts.append((group, found))
    if not parts:
        raise ValueError("there is no episode")
    return parts


def _read_episode(datasets: dict[str, Any], told: dict[str, Any], attrs: dict[str, Any]) -> Episode:
    """One episode of an open shard, of its datasets, its attributes and those of the shard."""
    arrays = {name: np.asarray(data[()]) for name, data in datasets.items()}
    driver, start = told["driver"], json.loads(told["start"])
    if not isinstance(driver, str) or not isinstance(start, dict):
        raise ValueError(f"driver must be a text and start a dictionary, got {driver!r} and {start!r}")
    episode = Episode(
        **{name: arrays.pop(name) for name in _ARRAYS},
        seed=int(told["seed"]),
        driver=driver,
        start=start,
        closed=bool(told["closed"]),
        bounds=np.asarray(told["bounds"], np.float32) if "bounds" in told else None,
        fps=attrs["fps"],
        telemetry_names=attrs["telemetry"],
        extra=arrays | {name: value for name, value in told.items() if name not in _ATTRIBUTES},
    )
    check_episode(episode)
    return episode
