"""How much generated frames look like true ones, and how consistent they are in time.

PSNR and SSIM are torchmetrics', optical flow is OpenCV's; both are imported where they are used.

Legend: B rows, T frames, C channels, H W pixels. Frames are floats in [0, 1] unless a maximum is given.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.utils import extra

SIGMA_OVER_WINDOW = 1.5 / 11  # of the Gaussian that SSIM looks through (Wang et al. 2004)
SCALES = 3  # of the perceptual proxy
LEAST_FLOW = 16  # pixels


class VideoMetrics:
    """Quality of frames `[..., C, H, W]` against true ones of the same shape."""

    @staticmethod
    def mse(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean squared error.

        Args:
            pred: Any shape.
            target: The same shape.
            mask: Weights that broadcast to the frames, not all zero; the error is their weighted mean. None: all alike.

        Raises:
            ValueError: Shapes differ, or the mask does not broadcast or is all zero.
        """
        same_shape(pred, target)
        error = (pred.float() - target.float()).square()
        if mask is None:
            return error.mean()
        try:
            weight = mask.to(error).expand_as(error)
        except RuntimeError:
            raise ValueError(f"the mask must broadcast to {tuple(pred.shape)}, got {tuple(mask.shape)}") from None
        if not weight.sum() > 0:
            raise ValueError("the mask must have a positive sum, it leaves nothing to compare")
        return (error * weight).sum() / weight.sum()

    @staticmethod
    def psnr(pred: Tensor, target: Tensor, max_val: float = 1.0) -> Tensor:
        """Peak signal-to-noise ratio in dB of all frames together; infinite for equal ones.

        Raises:
            ValueError: Shapes differ, or `max_val` is not positive.
        """
        same_shape(pred, target)
        if not max_val > 0:
            raise ValueError(f"max_val must be above 0, got {max_val}")
        return _torchmetrics().peak_signal_noise_ratio(pred.float(), target.float(), data_range=float(max_val))

    @staticmethod
    def ssim(pred: Tensor, target: Tensor, window_size: int = 11) -> Tensor:
        """Structural similarity (Wang et al. 2004), at most 1, mean over frames, which are mirrored at their edges.

        Args:
            pred: `[..., C, H, W]` in [0, 1].
            target: The same.
            window_size: Pixels of the Gaussian window, odd, 3 to 43; its deviation is 1.5 for 11 and in proportion.

        Raises:
            ValueError: Shapes differ, or the window does not fit.
        """
        first, second = as_images(pred, target)
        least = min(first.shape[-2:])
        if window_size % 2 == 0 or not 3 <= window_size <= min(43, least):
            raise ValueError(f"window_size must be odd, from 3 to {min(43, least)} for these frames, got {window_size}")
        sigma = SIGMA_OVER_WINDOW * window_size
        return _torchmetrics().structural_similarity_index_measure(first, second, sigma=sigma, data_range=1.0)

    @staticmethod
    def lpips_proxy(pred: Tensor, target: Tensor) -> Tensor:
        """A proxy of perceptual distance without a trained network: mean squared error of gradients at three scales.

        It sees edges and texture, and is blind to a constant shift of brightness. It is not LPIPS and its values cannot
        be compared with LPIPS.

        Raises:
            ValueError: Shapes differ, or frames are smaller than 2 x 2.
        """
        first, second = as_images(pred, target)
        if min(first.shape[-2:]) < 2:
            raise ValueError(f"frames must be 2 x 2 pixels or larger, got {tuple(pred.shape)}")
        errors = []
        for scale in range(SCALES):
            if scale:
                first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
            errors += [F.mse_loss(first.diff(dim=axis), second.diff(dim=axis)) for axis in (-1, -2)]
            if min(first.shape[-2:]) < 4:
                break
        return torch.stack(errors).mean()


class TemporalConsistencyMetrics:
    """How frames `[B, T, C, H, W]` or `[T, C, H, W]` follow each other.

    Flows are `[B, T - 1, 2, H, W]` in pixels, (right, down): what is at pixel p of frame t is at p + flow(p) in frame
    t + 1.
    """

    @staticmethod
    def temporal_mse(frames: Tensor) -> Tensor:
        """Mean squared change from frame to frame; 0 for a still picture.

        Raises:
            ValueError: Fewer than two frames, or another shape.
        """
        return as_clips(frames).diff(dim=1).square().mean()

    @staticmethod
    def optical_flow_consistency(frames: Tensor) -> Tensor:
        """Share in [0, 1] of pixels that flow forth and back to where they came from; 1 is consistent.

        The criterion is that of Sundaram et al. (2010): for the way forth f and the way back b from where it leads, the
        squared length of f + b is below .01 times the sum of both squared lengths, plus .5. Pixels that leave the
        picture do not count.

        Raises:
            ValueError: Fewer than two frames, or another shape.
        """
        clips = as_clips(frames)
        forth, back = optical_flow(clips).flatten(0, 1), optical_flow(clips.flip(1)).flip(1).flatten(0, 1)
        led, inside = _sample(back, forth)
        apart = (forth + led).square().sum(1)
        agree = apart < 0.01 * (forth.square().sum(1) + led.square().sum(1)) + 0.5
        return (agree & inside).sum() / inside.sum().clamp(min=1)

    @staticmethod
    def frame_warping_error(frames: Tensor, flows: Tensor | None = None) -> Tensor:
        """Mean squared error of frames against their successors, sampled where the flow leads; 0 under a true flow.

        Args:
            frames: Frames.
            flows: See the class; None: `optical_flow` of the frames.

        Raises:
            ValueError: Fewer than two frames, another shape, or a flow that leads out of the picture everywhere.
        """
        clips = as_clips(frames)
        rows, count, _, height, width = clips.shape
        if flows is None:
            flows = optical_flow(clips)
        flows = flows[None] if flows.ndim == 4 else flows
        if flows.shape != (rows, count - 1, 2, height, width):
            raise ValueError(f"flows must be {[rows, count - 1, 2, height, width]}, got {list(flows.shape)}")
        warped, inside = _sample(clips[:, 1:].flatten(0, 1), flows.to(clips).flatten(0, 1))
        if not inside.any():
            raise ValueError("the flows lead out of the picture everywhere; they are in pixels, (right, down)")
        error = (warped - clips[:, :-1].flatten(0, 1)).square().mean(1)
        return (error * inside).sum() / inside.sum()


def optical_flow(clips: Tensor) -> Tensor:
    """Flow `[B, T - 1, 2, H, W]` in pixels from each frame of `[B, T, C, H, W]` in [0, 1] to the next.

    By dense inverse search (Kroeger et al. 2016), on grey pictures.

    Raises:
        ValueError: The frames are too small.
    """
    import cv2

    if min(clips.shape[-2:]) < LEAST_FLOW:
        raise ValueError(f"optical flow needs frames of {LEAST_FLOW} x {LEAST_FLOW} or more, got {clips.shape[-2:]}")
    grey = (clips.mean(2).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    search, start = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), cast(Any, None)
    rows = [
        np.stack([search.calc(first, second, start) for first, second in zip(clip[:-1], clip[1:], strict=True)])
        for clip in grey
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 1, 4, 2, 3).to(clips)


def same_shape(pred: Tensor, target: Tensor) -> None:
    """Refuses tensors of different shapes, and empty ones."""
    if pred.shape != target.shape or not pred.numel():
        raise ValueError(
            f"prediction and target must have one shape and not be empty, got {tuple(pred.shape)} and "
            f"{tuple(target.shape)}"
        )


def as_images(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Frames `[..., C, H, W]` as floats `[N, C, H, W]`."""
    same_shape(pred, target)
    if pred.ndim < 3:
        raise ValueError(f"frames must be [..., C, H, W], got {tuple(pred.shape)}")
    shape = (-1, *pred.shape[-3:])
    return pred.float().reshape(shape), target.float().reshape(shape)


def as_clips(frames: Tensor) -> Tensor:
    """Frames `[B, T, C, H, W]` or `[T, C, H, W]` as floats `[B, T, C, H, W]`, T >= 2."""
    clips = frames[None] if frames.ndim == 4 else frames
    if clips.ndim != 5 or clips.shape[1] < 2:
        raise ValueError(f"frames must be [B, T >= 2, C, H, W] or [T >= 2, C, H, W], got {tuple(frames.shape)}")
    return clips.float()


def _torchmetrics() -> Any:
    """The functions of pictures of torchmetrics, which takes seconds to import."""
    with extra("train", "measuring PSNR and SSIM"):
        from torchmetrics.functional import image
    return image


def _sample(pictures: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures `[N, C, H, W]` at p + flow(p), and whether that is inside `[N, H, W]`; flow `[N, 2, H, W]`."""
    height, width = pictures.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x, y]).to(flow) + flow
    edge = flow.new_tensor([width - 1, height - 1])[:, None, None]
    inside = ((place >= 0) & (place <= edge)).all(1)
    grid = (2 * place / edge.clamp(min=1) - 1).permute(0, 2, 3, 1)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=True), inside
