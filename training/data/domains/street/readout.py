"""What pictures of the street tell: where the lane goes, how far the car ahead is, how fast one may be.

A small convolutional network reads it from two pictures in a row, true or dreamed. `fit_readout` fits it to recordings.

Legend: B pictures.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("readout.safetensors")
SKY = 20  # rows at the top that tell nothing
AHEAD = (8.0, 16.0, 30.0)  # m along the road, of the points of the lane's middle
NEAR = 10.0  # m: at this gap nearness is one half
SCALES = {  # what is read, each in these units
    "lateral_offset": 1.0,  # m to the right of the middle of the nearest lane of the direction
    **{f"angle_{ahead:.0f}": 0.1 for ahead in AHEAD},  # rad to the right, of the lane's middle so far ahead
    "speed": 10.0,  # m/s
    "nearness": 0.3,  # NEAR / (NEAR + gap to the car ahead in the way)
    "closing_speed": 5.0,  # m/s
    "limit": 10.0,  # m/s, see `truth.speed_limit`
    "grip": 0.3,  # share of gravity that tyres hold
}


class Network(nn.Sequential):
    """Four convolutions and a linear layer, `[B, 4, 44, 128]` to `[B, len(SCALES)]`."""

    def __init__(self) -> None:
        super().__init__(
            *_halved(4, 12, 5), *_halved(12, 24), *_halved(24, 32), *_halved(32, 48),
            nn.Conv2d(48, 16, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(16 * 3 * 8, 64), nn.ReLU(), nn.Linear(64, len(SCALES)),
        )  # fmt: skip


def _halved(width: int, wider: int, size: int = 3) -> tuple[nn.Module, ...]:
    """A convolution to half the size."""
    return nn.Conv2d(width, wider, size, 2, size // 2, bias=False), nn.BatchNorm2d(wider), nn.ReLU()


def as_input(pictures: Tensor, before: Tensor) -> Tensor:
    """Colours and what changed in brightness, `[B, 4, 44, 128]` of uint8 `[B, 64, 128, 3]`."""
    now, last = ((each[:, SKY:].float() / 255).sqrt() for each in (pictures, before))
    changed = (now - last).mean(-1, keepdim=True)
    return torch.cat([now - 0.5, 4.0 * changed], -1).permute(0, 3, 1, 2).contiguous()


def read(pictures: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray]:
    """Reads pictures.

    Args:
        pictures: uint8 `[B, 64, 128, 3]`.
        before: The pictures 0.1 s earlier.

    Returns:
        float32 `[B]` by the names of `SCALES`, and `gap`: metres to the car ahead in the way, at most 100.

    Raises:
        ValueError: The pictures have another shape or type.
    """
    for given in (pictures, before):
        if given.ndim != 4 or given.shape[1:] != (64, 128, 3) or given.dtype != np.uint8:
            raise ValueError(f"the street is read from uint8 [B, 64, 128, 3], got {given.dtype} {list(given.shape)}")
    with torch.inference_mode():
        found = _network()(as_input(*(torch.from_numpy(np.ascontiguousarray(each)) for each in (pictures, before))))
    values = {name: found[:, k].numpy() * scale for k, (name, scale) in enumerate(SCALES.items())}
    nearness = np.clip(values["nearness"], NEAR / (NEAR + 100.0), 1.0)
    return {**values, "gap": NEAR / nearness - NEAR}


@cache
def _network() -> Network:
    """The fitted network."""
    network = Network()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()
