"""Recordings on disk: HDF5 shards of whole episodes, lossless and checksummed.

A folder holds `shard-00000.h5`, ... A shard is composed in memory and written in one move, so a shard that exists is
whole. Frames are gzipped in chunks of 16. `n` is steps per episode.
What a recording does not know (of a filmed drive often everything but pictures and controls) is NaN, or an empty route.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FORMAT = "drivedit-recording"
VERSION = 1
ENV_ID = "CarRacingTwin-v0"
TELEMETRY = ("speed", "lateral_offset", "heading_error", "wheels_on_road")
EPISODES_AT_ONCE = 20
MEND = "delete this file and run collect again with the same settings: it refills what is missing"


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
        telemetry: float32 [n+1, 4], see `TELEMETRY`.
        poses: float64 [n+1, 3]: x, y, yaw.
        route: float32 [M, 2], the centre line in driving direction; M = 0: not known.
        seed: seed of the track.
        driver: name of the driver.
        start: reset options of the twin.
        closed: whether the route is a closed lap.
        bounds: float32 [4] of the playfield, beyond which the episode ends: x and y at least, x and y at most; None:
            not known.
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

    def __len__(self) -> int:
        """Steps."""
        return len(self.controls)


_ARRAYS: dict[str, tuple[str, int | None, tuple[int | None, ...]]] = {  # dtype, length beyond n, rest (None: free)
    "frames": ("uint8", 1, (None, None, 3)),
    "controls": ("float32", 0, (2,)),
    "reward": ("float32", 0, ()),
    "progress": ("float32", 0, ()),
    "terminated": ("bool", 0, ()),
    "telemetry": ("float32", 1, (4,)),
    "poses": ("float64", 1, (3,)),
    "route": ("float32", None, (2,)),
}


def check_episode(episode: Episode) -> None:
    """Raises ValueError if an array of the episode has the wrong type or shape."""
    n = len(episode.controls)
    for name, (dtype, extra, rest) in _ARRAYS.items():
        array = np.asarray(getattr(episode, name))
        length = array.shape[0] if extra is None and array.ndim else n + (extra or 0)
        wanted = tuple(size or (array.shape[axis] if axis < array.ndim else 0) for axis, size in enumerate(rest, 1))
        if array.dtype != np.dtype(dtype) or array.shape != (length, *wanted):
            expected = str([length, *rest]).replace("None", "any")
            raise ValueError(
                f"episode.{name} must be {dtype} {expected} for {n} steps, got {array.dtype} {list(array.shape)}"
            )


def shard_path(folder: str | Path, index: int) -> Path:
    """Where shard `index` of a folder lies."""
    return Path(folder) / f"shard-{index:05d}.h5"


def write_shard(path: str | Path, episodes: Sequence[Episode], attrs: dict[str, Any] | None = None) -> None:
    """Writes episodes as one shard, atomically.

    Args:
        path: the file to be; its folder is made.
        episodes: at least one.
        attrs: further attributes of the shard (`held_out`, `recipe`, `fps` where it is not the twin's).

    Raises:
        OSError: the file could not be written, for instance because the disk is full; nothing else is touched.
    """
    from drivedit.utils import write_atomically  # imports torch

    path = Path(path)
    if not episodes:
        raise ValueError("a shard needs at least one episode")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "env": ENV_ID, "held_out": False, **(attrs or {})})
        for number, episode in enumerate(episodes):
            check_episode(episode)
            group = file.create_group(f"episode_{number:06d}")
            for name in _ARRAYS:
                array = np.asarray(getattr(episode, name))
                chunks = (min(16, len(array)), *array.shape[1:]) if name == "frames" else array.shape
                if not array.size:
                    group.create_dataset(name, data=array)
                    continue
                packing = {"compression": "gzip", "compression_opts": 4} if name == "frames" else {}
                group.create_dataset(name, data=array, chunks=chunks, fletcher32=True, **packing)
            group.attrs["seed"] = int(episode.seed)
            group.attrs["driver"] = episode.driver
            group.attrs["start"] = json.dumps(episode.start)
            group.attrs["closed"] = bool(episode.closed)
            if episode.bounds is not None:
                group.attrs["bounds"] = np.asarray(episode.bounds, np.float32)
    try:
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))
    except OSError as error:
        reason = f"{error.strerror} and run the same command again, finished shards are kept"
        raise OSError(error.errno, reason) from error


def read_attrs(path: str | Path) -> dict[str, Any]:
    """The attributes of a shard, checked for format and version."""
    with _open(path) as file:
        return dict(file.attrs)


def read_shard(path: str | Path) -> list[Episode]:
    """Reads all episodes of a shard.

    Raises:
        FileNotFoundError: there is no such file.
        ShardError: the file is truncated, corrupt or not a recording.
    """
    with _open(path) as file:
        try:
            return [_read_episode(file[name]) for name in sorted(file)]
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ShardError(f"shard {path} is corrupt ({error}); {MEND}") from error


def batches(episodes: Iterable[Episode], size: int = EPISODES_AT_ONCE) -> Iterator[list[Episode]]:
    """Lists of at most `size` episodes, so that no recording need fit in memory."""
    batch: list[Episode] = []
    for episode in episodes:
        batch.append(episode)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def iter_episodes(folder: str | Path, held_out: bool = False) -> Iterator[Episode]:
    """Goes through all episodes of a recording folder, shard by shard.

    Args:
        folder: holds `shard-*.h5`, perhaps in folders of its own.
        held_out: whether held-out recordings are wanted; the other kind is refused, so that none is trained on.
    """
    for path in shard_paths(folder):
        is_held_out = bool(read_attrs(path).get("held_out", False))
        if is_held_out != held_out:
            kind = "held-out" if is_held_out else "training"
            raise ValueError(f"{path} is a {kind} recording; pass held_out={is_held_out} if this is what you want")
        yield from read_shard(path)


def shard_paths(folder: str | Path) -> list[Path]:
    """The shards of a folder and of the folders in it, in order; FileNotFoundError if there is none."""
    paths = sorted(Path(folder).rglob("shard-*.h5"))
    if not paths:
        raise FileNotFoundError(
            f"no shard-*.h5 in {folder}; record some: python -m drivedit.data collect --out {folder}"
        )
    return paths


def _open(path: str | Path) -> h5py.File:
    """Opens a shard for reading and checks that it is one."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no shard {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ShardError(f"shard {path} is truncated or corrupt ({error}); {MEND}") from error
    if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
        found = f"format {file.attrs.get('format')!r}, version {file.attrs.get('version')!r}"
        file.close()
        raise ShardError(f"{path} is not a {FORMAT} of version {VERSION} ({found})")
    return file


def _read_episode(group: Any) -> Episode:
    """One episode (an HDF5 group) of an open shard."""
    arrays: dict[str, np.ndarray] = {name: np.asarray(group[name][()]) for name in _ARRAYS}
    attrs: dict[str, Any] = dict(group.attrs)
    episode = Episode(
        **arrays,
        seed=int(attrs["seed"]),
        driver=str(attrs["driver"]),
        start=json.loads(attrs["start"]),
        closed=bool(attrs["closed"]),
        bounds=attrs.get("bounds"),
    )
    check_episode(episode)
    return episode
