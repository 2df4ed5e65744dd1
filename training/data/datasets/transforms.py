"""Transforms of videos and frames: static functions on float tensors in [0, 1].

Legend: B clips, T frames, C channels, H W pixels. A video is `[T, C, H, W]` or `[B, T, C, H, W]`, a frame
`[..., C, H, W]` with any axes before, so that frame transforms take whole videos too. What changes brightness stays in
[0, 1]. Chance comes from a generator; None is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MODES = ("nearest", "bilinear", "bicubic", "area")


class VideoTransforms:
    """Transforms along time."""

    @staticmethod
    def temporal_crop(
        video: Tensor, length: int, start: int | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """A stretch of `length` frames, from `start` or (None) from a random place.

        Raises:
            ValueError: The stretch does not lie in the video.
        """
        frames = _frames(video)
        if not 1 <= length <= frames:
            raise ValueError(f"length must be from 1 to the video's {frames} frames, got {length}")
        if start is None:
            start = int(torch.randint(frames - length + 1, (1,), generator=generator))
        if not 0 <= start <= frames - length:
            raise ValueError(f"start must be from 0 to {frames - length}, got {start}")
        return video.narrow(-4, start, length)

    @staticmethod
    def temporal_subsample(video: Tensor, factor: int) -> Tensor:
        """Every `factor`-th frame, beginning with the first.

        Raises:
            ValueError: `factor` is below 1.
        """
        _frames(video)
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        return video[..., ::factor, :, :, :]

    @staticmethod
    def temporal_flip(video: Tensor) -> Tensor:
        """The video backwards. Not for dynamics: it turns causes into effects, and no controls fit it any more."""
        _frames(video)
        return video.flip(-4)

    @staticmethod
    def apply_frame_transform(video: Tensor, transform_fn: Callable[..., Tensor], **kwargs: Any) -> Tensor:
        """Calls `transform_fn(frame, **kwargs)` on every frame `[C, H, W]`, one after another."""
        _frames(video)
        frames = [transform_fn(frame, **kwargs) for frame in video.flatten(0, -4)]
        return torch.stack(frames).unflatten(0, video.shape[:-3])


class FrameTransforms:
    """Transforms of pictures."""

    @staticmethod
    def normalize(frame: Tensor, mean: list[float], std: list[float]) -> Tensor:
        """Subtracts `mean` and divides by `std`, one value of each per channel.

        Raises:
            ValueError: There are more or fewer values than channels, or a deviation is not positive.
        """
        channels = _picture(frame)[0]
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise ValueError(f"mean and positive std of {channels} channels are needed, got {mean} and {std}")
        return (frame - frame.new_tensor(mean)[:, None, None]) / frame.new_tensor(std)[:, None, None]

    @staticmethod
    def resize(frame: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
        """Brings pictures to a height and width, averaging where they shrink (except `"nearest"`).

        Raises:
            ValueError: The mode is unknown, or a side is below 1.
        """
        shape = _picture(frame)
        if mode not in MODES or min(size) < 1:
            raise ValueError(f"mode must be one of {list(MODES)} and size positive, got {mode!r} and {tuple(size)}")
        smooth = mode in ("bilinear", "bicubic")
        settings: dict[str, Any] = {"align_corners": False, "antialias": True} if smooth else {}
        flat = F.interpolate(frame.reshape(-1, *shape), size=tuple(size), mode=mode, **settings)
        flat = flat.clamp(0, 1) if mode == "bicubic" else flat  # which overshoots at edges
        return flat.reshape(*frame.shape[:-2], *size)

    @staticmethod
    def crop(frame: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
        """A box of the pictures.

        Raises:
            ValueError: The box is empty, or does not lie in the picture.
        """
        _, high, wide = _picture(frame)
        if min(top, left) < 0 or min(height, width) < 1 or top + height > high or left + width > wide:
            raise ValueError(
                f"the box top={top}, left={left}, height={height}, width={width} does not lie in {high} x {wide} pixels"
            )
        return frame[..., top : top + height, left : left + width]

    @staticmethod
    def horizontal_flip(frame: Tensor) -> Tensor:
        """Mirrors left and right; see `AugmentationPipeline`, which mirrors the controls with it."""
        _picture(frame)
        return frame.flip(-1)

    @staticmethod
    def brightness(frame: Tensor, factor: float) -> Tensor:
        """Multiplies by `factor`, at least 0."""
        return (frame * _factor(factor)).clamp(0, 1)

    @staticmethod
    def contrast(frame: Tensor, factor: float) -> Tensor:
        """Multiplies what differs from the picture's mean grey by `factor`, at least 0."""
        _picture(frame)
        grey = frame.mean((-3, -2, -1), keepdim=True)
        return (grey + _factor(factor) * (frame - grey)).clamp(0, 1)

    @staticmethod
    def gaussian_noise(frame: Tensor, std: float = 0.01, *, generator: torch.Generator | None = None) -> Tensor:
        """Adds independent normal noise of that deviation, at least 0."""
        noise = torch.randn(frame.shape, generator=generator, dtype=frame.dtype).to(frame.device)
        return (frame + _factor(std) * noise).clamp(0, 1)


def _frames(video: Tensor) -> int:
    """Number of frames of a video."""
    if video.ndim not in (4, 5):
        raise ValueError(f"a video must be [T, C, H, W] or [B, T, C, H, W], got {list(video.shape)}")
    return video.shape[-4]


def _picture(frame: Tensor) -> tuple[int, int, int]:
    """Channels, height and width of a frame."""
    if frame.ndim < 3:
        raise ValueError(f"a frame must be [..., C, H, W], got {list(frame.shape)}")
    return frame.shape[-3], frame.shape[-2], frame.shape[-1]


def _factor(value: float) -> float:
    if not value >= 0:
        raise ValueError(f"factors and deviations must not be negative, got {value}")
    return value
