"""How the car goes on: the ego-motion of the coming interval, of the controls and of the ego-motion before.

It looks at nothing else, so it can be learned from poses and controls alone, on paths of many frames, in a minute. A
car that is dreamed goes where it goes, and its pictures follow: they never have to make up for it.

Legend: B rows, A controls.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drivedit.models.flow.path import over

WIDTH = 96  # of the hidden layers


class EgoMotion(nn.Module):
    """Foretells ego-motion; at first it goes on as it is.

    Args:
        controls: A.
    """

    unit: Tensor

    def __init__(self, controls: int) -> None:
        super().__init__()
        last = nn.Linear(WIDTH, 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(
            nn.Linear(controls + 4, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), last
        )  # fmt: skip
        self.register_buffer("unit", torch.ones(3))  # how much ego-motion changes in a unit of time; set by training

    def forward(self, controls: Tensor, motion: Tensor, dt: Tensor) -> Tensor:
        """Ego-motion of a unit of time in the coming interval `[B, 3]`.

        Args:
            controls: `[B, A]`, held meanwhile.
            motion: `[B, 3]` of a unit of time in the interval before.
            dt: The interval in units of time, `[B]`.
        """
        passed = over(dt.to(motion), motion)
        return motion + passed * self.unit * self.net(torch.cat([controls, motion, passed], 1)).float()
