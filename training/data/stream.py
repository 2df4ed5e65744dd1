"""Recordings read as a stream: shard by shard, shuffled within a buffer, and nothing unpacked.

What must be known of a shard before it is read (how long its drives are, and what `fit_config` asks) stands in an index
beside the shards, `stream.json`, by their seals: a shard is looked through once. The order of samples is a function of
the seed, the stream and the place alone, so a run goes on at the sample where it stopped, and reads nothing before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from drivedit.config import WorldSpec
from drivedit.data.clips import Drives
from drivedit.data.known import Facts
from drivedit.data.recordings import check_kind, read_attrs, read_shard, shard_paths
from drivedit.data.unpacked import CODE
from drivedit.utils import code_fingerprint, fingerprint, generator, locked, write_atomically
from drivedit.utils.hdf5 import seal_of

INDEX, LOCK = "stream.json", ".stream.lock"
LOOKED_AT = 4_000  # states at most, or one shard: what is only looked at is kept in memory


class Shard(NamedTuple):
    """A shard of a stream.

    Attributes:
        path: The file.
        lengths: States of its drives.
        facts: What it knows.
    """

    path: Path
    lengths: np.ndarray
    facts: Facts


@dataclass
class _Known:
    """The index: by seal what is known of a shard, in plain values, with the number of its spec."""

    code: str
    specs: list[dict[str, Any]] = field(default_factory=list)
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, code: str) -> _Known:
        """Reads an index; one that is damaged or of other code counts for nothing."""
        try:
            known = cls(**json.loads(path.read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            known = cls(code)
        return known if known.code == code else cls(code)

    def add(self, seal: str, path: Path) -> None:
        """Looks through a shard."""
        attrs = read_attrs(path)
        spec: WorldSpec = attrs["spec"]
        least = [min(spec.observations, key=lambda name: math.prod(spec.observations[name].shape))]
        drives = Drives.of(read_shard(path, least), spec.only(least))
        facts = {**vars(drives.facts()), "spec": spec.to_dict()}
        if facts["spec"] not in self.specs:
            self.specs.append(facts["spec"])
        facts["spec"] = self.specs.index(facts["spec"])
        lengths = np.diff(drives.first).tolist()
        self.shards[seal] = {"held_out": bool(attrs.get("held_out", False)), "lengths": lengths, "facts": facts}

    def found(self, seals: Collection[str]) -> dict[str, tuple[bool, np.ndarray, Facts]]:
        """Of the shards with these seals: whether it is held out, the lengths of its drives, and what it knows."""
        specs = [WorldSpec.from_dict(spec) for spec in self.specs]
        return {
            seal: (known["held_out"], np.array(known["lengths"]),
                   Facts(**{**known["facts"], "spec": specs[known["facts"]["spec"]]}))
            for seal, known in self.shards.items() if seal in seals
        }  # fmt: skip


class Shards:
    """The shards of a folder, as much as must be known before they are read.

    Attributes:
        shards: In their order.
        facts: What they know together.
        fingerprint: Name of their contents and of the code that reads them.
    """

    def __init__(self, shards: Sequence[Shard], fingerprint: str) -> None:
        self.shards, self.fingerprint = list(shards), fingerprint
        self.facts = Facts.together([shard.facts for shard in shards])

    @classmethod
    def open(cls, root: str | Path, held_out: bool = False) -> Shards:
        """Opens a recording folder, and looks through those shards that its index does not know.

        Args:
            root: The folder.
            held_out: Whether it was kept for judging.

        Raises:
            FileNotFoundError: There is no shard.
            ValueError: A shard is damaged, of the other kind, not sealed, or has other observations, controls or `dt`
                than the others.
        """
        root, code = Path(root), code_fingerprint(*CODE, __name__)
        paths = shard_paths(root)
        seals = [fingerprint(seal_of(path) or path) for path in paths]
        known = _Known(code)
        with locked(root / LOCK, f"looking through {root}"):
            known = _Known.read(root / INDEX, code)
            new = {seal: path for seal, path in zip(seals, paths, strict=True) if seal not in known.shards}
            for seal, path in tqdm(new.items(), desc="looking through", unit=" shard", delay=2, mininterval=5):
                known.add(seal, path)
            if new:
                text = json.dumps(asdict(known))
                write_atomically(root / INDEX, lambda file: file.write(text.encode()))
        found = known.found(set(seals))
        shards = []
        for seal, path in zip(seals, paths, strict=True):
            kept, lengths, facts = found[seal]
            check_kind(path, kept, held_out)
            shards.append(Shard(path, lengths, facts))
        for shard in {id(shard.facts.spec): shard for shard in shards}.values():
            first, parts = shards[0], ("observations", "controls", "dt")
            first.facts.spec.check_same(shard.facts.spec, str(first.path), str(shard.path), parts)
        return cls(shards, fingerprint(code, [path.relative_to(root).as_posix() for path in paths], seals))

    def split(self, fraction: float) -> tuple[Shards, Shards]:
        """Shards to learn from, and those to look at only: the last ones, one at least.

        Args:
            fraction: Share of the drives that is looked at, but no more shards than hold 4,000 states.

        Raises:
            ValueError: There is a single shard.
        """
        if len(self.shards) < 2:
            raise ValueError(
                "a stream needs one shard to learn from and one to look at; got 1: record more, or smaller"
            )
        count = drives = states = 0
        for shard in reversed(self.shards[1:]):
            drives, states = drives + len(shard.lengths), states + int(shard.lengths.sum())
            if count and (drives > fraction * self.facts.drives or states > LOOKED_AT):
                break
            count += 1
        parts = self.shards[:-count], self.shards[-count:]
        first, second = (Shards(part, self.fingerprint) for part in parts)
        return first, second

    def read(self, numbers: Sequence[int], spec: WorldSpec) -> Drives:
        """Some of the shards, in memory.

        Args:
            numbers: Which ones.
            spec: Of all recordings together, with the observations that are wanted.
        """
        kinds = list(spec.observations)
        episodes = (episode for number in numbers for episode in read_shard(self.shards[number].path, kinds))
        return Drives.of(episodes, spec, self.fingerprint)


class Order:
    """In which order the samples of shards come in one of several streams, each of which has shards of its own.

    In every epoch the shards are shuffled and dealt out to the streams; a stream takes a few of its shards at a time,
    and their samples as they come in a permutation of all of them.

    Args:
        counts: Samples of each shard.
        seed: Of the order.
        stream: Number of the stream.
        streams: How many there are.
        buffer: Shards that are shuffled together.

    Raises:
        ValueError: A stream has no shard, or none of its shards has a sample.
    """

    def __init__(self, counts: Sequence[int], seed: int, stream: int, streams: int, buffer: int) -> None:
        self.counts, self.seed, self.stream, self.streams = np.asarray(counts), seed, stream, streams
        self.buffer = buffer
        if len(counts) < streams or not self.counts.all():
            raise ValueError(
                f"every one of {streams} streams (processes times train.accumulate) needs a shard, and every shard a "
                f"sample; got {len(counts)} shards, the smallest with {self.counts.min(initial=0)} samples"
            )
        self.groups = -(-len(range(stream, len(counts), streams)) // buffer)  # of an epoch
        self._begins = [0]  # places at which groups begin

    def group(self, number: int) -> list[int]:
        """The shards of a group, counted over all epochs."""
        epoch, place = divmod(number, self.groups)
        own = _shuffled(len(self.counts), self.seed, epoch)[self.stream :: self.streams]
        return own[place * self.buffer : (place + 1) * self.buffer].tolist()

    def permutation(self, number: int, count: int) -> np.ndarray:
        """In which order the samples of a group come."""
        return _permutation(count, self.seed, f"stream {self.stream} of {self.streams}", number)

    def pieces(self, place: int, count: int) -> Iterator[tuple[int, slice]]:
        """Where so many samples from a place on are: groups, and what of their permutations."""
        while self._begins[-1] <= place:
            self._begins.append(self._begins[-1] + int(self.counts[self.group(len(self._begins) - 1)].sum()))
        number = int(np.searchsorted(self._begins, place, "right")) - 1
        while count:
            if number + 1 == len(self._begins):
                self._begins.append(self._begins[-1] + int(self.counts[self.group(number)].sum()))
            begin = self._begins[number]
            taken = min(count, self._begins[number + 1] - place)
            yield number, slice(place - begin, place - begin + taken)
            place, count, number = place + taken, count - taken, number + 1


@lru_cache(4)
def _shuffled(shards: int, seed: int, epoch: int) -> np.ndarray:
    return _permutation(shards, seed, "shards", epoch)


def _permutation(count: int, seed: int, stream: str, step: int) -> np.ndarray:
    return torch.randperm(count, generator=generator(seed, stream, step)).numpy()
