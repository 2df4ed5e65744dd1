"""What a field of sets sees: a picture as cells that its tokens attend to, each at its place, not as one vector.

The encoder gives keys and values for all layers of the field at once, so that a picture is looked at once however many
sets are drawn and however many steps a solver takes. `SetFlow` takes both as they are.

Legend: B pictures, R rows (a whole number for each picture, side by side), P parameters, T tokens, N cells, E width,
L layers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.layers.attention import attention
from drivedit.models.layers.blocks import norm
from drivedit.models.sets.projections import KSinParamToTokenProjection, feed_forward
from drivedit.models.sets.transformer import waves

TIME = 64  # numbers that tell the time
FINEST = 16.0  # ratio of the shortest to the longest wave that tells a place
CHANNELS = 5  # colours, what changed, and whether that is known


class PictureEncoder(nn.Module):
    """Convolutions to cells of 8 rows and 4 columns of pixels, with what lies around them.

    Args:
        size: Height and width of what it sees.
        widths: Channels at a half, a quarter, an eighth and a sixteenth of the height.
        d_model: Width E of the field.
        layers: Its layers L.
    """

    def __init__(self, size: tuple[int, int], widths: tuple[int, int, int, int], d_model: int, layers: int) -> None:
        super().__init__()
        a, b, c, d = widths
        self.first = nn.Conv2d(CHANNELS, a, 5, 2, 2)
        self.second, self.around = nn.Conv2d(a, b, 3, 2, 1), _Residual(b)
        self.third = nn.Conv2d(b, c, 3, (2, 1), 1)
        self.fourth, self.far = nn.Conv2d(c, d, 3, 2, 1), _Residual(d)
        self.up, self.last = nn.Conv2d(d, c, 1), _Residual(c)
        rows, columns = -(-size[0] // 8), -(-size[1] // 4)
        self.places = nn.Parameter(place_waves(rows, columns, c))
        self.read = nn.Linear(c, layers * 2 * d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `[B, 5, H, W]` to keys and values `[B, N, 2 L E]`."""
        x = F.relu(self.first(x.contiguous(memory_format=torch.channels_last)))
        x = self.around(F.relu(self.second(x)))
        cells = F.relu(self.third(x))
        wide = self.up(self.far(F.relu(self.fourth(cells))))
        cells = self.last(cells + F.interpolate(wide, cells.shape[-2:]))
        return self.read(norm(cells.flatten(2).transpose(1, 2) + self.places))


def place_waves(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines `[rows * columns, width]` of where cells lie; what is left of the width is zero."""
    count = width // 4
    waves_ = math.pi / 2 * FINEST ** torch.linspace(0, 1, count)
    down, right = (torch.linspace(-1, 1, side)[:, None] * waves_ for side in (rows, columns))
    parts = [turn(down)[:, None].expand(-1, columns, -1) for turn in (torch.sin, torch.cos)]
    parts += [turn(right).expand(rows, -1, -1) for turn in (torch.sin, torch.cos)]
    return F.pad(torch.cat(parts, -1), (0, width - 4 * count)).flatten(0, 1)


class _Residual(nn.Module):
    """Two convolutions beside what goes in; at the beginning they add nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms maps."""
        return F.relu(x + self.two(F.relu(self.one(x))))


class SeeingField(nn.Module):
    """The vector field dx/dt of a set whose tokens attend to one another and to cells; it knows no order of its units.

    Args:
        numbers: Of a unit.
        fixed: Numbers in front of the units that are no unit (`KSinParamToTokenProjection`).
        d_model: Width E.
        layers: Layers L.
        heads: Attention heads.
        d_ff: Width of the feed-forward layers.
    """

    def __init__(self, numbers: int, fixed: int, d_model: int, layers: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.projection = KSinParamToTokenProjection(d_model, numbers, fixed=fixed)
        self.time = feed_forward(TIME, d_model)
        self.layers = nn.ModuleList(_Layer(d_model, heads, d_ff) for _ in range(layers))
        self.null = nn.Parameter(torch.randn(layers * 2 * d_model))

    def forward(self, x: Tensor, t: Tensor, conditioning: Tensor | None = None) -> Tensor:
        """The vector field.

        Args:
            x: `[R, P]`.
            t: `[R, 1]`, from 0 (noise) to 1 (data).
            conditioning: `[B, N, 2 L E]`, each for R / B rows that follow one another; None: the learnt cell of none.

        Returns:
            `[R, P]`.

        Raises:
            ValueError: Rows do not divide by pictures.
        """
        cells = self.null.expand(1, 1, -1) if conditioning is None else conditioning
        if len(x) % len(cells):
            raise ValueError(f"{len(x)} rows are not a whole number for each of {len(cells)} pictures")
        return self.projection.token_to_param(self.transform(self.projection.param_to_token(x), t, cells))

    def transform(self, tokens: Tensor, t: Tensor, cells: Tensor) -> Tensor:
        """Tokens `[R, T, E]` under times `[R, 1]` and cells `[B, N, 2 L E]`."""
        z = self.time(waves(t, TIME))
        for layer, (keys, values) in zip(self.layers, _pairs(cells, len(self.layers)), strict=True):
            tokens = layer(tokens, z, keys, values)
        return norm(tokens)

    def apply_dropout(self, z: Tensor, rate: float, *, rng: torch.Generator | None = None) -> Tensor:
        """Cells `[B, N, 2 L E]`, those of whole pictures replaced by the learnt cell of none, at a rate."""
        lost = torch.rand(len(z), generator=rng) < rate
        return torch.where(lost.to(z.device)[:, None, None], self.null.to(z), z)

    def penalty(self) -> Tensor:
        """Zero: nothing is assigned."""
        return self.projection.penalty()


def _pairs(cells: Tensor, layers: int) -> list[Any]:
    """Keys and values of each layer, `[B, N, E]`."""
    return [part.chunk(2, -1) for part in cells.chunk(layers, -1)]


class _Layer(nn.Module):
    """Attention among tokens, attention to cells, and a feed-forward network; the time scales, shifts and gates."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ask, self.told = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, z: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Transforms tokens `[R, T, E]` under `[R, E]` beside keys and values `[B, N, E]`."""
        parts = self.modulation(F.gelu(z))[:, None].unflatten(-1, (6, -1)).unbind(2)
        gain1, shift1, gate1, gain2, shift2, gate2 = parts
        y = torch.addcmul(shift1, norm(x), 1 + gain1)
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        x = x + (1 + gate1) * self.out(attention(q, q, k, v, None).transpose(1, 2).flatten(2))
        x = x + self.told(self._look(self.ask(norm(x)), keys, values))
        y = torch.addcmul(shift2, norm(x), 1 + gain2)
        return x + (1 + gate2) * self.down(F.gelu(self.up(y)))

    def _look(self, asked: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What tokens `[R, T, E]` see; all rows of a picture look at it together."""
        together = asked.reshape(len(keys), -1, asked.shape[-1])  # [B, R / B * T, E]
        q, k, v = (part.to(asked).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (together, keys, values))
        return attention(q, q, k, v, None).transpose(1, 2).reshape(asked.shape)
