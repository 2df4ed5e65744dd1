"""Consistency distillation in phases (PCM, arXiv 2405.18407), under the published names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models.flow.phases import EulerSolver, PCMFMScheduler, phase_edges
from drivedit.training.api.arguments import DistillationArguments
from drivedit.training.api.runs import distil
from drivedit.training.api.steps import Batch, check_model_type, draws, optimizer_step, sharing, taken, told_guidance
from drivedit.training.averaging import follow
from drivedit.training.losses import prediction_decay
from drivedit.training.methods.text_video import PhaseOptions, Words, like_rows, phase_distance

__all__ = ["EulerSolver", "PCMFMScheduler", "distill_one_step", "main"]


def main(args: Namespace) -> None:
    """Trains a student of few steps from a teacher, through the package's loop.

    Args:
        args: The fields of `drivedit.training.api.arguments.DistillationArguments`; what is missing has its default.

    Raises:
        FileNotFoundError: The list, something that it names, or a network is missing.
        KeyError: There is no such argument.
        ValueError: `data_json_path` or `teacher_model_path` is missing, the schedule of phases cannot be read or has
            more phases than the grid has points, or an argument is out of its range.
    """
    distil(DistillationArguments.read(args))


def distill_one_step(
    transformer: nn.Module,
    model_type: str,
    teacher_transformer: nn.Module,
    ema_transformer: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: Any,
    loader: Iterator[Batch],
    noise_scheduler: Any,
    solver: EulerSolver,
    noise_random_generator: torch.Generator,
    gradient_accumulation_steps: int,
    sp_size: int,
    max_grad_norm: float,
    uncond_prompt_embed: Tensor | None,
    uncond_prompt_mask: Tensor | None,
    num_euler_timesteps: int,
    multiphase: int,
    not_apply_cfg_solver: bool,
    distill_cfg: float,
    ema_decay: float,
    pred_decay_weight: float,
    pred_decay_type: str,
    hunyuan_teacher_disable_cfg: bool,
) -> tuple[float, float, dict[str, float]]:
    """Takes one step of the optimizer on the distance of a student's jumps; then the averaged student follows.

    Args:
        transformer: The student, called as in `train_one_step`.
        model_type: One of `drivedit.config.MODEL_TYPES`.
        teacher_transformer: The frozen teacher.
        ema_transformer: The averaged student that is aimed at; None: the student.
        optimizer: Of the student's parameters.
        lr_scheduler: Takes a step after it, or None.
        loader: An iterator of batches, as in `train_one_step`.
        noise_scheduler: Of the published call; the levels are those of `solver`.
        solver: The grid.
        noise_random_generator: Of points and noise.
        gradient_accumulation_steps: Batches whose gradients are averaged.
        sp_size: Processes that share each clip.
        max_grad_norm: Largest norm of the gradient.
        uncond_prompt_embed: What stands for no words, `[L, D]` or `[1, L, D]`, where the teacher is guided.
        uncond_prompt_mask: Its words, `[L]` or `[1, L]`; None: all.
        num_euler_timesteps: Points of the grid.
        multiphase: Phases.
        not_apply_cfg_solver: The teacher is not guided, and asked once.
        distill_cfg: Extra guidance: the teacher's velocity is `c + w (c - u)`; 0 is none.
        ema_decay: Share that a step leaves of the averaged student.
        pred_decay_weight: Weight of the size of what the student predicts.
        pred_decay_type: "l1" or "l2".
        hunyuan_teacher_disable_cfg: Transformers of the hunyuan family, student and teacher alike, are told no guidance
            as a number; else 6.

    Returns:
        The mean loss, the norm of the gradient before it was clipped, and norms of what the student predicts: "fro",
        "largest singular value", "absolute mean", "absolute max".

    Raises:
        ValueError: A name is unknown, a number is out of its range, there are more phases than points, the teacher is
            to be guided and nothing stands for no words, or `sp_size` does not divide the processes.
    """
    check_model_type(model_type)
    points = len(solver.sigmas)
    if num_euler_timesteps != points:
        raise ValueError(f"num_euler_timesteps must be the {points} points of the solver, got {num_euler_timesteps}")
    phase_edges(points, multiphase)
    prediction_decay(torch.zeros(1), pred_decay_type)
    applied = not not_apply_cfg_solver and distill_cfg != 0
    if applied and uncond_prompt_embed is None:
        raise ValueError(f"distill_cfg = {distill_cfg} needs uncond_prompt_embed, or not_apply_cfg_solver=True")
    told = told_guidance(model_type, hunyuan_teacher_disable_cfg)
    plain = _plain(uncond_prompt_embed, uncond_prompt_mask, told) if applied else None
    options = PhaseOptions(multiphase, 1 + distill_cfg if applied else 1.0, pred_decay_weight, pred_decay_type)
    networks = (transformer, teacher_transformer, transformer if ema_transformer is None else ema_transformer)
    generator, norms = noise_random_generator, []

    def point() -> Tensor:
        return torch.randint(points, (1,), generator=generator, device=generator.device)

    def loss_of(batch: Batch) -> Tensor:
        latents, words = taken(batch, transformer, told)
        index, noise = draws(latents, generator, point, shared)
        rows = None if plain is None else like_rows(plain, latents)
        solver.to(latents.device)
        loss, end = phase_distance(networks, latents, (words, rows), index, noise, solver, options)
        norms.append(prediction_norms(end.detach().float()))
        return loss

    shared = sharing(sp_size, next(transformer.parameters()).device)
    with shared.spreading(transformer):
        loss, norm = optimizer_step(
            transformer, optimizer, lr_scheduler, loader, gradient_accumulation_steps, max_grad_norm, loss_of
        )
    if ema_transformer is not None:
        follow(ema_transformer.parameters(), transformer.parameters(), 1 - ema_decay)
    return loss, norm, {name: sum(each[name] for each in norms) / len(norms) for name in norms[0]}


def prediction_norms(prediction: Tensor) -> dict[str, float]:
    """Norms of predictions `[..., h, w]`: means over the matrices of the last two axes, and over all numbers."""
    matrices = prediction.flatten(0, -3)
    return {
        "fro": float(torch.linalg.matrix_norm(matrices).mean()),
        "largest singular value": float(torch.linalg.matrix_norm(matrices, ord=2).mean()),
        "absolute mean": float(prediction.abs().mean()),
        "absolute max": float(prediction.abs().max()),
    }


def _plain(text: Tensor | None, mask: Tensor | None, guidance: float | None) -> Words:
    """What stands for no words, as one row."""
    assert text is not None
    text = text if text.ndim == 3 else text[None]
    if mask is not None:
        mask = (mask if mask.ndim == 2 else mask[None]).bool()
    return Words(text, mask, guidance)
