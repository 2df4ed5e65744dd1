"""Confidence, calibrated: how wrong a world's own dreams are, from which it is told as a share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from drivedit.data.clips import Drives
from drivedit.models import BevWorld, DiTWorld
from drivedit.training.scenes import scene_at

QUANTILES = (0.05, 0.99)
LEAST = 1e-6  # error


@torch.no_grad()
def calibrate(world: DiTWorld | BevWorld, drives: Drives, chosen: np.ndarray, frames: int, rows: int = 24) -> None:
    """Sets the errors at which a world's confidence is 1 and 0: low and high quantiles of what it dreams.

    It dreams as it will be used, with its own number of passes, on its own frames, whatever it was taught by: a few
    frames from moments spread evenly over some drives, with the recorded controls and routes.

    Args:
        world: Its `error_range` is set.
        drives: The recordings.
        chosen: Numbers of the drives; one has three states at least.
        frames: Frames of a dream, fewer where all drives are too short for it.
        rows: Dreams.
    """
    longest = int(np.diff(drives.first)[chosen].max())
    frames = max(1, min(frames, longest - 2))
    moments = [
        (int(drive), now)
        for drive in chosen
        for now in range(drives.states(int(drive)).start + 1, drives.states(int(drive)).stop - frames)
    ]
    picked = [moments[index] for index in np.linspace(0, len(moments) - 1, rows).astype(int)]
    now = np.array([moment for _, moment in picked])
    was = world.training
    world.eval()
    state: Any = world.start(
        [scene_at(drives, drive, moment, world.config) for drive, moment in picked], list(range(rows))
    )
    errors = []
    for ahead in range(1, frames + 1):
        control = torch.from_numpy(np.array(drives.control[now + ahead], np.float32)).to(world.device)
        state, _ = world.step(state, control)
        truth = world.encode(np.array(drives.frames[now + ahead])[:, None])[:, 0]
        errors.append((world.observe(state, ["latent"])["latent"] - truth).square().mean((1, 2, 3)))
    world.train(was)
    logs = torch.stack(errors).clamp(min=LEAST).log().flatten()
    low, high = torch.quantile(logs, logs.new_tensor(QUANTILES)).tolist()
    world.error_range.copy_(torch.tensor([low, max(high, low + 1e-3)]))
