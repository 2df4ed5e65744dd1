"""Random changes of clips that keep picture and controls true to each other.

Legend: B clips, T frames, D width of the controls (steering, acceleration, goal to the right, goal ahead).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drivedit.data.datasets.transforms import FrameTransforms, VideoTransforms

Clip = tuple[Tensor, Tensor | None]
LATERAL = (0, 2)  # the controls that a mirror negates: steering, and the goal to the right


def _flip(video: Tensor, controls: Tensor | None, rng: torch.Generator | None) -> Clip:
    if controls is not None:
        sign = torch.ones(controls.shape[-1], dtype=controls.dtype, device=controls.device)
        sign[[index for index in LATERAL if index < len(sign)]] = -1
        controls = controls * sign
    return FrameTransforms.horizontal_flip(video), controls


def _brightness(video: Tensor, controls: Tensor | None, rng: torch.Generator | None, low=0.8, high=1.2) -> Clip:
    return FrameTransforms.brightness(video, _between(low, high, rng)), controls


def _contrast(video: Tensor, controls: Tensor | None, rng: torch.Generator | None, low=0.8, high=1.2) -> Clip:
    return FrameTransforms.contrast(video, _between(low, high, rng)), controls


def _noise(video: Tensor, controls: Tensor | None, rng: torch.Generator | None, std: float = 0.01) -> Clip:
    return FrameTransforms.gaussian_noise(video, std, generator=rng), controls


def _resize(video: Tensor, controls: Tensor | None, rng: torch.Generator | None, **params: Any) -> Clip:
    return FrameTransforms.resize(video, **params), controls


def _normalize(video: Tensor, controls: Tensor | None, rng: torch.Generator | None, **params: Any) -> Clip:
    return FrameTransforms.normalize(video, **params), controls


def _crop_time(video: Tensor, controls: Tensor | None, rng: torch.Generator | None, length: int) -> Clip:
    if not 1 <= length <= len(video):
        raise ValueError(f"length must be from 1 to the video's {len(video)} frames, got {length}")
    start = int(torch.randint(len(video) - length + 1, (1,), generator=rng))
    kept = None if controls is None else controls[start : start + length]
    return VideoTransforms.temporal_crop(video, length, start), kept


TRANSFORMS: dict[str, Callable[..., Clip]] = {
    "horizontal_flip": _flip,
    "brightness": _brightness,
    "contrast": _contrast,
    "gaussian_noise": _noise,
    "resize": _resize,
    "normalize": _normalize,
    "temporal_crop": _crop_time,
}


class AugmentationPipeline:
    """Applies transforms one after another, each with a probability, to a video and its controls together.

    A mirrored video mirrors the steering and the goal; a crop in time cuts both. Whatever is drawn holds for a whole
    clip, so that no picture jumps; clips of a batch draw apart. There is no reversal of time here.

    Args:
        transforms: Dictionaries with `name` (`horizontal_flip`, `brightness` and `contrast` with `low` and `high` of
            the factor, `gaussian_noise` with `std`, `resize` with `size` and `mode`, `normalize` with `mean` and
            `std`, `temporal_crop` with `length`), and, where wanted, `p`, the probability, and `params`. What changes
            shapes needs p = 1.
        p: Probability of those that name none.

    Raises:
        ValueError: A name, a key or a probability is wrong.
    """

    def __init__(self, transforms: list[dict[str, Any]], p: float = 0.5) -> None:
        self.steps: list[tuple[str, float, dict[str, Any]]] = []
        for entry in transforms:
            unknown = set(entry) - {"name", "p", "params"}
            if unknown or entry.get("name") not in TRANSFORMS:
                raise ValueError(f"a transform has a name of {list(TRANSFORMS)}, and perhaps p and params, got {entry}")
            chance = float(entry.get("p", p))
            if not 0 <= chance <= 1 or (entry["name"] in ("resize", "temporal_crop") and chance != 1):
                raise ValueError(f"p must be in [0, 1], and 1 for resize and temporal_crop, got {chance} in {entry}")
            self.steps.append((entry["name"], chance, dict(entry.get("params", {}))))

    def __call__(
        self, video: Tensor, controls: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Clip:
        """Transforms a clip, or each clip of a batch.

        Args:
            video: `[T, C, H, W]` or `[B, T, C, H, W]` in [0, 1].
            controls: `[T, D]` or `[B, T, D]`, steering first; None: there are none.
            generator: Source of chance on the CPU; None: torch's own.

        Returns:
            The video and the controls.

        Raises:
            ValueError: The shapes do not fit together, or a parameter does not fit the video.
        """
        axes = video.ndim - 3
        if video.ndim not in (4, 5) or (controls is not None and controls.shape[:-1] != video.shape[:axes]):
            got = None if controls is None else list(controls.shape)
            raise ValueError(
                f"video [(B,) T, C, H, W] and controls [(B,) T, D] are needed, got {list(video.shape)}, {got}"
            )
        if video.ndim == 4:
            return self._clip(video, controls, generator)
        rows = [None] * len(video) if controls is None else list(controls)
        clips, followed = zip(*(self._clip(v, c, generator) for v, c in zip(video, rows, strict=True)), strict=True)
        return torch.stack(clips), None if controls is None else torch.stack(followed)

    @classmethod
    def create_training_pipeline(cls, image_size: tuple[int, int]) -> AugmentationPipeline:
        """Resizing to height and width; mirroring, brightness, contrast and noise half of the time each."""
        names = ("horizontal_flip", "brightness", "contrast", "gaussian_noise")
        return cls([{"name": "resize", "p": 1.0, "params": {"size": image_size}}, *({"name": name} for name in names)])

    @classmethod
    def create_validation_pipeline(cls, image_size: tuple[int, int]) -> AugmentationPipeline:
        """Resizing to height and width, nothing else."""
        return cls([{"name": "resize", "p": 1.0, "params": {"size": image_size}}])

    def _clip(self, video: Tensor, controls: Tensor | None, rng: torch.Generator | None) -> Clip:
        for name, chance, params in self.steps:
            if float(torch.rand(1, generator=rng)) < chance:
                video, controls = TRANSFORMS[name](video, controls, rng, **params)
        return video, controls


def _between(low: float, high: float, rng: torch.Generator | None) -> float:
    return low + (high - low) * float(torch.rand(1, generator=rng))
