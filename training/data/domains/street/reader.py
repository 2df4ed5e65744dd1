"""What a small network reads off pictures of the street: cars, the gap, the place in the lane, the turn, attributes.

It has learned from true pictures alone (`teach.py`), so a dream is judged by what it shows and not by what it says.

Legend: N pictures, H x W their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from drivedit.config.domains.street import SPEC

WEIGHTS = Path(__file__).with_name("reader.safetensors")
ATTRIBUTES = ("road", "weather", "time")  # that a picture shows
VALUES = ("log_gap", "lateral_offset", "heading_error", "wheels_on_road", "turn", "speed")
UNITS = (0.5, 0.7, 0.12, 0.4, 0.03, 6.0)  # about the spread of each
NEAR = 10.0  # m; log_gap is log(1 + gap / NEAR)
FARTHEST = 80.0  # m of gap that can be told
CHANNELS = (16, 24, 32, 48)
PLACES = 16  # channels of what looks for the one ahead
SKY = 16  # rows at the top where no car is
NOBODY = -20.0  # logit of a car there
BATCH = 128


@dataclass(frozen=True)
class Reading:
    """What pictures show.

    Attributes:
        cars: float32 `[N, H, W]`, how likely a pixel belongs to a car.
        values: float32 `[N]` each: `gap` (m to the car ahead, at most `FARTHEST`), `lateral_offset`, `heading_error`,
            `wheels_on_road` and `speed` as the telemetry has them, and `turn` (rad to the right since the picture
            before).
        attributes: Values of the spec by name, `[N]` each.
    """

    cars: np.ndarray
    values: dict[str, np.ndarray]
    attributes: dict[str, np.ndarray]


class Ahead(nn.Module):
    """How far away the one ahead is: every place says how far, and how likely it shows that one or, at last, nobody."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, *rest = (
            nn.Conv2d(wide, PLACES, 3, 1, far, far) for wide, far in ((width + 6, 1), (PLACES, 2), (PLACES, 4))
        )
        self.look = nn.Sequential(first, nn.SiLU(), *(part for conv in rest for part in (conv, nn.SiLU())))
        self.say = nn.Conv2d(PLACES, 2, 1)
        self.nobody = nn.Parameter(torch.tensor([0.0, 3.0]))

    def forward(self, x: Tensor, cars: Tensor) -> tuple[Tensor, Tensor]:
        """log_gap in its unit `[N]`, and logits `[N, h w + 1]` of the places that show the one ahead.

        Args:
            x: What was made of the pictures, `[N, C, h, w]`.
            cars: How likely each pixel shows a car, `[N, 1, 2 h, 2 w]`.
        """
        count, _, height, width = x.shape
        down = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(count, 1, height, width)
        across = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(count, 1, height, width)
        told = self.say(self.look(torch.cat([x, F.pixel_unshuffle(cars, 2), down, across], 1))).flatten(2)
        told = torch.cat([told, self.nobody.view(1, 2, 1).expand(count, 2, 1)], 2)
        return (told[:, 0].softmax(1) * told[:, 1]).sum(1), told[:, 0]


class Reader(nn.Module):
    """Pictures without their upper sky, halved four times; cars are told at their size, and the gap from the cars."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = CHANNELS
        self.first = _down(4, a)
        self.second, self.third, self.fourth = _down(a, b), _down(b, c), _down(c, d)
        self.up = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.cars = nn.Sequential(nn.Conv2d(a, a, 3, 1, 1), nn.SiLU(), nn.Conv2d(a, 4, 1), nn.PixelShuffle(2))
        self.few = nn.Conv2d(d, 12, 1)
        self.told = nn.Sequential(nn.LazyLinear(64), nn.SiLU(), nn.Linear(64, len(VALUES) - 1))
        self.ahead = Ahead(a)
        self.kinds = nn.LazyLinear(sum(len(SPEC.attributes[name]) for name in ATTRIBUTES))

    def forward(self, pictures: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of cars `[N, H, W]`, values `[N, V]` in `UNITS`, logits of all attributes `[N, K]`, and of `Ahead`.

        Args:
            pictures: `[N, 3, H, W]`, roots of brightness in [0, 1].
            before: The pictures before them.
        """
        changed = (pictures - before).mean(1, keepdim=True)
        one = self.first(torch.cat([pictures - 0.5, 4 * changed], 1)[:, :, SKY:])
        two = self.second(one)
        three = self.third(two)
        four = self.fourth(three)
        x = four
        for conv, skip in zip(self.up, (three, two, one), strict=True):
            x = F.silu(F.interpolate(conv(x), scale_factor=2.0) + skip)
        cars = self.cars(x)
        where = F.avg_pool2d(cars.sigmoid(), 4).flatten(1)
        log_gap, places = self.ahead(x, cars.detach().sigmoid())
        flat = torch.cat([_spread(part) for part in (pictures[:, :, :SKY], pictures[:, :, SKY:], one, two, three)], 1)
        return (
            F.pad(cars[:, 0], (0, 0, SKY, 0), value=NOBODY),
            torch.cat([log_gap[:, None], self.told(torch.cat([self.few(four).flatten(1), 4 * where], 1))], 1),
            self.kinds(flat),
            places,
        )


def _down(width: int, wider: int) -> nn.Sequential:
    """Half the size."""
    return nn.Sequential(nn.Conv2d(width, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.SiLU())


def _spread(maps: Tensor) -> Tensor:
    """Mean and deviation of each channel, `[N, 2 C]`."""
    return torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1)


def new_reader() -> Reader:
    """A reader that has learned nothing, for pictures of the spec."""
    reader, (height, width, _) = Reader(), SPEC.observations[SPEC.picture].shape
    with torch.no_grad():
        reader.eval()(*2 * [torch.zeros(1, 3, height, width)])
    return reader


@cache
def the_reader() -> Reader:
    """The reader of this folder."""
    reader = new_reader().eval().requires_grad_(False)
    reader.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return reader


def as_input(pictures: np.ndarray) -> Tensor:
    """Pictures uint8 `[N, H, W, 3]` as the network takes them."""
    return (torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255).sqrt()


@torch.inference_mode()
def read(pictures: np.ndarray, before: np.ndarray | None = None) -> Reading:
    """Reads pictures.

    Args:
        pictures: uint8 `[N, H, W, 3]`.
        before: The picture a step before each of them; None: not known, and neither are turn and speed then.
    """
    parts = []
    for at in range(0, len(pictures), BATCH):
        rows = slice(at, at + BATCH)
        now = as_input(pictures[rows])
        parts.append(the_reader()(now, now if before is None else as_input(before[rows])))
    cars, told, kinds, _ = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
    values = dict(zip(VALUES, (told * np.array(UNITS, np.float32)).T, strict=True))
    gap = (NEAR * np.expm1(values.pop("log_gap"))).clip(0.0, FARTHEST)
    names, at = {}, 0
    for name in ATTRIBUTES:
        allowed = np.array(SPEC.attributes[name])
        names[name] = allowed[kinds[:, at : at + len(allowed)].argmax(1)]
        at += len(allowed)
    return Reading(1 / (1 + np.exp(-cars)), {"gap": gap, **values}, names)
