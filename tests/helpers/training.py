"""What trainings in tests learn from, and the smallest method there is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from drivedit.config import LoopConfig, StudentStageConfig
from drivedit.config.domains.carracing import SPEC
from drivedit.data.recordings import Episode
from drivedit.training.loop import train
from drivedit.training.methods.energy import ForcingThenEnergy
from drivedit.training.methods.method import Method
from helpers.worlds import make_world


def make_episode(steps: int, seed: int, ended: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    route = np.stack([100 * np.cos(angle), 100 * np.sin(angle)], -1).astype(np.float32)
    turn = 0.02 * np.arange(steps + 1)
    poses = np.stack([100 * np.cos(turn), 100 * np.sin(turn), turn + np.pi / 2], -1)
    shade = (rng.integers(0, 200, (1, 1, 1, 3)) + np.arange(steps + 1)[:, None, None, None]).astype(np.uint8)
    frames = np.broadcast_to(shade, (steps + 1, 64, 64, 3)).copy()
    known = {"speed": 30, "lateral_offset": 0, "heading_error": 0, "wheels_on_road": 1}
    telemetry = {name: np.full(steps + 1, value, np.float32) for name, value in known.items()}
    return Episode(
        SPEC, {"camera": frames}, rng.uniform(-1, 1, (steps, 2)).astype(np.float32), np.zeros(steps, np.float32),
        {"progress": rng.uniform(0, 3, steps).astype(np.float32)}, np.arange(steps) == (steps - 1 if ended else -1),
        telemetry, poses, route=route, seed=seed, driver="test", bounds=np.array([-120, -120, 120, 120], np.float32),
    )  # fmt: skip


class Line(Method):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))

    def loss(self, batch, progress, rng):
        noise = 0.1 * torch.randn(batch["x"].shape, generator=rng)
        loss = ((batch["x"] + noise) @ self.weight - batch["x"] @ torch.tensor([[1.0, 2], [3, -1]])).square().mean()
        return loss, {"progress": torch.tensor(progress.share)}


def line_batch(rng: torch.Generator) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(8, 2, generator=rng)}


def clips(rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Random clips in the shape that the student's stage takes."""
    config = make_world().config
    shapes = {
        "latents": (2 + 4, config.vae.latent_dim, 8, 8), "control": (4, 7), "route": (4, config.student.route_dim),
        "motion": (4, 3), "telemetry": (4, 4), "reward": (4, 1), "ended": (4,),
    }  # fmt: skip
    made = {name: torch.randn(2, *shape, generator=rng) for name, shape in shapes.items()}
    return {**made, "ended": (made["ended"] > 1).float()}


def make_batch(frames: int, rows: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random clips of `make_world`, with route and reading of zeros."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"control": (frames, 7), "route": (frames, 321), "motion": (frames, 3), "telemetry": (frames, 4)}
    batch = {name: 0.1 * torch.randn(rows, *shape, generator=g) for name, shape in shapes.items()}
    batch |= {"reward": torch.zeros(rows, frames, 1), "ended": torch.zeros(rows, frames)}
    return batch | {"latents": torch.randn(rows, 2 + frames, 4, 8, 8, generator=g)}


def learn(
    folder: str,
    adam_only: bool = False,
    batch: Callable[[torch.Generator], dict[str, torch.Tensor]] = clips,
    **options: Any,
) -> None:
    """Six steps of a student on random clips; two runs that learn the same are compared by `assert_same_runs`."""
    torch.manual_seed(0)
    told = {"steps": 6, "lr": 3e-3, "warmup": 2, "cooldown": 0.0, "bf16": False, "log_every": 1, "ema": 0.5, **options}
    stage = ForcingThenEnergy(make_world(), StudentStageConfig(clip_frames=4, rollout=1, few_step_from=0.0))
    if adam_only:
        stage.matrices = list
    train(stage, batch, LoopConfig(**told), folder)


def assert_same_runs(first: Path, second: Path) -> None:
    """Asserts that two runs of `learn` are at an end, learned something, and the same."""
    one, two = (torch.load(folder / "last.pt", weights_only=True) for folder in (first, second))
    assert one["step"] == two["step"] == 6
    names = list(one["stage"])
    start = ForcingThenEnergy(make_world(), StudentStageConfig()).state_dict()
    apart = {name: (one["stage"][name] - two["stage"][name]).abs().max().item() for name in names}
    assert max(apart.values()) < 1e-5, apart
    assert any(not torch.allclose(one["stage"][name], start[name], atol=1e-3) for name in names)
    assert torch.allclose(_losses(first), _losses(second), atol=1e-5)


def _losses(folder: Path) -> torch.Tensor:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return torch.tensor([row["loss"] for row in rows])
