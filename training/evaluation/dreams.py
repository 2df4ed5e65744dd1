"""Dreams under given controls, kept as arrays.

Legend: N dreams, T steps, K telemetry values.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from drivedit.models import RowState, Sampling, Scene, StepOutput, World

LAYOUT = "layout"  # the condition that tells who else is on the road


@dataclass
class Dream:
    """What was dreamed.

    Attributes:
        frames: uint8 `[N, T, H, W, C]`.
        reward: The sum of the learned reward terms `[N, T]`.
        ended: Probability of an ending `[N, T]`.
        telemetry: `[N, T, K]`.
        confidence: `[N, T]`.
        poses: `[N, T, 3]`, integrated from the dream's ego-motion.
    """

    frames: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    telemetry: np.ndarray
    confidence: np.ndarray
    poses: np.ndarray


def dream(
    world: World,
    scenes: Sequence[Scene | Mapping[str, Any]],
    controls: np.ndarray,
    *,
    repeat: int = 1,
    others: np.ndarray | None = None,
    sampling_steps: int | None = None,
    seed: int = 0,
    batch: int = 24,
    label: str = "dreaming",
    quiet: bool = False,
) -> Dream:
    """Dreams on from scenes under given controls.

    Args:
        world: The world.
        scenes: N / repeat scenes.
        controls: `[N, T, A]`.
        repeat: Dreams from each scene, one after another; they share their noise, so only the controls differ.
        others: Who is there at every step `[N, T, A, >= 7]`, boxes in the plane of the scenes' poses (a length of 0 is
            nobody), for worlds that can be told; None: they are not told.
        sampling_steps: Network passes per frame; None: the world's own number.
        seed: Seed of the first scene; the others count on.
        batch: Dreams at a time.
        label: Name of the progress bar.
        quiet: Show none.
    """
    parts, size = [], max(1, batch // repeat)
    total = -(-len(scenes) // size) * controls.shape[1]
    with tqdm(total=total, desc=label, disable=quiet, file=sys.stderr, mininterval=1) as bar:
        for at in range(0, len(scenes), size):
            rows = list(scenes[at : at + size])
            state = world.start(rows, list(range(seed + at, seed + at + len(rows))))
            state = state.select([row for row in range(len(rows)) for _ in range(repeat)])
            steps, chosen = [], slice(at * repeat, (at + size) * repeat)
            for step, control in enumerate(controls[chosen].swapaxes(0, 1)):
                state = state if others is None else with_others(world, state, others[chosen, step])
                control = torch.from_numpy(control.copy()).to(world.device)
                state, out = world.step(state, control, sampling=Sampling(sampling_steps))
                steps.append([seen(world, state), *_readings(world, out), world.poses(state).cpu().numpy()])
                bar.update()
            parts.append([np.stack(values, 1) for values in zip(*steps, strict=True)])
    return Dream(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def with_others(world: World, state: RowState, others: np.ndarray) -> RowState:
    """A state whose rows are told who will be where at the coming frame; as it is, if the world cannot be told.

    Args:
        world: The world.
        state: Of B rows.
        others: Their boxes `[B, A, >= 7]`; a length of 0 is nobody.
    """
    if LAYOUT not in world.spec.conditions:
        return state
    rows = []
    for row, boxes in enumerate(others):
        there = boxes[boxes[:, 3] > 0, :7]
        standing = np.pad(there, ((0, 0), (0, 1)))  # without a speed, so that they stay where they will be
        rows.append(world.condition(state.select([row]), {LAYOUT: standing}))
    return world.State.cat(rows)


def seen(world: World, state: RowState) -> np.ndarray:
    """The pictures of a state, uint8 `[B, H, W, C]`."""
    picture = world.spec.picture
    return world.observe(state, [picture])[picture].cpu().numpy()


@torch.no_grad()
def reconstruct(world: World, frames: np.ndarray) -> np.ndarray:
    """What the autoencoder alone makes of frames `[N, H, W, 3]`."""
    parts = [world.decode(world.encode(frames[at : at + 64, None])[:, 0]) for at in range(0, len(frames), 64)]
    return np.concatenate(parts)


def telemetry_of(out: StepOutput) -> torch.Tensor:
    """The telemetry of a step, `[B, K]` in the order of the spec."""
    values = [*out.telemetry.values()]
    return torch.stack(values, 1) if values else out.confidence.new_zeros(len(out.confidence), 0)


def _readings(world: World, out: StepOutput) -> list[np.ndarray]:
    learned = [out.reward_terms[name] for name in world.spec.learned()]
    reward = torch.stack(learned).sum(0) if learned else torch.zeros_like(out.confidence)
    return [value.cpu().numpy() for value in (reward, out.ended_probability, telemetry_of(out), out.confidence)]
