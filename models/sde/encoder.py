"""From frames to motion: a convolutional encoder of their differences, and a convolutional GRU over time.

Legend: B rows, C channels of a frame, H W its rows and columns, M channels of a motion state, h w its rows and columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import MotionEncoderConfig
from drivedit.models.layers.convnext import Conv


class MotionEncoder(nn.Module):
    """Convolutions with halvings between them: 5 x 5, and 7 x 7 at the smallest size.

    Args:
        in_channels: C.
        model_channels: Width of the first one; each halving doubles it, so that M is `model_channels * 2^n_downs`.
        n_downs: Halvings.
        circular: Whether columns wrap around.
    """

    def __init__(self, in_channels: int, model_channels: int, n_downs: int, circular: bool = False) -> None:
        super().__init__()
        widths = [model_channels * 2**level for level in range(n_downs + 1)]
        sizes = [5] * n_downs + [7]
        inputs = [in_channels, *widths[:-1]]
        self.convolutions = nn.ModuleList(
            Conv(*each, circular=circular) for each in zip(inputs, widths, sizes, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Frames or their differences `[B, C, H, W]` to `[B, M, h, w]`, none of it negative."""
        for level, layer in enumerate(self.convolutions):
            x = F.relu(layer(F.max_pool2d(x, 2) if level else x))
        return x


class ConvGRUCell(nn.Module):
    """A gated recurrent unit of 3 x 3 convolutions (Ballas et al. 2016): `h' = (1 - u) h + u h~`.

    Args:
        inputs: Channels of what it reads.
        hidden: Channels M of the state.
        circular: Whether columns wrap around.
        legacy_gru: Leaves the gate u off h~, as the original does. The state is then not bounded by 1 but comes to
            rest at `h~ / u`.
    """

    def __init__(self, inputs: int, hidden: int, circular: bool = False, legacy_gru: bool = False) -> None:
        super().__init__()
        self.legacy = legacy_gru
        self.gates = Conv(inputs + hidden, 2 * hidden, 3, circular)
        self.candidate = Conv(inputs + hidden, hidden, 3, circular)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """The state `[B, M, h, w]` after an input `[B, inputs, h, w]`."""
        update, reset = self.gates(torch.cat([x, h], 1)).sigmoid().to(h).chunk(2, 1)
        candidate = self.candidate(torch.cat([x, reset * h], 1)).tanh().to(h)
        return h - update * h + candidate if self.legacy else torch.lerp(h, candidate, update)


def encoder_of(config: MotionEncoderConfig) -> tuple[MotionEncoder, ConvGRUCell]:
    """The encoder and the recurrent cell that a configuration describes."""
    c = config
    return (
        MotionEncoder(c.in_channels, c.model_channels, c.n_downs, c.circular),
        ConvGRUCell(c.m_channels, c.m_channels, c.circular, c.legacy_gru),
    )
