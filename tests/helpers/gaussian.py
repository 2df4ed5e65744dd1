"""A Gaussian whose flow is known in closed form: what a perfect teacher says of it, and where its flow ends."""

from typing import TypeVar

import torch
from torch import Tensor

from drivedit.config import DistillConfig
from drivedit.training.methods.clips import Clip, Rngs
from drivedit.training.methods.taught import TaughtMethod

Taught = TypeVar("Taught", bound=TaughtMethod)
MEAN, SPREAD = 0.7, 0.5  # of the teacher's Gaussian


def posterior(x: Tensor, sigma: Tensor, mean: float = MEAN, spread: float = SPREAD) -> Tensor:
    """The best estimate of data from N(mean, spread^2) seen at level sigma: what a perfect teacher says."""
    level = sigma[..., None, None]
    gain = (1 - level) * spread**2 / ((1 - level) ** 2 * spread**2 + level**2)
    return mean + gain * (x - (1 - level) * mean)


def transport(x: Tensor, sigma: Tensor) -> Tensor:
    """Where the teacher's flow ends: the map that keeps quantiles."""
    level = sigma[..., None, None]
    return MEAN + SPREAD * (x - (1 - level) * MEAN) / ((1 - level) ** 2 * SPREAD**2 + level**2).sqrt()


def between(x: Tensor, sigma: Tensor, lower: Tensor) -> Tensor:
    """Where the teacher's flow is at a lower level."""
    spread = ((1 - lower) ** 2 * SPREAD**2 + lower**2).sqrt()[..., None, None]
    return (1 - lower)[..., None, None] * MEAN + spread * (transport(x, sigma) - MEAN) / SPREAD


def make_rngs(seed: int = 0) -> Rngs:
    return Rngs(torch.Generator().manual_seed(seed), torch.device("cpu"), torch.Generator().manual_seed(seed))


def gaussian_clip(rows: int = 32) -> Clip:
    """Clips of independent numbers of the Gaussian, in the shape of the tokens of `make_world`."""
    tokens = MEAN + SPREAD * torch.randn(rows, 2 + 4, 16, 16, generator=torch.Generator().manual_seed(1))
    read = {"motion": 3, "telemetry": 4, "reward": 1}
    batch = {name: torch.zeros(rows, 4, width) for name, width in read.items()} | {"ended": torch.zeros(rows, 4)}
    control = torch.randn(rows, 4, 7, generator=torch.Generator().manual_seed(2))
    return Clip(tokens, tokens[:, 2:], control, torch.zeros(rows, 4, 321), batch)


def distill_config(**changes) -> DistillConfig:
    return DistillConfig(**{"clip_frames": 4, "rollout": 0, "head_weight": 0.0, **changes})


def with_student(method: Taught, student, teacher=posterior) -> Taught:
    """A method whose networks are functions of the noisy frames and their levels."""

    def score(net, x, sigma, *_):
        return (teacher if net is method.teacher.network else student)(x, sigma), None

    def run(x, sigma, *_):
        return student(x, sigma), method.heads(torch.zeros(*x.shape[:3], method.dynamics.d_model))

    method.predict_clean, method.run = score, run  # type: ignore[assignment, method-assign]
    return method
