"""Damaged shards: each is refused with `ShardError`, or read as it was written, whole or unpacked."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from drivedit.data.recordings import Episode, ShardError, read_shard, write_shard

from .damage import Outcomes, counted, damaged, tried


def small_episode(seed: int) -> Episode:
    """Three steps, 16 x 16 pixels."""
    rng = np.random.default_rng(seed)
    return Episode(
        frames=rng.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8),
        controls=rng.uniform(-1, 1, (3, 2)).astype(np.float32),
        reward=rng.normal(size=3).astype(np.float32),
        progress=rng.random(3).astype(np.float32),
        terminated=np.array([False, False, True]),
        telemetry=rng.normal(size=(4, 4)).astype(np.float32),
        poses=rng.normal(size=(4, 3)),
        route=rng.normal(size=(30, 2)).astype(np.float32),
        driver="somebody",
        start={"speed": 3.0},
    )


def run(files: int, seed: int) -> Outcomes:
    """Damages shards and reads them.

    Args:
        files: How many damaged shards.
        seed: Decides them all.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard-00000.h5"
        written = [small_episode(0), small_episode(1)]
        write_shard(path, written)
        whole = path.read_bytes()

        def same() -> bool:
            found = read_shard(path)
            return len(found) == len(written) and all(
                np.array_equal(getattr(a, field.name), getattr(b, field.name))
                for a, b in zip(found, written, strict=True)
                for field in fields(Episode)
            )

        def one(_index: int, rng: np.random.Generator) -> str:
            path.write_bytes(damaged(whole, rng))
            return tried(same, (ShardError,))

        return counted(files, seed, one)
