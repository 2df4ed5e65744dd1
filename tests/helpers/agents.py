"""Readers of agents and recordings that know who is there, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivedit.config import AgentsConfig, CameraConfig
from drivedit.data.recordings import Episode, shard_path, write_shard
from drivedit.models.sets.agents import AgentsReader
from drivedit.utils.episodes import Agents
from helpers.worlds import film_spec

SIZE = (32, 64)


def make_config(**changes: Any) -> AgentsConfig:
    told = {
        "image_size": SIZE, "camera": CameraConfig(pitch=3.0), "tokens": 3, "sky": 0, "ego": {"speed": 10.0},
        "widths": (8, 8, 8, 8), "d_model": 16, "layers": 1, "heads": 2, "d_ff": 16,
    }  # fmt: skip
    return AgentsConfig(**{**told, **changes})


def make_reader(**changes: Any) -> AgentsReader:
    torch.manual_seed(0)
    return AgentsReader(make_config(**changes)).eval()


def boxes_at(*places: tuple[float, float], yaw: float = 0.0, speed: float = 5.0) -> np.ndarray:
    """Cars at places ahead and to the left, `[A, 8]`."""
    return np.array([[x, y, 0.75, 4.4, 1.8, 1.5, yaw, speed] for x, y in places])


def peopled_episode(steps: int, seed: int, size: tuple[int, int] = SIZE) -> Episode:
    """A drive straight on at 10 m/s, behind one that drives as fast; a red square shows where."""
    rng = np.random.default_rng(seed)
    spec = film_spec(*size, telemetry=("speed",))
    poses = np.stack([np.arange(steps + 1.0), np.zeros(steps + 1), np.zeros(steps + 1)], 1)
    far, left = rng.uniform(6, 20), rng.uniform(-2, 2)
    boxes = np.concatenate([boxes_at((x + far, left))[:, :7] for x in poses[:, 0]]).astype(np.float32)
    frames = np.full((steps + 1, *size, 3), 60, np.uint8)
    column, row = int(size[1] / 2 - left / far * 40), int(size[0] - 6 - far)
    frames[:, row : row + 4, column : column + 4, 0] = 255
    count = steps + 1
    agents = Agents(np.arange(count + 1), np.ones(count, np.int64), boxes, np.zeros(count, np.int64))
    return Episode(
        spec, {"camera": frames}, np.zeros((steps, 2), np.float32), poses=poses, agents=agents, seed=seed,
        telemetry={"speed": np.full(steps + 1, 10.0, np.float32)}, driver="test",
    )  # fmt: skip


def write_recordings(root: Path, episodes: list[Episode], held_out: bool = False) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    write_shard(shard_path(root, 0), episodes, {"held_out": held_out})
    return root
