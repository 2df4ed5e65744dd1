"""Future frames of observed ones, with STDiff and a scheduler of diffusers.

The noise of a clip depends on its seed alone, not on the clips beside it. A scheduler that is not the one that the
weights were trained with is refused, unless it differs in nothing but how it samples.

Legend: N clips, To observed frames, Tp predicted ones, C channels of a frame, H W its rows and columns, A numbers of a
control.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from drivedit.models.sde.layers import plain
from drivedit.models.sde.motion import Times
from drivedit.models.sde.stdiff import STDiffDiffusers
from drivedit.utils import extra, generator, noise

with extra("sde", "sampling with STDiff"):
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

TRAINED = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas", "prediction_type")
STREAM = "frame"  # of the noise that frames begin as


class STDiffPipeline:
    """Sampling.

    Args:
        stdiff: The network. Where it does not know yet which scheduler it was trained with, it is told.
        scheduler: One of diffusers; None: the one that the network was trained with.

    Attributes:
        stdiff: The network.
        scheduler: The scheduler.

    Raises:
        ValueError: The scheduler is not the one of the weights, or none is known.
    """

    def __init__(self, stdiff: STDiffDiffusers, scheduler: Any = None) -> None:
        trained = plain(stdiff.config["scheduler"])
        if scheduler is None:
            if trained is None:
                raise ValueError("these weights do not say which scheduler they were trained with; give one")
            scheduler = _made(trained)
        told = scheduler_config(scheduler)
        known = told if trained is None else trained
        wrong = [name for name in TRAINED if known.get(name) != told.get(name)]
        if wrong:
            had, has = ({name: config.get(name) for name in wrong} for config in (known, told))
            raise ValueError(f"this scheduler does not belong to the weights: they were trained with {had}, got {has}")
        if trained is None:
            stdiff.register_to_config(scheduler=told)
        self.stdiff, self.scheduler = stdiff, scheduler

    @torch.no_grad()
    def __call__(
        self, Vo: Tensor, Vo_last_frame: Tensor, idx_o: Times, idx_p: Times,
        generator: torch.Generator | None = None, num_inference_steps: int = 100, output_type: str = "pt",
        to_cpu: bool = True, fix_init_noise: bool = False, *, seeds: Sequence[int] | None = None,
        controls: Tensor | None = None, told: Tensor | None = None, progress: bool = False,
    ) -> Tensor | np.ndarray:  # fmt: skip
        """Predicts frames.

        Args:
            Vo: Observed frames in [-1, 1], `[N, To, C, Ho, Wo]`.
            Vo_last_frame: The last one in the size of predicted frames, `[N, 1, C, H, W]`.
            idx_o: Times of observed frames `[To]`, rising.
            idx_p: Times asked for `[Tp]`, rising, after those.
            generator: Seeds are drawn from it; None: from torch's global one.
            num_inference_steps: Network passes of a frame.
            output_type: "pt" or "numpy".
            to_cpu: Whether frames are brought to the CPU; numpy's are there anyway.
            fix_init_noise: Whether all frames of a clip begin as the same noise; without autoregression they always do.
            seeds: N whole numbers, instead of a generator.
            controls: `[N, Tp, A]`, each held until its frame; None: none is told.
            told: bool `[N]`, which clips are told theirs; None: all.
            progress: Show a progress bar.

        Returns:
            `[N, Tp, C, H, W]` in [0, 1].

        Raises:
            ValueError: Something does not fit.
        """
        if output_type not in ("pt", "numpy"):
            raise ValueError(f"output_type must be 'pt' or 'numpy', got {output_type!r}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        if seeds is None and generator is not None:
            seeds = torch.randint(2**62, (len(Vo),), generator=generator, device=generator.device).tolist()
        seeds = self.stdiff.tde_model.seeds(len(Vo), seeds)
        motion = self.stdiff.motion(Vo, idx_o, idx_p, seeds, controls, told)
        count = motion.shape[1]
        bar = tqdm(total=num_inference_steps * (count if self.stdiff.autoreg else 1), disable=not progress)
        with bar:
            if self.stdiff.autoreg:
                frames, before = [], Vo_last_frame[:, 0]
                for index in range(count):
                    start = self._noise(seeds, 0 if fix_init_noise else index, before)
                    randoms = _generators(seeds, [index])
                    before = self._denoise(start, motion[:, index], before, num_inference_steps, randoms, bar)
                    frames.append(before := before.clamp(-1, 1))
                found = torch.stack(frames, 1)
            else:
                start = self._noise(seeds, 0, Vo_last_frame[:, 0]).repeat_interleave(count, 0)
                randoms = _generators(seeds, range(count))
                found = self._denoise(start, motion.flatten(0, 1), None, num_inference_steps, randoms, bar)
                found = found.unflatten(0, (len(Vo), count))
        found = (found / 2 + 0.5).clamp(0, 1)
        found = found.cpu() if to_cpu or output_type == "numpy" else found
        return found.numpy() if output_type == "numpy" else found

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes the network together with the configuration of its scheduler."""
        self.stdiff.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(cls, path: str | Path, scheduler: Any = None) -> Self:
        """Reads what `save_pretrained` wrote.

        Args:
            path: The folder.
            scheduler: Another one that the weights can be sampled with; None: the one that they were trained with.

        Raises:
            ValueError: The scheduler is not one for these weights.
            OSError: There is no such model.
        """
        return cls(STDiffDiffusers.from_pretrained(path), scheduler)

    def _noise(self, seeds: list[int], index: int, like: Tensor) -> Tensor:
        """What frames begin as, `[N, out_channels, H, W]`."""
        shape = (self.stdiff.diffusion_unet.config.out_channels, *like.shape[-2:])
        return noise(seeds, STREAM, [index] * len(seeds), shape).to(like)

    def _denoise(
        self, x: Tensor, motion: Tensor, before: Tensor | None, steps: int, randoms: list[torch.Generator], bar: Any
    ) -> Tensor:
        """Frames of noise, by the scheduler's steps."""
        scheduler: Any = self.scheduler
        scheduler.set_timesteps(steps, device=x.device)
        takes = inspect.signature(scheduler.step).parameters
        more = {"generator": randoms} if "generator" in takes else {}
        x = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x, t)
            given = given if before is None else torch.cat([given, before], 1)
            told = self.stdiff.diffusion_unet(given, t, m_feat=motion).sample
            x = scheduler.step(told, t, x, **more).prev_sample
            bar.update()
        return x


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """The configuration of a scheduler of diffusers as a model keeps it.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(scheduler, SchedulerMixin):
        raise ValueError(f"a scheduler must be one of diffusers, got {type(scheduler).__name__}")
    config: Any = scheduler.config  # type: ignore[attr-defined]
    return {"_class_name": type(scheduler).__name__, **{k: plain(v) for k, v in config.items() if k[0] != "_"}}


def _made(config: dict[str, Any]) -> Any:
    """The scheduler of a stored configuration."""
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not isinstance(kind, type) or not issubclass(kind, SchedulerMixin):
        raise ValueError(f"the weights name a scheduler that diffusers does not have: {config.get('_class_name')!r}")
    return kind.from_config(config)  # type: ignore[attr-defined]


def _generators(seeds: list[int], steps: Sequence[int]) -> list[torch.Generator]:
    """A generator for each clip and frame, for schedulers that add noise."""
    return [generator(seed, "scheduler", step) for seed in seeds for step in steps]
