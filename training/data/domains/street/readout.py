"""What is seen of the street tells: where the lane goes, how far the car ahead is, how fast one may be.

A small convolutional network for each kind of observation reads it from two in a row, true or dreamed: pictures, or
range images. `fit_readout` fits them to recordings.

Legend: B observations, H W rows and columns of what a network sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from drivedit.config.domains.street import SPEC

SKY = 20  # rows at the top of a picture that tell nothing
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


@dataclass(frozen=True)
class Sense:
    """How a kind of observation is read.

    Attributes:
        kind: Its name.
        size: H and W.
        as_input: float32 `[B, 4, H, W]`, about in [-1, 1], of observations and those 0.1 s earlier.
        brightness: Share by which others may draw it brighter or darker.
    """

    kind: str
    size: tuple[int, int]
    as_input: Callable[[Tensor, Tensor], Tensor]
    brightness: float

    @property
    def weights(self) -> Path:
        """Where the fitted network is."""
        return Path(__file__).with_name(f"readout_{self.kind}.safetensors")

    def network(self) -> Network:
        """A network of this sense that is not fitted."""
        return Network(*self.size)


class Network(nn.Sequential):
    """Five convolutions and two linear layers, `[B, 4, rows, columns]` to `[B, len(SCALES)]`.

    Args:
        rows: H.
        columns: W.
    """

    def __init__(self, rows: int, columns: int) -> None:
        cells = -(-rows // 16) * -(-columns // 16)
        super().__init__(
            *_halved(4, 12, 5), *_halved(12, 24), *_halved(24, 32), *_halved(32, 48),
            nn.Conv2d(48, 16, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(16 * cells, 64), nn.ReLU(), nn.Linear(64, len(SCALES)),
        )  # fmt: skip


def _halved(width: int, wider: int, size: int = 3) -> tuple[nn.Module, ...]:
    """A convolution to half the size."""
    return nn.Conv2d(width, wider, size, 2, size // 2, bias=False), nn.BatchNorm2d(wider), nn.ReLU()


def _of_pictures(pictures: Tensor, before: Tensor) -> Tensor:
    """Colours and what changed in brightness, `[B, 4, 44, 128]` of uint8 `[B, 64, 128, 3]`."""
    now, last = ((each[:, SKY:].float() / 255).sqrt() for each in (pictures, before))
    changed = (now - last).mean(-1, keepdim=True)
    return torch.cat([now - 0.5, 4.0 * changed], -1).permute(0, 3, 1, 2).contiguous()


def _of_scans(scans: Tensor, before: Tensor) -> Tensor:
    """Logarithms of metres, what came back, and how both changed, `[B, 4, 32, 256]` of float32 `[B, 32, 256, 2]`."""
    reach = torch.tensor(SPEC.observations["range"].high)
    now, last = (
        torch.stack([each[..., 0].clamp(min=0).log1p() / reach.log1p(), each[..., 1]], 1) for each in (scans, before)
    )
    farther, lost = (now - last).split(1, 1)
    both = now[:, 1:] * last[:, 1:] > 0.25
    return torch.cat([2 * now - 1, (8.0 * farther * both).clamp(-1, 1), lost], 1)


SENSES = {
    sense.kind: sense
    for sense in (Sense("camera", (44, 128), _of_pictures, 0.15), Sense("range", (32, 256), _of_scans, 0.0))
}


def sense_of(observation: np.ndarray) -> Sense:
    """The sense that reads observations like this one, `[H, W, C]`.

    Raises:
        ValueError: None does.
    """
    for sense in SENSES.values():
        wanted = SPEC.observations[sense.kind]
        if observation.shape == wanted.shape and observation.dtype == wanted.dtype:
            return sense
    known = ", ".join(f"{SPEC.observations[k].dtype} {list(SPEC.observations[k].shape)} ({k})" for k in SENSES)
    raise ValueError(f"the street is read from {known}, got {observation.dtype} {list(observation.shape)}")


def read(observations: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray]:
    """Reads observations of one kind.

    Args:
        observations: Pictures uint8 `[B, 64, 128, 3]`, or range images float32 `[B, 32, 256, 2]`.
        before: Those 0.1 s earlier.

    Returns:
        float32 `[B]` by the names of `SCALES`, and `gap`: metres to the car ahead in the way, at most 100.

    Raises:
        ValueError: The observations have another shape or type, or are of two kinds.
    """
    if observations.ndim != 4 or not len(observations):
        raise ValueError(f"observations are [B, H, W, C] with one at least, got shape {list(observations.shape)}")
    sense = sense_of(observations[0])
    if before.shape != observations.shape or before.dtype != observations.dtype:
        raise ValueError(
            f"before must be like the observations, {observations.dtype} {list(observations.shape)}, got "
            f"{before.dtype} {list(before.shape)}"
        )
    with torch.inference_mode():
        given = sense.as_input(*(torch.from_numpy(np.array(each)) for each in (observations, before)))
        found = _network(sense.kind)(given)
    values = {name: found[:, k].numpy() * scale for k, (name, scale) in enumerate(SCALES.items())}
    nearness = np.clip(values["nearness"], NEAR / (NEAR + 100.0), 1.0)
    return {**values, "gap": NEAR / nearness - NEAR}


@cache
def _network(kind: str) -> Network:
    """The fitted network of a sense."""
    network = SENSES[kind].network()
    network.load_state_dict(load_file(SENSES[kind].weights))
    return network.eval()
