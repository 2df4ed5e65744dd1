"""What processes that share clips need, each: peak memory and time of a step, beside one process with whole clips."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from drivedit.config import (
    LoopConfig,
    Modality,
    Quantity,
    StudentConfig,
    StudentStageConfig,
    VAEConfig,
    WorldConfig,
    WorldSpec,
)
from drivedit.models import DiTWorld
from drivedit.training.loop import Batch, train
from drivedit.training.methods.forcing import DiffusionForcing
from drivedit.utils import generator, resolve_device, seeded

VAE = VAEConfig(3, 24, [16, 48, 96, 128], 1, False, 0.002, 1)
SIDE = 64  # of a picture
SPEC = WorldSpec(
    observations={"camera": Modality((SIDE, SIDE, 3))}, controls=[Quantity("steering"), Quantity("throttle")], dt=0.05
)
TOKENS, HISTORY = 16, 2
M_MMAP_THRESHOLD = -3  # of malloc.h


@dataclass
class Load:
    """A training whose steps are measured; fields as the arguments of `share`."""

    frames: int
    rows: int
    width: int
    layers: int
    heads: int
    steps: int
    shard: bool
    checkpointing: bool
    device: str
    processes: int


def share(
    processes: int = 2, frames: int = 64, rows: int = 16, width: int = 256, layers: int = 4, heads: int = 4,
    steps: int = 2, shard: bool = False, checkpointing: bool = False, device: str = "auto",
) -> str:  # fmt: skip
    """Measures steps of a student on long clips: alone, and by processes that share them; returns a table.

    Args:
        processes: That share the clips.
        frames: Of a clip, 16 tokens each.
        rows: Clips of a batch.
        width: Of the student.
        layers: Its blocks.
        heads: Its attention heads.
        steps: Of each measured training, two at least; the time is that of all but the last.
        shard: Whether the processes share the weights as well.
        checkpointing: Whether both compute activations twice instead of keeping them.
        device: Where they train: auto, cpu, cuda, ...
    """
    place = resolve_device(device).type
    alone = Load(frames, rows, width, layers, heads, steps, False, checkpointing, place, 1)
    found = [_measured(alone), _measured(replace(alone, shard=shard, processes=processes))]
    lines = ["| processes | peak memory of one, MB | before the first step | s of a step |", "|--:|--:|--:|--:|"]
    for load, (peak, base, seconds) in zip((1, processes), found, strict=True):
        lines.append(f"| {load} | {peak / 1e6:.0f} | {base / 1e6:.0f} | {seconds:.2f} |")
    (peak, base, _), (part, part_base, _) = found
    lines.append(f"\nshared / alone: {part / peak:.3f} of the peak, {(part - part_base) / (peak - base):.3f} of what "
                 "steps add")  # fmt: skip
    return "\n".join(lines)


def _measured(load: Load) -> tuple[float, float, float]:
    """Peak memory of a process, its memory before (bytes), and seconds of a step; the largest of all processes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        torch.multiprocessing.spawn(_work, (port, load, folder), nprocs=load.processes)  # type: ignore[attr-defined]
        told = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    peak, base, seconds = (max(values) for values in zip(*told, strict=True))
    return peak, base, seconds


def _work(rank: int, port: int, load: Load, folder: str) -> None:
    """Trains in one of the processes, and notes what that took."""
    torch.set_num_threads(1)
    give_back_memory()
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
        WORLD_SIZE=str(load.processes),
    )  # fmt: skip
    world = make_world(load.frames, load.width, load.layers, load.heads)
    begun: list[tuple[float, float]] = []

    def batch(rng: torch.Generator) -> Batch:
        begun.append((time.perf_counter(), memory(load.device)[0]))
        return _clips(world, load, rng)

    config = LoopConfig(
        steps=load.steps, shard=load.shard, sequence_parallel=load.processes, checkpointing=load.checkpointing,
        bf16=False, log_every=load.steps, save_every_s=1e9,
    )  # fmt: skip
    method = DiffusionForcing(world, StudentStageConfig(clip_frames=load.frames))
    train(method, batch, config, Path(folder) / f"run{0 if load.processes > 1 else rank}", device=load.device)
    seconds = (begun[-1][0] - begun[0][0]) / (len(begun) - 1)
    (Path(folder) / f"{rank}.json").write_text(json.dumps([memory(load.device)[1], begun[0][1], seconds]))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def make_world(frames: int, width: int, layers: int, heads: int) -> DiTWorld:
    """A fresh world of the shipped size but for its student's, of 64 x 64 pictures and clips of so many frames."""
    student = StudentConfig(
        4 * VAE.latent_dim, width, layers, heads, max_seq_len=frames * TOKENS, dropout=0.0, tokens_per_frame=TOKENS,
        window=8, history=HISTORY, control_dim=7,
    )  # fmt: skip
    with seeded(generator(0, "weights")):
        return DiTWorld(WorldConfig(SPEC, VAE, student))


def _clips(world: DiTWorld, load: Load, rng: torch.Generator) -> Batch:
    """Random clips in the shape that `drivedit.training.latents.Clips` gives."""
    told = (load.rows, load.frames)
    widths = {"control": 7, "route": 0, "motion": 3, "telemetry": world.heads.telemetry, "reward": world.heads.rewards}
    made = {name: torch.randn(*told, width, generator=rng) for name, width in widths.items()}
    latents = torch.randn(load.rows, HISTORY + load.frames, *world.latent_shape(), generator=rng)
    return {**made, "latents": latents, "ended": torch.zeros(told)}


def give_back_memory() -> None:
    """Lets a process hold no memory that it freed, so that its peak is what it needed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def memory(device: str) -> tuple[float, float]:
    """Bytes that a process holds now, and the most that it ever held."""
    if device != "cpu":
        module = torch.get_device_module(device)
        return module.memory_allocated(), module.max_memory_allocated()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, most = (1024.0 * int(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now, most
