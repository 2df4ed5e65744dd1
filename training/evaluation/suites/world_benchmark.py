"""A model on test clips of several lengths and in batches of several sizes: how good, how fast, as one table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from drivedit.evaluation.evaluators import SequenceEvaluator
from drivedit.evaluation.reports.report import plain
from drivedit.evaluation.suites.performance import PerformanceBenchmark
from drivedit.utils import write_atomically


class WorldModelBenchmark:
    """Quality and speed of a model together.

    Args:
        model: As for `SequenceEvaluator`.
        vae_model: Likewise.
        device: Where to compute.
        save_path: JSON file for the results; None: none is written.

    Raises:
        ValueError: The model cannot make frames, or `save_path` is a folder.
    """

    def __init__(
        self, model: Any, vae_model: nn.Module | None = None, device: str = "cuda", save_path: str | None = None
    ) -> None:
        if save_path is not None and Path(save_path).is_dir():
            raise ValueError(f"save_path must be a file, {save_path} is a folder")
        self.evaluator = SequenceEvaluator(model, vae_model, device)
        self.device, self.save_path = device, save_path

    def run_full_benchmark(
        self,
        test_data: dict[str, Tensor],
        sequence_lengths: Sequence[int] = (8, 16, 32),
        batch_sizes: Sequence[int] = (1, 4, 8),
        num_iterations: int = 10,
    ) -> dict[str, Any]:
        """Evaluates random clips of the test data (the same in every run), the first half of each as context.

        Args:
            test_data: `frames` `[N, T, C, H, W]` in [0, 1], and `controls` `[N, T, K]` if there are any.
            sequence_lengths: Frames of a clip, context and target together.
            batch_sizes: Clips at a time.
            num_iterations: Batches of each length and size.

        Returns:
            `results`: for each length and size that fits the data `sequence_length`, `batch_size`, and `mean` and `std`
            over the batches of every number of `SequenceEvaluator.evaluate_batch`. `skipped`: the others, each with a
            `reason`. `performance`: that of `PerformanceBenchmark`; None for a model of pixels.

        Raises:
            KeyError: There are no frames.
            ValueError: A number is out of range, or a shape does not fit.
        """
        if "frames" not in test_data:
            raise KeyError(f"test_data needs 'frames', got {sorted(test_data)}")
        frames, controls = test_data["frames"], test_data.get("controls")
        if frames.ndim != 5 or (controls is not None and controls.shape[:2] != frames.shape[:2]):
            told = None if controls is None else tuple(controls.shape)
            raise ValueError(
                f"frames must be [N, T, C, H, W] and controls [N, T, K], got {tuple(frames.shape)}, {told}"
            )
        if num_iterations < 1 or min(sequence_lengths) < 2 or min(batch_sizes) < 1:
            raise ValueError(
                "num_iterations and batch_sizes must be at least 1 and sequence_lengths at least 2, got "
                f"{num_iterations}, {list(batch_sizes)} and {list(sequence_lengths)}"
            )
        wanted = [(length, size) for length in sequence_lengths for size in batch_sizes]
        skipped = [{"sequence_length": length, "batch_size": size, "reason": reason} for length, size in wanted
                   if (reason := _misfit(frames, length, size))]  # fmt: skip
        fitting = [pair for pair in wanted if not _misfit(frames, *pair)]
        results = []
        with tqdm(total=len(fitting) * num_iterations, desc="clips", file=sys.stderr, mininterval=1) as bar:
            for length, size in fitting:
                rng, rows = np.random.default_rng([length, size]), []
                for _ in range(num_iterations):
                    rows.append(self.evaluator.evaluate_batch(_draw(test_data, rng, length, size)))
                    bar.update()
                results.append({"sequence_length": length, "batch_size": size, **_summed_up(rows)})
        rollout = self.evaluator.rollout
        speed = None if rollout is None else PerformanceBenchmark(rollout, self.device).run_performance_suite()
        report = {"results": results, "skipped": skipped, "performance": speed, "num_iterations": num_iterations}
        if self.save_path is not None:
            text = json.dumps(plain(report), indent=2) + "\n"
            write_atomically(self.save_path, lambda file: file.write(text.encode()))
        return report


def _misfit(frames: Tensor, length: int, size: int) -> str:
    """Why clips of this length and number cannot be cut from the data; empty if they can."""
    if length > frames.shape[1]:
        return f"clips of {length} frames, the data has {frames.shape[1]}"
    return f"batches of {size}, the data has {len(frames)} sequences" if size > len(frames) else ""


def _draw(data: dict[str, Tensor], rng: np.random.Generator, length: int, size: int) -> dict[str, Tensor]:
    """A batch of clips from different sequences, all from the same frame on."""
    rows, start = rng.permutation(len(data["frames"]))[:size], int(rng.integers(data["frames"].shape[1] - length + 1))
    return {name: data[name][rows, start : start + length] for name in ("frames", "controls") if name in data}


def _summed_up(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """`mean` and `std` of every number of some results."""
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    table = {name: np.array([row[name] for row in rows]) for name in names}
    return {
        "mean": {name: float(values.mean()) for name, values in table.items()},
        "std": {name: _deviation(values) for name, values in table.items()},
    }


def _deviation(values: np.ndarray) -> float:
    """Standard deviation; NaN where a value is infinite, as the PSNR of equal frames is."""
    return float(values.std()) if np.isfinite(values).all() else float("nan")
