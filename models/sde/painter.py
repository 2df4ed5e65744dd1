"""The network that paints a scan in one pass, out of the scans before it, the motion state, and noise.

It works on patches, so on few cells, with blocks as in ConvNeXt (Liu et al. 2022). Its distances are those of the last
scan, of the last one moved by the ego-motion, or of flat ground, cell by cell as weights say, and a correction. At
first it copies.

Legend: B rows, H W rows and columns of a scan, h w of the painter's cells, C its width, M channels of the motion state,
E width of the code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import PainterConfig
from drivedit.models.layers.convnext import Conv, ConvNextBlock

SCANS = 4  # the last two, the moved one, and noise, of two channels each
FIRST = (2.0, 0.0, -2.0, 0.0, -2.0, 0.0)  # weights of last, moved and ground, correction; the mask's gate, correction
NEAR = 0.2  # how far from a known depth a painted one is taken for it, of what networks see: some 5 m at 10 m
SURE = 2.0  # how sure the mask is at first of what it was


class Painter(nn.Module):
    """Paints scans.

    Args:
        config: Its sizes.
        motion_channels: M.
        code_dim: E.
    """

    def __init__(self, config: PainterConfig, motion_channels: int, code_dim: int) -> None:
        super().__init__()
        self.patch = config.patch
        cells = config.patch[0] * config.patch[1]
        self.look = Conv((2 * SCANS + 1) * cells, config.width, 1)
        self.motion = Conv(motion_channels, config.width, 1)
        self.blocks = nn.ModuleList(
            ConvNextBlock(config.width, config.expand, config.kernel, code_dim, circular=True)
            for _ in range(config.blocks)
        )
        self.norm = nn.GroupNorm(1, config.width)
        self.out = Conv(config.width, len(FIRST) * cells, 1, zero=True)
        self.out.bias.data.copy_(torch.tensor(FIRST).repeat_interleave(cells))  # type: ignore[union-attr]

    def forward(
        self, scans: Tensor, moved: Tensor, ground: Tensor, motion: Tensor, code: Tensor, noise: Tensor
    ) -> Tensor:
        """A scan, its depth and how sure it is that something came back, both in about [-1, 1].

        Args:
            scans: The last two `[B, 2, 2, H, W]`, the newest at the end.
            moved: The newest one, moved by the ego-motion, `[B, 2, H, W]`.
            ground: Depth of flat ground `[H, 1]`.
            motion: `[B, M, h', w']`.
            code: `[B, E]`.
            noise: `[B, 2, H, W]`.

        Returns:
            `[B, 2, H, W]`.
        """
        rows, columns = self.patch
        flat = ground.expand_as(noise[:, :1])
        seen = torch.cat([scans.flatten(1, 2), moved, noise, flat], 1)
        x = self.look(rearrange(seen, "b c (h r) (w s) -> b (c r s) h w", r=rows, s=columns))
        x = x + F.interpolate(self.motion(motion), x.shape[-2:])
        for block in self.blocks:
            x = block(x, code)
        out = rearrange(self.out(F.silu(self.norm(x))), "b (c r s) h w -> b c (h r) (w s)", r=rows, s=columns).float()
        last, there = scans[:, -1], moved[:, 1] > 0
        depth = (out[:, :3].softmax(1) * known_depths(last, moved, ground)).sum(1) + out[:, 3]
        kept = torch.lerp(last[:, 1], torch.where(there, moved[:, 1], last[:, 1]), out[:, 4].sigmoid())
        mask = SURE * kept + out[:, 5]
        return torch.stack([depth, mask.tanh()], 1)


def known_depths(last: Tensor, moved: Tensor, ground: Tensor) -> Tensor:
    """Depths `[B, 3, H, W]` that a cell may have kept: of the last scan, of that one moved, and of flat ground."""
    there, flat = moved[:, 1] > 0, ground.expand_as(moved[:, 0])
    still = torch.where(last[:, 1] > 0, last[:, 0], torch.where(there, moved[:, 0], flat))  # a beam may have been lost
    return torch.stack([still, torch.where(there, moved[:, 0], still), flat], 1)


def hardened(painted: Tensor, last: Tensor, moved: Tensor, ground: Tensor) -> Tensor:
    """Painted scans `[B, 2, H, W]` as a sensor gives them.

    Their mask is -1 or 1, there is no depth where nothing came back, and a depth near a known one is that: between a
    wall and what stands before it there is nothing.

    Args:
        painted: What `Painter` gave.
        last: The last scans `[B, 2, H, W]`.
        moved: Those, moved by the ego-motion.
        ground: Depth of flat ground `[H, 1]`.
    """
    depth, mask = painted.unbind(1)
    known, there = known_depths(last, moved, ground), mask > 0
    off, which = (known - depth[:, None]).abs().min(1, keepdim=True)
    depth = torch.where(off < NEAR, known.gather(1, which), depth[:, None])[:, 0]
    return torch.stack([torch.where(there, depth.clamp(-1, 1), -1.0), torch.where(there, 1.0, -1.0)], 1)
