"""Damaged files of agents: each is refused with an error that users understand, or drives exactly as before."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from drivedit.agents.drivers.policy import Policy, PolicySpec
from drivedit.agents.load import load_agent

from .damage import Outcomes, counted, damaged, tried

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def small_policy() -> Policy:
    """A policy of frames with every part that there is, in 30 kB."""
    shapes = {
        "features.cnn.0": (4, 2, 8, 8), "features.cnn.2": (4, 4, 4, 4), "features.cnn.4": (4, 4, 3, 3),
        "features.linear.0": (8, 64), "hidden.0": (8, 8), "out": (2, 8),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": 0.2 * torch.randn(shape[0], generator=generator) for name, shape in shapes.items()}
    lstm = {"weight_ih_l0": (32, 8), "weight_hh_l0": (32, 8), "bias_ih_l0": (32,), "bias_hh_l0": (32,)}
    weights |= {f"lstm.{name}": torch.randn(shape, generator=generator) for name, shape in lstm.items()}
    return Policy(PolicySpec([64, 64, 3], gray=True, stack=2, repeat=2), weights)


def run(files: int, seed: int, originals: list[Path] | None = None) -> Outcomes:
    """Damages files of agents and loads them: refused with ValueError or FileNotFoundError, or every frame's answer.

    Args:
        files: How many damaged files.
        seed: Decides them all.
        originals: What is damaged, in turn; None: a small policy.
    """
    with tempfile.TemporaryDirectory() as folder:
        if originals is None:
            originals = [Path(folder) / "whole.safetensors"]
            small_policy().save(originals[0])
        contents = [path.read_bytes() for path in originals]
        wanted = [_answers(path) for path in originals]

        def one(index: int, rng: np.random.Generator) -> str:
            which = index % len(originals)
            path = Path(folder) / f"damaged{originals[which].suffix}"
            path.write_bytes(damaged(contents[which], rng))
            return tried(lambda: np.array_equal(_answers(path), wanted[which]), (ValueError, FileNotFoundError))

        return counted(files, seed, one)


def _answers(path: Path) -> np.ndarray:
    agent = load_agent(str(path))
    return np.stack([agent(frame) for frame in FRAMES])
