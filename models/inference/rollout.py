"""Sequences of frames from context frames and controls, dreamed by the very world that an environment steps.

Legend: B rows, Tc context frames, Tg generated frames, C H W frame.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from drivedit.config import InferenceConfig, Modality, Quantity, StudentConfig, WorldConfig, WorldSpec
from drivedit.models import VAE3D, DiTStudent, DiTWorld, FrameTokenizer, Sampling, StepOutput
from drivedit.utils import fast_dtype, global_state_kept, resolve_device

logger = logging.getLogger(__name__)


class _Unset(float):
    """The published default of an argument, known as left out: then the configuration's value counts."""


TEMPERATURE = _Unset(InferenceConfig.temperature)


class StreamingRollout:
    """Continues sequences of frames under given controls.

    The world dreams freely, without a route; its start scenes are not used. Model and rollout may be used in turns:
    every call puts the model into evaluation mode.

    Args:
        world_model: A `DiTWorld`, or a `DiTStudent`, around which a world is made in memory: frames then go through
            `vae_model`, its latents are taken as they come, and only frames are told (no reward, ending or motion).
            Its cache holds clean frames, as `DiTStudent.generate` and the published trainers have it (unless it is
            told all that a World tells).
        vae_model: The `VAE3D` of a `DiTStudent`; None, or the world's own, for a `DiTWorld`.
        config: Settings.
        device: Where to compute; the model is moved there. A device that does not exist becomes the CPU.
        image_size: Height and width of the frames of a `DiTStudent`; None: square ones. A `DiTWorld` knows its own.
        controls: The controls of a `DiTStudent`, in order; None: steering and throttle, or `control_1` and on, in
            [-1, 1], where it is told all that a World of A controls tells (`control_dim` 2 A + 3).

    Raises:
        ValueError: The model cannot be stepped as a world, the autoencoder is not its own, or a setting does not fit.
    """

    def __init__(
        self,
        world_model: nn.Module,
        vae_model: nn.Module | None,
        config: InferenceConfig,
        device: str = "cuda",
        *,
        image_size: tuple[int, int] | None = None,
        controls: Sequence[Quantity] | None = None,
    ) -> None:
        if config.top_k is not None:
            raise ValueError(
                f"top_k needs a discrete codebook, latents are continuous: use top_p, got top_k {config.top_k}"
            )
        if isinstance(world_model, DiTWorld):
            world = _same_world(world_model, vae_model, image_size, controls)
        else:
            world = _world_around(world_model, vae_model, image_size, controls)
        place = resolve_device(device)
        if world.tuned and world.device.type != place.type:
            raise ValueError(f"this world was made fast on {world.device}: load it anew to use it on {place}")
        if world.dtype != torch.float32 and not config.mixed_precision:
            raise ValueError(
                f"mixed_precision=False needs a world in float32, this one was made fast in {world.dtype}: "
                "load it with DiTWorld.from_pretrained"
            )
        self.config, self.world = config, _looking_back(world.to(place), config.context_window)
        self.reset_state()

    def reset_state(self) -> None:
        """Forgets the calls so far: the next one draws the same noise as the first one did."""
        self._calls = 0

    @torch.no_grad()
    def generate_sequence(
        self,
        context_frames: Tensor,
        control_sequence: Tensor | None = None,
        max_new_frames: int = 16,
        temperature: float = TEMPERATURE,
        return_intermediates: bool = False,
    ) -> dict[str, Any]:
        """Dreams on from context frames.

        A row's noise depends on its context and on the number of calls since `reset_state`, not on the other rows
        (equal contexts in one batch have different futures), so a row is the same alone and in a batch.

        Args:
            context_frames: `[B, Tc, C, H, W]` in [0, 1], Tc >= 1.
            control_sequence: `[B, >= Tc + Tg, >= A]`, the world's controls in their ranges; entry t is what the driver
                does at frame t and leads to frame t + 1. A goal in further columns is not used: worlds are told the way
                by a route. None: all at rest.
            max_new_frames: Tg, at least 1.
            temperature: Scale of the noise; left out: the configuration's, whose default is the same.
            return_intermediates: Also return what the world told on the way.

        Returns:
            Tensors on the CPU. `generated_frames` `[B, Tg, C, H, W]` in [0, 1]; `full_sequence`, the context followed
            by them; `metadata`, how they were made; `performance`, what it took (`peak_memory_mb` is None on a CPU);
            and if asked for `intermediates`: `latents` `[B, Tg, c, h, w]`, `confidence`, `reward`,
            `ended_probability`, each `[B, Tg]`, and `telemetry` `[B, Tg, K]`.

        Raises:
            ValueError: An argument has the wrong shape or range.
            RuntimeError: The device, or the CPU, is "out of memory"; the next call starts afresh.
        """
        begun = time.perf_counter()
        self.world.eval()
        heat = self.config.temperature if isinstance(temperature, _Unset) else temperature
        if not 0 < heat < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {heat}")
        frames = self._check_context(context_frames, max_new_frames)
        rows, length = frames.shape[:2]
        controls = self._check_controls(control_sequence, rows, length + max_new_frames)
        scenes, seeds = self._begin(frames, controls)
        coming = controls[:, length - 1 : length - 1 + max_new_frames].to(self.world.device)
        if self.world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.world.device)
        with self.precision(), _named_out_of_memory(rows, max_new_frames):
            told = self._told(self._dream(scenes, seeds, coming, heat), max_new_frames)
        parts = {name: torch.cat([block[name] for block in told], 1) for name in told[0]}
        generated = parts.pop("frames")
        self._calls += 1
        result = {
            "generated_frames": generated,
            "full_sequence": torch.cat([frames.cpu(), generated], 1),
            "metadata": {
                "context_frames": min(length, self._longest),
                "generated_frames": max_new_frames,
                "temperature": heat,
                "top_p": self.config.top_p,
                "sampling_steps": self.config.sampling_steps or self.world.config.sampling_steps,
                "seeds": seeds,
                "frames_per_second_of_the_world": self.world.spec.fps,
                "device": str(self.world.device),
            },
            "performance": self._cost(time.perf_counter() - begun, rows, max_new_frames) | {"offloads": len(told)},
        }
        return result | ({"intermediates": parts} if return_intermediates else {})

    def _cost(self, seconds: float, rows: int, count: int) -> dict[str, float | None]:
        """What so many frames of some rows took."""
        device = self.world.device
        return {
            "total_time_s": seconds,
            "time_per_frame_s": seconds / count,
            "frames_per_second": rows * count / seconds,
            "peak_memory_mb": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        }

    @property
    def _longest(self) -> int:
        """Most frames of a context that the world looks at."""
        return min(self.config.context_window, self.world.dynamics.capacity + (not self.world.config.clean_cache))

    def _begin(self, frames: Tensor, controls: Tensor) -> tuple[list[dict[str, np.ndarray]], list[int]]:
        """Scenes and seeds of contexts `[B, Tc, C, H, W]` and controls `[B, >= Tc, A]`; one frame stands still."""
        length = frames.shape[1]
        keep = min(length, self._longest)
        pictures = (frames[:, -keep:] * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
        before, seeds = controls[:, length - keep : length - 1].cpu().numpy(), self._seeds(pictures)
        if keep == 1:
            pictures = pictures.repeat(2, 1)
            before = np.array([[self.world.spec.rest]] * len(pictures), np.float32)
        return [{"frames": seen, "controls": led} for seen, led in zip(pictures, before, strict=True)], seeds

    def _told(self, dream: Iterator[tuple[Tensor, StepOutput]], count: int) -> list[dict[str, Tensor]]:
        """What a dream of so many frames tells, in blocks that are brought to the CPU as the configuration says."""
        told: list[dict[str, Tensor]] = []
        waiting: list[tuple[Tensor, StepOutput]] = []
        for step in tqdm(dream, "dreaming", count, unit=" frame", leave=False, disable=None):
            waiting.append(step)
            if len(waiting) == self.config.memory_offload_freq:
                told.append(self._offload(waiting))
        return [*told, self._offload(waiting)] if waiting else told

    def _dream(
        self, scenes: list[dict[str, np.ndarray]], seeds: list[int], controls: Tensor, heat: float
    ) -> Iterator[tuple[Tensor, StepOutput]]:
        """Steps through controls `[B, Tg, A]`; gives the latents `[B, c, h, w]` and what is told."""
        sampling = Sampling(self.config.sampling_steps, heat, self.config.top_p)
        if self.config.use_kv_cache:
            state = self.world.start(scenes, seeds)
            for control in controls.unbind(1):
                state, out = self.world.step(state, control, sampling=sampling)
                yield state.latents[:, 0].clone(), out
            return
        for stop in range(1, controls.shape[1] + 1):
            state = self.world.start(scenes, seeds)
            for control in controls[:, :stop].unbind(1):
                state, out = self.world.step(state, control, sampling=sampling)
            latents = state.latents[:, 0].clone()
            del state
            yield latents, out

    def _offload(self, waiting: list[tuple[Tensor, StepOutput]]) -> dict[str, Tensor]:
        """Decodes waiting frames together and brings everything to the CPU; empties the list. `[B, n, ...]` each."""
        latents = torch.stack([latent for latent, _ in waiting], 1)
        outs = [out for _, out in waiting]
        pictures = torch.from_numpy(self.world.decode(latents.flatten(0, 1))).unflatten(0, latents.shape[:2])
        names = self.world.spec.names("telemetry")
        empty = latents.new_zeros(len(latents), 0)
        block = {
            "frames": pictures.permute(0, 1, 4, 2, 3).float() / 255,
            "latents": latents,
            "confidence": torch.stack([out.confidence for out in outs], 1),
            "reward": torch.stack([out.reward for out in outs], 1),
            "ended_probability": torch.stack([out.ended_probability for out in outs], 1),
            "telemetry": torch.stack(
                [torch.stack([out.telemetry[name] for name in names], -1) if names else empty for out in outs], 1
            ),
        }
        waiting.clear()
        return {name: value.cpu() for name, value in block.items()}

    def precision(self) -> torch.autocast:
        """Mixed precision, unless it is off, the hardware has none, or the world is in half precision already."""
        device, dtype = self.world.device, fast_dtype(self.world.device)
        wanted = self.config.mixed_precision and not self.world.tuned and dtype != torch.float32
        return torch.autocast(device.type, torch.bfloat16, enabled=wanted)

    def _seeds(self, pictures: np.ndarray) -> list[int]:
        """A seed per row, from its pictures, how many rows above have the same ones, and the calls so far."""
        above: Counter[bytes] = Counter()
        seeds = []
        for row in pictures:
            name = hashlib.blake2b(row.tobytes()).digest()
            digest = hashlib.blake2b(name + f"/{above[name]}/{self._calls}".encode(), digest_size=8).digest()
            seeds.append(int.from_bytes(digest, "little") >> 1)
            above[name] += 1
        return seeds

    def _check_context(self, frames: Tensor, new: int) -> Tensor:
        height, width, channels = self.world.modality(self.world.spec.picture).shape
        if frames.ndim != 5 or not len(frames) or not frames.shape[1] or frames.shape[2:] != (channels, height, width):
            raise ValueError(
                f"context_frames must be [B, Tc >= 1, {channels}, {height}, {width}] for this world, "
                f"got {tuple(frames.shape)}"
            )
        if not frames.is_floating_point() or not (frames.amin() >= 0 and frames.amax() <= 1):
            raise ValueError(
                f"context_frames must be floats in [0, 1], got {frames.dtype} from {frames.amin()} to {frames.amax()}"
            )
        if new < 1:
            raise ValueError(f"max_new_frames must be at least 1, got {new}")
        if frames.shape[1] + new > self.config.max_sequence_length:
            raise ValueError(
                f"{frames.shape[1]} context frames and {new} new ones are more than max_sequence_length = "
                f"{self.config.max_sequence_length}"
            )
        return frames.float()

    def _check_controls(self, controls: Tensor | None, rows: int, length: int) -> Tensor:
        """The world's controls `[B, length, A]`."""
        spec = self.world.spec
        names, width = spec.names("controls"), len(spec.controls)
        if controls is None:
            return torch.tensor(spec.rest).expand(rows, length, width)
        if controls.ndim != 3 or len(controls) != rows or controls.shape[1] < length or controls.shape[2] < width:
            raise ValueError(
                f"control_sequence must be [{rows}, >= {length}, >= {width}] (context and new frames), "
                f"got {tuple(controls.shape)}"
            )
        driven = controls[:, :length, :width].float()
        low, high = torch.tensor([(each.low, each.high) for each in spec.controls], device=driven.device).T
        if not ((driven >= low) & (driven <= high)).all():
            ranges = ", ".join(f"{each.name} in [{each.low:g}, {each.high:g}]" for each in spec.controls)
            raise ValueError(f"controls must be finite, {ranges}; scale them")
        if controls.shape[2] > width:
            logger.info("of %d columns of controls only %s are used", controls.shape[2], " and ".join(names))
        return driven


@contextmanager
def _named_out_of_memory(rows: int, frames: int) -> Iterator[None]:
    """Says "out of memory" on a CPU as torch does on a GPU; other errors pass."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise RuntimeError(
            f"out of memory: {frames} frames of {rows} rows do not fit; take fewer, or a smaller memory_offload_freq"
        ) from error


def _same_world(
    world: DiTWorld, vae: nn.Module | None, image_size: tuple[int, int] | None, controls: Sequence[Quantity] | None
) -> DiTWorld:
    if vae is not None and vae is not world.vae:
        raise ValueError("a World has an autoencoder of its own: give vae_model=None, or world.vae")
    if image_size is not None and tuple(image_size) != tuple(world.config.image_size):
        raise ValueError(f"this world's frames are {world.config.image_size}, got image_size {image_size}")
    if controls is not None and list(controls) != world.spec.controls:
        raise ValueError(f"this world has the controls {world.spec.names('controls')}, got {list(controls)}")
    return world


def _looking_back(world: DiTWorld, frames: int) -> DiTWorld:
    """The world, or one of the same weights whose frames see no more than so many before them, for any length."""
    window = min(world.dynamics.capacity, frames + 1)
    if window == world.dynamics.window:
        return world
    short, dynamics = copy.copy(world), copy.copy(world.dynamics)
    dynamics.window = dynamics.capacity = window
    short._modules = {**world._modules, "dynamics": dynamics}
    return short


def _controls_of(student: StudentConfig) -> list[Quantity]:
    """The controls that a network was taught: as many as a World tells in its width, or steering and throttle."""
    told_all = student.history > 0 and student.control_dim % 2 == 1 and student.control_dim > 3
    count = (student.control_dim - 3) // 2 if told_all else 2
    names = ["steering", "throttle"] if count == 2 else [f"control_{place}" for place in range(1, count + 1)]
    return [Quantity(name) for name in names]


def _world_around(
    student: nn.Module, vae: nn.Module | None, image_size: tuple[int, int] | None, controls: Sequence[Quantity] | None
) -> DiTWorld:
    """A world of a network and an autoencoder; its heads tell nothing."""
    if not isinstance(student, DiTStudent) or not isinstance(vae, VAE3D):
        raise ValueError(
            "world_model must be a World, or a DiTStudent with a VAE3D as vae_model, "
            f"got {type(student).__name__} with {type(vae).__name__}"
        )
    settings = student.config
    patch = FrameTokenizer.between(vae.latent_dim, settings.latent_dim).patch
    side = 8 * patch * math.isqrt(settings.tokens_per_frame)
    height, width = image_size or (side, side)
    unit = 8 * patch
    if height % unit or width % unit or height * width != settings.tokens_per_frame * unit**2:
        raise ValueError(
            f"frames of {height} x {width} do not make the student's {settings.tokens_per_frame} tokens per frame "
            f"(a token covers {unit} x {unit} pixels): give image_size, or a student with other tokens_per_frame"
        )
    spec = WorldSpec(
        observations={"camera": Modality((height, width, vae.config.in_channels))},
        controls=list(_controls_of(settings) if controls is None else controls),
    )
    config = WorldConfig(spec, vae.config, settings, patch)
    told_all = settings.control_dim == config.driven
    config = replace(config, clean_cache=not told_all, sampling_steps=1 if told_all else 4)
    count = len(spec.controls)
    if settings.control_dim not in (0, count, config.driven) or (told_all and settings.history < 1):
        raise ValueError(
            f"to be stepped as a world of {count} controls a student needs control_dim 0 (none), {count} (these), or "
            f"{config.driven} (these, the ones before, ego-motion) with history >= 1; name others with `controls`; "
            f"got control_dim {settings.control_dim} with history {settings.history}"
        )
    if settings.route_dim and (settings.route_dim, settings.map_dim) != config.code_widths():
        raise ValueError(
            f"the student's route_dim and map_dim must be 0, or {config.code_widths()} as a World codes routes, "
            f"got {(settings.route_dim, settings.map_dim)}"
        )
    with global_state_kept():  # weights are drawn, and replaced
        world = DiTWorld(config)
    world.vae, world.dynamics = vae, student
    for weight in world.heads.parameters():
        nn.init.zeros_(weight)
    return world
