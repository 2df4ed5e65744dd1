"""An error of pictures that counts most where eyes see most, weighed by JPEG (DeCo, Ma et al. 2025, arXiv 2511.19365).

Pictures are cut into blocks of 8 x 8 pixels, each a sum of cosines. JPEG rounds a cosine the more coarsely, the less it
is seen; the weight of an error is one over that rounding (ITU-T T.81, tables K.1 and K.2).

Legend: B pictures, C channels, H W pixels, b 8.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config.pixel import DCT_BLOCK

# fmt: off
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,      12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,      14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,  72, 92, 95, 98, 112, 100, 103, 99,
)
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,  18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,  47, 66, 99, 99, 99, 99, 99, 99,
    *[99] * 32,
)
# fmt: on
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # ITU-R BT.601


def dct_matrix(size: int = DCT_BLOCK) -> Tensor:
    """The orthonormal cosine transform `[b, b]` of double precision: row k has frequency k."""
    place = torch.arange(size, dtype=torch.float64)
    waves = (math.pi / size * (place + 0.5) * place[:, None]).cos() * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves


def to_ycbcr(picture: Tensor) -> Tensor:
    """Luminance and the two colour differences of red, green and blue `[B, 3, H, W]`: linear, without an offset."""
    return torch.einsum("dc,bchw->bdhw", picture.new_tensor(YCBCR), picture)


def block_dct(picture: Tensor) -> Tensor:
    """Cosines `[B, C, H / b, W / b, b, b]` of the blocks of `[B, C, H, W]`, which is filled up with 0 to whole ones."""
    height, width = picture.shape[-2:]
    filled = F.pad(picture, (0, -width % DCT_BLOCK, 0, -height % DCT_BLOCK))
    blocks = filled.unfold(-2, DCT_BLOCK, DCT_BLOCK).unfold(-2, DCT_BLOCK, DCT_BLOCK)
    waves = dct_matrix().to(picture)
    return waves @ blocks @ waves.T


def quantisation(table: tuple[int, ...], quality: int) -> Tensor:
    """The table `[b, b]` of JPEG at a quality, whole numbers from 1 to 255 in double precision; its rule is libjpeg's.

    Raises:
        ValueError: The quality is not from 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, got {quality}")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    scaled = (torch.tensor(table, dtype=torch.float64) * scale + 50) / 100
    return scaled.floor().clamp(1, 255).view(DCT_BLOCK, DCT_BLOCK)


def frequency_weights(table: tuple[int, ...], quality: int) -> Tensor:
    """Weights `[b, b]` of cosines: one over their quantisation, of mean 1."""
    weights = 1 / quantisation(table, quality)
    return weights / weights.mean()


class FrequencyLoss(nn.Module):
    """Mean squared error of cosines, weighed by how well eyes see them.

    At quality 100 it is the mean squared error of pixels (Parseval). Blocks that reach over the edge count for the
    pixels that they have.

    Args:
        quality: JPEG quality, 1 to 100.
        weight: Of the loss.
        use_ycbcr: Whether it compares luminance and colour differences, each with its table. Otherwise the channels as
            they are, with the table of luminance.

    Raises:
        ValueError: The quality is out of its range.
    """

    weights: Tensor

    def __init__(self, quality: int = 90, weight: float = 1.0, use_ycbcr: bool = True) -> None:
        super().__init__()
        self.weight, self.use_ycbcr = weight, use_ycbcr
        tables = (LUMINANCE, CHROMINANCE, CHROMINANCE) if use_ycbcr else (LUMINANCE,)
        stacked = torch.stack([frequency_weights(table, quality) for table in tables])
        self.register_buffer("weights", stacked.float()[:, None, None], persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of pictures or velocities `[B, C, H, W]` of any size, in single precision at least.

        Raises:
            ValueError: The shapes differ, or there are not the three channels of a colour.
        """
        if pred.shape != target.shape or pred.ndim != 4 or (self.use_ycbcr and pred.shape[1] != 3):
            channels = "3" if self.use_ycbcr else "C"
            raise ValueError(
                f"pred and target must be [B, {channels}, H, W] of one shape, got {tuple(pred.shape)} and "
                f"{tuple(target.shape)}"
            )
        with torch.autocast(pred.device.type, enabled=False):
            error = pred.to(torch.promote_types(pred.dtype, torch.float32)) - target
            cosines = block_dct(to_ycbcr(error) if self.use_ycbcr else error)
            return self.weight * (self.weights * cosines.square()).sum() / error.numel()
