"""Recordings on disk: folders of shards, the files that `drivedit.utils.shards` reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drivedit.config import WorldSpec
from drivedit.utils import find_files
from drivedit.utils.episodes import Agents, Episode
from drivedit.utils.shards import ShardError, read_attrs, read_shard, write_shard

__all__ = [
    "EPISODES_AT_ONCE",
    "Agents",
    "Episode",
    "ShardError",
    "batches",
    "iter_episodes",
    "joint_spec",
    "read_attrs",
    "read_folder_attrs",
    "read_shard",
    "shard_path",
    "shard_paths",
    "write_shard",
]

EPISODES_AT_ONCE = 20


def shard_path(folder: str | Path, index: int) -> Path:
    """Where shard `index` of a folder lies."""
    return Path(folder) / f"shard-{index:05d}.h5"


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
        check_kind(path, bool(read_attrs(path).get("held_out", False)), held_out)
        yield from read_shard(path)


def shard_paths(folder: str | Path) -> list[Path]:
    """The shards of a folder and of the folders in it, in order; FileNotFoundError if there is none."""
    paths = find_files(folder, "shard-*.h5")
    if not paths:
        raise FileNotFoundError(
            f"no shard-*.h5 in {folder}; record some: python -m drivedit.data collect --out {folder}"
        )
    return paths


def read_folder_attrs(folder: str | Path, held_out: bool | None = None) -> list[dict[str, Any]]:
    """The attributes of all shards of a folder, in their order.

    Args:
        folder: holds `shard-*.h5`, perhaps in folders of its own.
        held_out: whether held-out recordings are wanted; None: as the first shard is.

    Raises:
        FileNotFoundError: there is no shard.
        ValueError: a shard is damaged, of the kind that is not wanted, or does not go with the first one.
    """
    paths = shard_paths(folder)
    found = [read_attrs(path) for path in paths]
    wanted = bool(found[0].get("held_out", False)) if held_out is None else held_out
    for path, attrs in zip(paths, found, strict=True):
        check_kind(path, bool(attrs.get("held_out", False)), wanted)
        found[0]["spec"].check_same(attrs["spec"], str(paths[0]), str(path), ("observations", "controls", "dt"))
    return found


def joint_spec(specs: Sequence[WorldSpec]) -> WorldSpec:
    """The spec of recordings that lie in one folder: that of the first, and what others know beside.

    Args:
        specs: Theirs, one at least, with the same observations, controls and `dt`.
    """
    found: dict[str, dict[str, Any]] = {"telemetry": {}, "rewards": {}, "endings": {}, "attributes": {}}
    for spec in specs:
        told = {"telemetry": {quantity.name: quantity for quantity in spec.telemetry}, "rewards": spec.rewards,
                "endings": spec.endings}  # fmt: skip
        for part, values in told.items():
            found[part] |= {name: value for name, value in values.items() if name not in found[part]}
        for name, values in spec.attributes.items():
            found["attributes"][name] = list(dict.fromkeys([*found["attributes"].get(name, []), *values]))
    return replace(specs[0], **{**found, "telemetry": list(found["telemetry"].values())})


def check_kind(path: Path, is_held_out: bool, held_out: bool) -> None:
    """Raises ValueError if a shard is held out and should not be, or the reverse."""
    if is_held_out != held_out:
        if is_held_out:
            raise ValueError(
                f"{path} was kept for judging (--held-out), so nothing learns from it; name another folder"
            )
        raise ValueError(f"{path} is for training; judge by a recording that was made with --held-out")
