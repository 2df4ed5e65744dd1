"""Where the stages take batches from: recordings that are unpacked, or read as a stream (`data.stream`).

Legend: N frames, B clips, T frames of a clip, S states of drives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivedit.config import DataConfig, LoopConfig, WorldSpec
from drivedit.data.clips import Drives, clip_starts
from drivedit.data.known import Facts, the_picture
from drivedit.data.recordings import joint_spec, read_folder_attrs, shard_paths
from drivedit.data.stream import Order, Shards
from drivedit.models import DiTWorld
from drivedit.training.ahead import Ahead
from drivedit.training.cards import Recorded
from drivedit.training.latents import Clips, batches, drawn_starts, encode, encode_drives, frames_of, held_clips
from drivedit.training.loop import Batch, Stream
from drivedit.utils import extra, generator

with extra("train", "training"):
    from accelerate import PartialState

Draw = Callable[[torch.Generator], Batch]
READ_FOR_SAMPLE = 8  # shards


class Source(ABC):
    """Recordings, as stages need them.

    Attributes:
        facts: What they know, of one picture.
        looked_at: Drives, and the numbers of those among them that are only looked at.
        recorded: How much there is.
    """

    facts: Facts
    looked_at: tuple[Drives, np.ndarray]
    recorded: Recorded

    @abstractmethod
    def pictures(self, loop: LoopConfig) -> Draw | Stream:
        """Batches of frames `[B, 1, C, H, W]` uint8 to learn from."""

    @abstractmethod
    def sample(self, count: int) -> Tensor:
        """At most so many frames to learn from, `[N, C, H, W]` uint8, always the same."""

    @abstractmethod
    def clips(self, world: DiTWorld, frames: int, loop: LoopConfig, run: Path) -> tuple[Draw | Stream, Batch]:
        """Batches of latent clips of T frames to learn from, and one of clips that are only looked at."""

    def held_pictures(self, count: int = 256) -> Tensor:
        """Frames that are only looked at, `[N, C, H, W]` uint8."""
        drives, checked = self.looked_at
        return frames_of(drives, np.linspace(drives.first[checked[0]], drives.first[-1] - 1, count).astype(int))

    def about(self, data: DataConfig) -> dict[str, Any]:
        """What a run notes of its recordings."""
        told = {"fingerprint": self.recorded.fingerprint, "drives": self.recorded.drives}
        return {**told, "validation_fraction": data.validation_fraction}


def check_recordings(data: DataConfig) -> None:
    """Finds out in time whether there are recordings to learn from; those of a stream are checked as they are read.

    Raises:
        FileNotFoundError, ValueError: As `open_source`.
    """
    if data.stream:
        shard_paths(data.root)
    else:
        read_folder_attrs(data.root, held_out=False)


def open_source(data: DataConfig, device: torch.device, picture: str | None) -> Source:
    """Opens one picture of recordings: one process at a time unpacks them, or looks through them, where that is new.

    Args:
        data: Where they are.
        device: Where batches go.
        picture: Name of the picture; None: the only one.

    Raises:
        ValueError, FileNotFoundError, OSError: As `Drives.open` and `Shards.open`.
    """
    with PartialState(cpu=device.type == "cpu").main_process_first():
        if data.stream:
            return Streamed(Shards.open(data.root), data, device, picture)
        spec = joint_spec([attrs["spec"] for attrs in read_folder_attrs(data.root, held_out=False)])
        kinds = [the_picture(spec, picture)] if len(spec.observations) > 1 else None
        return Unpacked(Drives.open(data.root, kinds=kinds), data)


class Unpacked(Source):
    """Recordings that lie unpacked on disk: every batch is drawn from all of them.

    Args:
        drives: They.
        data: How many of them are only looked at.
    """

    def __init__(self, drives: Drives, data: DataConfig) -> None:
        chosen, checked = drives.split(data.validation_fraction)
        self.drives, self.data, self.states = drives, data, int(drives.first[chosen[-1] + 1])
        self.facts, self.looked_at = drives.facts(), (drives, checked)
        self.recorded = Recorded.of(drives, len(checked))

    def pictures(self, loop: LoopConfig) -> Draw:
        """Batches of frames, each of all that there are to learn from."""

        def batch(rng: torch.Generator) -> Batch:
            index = torch.randint(self.states, (loop.batch_size,), generator=rng).numpy()
            return {"frames": frames_of(self.drives, np.sort(index))[:, None]}

        return batch

    def sample(self, count: int) -> Tensor:
        """Frames of all drives to learn from."""
        return frames_of(self.drives, self.picked(count))

    def picked(self, count: int) -> np.ndarray:
        """The states of `sample`."""
        return np.sort(np.random.default_rng(0).choice(self.states, min(count, self.states), replace=False))

    def latents(self, world: DiTWorld, run: Path) -> np.ndarray:
        """Latents of all states, made by one process while the others wait."""
        with PartialState(cpu=world.device.type == "cpu").main_process_first():
            return encode_drives(world, self.drives, run)

    def clips(self, world: DiTWorld, frames: int, loop: LoopConfig, run: Path) -> tuple[Draw, Batch]:
        """Clips of latents that are kept in the run's folder."""
        clips = Clips(self.drives, self.latents(world, run), world.config, frames, world.device)
        return batches(clips, self.drives, self.data, loop.batch_size)


class Streamed(Source):
    """Recordings that are read shard by shard.

    Args:
        shards: They.
        data: How many of them are only looked at, and how many are shuffled together.
        device: Where batches go.
        picture: Name of the picture; None: the only one.
    """

    def __init__(self, shards: Shards, data: DataConfig, device: torch.device, picture: str | None) -> None:
        spec = shards.facts.spec
        self.spec: WorldSpec = spec.only([the_picture(spec, picture)])
        self.shards, held = shards.split(data.validation_fraction)
        drives = held.read(range(len(held.shards)), self.spec)
        self.facts, self.looked_at = shards.facts, (drives, np.arange(len(drives)))
        size = self.spec.observations[self.spec.picture].shape[:2]
        known = shards.facts
        minutes = (known.states - known.drives) / drives.fps / 60
        self.recorded = Recorded(known.drives, minutes, size, drives.fps, shards.fingerprint, len(drives))
        self.buffer, self.ahead = data.buffer, device.type != "cpu"

    def pictures(self, loop: LoopConfig) -> StreamedBatches:
        """Every frame once in an epoch."""
        counts = [int(shard.lengths.sum()) for shard in self.shards.shards]

        def load(drives: Drives) -> tuple[int, Fetch]:
            return len(drives.ended), lambda index, rng: {"frames": frames_of(drives, index)[:, None]}

        return self._stream(counts, load, loop)

    def sample(self, count: int) -> Tensor:
        """Frames of a few shards that lie evenly among all."""
        numbers = np.unique(np.linspace(0, len(self.shards.shards) - 1, READ_FOR_SAMPLE).astype(int))
        share, rng, parts = -(-count // len(numbers)), np.random.default_rng(0), []
        for number in numbers:
            drives = self.shards.read([number], self.spec)
            states = len(drives.ended)
            parts.append(frames_of(drives, np.sort(rng.choice(states, min(share, states), replace=False))))
        return torch.cat(parts)

    def clips(self, world: DiTWorld, frames: int, loop: LoopConfig, run: Path) -> tuple[StreamedBatches, Batch]:
        """Clips whose latents are made when their shard is read; every clip once in an epoch."""
        history = world.config.student.history

        def clips_of(drives: Drives) -> Clips:
            return Clips(drives, encode(world, drives.frames), world.config, frames, world.device)

        def load(drives: Drives) -> tuple[int, Fetch]:
            starts, ends = clip_starts(drives, np.arange(len(drives)), frames, history)
            clips = clips_of(drives)
            return len(starts), lambda index, rng: clips.batch(drawn_starts(starts[index], ends, rng))

        lengths = (shard.lengths - frames - history + 1 for shard in self.shards.shards)
        drives, checked = self.looked_at
        return (
            self._stream([int(each.clip(0).sum()) for each in lengths], load, loop),
            held_clips(clips_of(drives), drives, checked),
        )

    def _stream(self, counts: list[int], load: Load, loop: LoopConfig) -> StreamedBatches:
        kept = [number for number, count in enumerate(counts) if count]

        def read(numbers: list[int]) -> tuple[int, Fetch]:
            return load(self.shards.read([kept[number] for number in numbers], self.spec))

        return StreamedBatches([counts[number] for number in kept], read, loop, self.buffer, self.ahead)


Fetch = Callable[[np.ndarray, torch.Generator], Batch]  # a batch of samples by number, with randomness of its own
Load = Callable[[Drives], tuple[int, Fetch]]


class StreamedBatches:
    """Batches that follow one another, of shards; every part of a step has a stream of its own.

    Args:
        counts: Samples of each shard, one at least.
        read: Reads shards: how many samples they have together, and what makes batches of them.
        loop: Size of batches, and the seed.
        buffer: Shards that are shuffled together.
        ahead: Whether the next ones are read in the background.
    """

    def __init__(
        self, counts: list[int], read: Callable[[list[int]], tuple[int, Fetch]], loop: LoopConfig, buffer: int,
        ahead: bool,
    ) -> None:  # fmt: skip
        self.counts, self.read, self.rows, self.seed = counts, read, loop.batch_size, loop.seed
        self.buffer, self.ahead = buffer, ahead
        self.streams: dict[tuple[int, int], _Reader] = {}

    def at(self, step: int, part: int, parts: int) -> Batch:
        """The batch of one of the parts of a step.

        Raises:
            ValueError: There are fewer shards than parts, or one is too short for any clip.
        """
        if (part, parts) not in self.streams:
            self.streams[part, parts] = _Reader(Order(self.counts, self.seed, part, parts, self.buffer), self)
        found = self.streams[part, parts].batches(step * self.rows, generator(self.seed, f"stream batch{part}", step))
        return found[0] if len(found) == 1 else {name: torch.cat([each[name] for each in found]) for name in found[0]}


class _Reader:
    """One of the streams, with the shards that it reads now."""

    def __init__(self, order: Order, stream: StreamedBatches) -> None:
        self.order, self.stream, self.number = order, stream, -1
        self.groups = Ahead(self._load, stream.ahead)

    def _load(self, number: int) -> tuple[np.ndarray, Fetch]:
        count, fetch = self.stream.read(self.order.group(number))
        return self.order.permutation(number, count), fetch

    def batches(self, place: int, rng: torch.Generator) -> list[Batch]:
        """The samples from a place on, in a batch for each group of shards that they are in."""
        found = []
        for number, piece in self.order.pieces(place, self.stream.rows):
            if number != self.number:
                self.group = None  # its memory is let go before others are read
                self.group, self.number = self.groups(number), number
            assert self.group is not None
            samples, fetch = self.group
            found.append(fetch(samples[piece], rng))
        return found
