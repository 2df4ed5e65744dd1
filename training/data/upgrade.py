"""Recordings of an earlier version of the format, written anew in the one of today."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from tqdm import tqdm

from drivedit.data.recordings import read_attrs, read_shard, shard_paths, write_shard
from drivedit.utils import work_folder
from drivedit.utils.shards import VERSION

log = logging.getLogger(__name__)


def upgrade_recordings(from_: str | Path, to: str | Path, *, progress: bool = True) -> list[Path]:
    """Writes a recording in the format of today; nothing is left of it if that fails.

    Shards that have it are copied as they are. What an earlier version did not tell stays unknown.

    Args:
        from_: Folder of the recording; it stays as it is.
        to: Folder to be, outside of the other one, new or empty.
        progress: Whether to show a progress bar.

    Returns:
        The paths of the shards.

    Raises:
        FileNotFoundError: There is no shard.
        ValueError: A shard is damaged, or `to` holds something or lies in `from_`.
    """
    source, out = Path(from_), Path(to)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something already; choose another folder, or empty it")
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out} lies in {source}, whose shards it would double; choose a folder beside it")
    paths, versions = shard_paths(source), []
    names = [path.relative_to(source) for path in paths]
    with work_folder(out) as work:
        for path, name in zip(tqdm(paths, unit="shard", disable=not progress), names, strict=True):
            attrs = read_attrs(path)
            versions.append(attrs.pop("version"))
            if versions[-1] == VERSION:
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, work / name)
            else:
                del attrs["spec"]
                write_shard(work / name, read_shard(path), attrs)
        os.replace(work, out)
    written = len(versions) - versions.count(VERSION)
    log.info("%d shards written in version %d, %d copied, in %s", written, VERSION, versions.count(VERSION), out)
    return [out / name for name in names]
