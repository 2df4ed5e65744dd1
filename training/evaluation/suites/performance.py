"""How fast a world makes frames, how long one takes, what it needs, and how that grows.

Times begin after a warm-up and end when the device has finished. A frame is a step and its decoded picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from drivedit.evaluation.dreams import seen
from drivedit.evaluation.evaluators import as_rollout
from drivedit.evaluation.metrics.figures import slope
from drivedit.models import Scene, World

WARM_UP = 3  # frames


class PerformanceBenchmark:
    """Speed and size of a world.

    Args:
        model: A `World`, or a `StreamingRollout` around one or around a `DiTStudent` and its `VAE3D`.
        device: Where to compute.
        batch_sizes: Worlds in one pass, for the throughput.
        sequence_lengths: Frames of one sequence, for the scalability.
        iterations: Frames whose latency is taken.

    Raises:
        ValueError: The model is no world.
    """

    def __init__(
        self,
        model: Any,
        device: str = "cuda",
        *,
        batch_sizes: Sequence[int] = (1, 4, 8),
        sequence_lengths: Sequence[int] = (8, 16, 32),
        iterations: int = 20,
    ) -> None:
        rollout = as_rollout(model, None, device)
        if rollout is None:
            raise ValueError(f"model must be a World, or a StreamingRollout around one, got {type(model).__name__}")
        self.world, self.rollout = rollout.world.eval(), rollout
        self.batch_sizes, self.sequence_lengths, self.iterations = batch_sizes, sequence_lengths, iterations

    @torch.no_grad()
    def run_performance_suite(self) -> dict[str, Any]:
        """Measures everything.

        Returns:
            `throughput`: frames per second by batch size.
            `latency`: `mean_ms`, `median_ms`, `p95_ms` and `max_ms` of one frame of one world.
            `memory`: `parameters_mb`, `state_mb` of one world, and `peak_mb` of the device (None on a CPU).
            `scalability`: `time_s` of a sequence by its length, its start included, and the `exponent` with which that
            grows (1: linear; NaN of one length).
        """
        device = self.world.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._frames(1, WARM_UP)
        taken = np.array(self._frames(1, self.iterations)) * 1e3
        latency = {"mean_ms": taken.mean(), "median_ms": np.median(taken), "p95_ms": np.quantile(taken, 0.95)}
        throughput, lengths = {}, {}
        steps = max(1, self.iterations // 2)
        with tqdm(total=len(self.batch_sizes) + len(self.sequence_lengths), desc="speed", file=sys.stderr) as bar:
            for rows in self.batch_sizes:
                throughput[rows] = rows * steps / sum(self._frames(rows, WARM_UP + steps)[WARM_UP:])
                bar.update()
            for length in self.sequence_lengths:
                begun = time.perf_counter()
                self._frames(1, length)
                lengths[length] = time.perf_counter() - begun
                bar.update()
        state = self.world.start([_scene(self.world)], [0])
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        sizes = np.log(list(lengths)), np.log(list(lengths.values()))
        return {
            "throughput": throughput,
            "latency": {name: float(value) for name, value in latency.items()} | {"max_ms": float(taken.max())},
            "memory": {
                "parameters_mb": _megabytes([*self.world.parameters(), *self.world.buffers()]),
                "state_mb": _megabytes(state.tensors().values()),
                "peak_mb": peak,
            },
            "scalability": {"time_s": lengths, "exponent": slope(*sizes)},
        }

    def _frames(self, rows: int, count: int) -> list[float]:
        """Seconds that each of `count` frames of `rows` worlds takes."""
        world, seconds = self.world, []
        state = world.start([_scene(world)] * rows, list(range(rows)))
        controls = torch.tensor([world.spec.rest] * rows, device=world.device)
        with self.rollout.precision():
            for _ in range(count):
                begun = time.perf_counter()
                state, _ = world.step(state, controls)
                seen(world, state)  # comes to the CPU, so the device has finished
                seconds.append(time.perf_counter() - begun)
        return seconds


def _scene(world: World) -> Scene:
    """Where the frames begin: the world's first scene, or a grey picture."""
    if world.scenes:
        return world.scenes[0]
    picture = np.full((2, *world.modality(world.spec.picture).shape), 128, np.uint8)
    return Scene({world.spec.picture: picture}, np.array([world.spec.rest], np.float32))


def _megabytes(tensors: Any) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20
