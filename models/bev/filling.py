"""New ground: a flow dreams latents of it where nothing is known, and a network draws the ground of these.

A latent tells of BLOCK x BLOCK cells. What latents are is learned with the pictures, by a network that sees the ground
from all along a drive (`drivedit.training.methods.survey`); then the flow learns their law (latent flow matching,
Rombach et al. 2022, arXiv 2112.10752; Lipman et al. 2023, arXiv 2210.02747).

Legend: B rows, G numbers of a cell of the ground, X Y rows and columns of cells, Z numbers of a latent, x y rows and
columns of latents, E numbers of a code, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import BevWorldConfig
from drivedit.config.bev import BLOCK
from drivedit.models.bev.ground import FINER, ROAD
from drivedit.models.bev.networks import HEIGHTS, LIFTED
from drivedit.models.layers.attention import attention
from drivedit.models.layers.blocks import adaptive_norm, fourier_features, norm
from drivedit.models.layers.convnext import Conv, ConvNextBlock

FINE = 48  # width of layers at whole cells
TIMES = 16  # numbers that tell how noisy latents are
HEAD = 32  # width of a head of attention, at least
VIEWS = 2  # pictures of a start scene


def placed(config: BevWorldConfig) -> Tensor:
    """Where cells lie in the window, in [-1, 1]: `[1, 2, X, Y]`."""
    rows, columns = config.cells
    down, across = torch.linspace(-1, 1, rows, device="cpu"), torch.linspace(-1, 1, columns, device="cpu")
    return torch.stack(torch.meshgrid(down, across, indexing="ij"))[None].clone()


class Drawer(nn.Module):
    """Draws the ground that latents tell of.

    Args:
        config: The world's configuration.
    """

    def __init__(self, config: BevWorldConfig) -> None:
        super().__init__()
        width = config.filler[0]
        self.latents = Conv(config.latent, width, 1)
        self.coarse = nn.ModuleList(ConvNextBlock(width, 2, 3, config.code) for _ in range(2))
        self.up = Conv(width, FINE * BLOCK**2, 1)
        self.road = Conv(ROAD, FINE, 3)
        self.fine = nn.ModuleList(ConvNextBlock(FINE, 2, 3, config.code) for _ in range(2))
        self.out = Conv(FINE, config.ground, 1)

    def forward(self, latents: Tensor, road: Tensor, code: Tensor) -> Tensor:
        """The ground `[B, G, X, Y]`, in (-1, 1).

        Args:
            latents: `[B, Z, x, y]`.
            road: `[B, ROAD, X, Y]`, of the route.
            code: `[B, E]` of the scene.
        """
        x = self.latents(latents)
        for block in self.coarse:
            x = block(x, code)
        x = rearrange(self.up(x), "b (c r s) h w -> b c (h r) (w s)", r=BLOCK, s=BLOCK) + self.road(road)
        for block in self.fine:
            x = block(x, code)
        return self.out(x).float().tanh()


class Across(nn.Module):
    """Attention of every two by two places to all others, whose input is scaled and shifted by a code.

    Args:
        width: W.
        code_dim: E.
    """

    def __init__(self, width: int, code_dim: int) -> None:
        super().__init__()
        self.heads = max(width // HEAD, 1)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))
        self.film = nn.Linear(code_dim, 2 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Features `[B, W, x, y]` under codes `[B, E]`."""
        scale, shift = self.film(code)[:, None].chunk(2, -1)
        wide = F.avg_pool2d(x, 2, ceil_mode=True)
        y = adaptive_norm(wide.flatten(2).transpose(1, 2), 1 + scale, shift)
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = attention(norm(q), q, norm(k), v, None).transpose(1, 2).flatten(2)
        told = (self.scale * self.out(y)).transpose(1, 2).reshape(wide.shape)
        return x + told.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : x.shape[2], : x.shape[3]]


class Filler(nn.Module):
    """Dreams latents by what is known of the ground, by what pictures show, and by where the route leads.

    Args:
        config: The world's configuration.
    """

    place: Tensor

    def __init__(self, config: BevWorldConfig) -> None:
        super().__init__()
        width, blocks = config.filler
        self.passes = config.filling
        self.seen = Conv(VIEWS * (len(HEIGHTS) * (LIFTED + 1) + config.channels * FINER**2 + 1), FINE, 1)
        self.first = Conv(config.ground + 1 + ROAD + 2, FINE, 1)
        self.near = nn.ModuleList(ConvNextBlock(FINE, 2, 3, config.code) for _ in range(2))
        self.down = Conv(FINE, width, BLOCK + 1, stride=BLOCK)
        self.noisy = Conv(config.latent, width, 1)
        told = config.code + TIMES
        self.blocks = nn.ModuleList(
            nn.ModuleList([Across(width, told), ConvNextBlock(width, 3, 3, told)]) for _ in range(blocks)
        )
        self.spot = nn.Parameter(0.02 * torch.randn(width, *(length // BLOCK for length in config.cells)))
        self.norm = nn.GroupNorm(1, width)
        self.out = Conv(width, config.latent, 1, zero=True)
        self.register_buffer("place", placed(config), persistent=False)

    def given(self, ground: Tensor, known: Tensor, road: Tensor, code: Tensor, seen: Tensor) -> Tensor:
        """What the flow is told, `[B, W, x, y]`.

        Args:
            ground: `[B, G, X, Y]`, zero where it is not known.
            known: `[B, 1, X, Y]` 1 where it is.
            road: `[B, ROAD, X, Y]`, of the route.
            code: `[B, E]` of the scene.
            seen: Lifted from pictures, `[B, ..., X, Y]`; zeros where there are none.
        """
        told = torch.cat([ground, known, road, self.place.expand(len(ground), -1, -1, -1)], 1)
        x = self.first(told) + self.seen(seen)
        for block in self.near:
            x = block(x, code)
        return self.down(x)

    def forward(self, given: Tensor, noisy: Tensor, level: Tensor, code: Tensor) -> Tensor:
        """The velocity, noise less latents, `[B, Z, x, y]` at latents of which a share `level` `[B]` is noise."""
        told = torch.cat([code, fourier_features(level)], 1)
        x = given + self.noisy(noisy) + self.spot
        for across, near in self.blocks:  # type: ignore[misc]
            x = near(across(x, told), told)
        return self.out(F.silu(self.norm(x))).float()

    def dreamed(self, given: Tensor, noise: Tensor, code: Tensor) -> Tensor:
        """Latents `[B, Z, x, y]` that noise becomes."""
        x = noise
        for step in range(self.passes):
            level = noise.new_full((len(noise),), 1 - step / self.passes)
            x = x - self(given, x, level, code) / self.passes
        return x

    def unseen(self, like: Tensor) -> Tensor:
        """Zeros, where there are no pictures."""
        return like.new_zeros(len(like), self.seen.in_channels, *like.shape[-2:])
