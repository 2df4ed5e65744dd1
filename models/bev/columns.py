"""What a column of the picture shows of the ground along its ray: the near hides the far.

The ground is read at distances whose steps grow with them, so a thing keeps its shape when it comes nearer. Each row of
the picture composes what lies on the ray by how much of it is there to be seen (volume rendering, Max 1995; NeRF,
Mildenhall et al. 2020, arXiv 2003.08934), which is learned, for each row anew: a wall is there on many, a kerb on few.

Legend: B rows, G numbers of a cell of the ground, D distances, U columns, h rows of the picture's cells, V values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from drivedit.config import BevWorldConfig
from drivedit.models.bev.planes import Planes
from drivedit.models.layers.convnext import Conv, ConvNextBlock

DISTANCES = 48
NEAREST = 3.0  # metres ahead of the camera
PER_CELL = 2  # columns for each cell of the renderer
WIDTH = 64
HEADS, KEY, VALUE = 4, 16, 24  # ways of composing, and the numbers of each
THERE, NOT_THERE = 2.0, -3.0  # logits at first, of the road where a row meets it and of all before it


class Columns(nn.Module):
    """Composes what columns see.

    Args:
        config: The world's configuration.
        planes: Where the pixels of the camera look.
    """

    ahead: Tensor
    right: Tensor

    def __init__(self, config: BevWorldConfig, planes: Planes) -> None:
        super().__init__()
        rows, cells = config.tokens
        self.values_dim = HEADS * VALUE * PER_CELL
        self.first = Conv(config.ground, WIDTH, 1)
        self.place = nn.Parameter(torch.zeros(WIDTH, DISTANCES, 1))
        self.blocks = nn.ModuleList(ConvNextBlock(WIDTH, 2, 3, config.code) for _ in range(3))
        self.out = Conv(WIDTH, HEADS * (KEY + VALUE), 1)
        self.rows = nn.Parameter(0.3 * torch.randn(HEADS, rows, KEY))
        far = math.log(config.window[1] / NEAREST)
        ahead = NEAREST * torch.exp(far * torch.arange(DISTANCES, device="cpu") / (DISTANCES - 1))
        across = (torch.arange(cells * PER_CELL, device="cpu") + 0.5) / (cells * PER_CELL) * 2 - 1
        right = ahead[:, None] * across * planes.slope / planes.cosine
        self.register_buffer("ahead", (ahead[:, None].expand_as(right) + config.camera.ahead).clone(), persistent=False)
        self.register_buffer("right", right, persistent=False)
        meets = (planes.rays[0] * planes.away[0]).unflatten(0, (rows, -1)).mean((1, 2))  # metres ahead
        road = torch.where(ahead >= meets[:, None], THERE, NOT_THERE)
        self.there = nn.Parameter(road.expand(HEADS, -1, -1).clone())

    def forward(self, ground: Tensor, code: Tensor) -> Tensor:
        """What cells of the picture see `[B, V, h, w]`.

        Args:
            ground: Read at `ahead` and `right`, `[B, G, D, U]`.
            code: `[B, E]` of the scene.
        """
        x = self.first(ground) + self.place
        for block in self.blocks:
            x = block(x, code)
        keys, values = self.out(x).unflatten(1, (HEADS, -1)).split([KEY, VALUE], 2)
        opaque = torch.einsum("hrk,bhkdu->bhrdu", self.rows, keys).float() + self.there[..., None]
        passed = -nn.functional.softplus(opaque)  # log of what a distance lets through
        seen = torch.exp(nn.functional.logsigmoid(opaque) + passed.cumsum(3) - passed)
        composed = torch.einsum("bhrdu,bhvdu->bhvru", seen.to(values), values)
        return composed.unflatten(4, (-1, PER_CELL)).movedim(5, 3).flatten(1, 3)
