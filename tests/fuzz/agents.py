"""Damaged files of agents: each is refused with an error that users understand, or drives exactly as before."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from drivedit.agents.load import load_agent
from drivedit.agents.policy import Policy, PolicySpec

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


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with bits flipped, a piece overwritten, moved, cut out or doubled, or its end missing."""
    data, kind = bytearray(content), rng.integers(7)
    # half of the damage goes where the descriptions are: at the beginning, and in a zip at the end as well
    near = min(1500, len(data))
    at = int(rng.choice([rng.integers(near), len(data) - 1 - rng.integers(near), *rng.integers(len(data), size=2)]))
    length = int(rng.integers(1, 65))
    if kind <= 1:
        for _ in range(rng.integers(1, 5)):
            data[at] ^= 1 << int(rng.integers(8))
            at = int(rng.integers(len(data)))
    elif kind == 2:
        data[at : at + length] = rng.bytes(len(data[at : at + length]))
    elif kind == 3:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 4:
        del data[at : at + length]
    elif kind == 5:
        data[at:at] = data[at : at + length]
    else:
        del data[at:]
    return bytes(data)


def run(files: int, seed: int, originals: list[Path] | None = None) -> list[str]:
    """Damages files of agents and loads them.

    Args:
        files: How many damaged files.
        seed: Decides them all.
        originals: What is damaged, in turn; None: a small policy.

    Returns:
        What went wrong: a line for every damaged file that was neither refused with ValueError or FileNotFoundError,
        nor answers every frame as before, bit for bit.
    """
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        if originals is None:
            originals = [Path(folder) / "whole.safetensors"]
            small_policy().save(originals[0])
        contents = [path.read_bytes() for path in originals]
        wanted = [_answers(path) for path in originals]
        for number in range(files):
            which = number % len(originals)
            path = Path(folder) / f"damaged{originals[which].suffix}"
            path.write_bytes(damaged(contents[which], np.random.default_rng([seed, number])))
            try:
                same = np.array_equal(_answers(path), wanted[which])
            except (ValueError, FileNotFoundError):
                continue
            except BaseException as error:  # whatever comes is what is looked for
                if isinstance(error, KeyboardInterrupt):
                    raise
                bad.append(f"file {number} of seed {seed}: {type(error).__name__}: {error}")
                continue
            if not same:
                bad.append(f"file {number} of seed {seed} drives otherwise")
    return bad


def _answers(path: Path) -> np.ndarray:
    agent = load_agent(str(path))
    return np.stack([agent(frame) for frame in FRAMES])
