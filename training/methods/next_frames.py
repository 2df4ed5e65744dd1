"""What the methods of the published trainers share: clips of pictures as tokens, and estimates of every next frame.

A batch holds frames `[B, T, C, H, W]` in [0, 1] and, where the student takes them, controls `[B, T, >= cd]`, of which
`controls[:, t]` leads from frame t to frame t + 1. Of wider controls, as `VideoDataset` gives them, a student takes the
first columns: with a `control_dim` of 2 steering and acceleration, not the goal. The autoencoder stays as it is.

Legend: B clips, T frames, P tokens per frame, D token width, cd width of the controls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models import VAE3D, DiTStudent, FrameTokenizer
from drivedit.models.flow.path import add_noise
from drivedit.models.layers.past import past_of
from drivedit.training.losses import FlowMatchingLoss
from drivedit.training.methods.method import Frozen, Method

LEAST_NOISE = 0.05  # a velocity is (x - clean) / sigma: at less noise than this it would only magnify rounding


class NextFrames(Method):
    """Trains a student on clips of pictures.

    Args:
        student: The student; its `latent_dim` is that of the autoencoder times the square of a whole number.
        vae: The autoencoder; its latents should be about normal.

    Raises:
        ValueError: The networks are of other kinds, or their widths do not fit together.
    """

    def __init__(self, student: nn.Module, vae: nn.Module) -> None:
        super().__init__()
        if not isinstance(student, DiTStudent) or not isinstance(vae, VAE3D):
            raise ValueError(
                f"a DiTStudent and a VAE3D are needed, got {type(student).__name__} and {type(vae).__name__}"
            )
        self.student, self.vae = student, Frozen(vae)
        self.tokenizer = FrameTokenizer.between(vae.latent_dim, student.latent_dim)
        self.flow = FlowMatchingLoss(sigma_min=LEAST_NOISE)

    def tokens(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Clean tokens `[B, T, P, D]`, and what led to each frame `[B, T, cd]` or None.

        Raises:
            KeyError, ValueError: The batch lacks what the networks need.
        """
        frames = _frames(batch)
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            mean, _ = self.vae.network.encode(frames.transpose(1, 2) * 2 - 1)
        tokens = self.tokenizer.tokens(mean.transpose(1, 2))
        if tokens.shape[2] != self.student.tokens_per_frame:
            raise ValueError(
                f"frames of {frames.shape[-2]} x {frames.shape[-1]} make {tokens.shape[2]} tokens each, "
                f"the student has tokens_per_frame = {self.student.tokens_per_frame}"
            )
        width = self.student.control_dim
        return tokens, _control(batch, tokens, width) if width else None

    def estimates(
        self, context: Tensor, control: Tensor | None, states: list[Tensor], levels: list[Tensor]
    ) -> list[Tensor]:
        """Clean estimates of frames 1 to T - 1, each seen beside the clean context before it, in one pass.

        Args:
            context: Clean `[B, T, P, D]`.
            control: What led to each frame `[B, T, cd]`, or None.
            states: Noisy versions of the frames, each `[B, T - 1, P, D]`.
            levels: Their noise levels, each `[B, T - 1]`.

        Returns:
            One estimate `[B, T - 1, P, D]` for each of the states.
        """
        rows, frames = context.shape[:2]
        times = torch.arange(frames, device=context.device)
        past = past_of(context, self.student.history)

        def beside(of_frame: Tensor) -> Tensor:
            return torch.cat([of_frame] + [of_frame[:, 1:]] * len(states), 1)

        clean, _ = self.student(
            torch.cat([context, *states], 1).flatten(1, 2),
            sigma=torch.cat([context.new_zeros(rows, frames), *levels], 1),
            control=None if control is None else beside(control),
            past=beside(past).flatten(1, 2),
            frame_ids=beside(times[None])[0],
        )
        parts = clean.float().unflatten(1, (-1, context.shape[2]))[:, frames:]
        return list(parts.split(frames - 1, 1))


def noisy(clean: Tensor, sigma: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clean frames `[B, F, P, D]` at noise levels `[B, F]`, and the noise."""
    noise = normal(clean, rng)
    return add_noise(clean, noise, sigma), noise


def normal(like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers in the shape of a tensor."""
    return torch.randn(like.shape, generator=rng).to(like)


def _frames(batch: dict[str, Any]) -> Tensor:
    if "frames" not in batch:
        raise KeyError(f"a batch must have 'frames' [B, T, C, H, W] in [0, 1], got {sorted(batch)}")
    frames = batch["frames"]
    if frames.ndim != 5 or frames.shape[1] < 2 or not frames.is_floating_point():
        raise ValueError(
            f"frames must be floats [B, T, C, H, W] with T of at least 2, got {tuple(frames.shape)} {frames.dtype}"
        )
    if frames.min() < -1e-3 or frames.max() > 1 + 1e-3:
        raise ValueError(f"frames must be in [0, 1], got {frames.min().item():.3g} to {frames.max().item():.3g}")
    return frames


def _control(batch: dict[str, Any], tokens: Tensor, width: int) -> Tensor:
    """What led to each frame `[B, T, cd]`: nothing to the first one."""
    if "controls" not in batch:
        raise KeyError(f"the student has control_dim = {width}: it needs 'controls' [B, T, >= {width}]")
    control = batch["controls"].to(tokens)
    if control.ndim != 3 or control.shape[:2] != tokens.shape[:2] or control.shape[2] < width:
        raise ValueError(f"controls must be {[*tokens.shape[:2], f'>= {width}']}, got {list(control.shape)}")
    control = control[..., :width]
    return torch.cat([torch.zeros_like(control[:, :1]), control[:, :-1]], 1)
