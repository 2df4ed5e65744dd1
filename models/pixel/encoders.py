"""What PixelHDM is told of texts and aligned with of pictures: frozen encoders, of a local folder or the package's own.

The published system has Qwen3 for texts and DINOv3 for pictures. Nothing is downloaded: where no folder is named there
are stand-ins, words by their hash and random convolutions of a fixed seed. Weights are read when they are first needed.

Legend: B texts or pictures, T tokens, D width of a token, H W pixels, L patches, E width of a feature.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import PixelHDMConfig
from drivedit.models.pixel.network import channels_last
from drivedit.models.text_encoder import HunyuanTextEncoder
from drivedit.utils import extra, generator, init_logger, seeded

logger = init_logger(__name__)

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures in [0, 1]


class TextEncoder:
    """Encodes texts.

    Args:
        path: Local folder of an encoder that `transformers` loads; None: every word has the vector that its hash draws.
        width: D.
        max_length: Most tokens of a text; what comes after them is left out.
    """

    def __init__(self, path: str | None, width: int, max_length: int) -> None:
        self.path, self.width, self.max_length = path, width, max_length
        self._encoder: HunyuanTextEncoder | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it is frozen: copies of a model share it

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes B texts.

        Returns:
            Tokens float32 `[B, T, D]`, T the longest text's; which of them are there, bool `[B, T]`; and a vector for
            the whole text `[B, D]`, the sum of its tokens with a mean square of 1, or zeros of an empty text.

        Raises:
            ValueError: There is no text, or something else than texts.
            RuntimeError: The folder holds no encoder of this width, or `transformers` is not installed.
        """
        if self._encoder is None:
            self._encoder = self._load()
        hidden, mask = self._encoder.encode(list(texts), max_sequence_length=self.max_length)
        used = mask.any(0)
        used[0] = True  # attention has no use for texts of no tokens at all
        hidden, mask = hidden[:, used], mask[:, used]
        return hidden, mask, F.rms_norm(hidden.sum(1), (self.width,))

    def _load(self) -> HunyuanTextEncoder:
        try:
            encoder = HunyuanTextEncoder(self.path, self.width)
        except (OSError, ImportError, ValueError) as error:
            raise RuntimeError(
                f"the text encoder {self.path!r} cannot be loaded ({error}); set text_encoder_name to the folder of "
                f"one, or to {PixelHDMConfig.text_encoder_name!r} for the package's own"
            ) from error
        if encoder.width != self.width:
            raise RuntimeError(
                f"tokens of the text encoder {self.path!r} are {encoder.width} wide, text_hidden_size is {self.width}"
            )
        return encoder


class ImageEncoder:
    """Features of pictures, patch by patch.

    Args:
        path: Local folder of a DINOv3 that `transformers` loads; None: random convolutions of a fixed seed, which tell
            colours and edges, and nothing of what things are.
        width: E.
        patch: Side of a patch in pixels.
        bf16: Whether a DINOv3 computes in bfloat16.
    """

    def __init__(self, path: str | None, width: int, patch: int, bf16: bool = False) -> None:
        self.path, self.width, self.patch, self.bf16 = path, width, patch, bf16
        self._network: nn.Module | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # likewise

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Encodes pictures `[B, 3, H, W]` or `[B, H, W, 3]` in [-1, 1], where they are.

        Returns:
            Features float32 `[B, L, E]`, in rows from the upper left.

        Raises:
            ValueError: The shape is another one, or the side of a patch does not divide H and W.
            RuntimeError: The folder holds no DINOv3 of these sizes, or `transformers` is not installed.
        """
        x = channels_last(images, 3).permute(0, 3, 1, 2).float()
        if x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(f"height and width must be multiples of {self.patch}, got {tuple(x.shape[2:])}")
        if self._network is None:
            self._network = self._load().eval().requires_grad_(False)
        return self._network.to(x.device)(x).float()

    def _load(self) -> nn.Module:
        if self.path is None:
            with seeded(generator(0, "pixel/image_encoder")):
                return RandomConvolutions(self.width, self.patch)
        try:
            return DINOv3(Path(self.path), self.width, self.patch, torch.bfloat16 if self.bf16 else torch.float32)
        except (OSError, ImportError, ValueError) as error:
            raise RuntimeError(
                f"the image encoder {self.path!r} cannot be loaded ({error}); set repa_local_path to the folder of a "
                "DINOv3, or to None for the package's own"
            ) from error


class RandomConvolutions(nn.Module):
    """Convolutions as they are drawn, of pictures `[B, 3, H, W]`, with means over patches: `[B, L, width]`."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1), nn.SiLU(), nn.GroupNorm(1, 64), nn.Conv2d(64, 128, 3, 2, 1), nn.SiLU(),
            nn.GroupNorm(1, 128), nn.Conv2d(128, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Features of pictures."""
        grid = x.shape[2] // self.patch, x.shape[3] // self.patch
        return F.adaptive_avg_pool2d(self.layers(x), grid).flatten(2).transpose(1, 2)


class DINOv3(nn.Module):
    """A DINOv3 (Simeoni et al. 2025, arXiv 2508.10104) of a local folder, without its class and register tokens.

    Raises:
        FileNotFoundError: There is no such folder.
        ImportError: `transformers` is not installed.
        ValueError: Its features or patches have other sizes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path, width: int, patch: int, dtype: torch.dtype) -> None:
        super().__init__()
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder {path}; nothing is downloaded")
        with extra("text", "a pretrained image encoder"):
            transformers = importlib.import_module("transformers")
        model = transformers.AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        found = model.config.hidden_size, model.config.patch_size
        if found != (width, patch):
            raise ValueError(f"repa_hidden_size and repa_patch_size must be its {found}, got {(width, patch)}")
        self.model, self.patch, self.dtype = model.to(dtype), patch, dtype
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, L, E]` of pictures `[B, 3, H, W]` in [-1, 1]."""
        patches = x.shape[2] * x.shape[3] // self.patch**2
        pixels = ((x + 1) / 2 - self.mean) / self.std
        return self.model(pixel_values=pixels.to(self.dtype)).last_hidden_state[:, -patches:]


def create_text_encoder_from_config(config: PixelHDMConfig) -> TextEncoder:
    """The text encoder of a configuration.

    `text_encoder_name` is a folder. Where the name is the published one and no such folder is there, words are hashed,
    and a warning says so.
    """
    name = config.text_encoder_name
    if name == PixelHDMConfig.text_encoder_name and not Path(name).is_dir():
        logger.warning("no folder %s: texts are encoded by the hash of their words (TextEncoder)", name)
        return TextEncoder(None, config.text_hidden_size, config.text_max_length)
    return TextEncoder(name, config.text_hidden_size, config.text_max_length)


def create_dinov3_encoder_from_config(config: PixelHDMConfig) -> ImageEncoder:
    """The image encoder of a configuration; without `repa_local_path` random convolutions, and a warning says so."""
    path = config.repa_local_path
    if path is None:
        logger.warning("no repa_local_path: random convolutions (RandomConvolutions) replace %s", config.repa_encoder)
    return ImageEncoder(path, config.repa_hidden_size, config.repa_patch_size, config.repa_use_bf16)
