"""Damaged shards: each is refused with `ShardError`, or read as it was written, whole or unpacked."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from drivedit.data.recordings import ShardError, read_shard, write_shard

from .damage import Outcomes, counted, damaged, tried
from .episodes import same, with_everything

FIRST = Path(__file__).parents[1] / "data" / "format1" / "simulator" / "shard-00000.h5"  # of version 1


def run(files: int, seed: int) -> Outcomes:
    """Damages shards and reads them.

    Args:
        files: How many damaged shards.
        seed: Decides them all.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard-00000.h5"
        written = [with_everything(3, 0), with_everything(3, 1)]
        write_shard(path, written)
        sources = [(path.read_bytes(), written), (FIRST.read_bytes(), read_shard(FIRST))]

        def one(index: int, rng: np.random.Generator) -> str:
            whole, episodes = sources[index % len(sources)]

            def unchanged() -> bool:
                found = read_shard(path)
                return len(found) == len(episodes) and all(map(same, found, episodes))

            path.write_bytes(damaged(whole, rng))
            return tried(unchanged, (ShardError,))

        return counted(files, seed, one)
