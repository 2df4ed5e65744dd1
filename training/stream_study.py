"""What a stream of recordings costs beside unpacked ones: speed, and memory however many frames there are."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from drivedit.config import DataConfig, LoopConfig, StudentStageConfig
from drivedit.data.recordings import Episode, shard_path, write_shard
from drivedit.models import DiTWorld
from drivedit.training.latents import Clips, batches
from drivedit.training.loop import Batch, Stream
from drivedit.training.methods.forcing import DiffusionForcing
from drivedit.training.methods.method import Progress
from drivedit.training.sharing_study import SIDE, SPEC, give_back_memory, make_world, memory
from drivedit.training.sources import Draw, Unpacked, open_source
from drivedit.utils import generator

CLIP, ROWS = 16, 8  # frames of a clip, and clips of a batch
DRIVE = 249  # steps
SEEN = 4  # shards that differ


def stream(frames: tuple[int, ...] = (10_000, 100_000, 10_000_000), shard_frames: int = 1000, buffer: int = 2) -> str:
    """Measures both readers on made recordings of 64 x 64 pictures, on the CPU; returns a table.

    A large recording is a small one many times over, by hard links. Each line is a process of its own, whose reader
    fills the stream's buffer twice. Seconds are those of one core, whatever else runs. The rate in training adds
    the time of a clip's gradient, in a student of the shipped size, to that of reading it.

    Args:
        frames: How many are recorded; of the first number they are unpacked as well.
        shard_frames: Frames of a shard, whole drives of 250.
        buffer: Shards that are shuffled together.
    """
    lines = [
        "| frames | reader | peak memory, MB | pictures/s | clips/s | in training | as a share of unpacked |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    first: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in frames:
            root = Path(folder) / str(count)
            _record(root, count // shard_frames, shard_frames)
            for streams in (True,) if first else (False, True):
                peak, pictures, clips, gradient = _measured(root, streams, 2 * buffer * shard_frames, buffer)
                first = first or [gradient, 1 / (gradient + 1 / clips)]
                trained = 1 / (first[0] + 1 / clips)
                name = "stream" if streams else "unpacked"
                lines.append(
                    f"| {count} | {name} | {peak / 1e6:.0f} | {pictures:.0f} | {clips:.0f} | {trained:.2f} | "
                    f"{trained / first[1]:.3f} |"
                )
    return "\n".join(lines)


def _record(root: Path, shards: int, shard_frames: int) -> None:
    """Writes a recording of a few shards, many times over."""
    for number in range(shards):
        path = shard_path(root / f"{number // 1000:03d}", number % 1000)
        if number < SEEN:
            write_shard(path, [_episode(100 * number + drive) for drive in range(shard_frames // (DRIVE + 1))])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(shard_path(root / "000", number % SEEN), path)


def _episode(seed: int) -> Episode:
    """A drive past smooth shapes with a little noise, which packs about as a true one."""
    rng = np.random.default_rng(seed)
    row, column, now = np.ogrid[:SIDE, :SIDE, : DRIVE + 1]
    wave = np.sin(row / rng.uniform(4, 9) + now / 7) + np.cos(column / rng.uniform(4, 9) - now / 9)
    grey = ((128 + 45 * wave) // 8 * 8).transpose(2, 0, 1)[..., None]
    frames = (grey + rng.integers(0, 2, (DRIVE + 1, SIDE, SIDE, 3))).astype(np.uint8)
    return Episode(
        SPEC, {"camera": frames}, rng.uniform(-1, 1, (DRIVE, 2)).astype(np.float32), np.zeros(DRIVE, np.float32), {},
        np.zeros(DRIVE, bool), {}, np.full((DRIVE + 1, 3), np.nan), seed=seed, driver="made",
    )  # fmt: skip


def _measured(root: Path, streams: bool, samples: int, buffer: int) -> list[float]:
    """Peak memory, pictures and clips a second, and seconds of a clip's gradient; measured in a process of its own."""
    told = root.parent / "told.json"
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=(root, streams, samples, buffer, told))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise RuntimeError(f"the measuring process ended with {worker.exitcode}")
    return json.loads(told.read_text())


def _work(root: Path, streams: bool, samples: int, buffer: int, told: Path) -> None:
    torch.set_num_threads(1)
    give_back_memory()
    world, loop = make_world(CLIP, 256, 4, 4), LoopConfig(batch_size=ROWS)
    source = open_source(DataConfig(str(root), stream=streams, buffer=buffer), world.device, None)
    pictures, _ = _rate(source.pictures(loop), samples)
    if isinstance(source, Unpacked):  # whatever the latents are
        shape = (int(source.drives.first[-1]), *world.latent_shape())
        latents = np.lib.format.open_memmap(root / "latents.npy", "w+", np.float16, shape)
        draw, _ = batches(Clips(source.drives, latents, world.config, CLIP), source.drives, source.data, ROWS)
    else:
        draw, _ = source.clips(world, CLIP, loop, root)
    clips, batch = _rate(draw, samples)
    told.write_text(json.dumps([memory("cpu")[1], pictures, clips, _seconds_of_a_step(world, batch) / ROWS]))


def _rate(draw: Draw | Stream, samples: int) -> tuple[float, Batch]:
    """Samples a second, and the last batch; what must be read before the first one counts."""
    began, batch, steps = time.process_time(), Batch(), samples // ROWS
    for step in range(steps):
        batch = draw.at(step, 0, 1) if isinstance(draw, Stream) else draw(generator(0, "batch", step))
    return steps * ROWS / (time.process_time() - began), batch


def _seconds_of_a_step(world: DiTWorld, batch: Batch) -> float:
    """Of the gradient of a batch, the faster one of three."""
    method, found = DiffusionForcing(world, StudentStageConfig(clip_frames=CLIP)), []
    for step in range(3):
        began = time.process_time()
        method(batch, Progress(step, 0.0), generator(0, "noise", step))[0].backward()
        found.append(time.process_time() - began)
    return min(found)
