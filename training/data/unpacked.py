"""Recordings unpacked beside themselves: a plain file per array, made anew when a shard or the code changes.

`root/unpacked/FINGERPRINT/` never changes once it is there. One process makes it while others wait; it writes plainly,
so a full disk is an error and not the end of the process, and what a killed one left is removed by the next.

Every drive whose places lie far from zero gets an origin of its own (`drivedit.utils.origin_of`), in float64.

Legend: S states of all drives one after another, E drives, K telemetry values, R reward terms, A agents of all states.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from drivedit.config import WorldSpec
from drivedit.data.recordings import Episode, joint_spec, read_folder_attrs, read_shard, shard_paths
from drivedit.utils import UNBOUNDED, code_fingerprint, fingerprint, from_origin, locked, origin_of, work_folder
from drivedit.utils.episodes import BOX

CODE = (__name__, "drivedit.config.domains", "drivedit.data.recordings") + tuple(
    f"drivedit.utils.{name}" for name in ("earlier_shards", "episodes", "origin", "shards")
)
COARSE = 1e-3  # metres that float32 may be off before it is told
FOLDER, LOCK = "unpacked", "lock"  # the second lies in the first

Arrays = dict[str, np.ndarray]

_AGENTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "agents_ids": ("int64", ()),
    "agents_boxes": ("float32", (BOX,)),
    "agents_kinds": ("int64", ()),
}

_OF_DRIVES = ("routes", "closed", "seeds", "bounds", "attributes", "agents_known")

log = logging.getLogger(__name__)


def open_unpacked(root: str | Path, held_out: bool, kinds: Sequence[str] | None = None) -> tuple[Arrays, Arrays, str]:
    """The arrays of a recording folder, unpacked if they are not there yet.

    Args:
        root: Holds `shard-*.h5`, perhaps in folders of its own.
        held_out: Whether held-out recordings are wanted; the other kind is refused.
        kinds: Names of the observations that are unpacked; None: all.

    Returns:
        The memory-mapped arrays of S states and of A agents that `_layout` and `_AGENTS` name; what is neither, as
        `Index.told` says; and the fingerprint of what both were made from.

    Raises:
        FileNotFoundError: There is no shard.
        ValueError: A shard is damaged, of the other kind, or has other observations, controls or `dt` than the others.
        OSError: There is no room to unpack them.
    """
    root = Path(root)
    paths = shard_paths(root)
    names = [path.relative_to(root).as_posix() for path in paths]
    code = code_fingerprint(*CODE)
    source = fingerprint(names, *paths, *([code] if kinds is None else [code, list(kinds)]))
    folder = root / FOLDER / source
    if not folder.is_dir():
        spec = joint_spec([attrs["spec"] for attrs in read_folder_attrs(root, held_out)])
        spec = spec if kinds is None else spec.only(kinds)
        try:
            with locked(root / FOLDER / LOCK, f"unpacking {root}"):
                if not folder.is_dir():
                    _clear(folder.parent)
                    with work_folder(folder) as work:
                        _write(paths, work, spec, held_out)
                        os.replace(work, folder)
        except OSError as error:
            reason = f"could not unpack {root} ({error}); about 12.5 kB of disk per frame of 64 x 64 are needed"
            raise OSError(error.errno, reason) from error
    try:
        with np.load(folder / "index.npz", allow_pickle=False) as stored:
            index = dict(stored)
        total, agents = int(index["first"][-1]), int(index["agents_first"][-1])
        spec = WorldSpec.from_dict(json.loads(str(index["spec"])))
        arrays = {
            name: _mapped(folder / f"{name}.raw", dtype, (total, *shape))
            for name, (dtype, shape) in _layout(spec).items()
        }
        arrays |= {
            name: _mapped(folder / f"{name}.raw", dtype, (agents, *shape)) for name, (dtype, shape) in _AGENTS.items()
        }
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder} is damaged ({error}); delete it, it is made anew") from error
    if bool(index["held_out"]) != held_out:
        raise ValueError(f"{root} holds {'training' if held_out else 'held-out'} recordings, wanted the other kind")
    return arrays, index, source


def _layout(spec: WorldSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of what is kept of every state, by the names of the files; `seen_0` is the first observation."""
    return {
        **{f"seen_{place}": (kind.dtype, kind.shape) for place, kind in enumerate(spec.observations.values())},
        "control": ("float32", (len(spec.controls),)),
        "rewards": ("float32", (len(spec.rewards),)),
        "ended": ("bool", ()),
        "telemetry": ("float32", (len(spec.telemetry),)),
        "pose": ("float64", (3,)),
        "times": ("float64", ()),
    }


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array in a file; an empty one cannot be mapped."""
    return np.memmap(path, dtype, "r", shape=shape) if 0 not in shape else np.zeros(shape, dtype)


def _clear(folder: Path) -> None:
    """Removes all but the lock: arrays of other shards and of other code, and what killed processes left."""
    for other in folder.iterdir():
        if other.is_dir():
            shutil.rmtree(other)
        elif other.name != LOCK:
            other.unlink()


def _write(paths: Sequence[Path], work: Path, spec: WorldSpec, held_out: bool) -> None:
    """Writes the arrays, and `index.npz`."""
    index, layout = Index(spec), _layout(spec) | _AGENTS
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(work / f"{name}.raw", "wb")) for name in layout}
        read = (episode for path in paths for episode in read_shard(path, list(spec.observations)))
        for episode in tqdm(read, desc="unpacking", unit=" drive", mininterval=5):
            for name, value in index.add(episode).items():
                files[name].write(np.ascontiguousarray(value, layout[name][0]).data)
        if index.coarse > COARSE:
            log.warning(
                "routes in %s were written far from zero, where float32 is off by up to %.2g m; write them from an "
                "origin near the drive (drivedit.utils.origin_of), or import the film again",
                os.path.commonpath(paths), index.coarse,
            )  # fmt: skip
        told: dict[str, Any] = {**index.told(), "held_out": np.array(held_out)}
        np.savez(stack.enter_context(open(work / "index.npz", "wb")), **told)


def in_memory(episodes: Iterable[Episode], spec: WorldSpec) -> tuple[Arrays, Arrays]:
    """Arrays and index of some episodes as `open_unpacked` gives them, without a file."""
    index, layout = Index(spec), _layout(spec) | _AGENTS
    parts: dict[str, list[np.ndarray]] = {
        name: [np.zeros((0, *shape), dtype)] for name, (dtype, shape) in layout.items()
    }
    for episode in episodes:
        for name, value in index.add(episode).items():
            parts[name].append(np.asarray(value, layout[name][0]))
    return {name: np.concatenate(found) for name, found in parts.items()}, index.told()


class Index:
    """What is known of episodes beside the arrays of their states, which `add` gives one episode after the other.

    Args:
        spec: Of all of them together.

    Attributes:
        coarse: Metres that float32 was off where a route was written.
    """

    def __init__(self, spec: WorldSpec) -> None:
        self.spec, self.coarse = spec, 0.0
        self._lengths: list[int] = [0]
        self._drives: dict[str, list[Any]] = {name: [] for name in _OF_DRIVES}
        self._agents_first, self._agents_names = [np.zeros(1, np.int64)], dict[str, int]()

    def add(self, episode: Episode) -> Arrays:
        """Notes an episode; returns its rows of the arrays."""
        origin = origin_of(episode.poses, episode.route)
        if origin.any() and len(episode.route):
            self.coarse = max(self.coarse, 0.5 * float(np.spacing(np.abs(episode.route).max())))
        counts, others = _of_agents(episode, origin, self._agents_names)
        self._agents_first.append(counts)
        self._lengths.append(len(episode) + 1)
        told = {
            "agents_known": episode.agents is not None,
            "attributes": episode.attributes,
            "routes": from_origin(episode.route, origin).astype(np.float32),
            "closed": episode.closed,
            "seeds": episode.seed,
            "bounds": UNBOUNDED if episode.bounds is None else from_origin(episode.bounds, origin),
        }
        for name, value in told.items():
            self._drives[name].append(value)
        return _of_states(episode, self.spec, origin) | others

    def told(self) -> Arrays:
        """The index of E drives.

        It holds first `[E + 1]`, routes `[M, 2]` and route_first `[E + 1]`; closed, seeds, bounds, agents_known and, as
        JSON, the attributes; agents_first `[S + 1]` and agents_names, as JSON; the joint spec, as JSON.
        """
        drives = self._drives
        return {
            "first": np.cumsum(self._lengths),
            "routes": np.concatenate(drives["routes"]),
            "route_first": np.cumsum([0, *map(len, drives["routes"])]),
            "bounds": np.array(drives["bounds"], np.float32),
            **{name: np.array(drives[name]) for name in ("closed", "seeds", "agents_known")},
            "attributes": np.array(json.dumps(drives["attributes"])),
            "agents_first": np.cumsum(np.concatenate(self._agents_first)),
            "agents_names": np.array(json.dumps(list(self._agents_names))),
            "spec": np.array(json.dumps(self.spec.to_dict())),
        }


def _of_states(episode: Episode, spec: WorldSpec, origin: np.ndarray) -> Arrays:
    """The arrays of an episode with a row per state; values that it does not have are NaN, those led to begin at 0."""
    telemetry = [episode.told(name) for name in spec.names("telemetry")]
    rewards = [np.append(np.float32(0), episode.earned(name)) for name in spec.rewards]
    return {
        **{f"seen_{place}": episode.observations[name] for place, name in enumerate(spec.observations)},
        "control": np.concatenate([np.zeros((1, len(spec.controls))), episode.controls]),
        "rewards": np.stack(rewards, 1) if rewards else np.zeros((0, 0)),
        "ended": np.concatenate([[False], episode.terminated]),
        "telemetry": np.stack(telemetry, 1) if telemetry else np.zeros((0, 0)),
        "pose": from_origin(episode.poses, origin),
        "times": episode.seconds(),
    }


def _of_agents(episode: Episode, origin: np.ndarray, names: dict[str, int]) -> tuple[np.ndarray, Arrays]:
    """How many agents each state of an episode has, and the arrays of them all.

    Args:
        episode: The episode.
        origin: From which its places are told.
        names: Places of kinds of agents among those of all episodes; new ones are added.
    """
    agents = episode.agents
    if agents is None:
        return np.zeros(len(episode) + 1, np.int64), {}
    places = np.array([names.setdefault(name, len(names)) for name in agents.names])
    told = {"agents_ids": agents.ids, "agents_boxes": from_origin(agents.boxes, origin)}
    return np.diff(agents.first), {**told, "agents_kinds": places[agents.kinds]}
