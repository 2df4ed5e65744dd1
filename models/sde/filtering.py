"""Driving in continuous time: a state of constant size, moved by controls and corrected by every frame that is seen.

Pure functions: states go in and come out. A dream paints the frame from the moved state and is corrected by it; a
recording, or a sensor whose frames come at any times, corrects it in the same way.

Legend: B rows, C channels of a frame, H W its rows and columns, K frames that are kept, M channels of the motion state,
h w its rows and columns, A numbers of a control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from drivedit.models.flow.path import over
from drivedit.models.sde.motion import DiffModel, Times, rising
from drivedit.models.state import RowState
from drivedit.utils import noise

STREAM = "frame"  # of the noise that frames are painted from

Painter = Callable[[Tensor, Tensor, Tensor], Tensor]  # motion, frames that are kept, noise `[B, C, H, W]`: a frame


@dataclass
class MotionState(RowState):
    """All that the future of B clips depends on, beside controls. Times are in the model's unit.

    Attributes:
        motion: Motion states `[B, M, h, w]`.
        frames: The last frames `[B, K, C, H, W]`, the newest at the end.
        clock: Time of the motion state, float64 `[B]`.
        seen: Time of the newest frame, float64 `[B]`.
        seed: Of the noise, int64 `[B]`.
        painted: Frames painted so far, int64 `[B]`.
    """

    COUNT: ClassVar[str] = "clock"

    motion: Tensor
    frames: Tensor
    clock: Tensor
    seen: Tensor
    seed: Tensor
    painted: Tensor


def begin(model: DiffModel, frames: Tensor, times: Times, seeds: Sequence[int], kept: int = 1) -> MotionState:
    """The state after observed frames.

    Args:
        model: Motion encoder and equation.
        frames: `[B, To, C, H, W]`.
        times: Of all rows, `[To]`, rising.
        seeds: B whole numbers.
        kept: K, at most To.

    Raises:
        ValueError: Something does not fit (`DiffModel.context_encode`).
    """
    motion = model.context_encode(frames, times)
    if not 1 <= kept <= frames.shape[1]:
        raise ValueError(f"kept must be from 1 to the {frames.shape[1]} observed frames, got {kept}")
    last = rising(times, frames.shape[1], "times")[-1:]
    seed = torch.tensor(model.seeds(len(frames), seeds), device=motion.device)
    clock = last.to(motion.device).expand(len(frames)).clone()
    return MotionState(motion, frames[:, -kept:].clone(), clock, clock.clone(), seed, torch.zeros_like(seed))


def advance(
    model: DiffModel,
    state: MotionState,
    dt: Tensor | float | Sequence[float],
    controls: Tensor | None = None,
    told: Tensor | None = None,
) -> MotionState:
    """The state when time has passed, before anything is seen.

    Args:
        model: Motion encoder and equation.
        state: Left as it is.
        dt: How much, above 0: one number, or `[B]`.
        controls: `[B, A]`, held meanwhile; None: none is told.
        told: bool `[B]`, which rows are told theirs; None: all.

    Raises:
        ValueError: No time passes, or controls do not fit.
    """
    passed = torch.as_tensor(dt, dtype=torch.float64, device=state.clock.device)
    if passed.shape not in ((), (len(state),)) or not bool((passed.isfinite() & (passed > 0)).all()):
        raise ValueError(f"dt must be above 0 and finite, one number or [{len(state)}], got {passed.tolist()}")
    later = state.clock + passed
    motion = model.advance(state.motion, state.clock, later, state.seed.tolist(), controls, told)
    return replace(state, motion=motion, clock=later)


def absorb(model: DiffModel, state: MotionState, frame: Tensor) -> MotionState:
    """The state when a frame is seen, dreamed or real: the motion is corrected by how it differs from the one before.

    Args:
        model: Motion encoder and equation.
        state: Of the time at which the frame was taken; left as it is.
        frame: `[B, C, H, W]`.

    Raises:
        ValueError: The frame has another shape, or no time has passed since the one before.
    """
    if frame.shape != state.frames[:, -1].shape:
        raise ValueError(f"frames must be {list(state.frames[:, -1].shape)}, got {list(frame.shape)}")
    passed = state.clock - state.seen
    if not bool((passed > 0).all()):
        raise ValueError(f"time must have passed since the frame before, got {passed.tolist()}")
    shown = frame
    if model.encoder_config.learn_diff_image:
        shown = (frame - state.frames[:, -1]) / over(passed.to(frame), frame)
    motion = model.gru(model.motion_encoder(shown), state.motion)
    frames = torch.cat([state.frames[:, 1:], frame[:, None]], 1)
    return replace(state, motion=motion, frames=frames, seen=state.clock.clone())


def step(
    model: DiffModel, paint: Painter, state: MotionState, dt: Tensor | float | Sequence[float],
    controls: Tensor | None = None, told: Tensor | None = None,
) -> tuple[MotionState, Tensor]:  # fmt: skip
    """One step of a dream: the motion moves, a frame is painted, and the motion is corrected by it.

    The noise of motion depends on seed and time, that of a frame on seed and its number. So branches of one state
    differ in nothing but their controls.

    Args:
        model: Motion encoder and equation.
        paint: Gives the frame of a motion state, of the frames that are kept, and of noise.
        state: Left as it is.
        dt: How much time passes, above 0: one number, or `[B]`.
        controls: `[B, A]`, held meanwhile; None: none is told.
        told: bool `[B]`, which rows are told theirs; None: all.

    Returns:
        The state afterwards, and the frame `[B, C, H, W]`.

    Raises:
        ValueError: Something does not fit (`advance`, `absorb`).
    """
    state = advance(model, state, dt, controls, told)
    shape = tuple(state.frames.shape[2:])
    drawn = noise(state.seed.tolist(), STREAM, state.painted.tolist(), shape).to(state.frames)
    frame = paint(state.motion, state.frames, drawn)
    return replace(absorb(model, state, frame), painted=state.painted + 1), frame
