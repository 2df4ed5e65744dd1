"""The last picture as it looks after an ego-motion, if what it shows lies on the ground, or on one of upright planes.

A sweep of planes (Collins 1996; Zhou et al. 2018, arXiv 1805.09817): one of them is nearly right for everything that
stands still, so a network has to choose, and not to invent.

Legend: B rows, C channels, H W rows and columns of a picture, K planes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import CameraConfig

NEAREST = 0.2  # m before the camera
HORIZON = 1e-3  # sine of the angle below the horizon, from where on there is ground
FAR = 1e6  # m to what lies on the ground above the horizon
BEYOND = 2.0  # of the half picture from its middle: farther out, where its last pixels go on, places are all one


class Planes(nn.Module):
    """Where the pixels of a camera look.

    Args:
        camera: How it sees the road.
        size: H and W.
        depths: Metres ahead of the car to the upright planes; the ground comes before them.
    """

    rays: Tensor
    away: Tensor

    def __init__(self, camera: CameraConfig, size: tuple[int, int], depths: Sequence[float]) -> None:
        super().__init__()
        self.camera, self.size = camera, size
        self.slope = math.tan(math.radians(camera.fov) / 2)
        self.sine, self.cosine = math.sin(math.radians(camera.pitch)), math.cos(math.radians(camera.pitch))
        rows, columns = size
        across = ((torch.arange(columns, device="cpu") + 0.5) / columns * 2 - 1) * self.slope
        down = ((torch.arange(rows, device="cpu") + 0.5) / rows * 2 - 1) * self.slope * rows / columns
        down, across = torch.meshgrid(down, across, indexing="ij")
        ahead, up = self.cosine - down * self.sine, -self.sine - down * self.cosine
        self.register_buffer("rays", torch.stack([ahead, across, up]), persistent=False)
        ground = torch.where(-up > HORIZON, camera.height / (-up).clamp(min=HORIZON), FAR)
        self.register_buffer("away", torch.stack([ground, *(depth / ahead for depth in depths)]), persistent=False)

    def __len__(self) -> int:
        return len(self.away)

    def places(self, motion: Tensor) -> Tensor:
        """Where in the picture before an ego-motion lies what each pixel shows after it, in [-1, 1].

        Args:
            motion: `[B, 3]` forward, right (m) and turn to the right (rad).

        Returns:
            `[B, K, H, W, 2]`, to the right and down. For each pixel they lie on one line, by distance.
        """
        ahead, right, up = (self.rays * self.away[:, None]).unbind(1)  # [K, H, W], from the camera
        forward, aside, turn = (each[:, None, None, None] for each in motion.unbind(-1))
        ahead = ahead + self.camera.ahead
        before = forward + ahead * turn.cos() - right * turn.sin() - self.camera.ahead
        right = aside + ahead * turn.sin() + right * turn.cos()
        depth = (before * self.cosine - up * self.sine).clamp(min=NEAREST)
        down = -(before * self.sine + up * self.cosine)
        rows, columns = self.size
        scale = depth * self.slope
        return torch.stack([right / scale, down / scale * columns / rows], -1).clamp(-BEYOND, BEYOND)

    def forward(self, picture: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
        """Pictures `[B, K, C, H, W]` of what one in [-1, 1] `[B, C, H, W]` shows at places `[B, K, H, W, 2]`.

        Beyond the edges the last pixels go on.
        """
        seen = F.grid_sample(picture, places.flatten(1, 2), mode=mode, padding_mode="border", align_corners=False)
        return seen.unflatten(2, places.shape[1:3]).transpose(1, 2)
