"""Fine-tuning by flow matching (Lipman et al. 2023), under the published names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models.flow.schedules import compute_density_for_timestep_sampling
from drivedit.training.api.arguments import TrainingArguments
from drivedit.training.api.runs import fine_tune
from drivedit.training.api.steps import Batch, check_model_type, draws, optimizer_step, sharing, taken
from drivedit.training.methods.text_video import flow_matching, level_at

__all__ = ["compute_density_for_timestep_sampling", "main", "train_one_step"]


def main(args: Namespace) -> None:
    """Trains a transformer on recordings and films, through the package's loop.

    It leaves `transformer.safetensors` and `vae.safetensors` in `output_dir`, from which an `InferenceEngine` makes
    clips.

    Args:
        args: The fields of `drivedit.training.api.arguments.TrainingArguments`; what is missing has its default.

    Raises:
        FileNotFoundError: The list, something that it names, or the autoencoder is missing.
        KeyError: There is no such argument.
        ValueError: `data_json_path` is missing, or an argument is out of its range.
    """
    fine_tune(TrainingArguments.read(args))


def train_one_step(
    transformer: nn.Module,
    model_type: str,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: Any,
    loader: Iterator[Batch],
    noise_scheduler: Any,
    noise_random_generator: torch.Generator,
    gradient_accumulation_steps: int,
    sp_size: int,
    precondition_outputs: bool,
    max_grad_norm: float,
    weighting_scheme: str,
    logit_mean: float | None,
    logit_std: float | None,
    mode_scale: float | None,
) -> tuple[float, float]:
    """Takes one step of the optimizer by flow matching.

    Args:
        transformer: Tells the velocity when it is called with latents `[B, C, T, h, w]`, text `[B, L, D]` and 1000
            times the level `[B]`.
        model_type: One of `drivedit.config.MODEL_TYPES`.
        optimizer: Of its parameters.
        lr_scheduler: Takes a step after it, or None.
        loader: An iterator of batches (latents, text) or (latents, text, mask `[B, L]` of the words).
        noise_scheduler: Its `sigmas` are the levels, noise first, one for each of its `timesteps`.
        noise_random_generator: Of levels and noise.
        gradient_accumulation_steps: Batches whose gradients are averaged.
        sp_size: Processes that share each clip: they get the same batches, and here the same levels and noise.
        precondition_outputs: Compare clean estimates instead of velocities.
        max_grad_norm: Largest norm of the gradient.
        weighting_scheme: Density of the levels, as of `compute_density_for_timestep_sampling`.
        logit_mean: For "logit_normal".
        logit_std: For "logit_normal".
        mode_scale: For "mode".

    Returns:
        The mean loss over batches and processes, and the norm of the gradient before it was clipped.

    Raises:
        ValueError: A name is unknown, a number is out of its range, or `sp_size` does not divide the processes.
    """
    check_model_type(model_type)
    generator = noise_random_generator
    place = partial(
        compute_density_for_timestep_sampling, weighting_scheme, 1, generator, logit_mean, logit_std, mode_scale
    )
    levels = noise_scheduler.sigmas[: len(noise_scheduler.timesteps)]

    def loss_of(batch: Batch) -> Tensor:
        latents, words = taken(batch, transformer)
        places, noise = draws(latents, generator, place, shared)
        return flow_matching(
            transformer, latents, words, level_at(levels.to(latents.device), places), noise, precondition_outputs
        )

    shared = sharing(sp_size, next(transformer.parameters()).device)
    with shared.spreading(transformer):
        return optimizer_step(
            transformer, optimizer, lr_scheduler, loader, gradient_accumulation_steps, max_grad_norm, loss_of
        )
