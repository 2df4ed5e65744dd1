"""Videos and controls brought to what networks take, and back.

Legend: B clips, T frames, C channels, H W pixels, D width of the controls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drivedit.data.datasets.transforms import FrameTransforms
from drivedit.data.exchange.pictures import ALIASES, FIELDS

RANGES = {"steering": (-1.0, 1.0), "acceleration": (-1.0, 1.0), "goal_x": (-10.0, 10.0), "goal_y": (-10.0, 10.0)}


class VideoPreprocessor:
    """Resizes and normalises videos.

    Args:
        target_size: Height and width.
        normalize: Whether to subtract `mean` and divide by `std`.
        mean: Per channel; None: .5, which with a deviation of .5 gives the networks' [-1, 1].
        std: Per channel; None: .5.
        dtype: Of the result.

    Raises:
        ValueError: A size or a deviation is not positive.
    """

    def __init__(
        self,
        target_size: tuple[int, int] = (256, 256),
        normalize: bool = True,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.mean, self.std = mean or [0.5] * 3, std or [0.5] * 3
        if min(target_size) < 1 or min(self.std) <= 0 or len(self.mean) != len(self.std):
            raise ValueError(
                "target_size and std must be positive, mean and std of equal length, got "
                f"{tuple(target_size)}, {self.mean}, {self.std}"
            )
        self.target_size, self.normalize, self.dtype = (int(target_size[0]), int(target_size[1])), normalize, dtype

    def preprocess_batch(self, video: Tensor) -> Tensor:
        """Brings a video `[..., C, H, W]`, uint8 or float in [0, 1], to size, scale and type.

        Raises:
            ValueError: A float value is outside [0, 1], or the channels are not those of `mean`.
        """
        if video.dtype == torch.uint8:
            video = video.float() / 255
        elif not video.is_floating_point() or video.amin() < 0 or video.amax() > 1:
            raise ValueError(f"a video must be uint8 or float in [0, 1], got {video.dtype} with other values")
        video = FrameTransforms.resize(video.float(), self.target_size)
        if self.normalize:
            video = FrameTransforms.normalize(video, self.mean, self.std)
        return video.to(self.dtype)

    def denormalize(self, video: Tensor) -> Tensor:
        """Undoes the normalisation of `preprocess_batch`: float32 in [0, 1]."""
        video = video.float()
        if self.normalize:
            video = video * video.new_tensor(self.std)[:, None, None] + video.new_tensor(self.mean)[:, None, None]
        return video.clamp(0, 1)


class ControlPreprocessor:
    """Clips, scales and smooths controls. Smoothing looks back only, so that no control knows the future.

    Args:
        control_dim: Width D; the first four are steering, acceleration, goal_x and goal_y.
        normalize_controls: Whether to scale each range to [-1, 1].
        control_ranges: Least and greatest value by name or index; those not named are [-1, 1], goals [-10, 10].
        smooth_controls: Whether to average over the present frame and those before it.
        smooth_window: Frames that are averaged, at least 1; at the start of a clip those that there are.

    Raises:
        ValueError: A size or a range is wrong, or a name is unknown.
    """

    def __init__(
        self,
        control_dim: int = 4,
        normalize_controls: bool = True,
        control_ranges: dict[str, tuple[float, float]] | dict[int, tuple[float, float]] | None = None,
        smooth_controls: bool = True,
        smooth_window: int = 3,
    ) -> None:
        if control_dim < 1 or smooth_window < 1:
            raise ValueError(f"control_dim and smooth_window must be at least 1, got {control_dim}, {smooth_window}")
        ranges = [RANGES[name] for name in FIELDS][:control_dim]
        ranges += [(-1.0, 1.0)] * (control_dim - len(ranges))
        for key, limits in (control_ranges or {}).items():
            ranges[self._index(key, control_dim)] = (float(limits[0]), float(limits[1]))
        if not all(low < high for low, high in ranges):
            raise ValueError(f"control_ranges must be (least, greatest), got {control_ranges}")
        self.low, self.high = torch.tensor(ranges).T.unbind()
        self.control_dim, self.normalize_controls = control_dim, normalize_controls
        self.smooth_controls, self.smooth_window = smooth_controls, smooth_window

    def preprocess_controls(self, controls: Tensor) -> Tensor:
        """Clips controls `[T, D]` or `[B, T, D]` to their ranges, scales and smooths them.

        Raises:
            ValueError: The shape does not fit, or a value is not finite.
        """
        controls = self._check(controls).float()
        if not controls.isfinite().all():
            raise ValueError("controls must be finite; fill the gaps of the log first")
        low, high = self.low.to(controls.device), self.high.to(controls.device)
        controls = controls.clamp(low, high)
        if self.normalize_controls:
            controls = 2 * (controls - low) / (high - low) - 1
        return self._smooth(controls) if self.smooth_controls else controls

    def denormalize_controls(self, controls: Tensor) -> Tensor:
        """Undoes the scaling of `preprocess_controls` (smoothing cannot be undone)."""
        controls = self._check(controls).float()
        if not self.normalize_controls:
            return controls
        low, high = self.low.to(controls.device), self.high.to(controls.device)
        return low + (controls + 1) / 2 * (high - low)

    def _smooth(self, controls: Tensor) -> Tensor:
        """Mean of the present and the `smooth_window - 1` rows before it."""
        total = controls.cumsum(-2, dtype=torch.float64)
        total[..., self.smooth_window :, :] -= total[..., : -self.smooth_window, :].clone()
        count = torch.arange(1, controls.shape[-2] + 1, device=controls.device).clamp(max=self.smooth_window)
        return (total / count[:, None]).to(controls.dtype)

    def _check(self, controls: Tensor) -> Tensor:
        if controls.ndim not in (2, 3) or controls.shape[-1] != self.control_dim:
            raise ValueError(f"controls must be [(B,) T, {self.control_dim}], got {list(controls.shape)}")
        return controls

    @staticmethod
    def _index(key: str | int, width: int) -> int:
        """Place of a control that is named or numbered."""
        named = [*FIELDS, *ALIASES]
        index = FIELDS.index(ALIASES.get(key, key)) if isinstance(key, str) and key in named else key
        if isinstance(index, str) or not 0 <= index < width:
            raise ValueError(f"control_ranges knows the names {named} and the indices below {width}, got {key!r}")
        return index
