"""Runs of text-to-video transformers through the package's loop: fine-tuning and distillation."""

from __future__ import annotations

import copy
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from drivedit.config import MODEL_TYPES, LoopConfig
from drivedit.models.adapters import Adapter
from drivedit.models.dits import TRANSFORMERS, VideoTransformer3DModel
from drivedit.models.flow.phases import EulerSolver
from drivedit.models.flow.schedules import linear_quadratic_levels, training_levels
from drivedit.models.text_encoder import HunyuanTextEncoder
from drivedit.models.vaes import WanVAE
from drivedit.training.api.arguments import DistillationArguments, TrainingArguments
from drivedit.training.api.prompted import PromptedClips, read_list
from drivedit.training.api.steps import told_guidance
from drivedit.training.loop import train
from drivedit.training.lora import add_lora, factors, fold_in, patterns_of
from drivedit.training.methods.method import Progress
from drivedit.training.methods.text_video import FlowMatching, PhaseOptions, TextVideoMethod, TextVideoPhases, Words
from drivedit.training.runs import run_folder
from drivedit.utils import fingerprint, generator, resolve_device, seeded

log = logging.getLogger(__name__)
TRANSFORMER, AUTOENCODER, ADAPTERS = "transformer.safetensors", "vae.safetensors", "lora.safetensors"
TIMESTEPS = 1000
CELL = 8  # pixels of a latent's side


def fine_tune(args: TrainingArguments) -> VideoTransformer3DModel:
    """Trains a transformer by flow matching; see `drivedit.training.api.train.main`."""
    device = resolve_device(args.device)
    folder = Path(args.pretrained_model_name_or_path)
    with run_folder(args.output_dir, device) as run:
        clips = _clips(args, folder, run, device)
        file = folder / TRANSFORMER
        transformer = TRANSFORMERS[args.model_type].load(file) if file.is_file() else _new(args, clips)
        density = {"weighting_scheme": args.weighting_scheme} | {
            name: getattr(args, name) for name in ("logit_mean", "logit_std", "mode_scale")
        }
        levels = training_levels(TIMESTEPS, args.shift).flip(0)
        method = FlowMatching(_adapted(transformer, args), levels, density, args.precondition_outputs)
        return _run(method, clips, args, folder, run, device)


def distil(args: DistillationArguments) -> VideoTransformer3DModel:
    """Trains a student in phases; see `drivedit.training.api.distill.main`."""
    device = resolve_device(args.device)
    folder = Path(args.teacher_model_path)
    with run_folder(args.output_dir, device) as run:
        clips = _clips(args, folder, run, device)
        kind = TRANSFORMERS[args.model_type]
        teacher = kind.load(_needed(folder / TRANSFORMER))
        own = Path(args.pretrained_model_name_or_path) / TRANSFORMER
        student = kind.load(own) if args.pretrained_model_name_or_path else copy.deepcopy(teacher)
        levels = (
            training_levels(TIMESTEPS, args.shift)
            if args.scheduler_type == "pcm"
            else linear_quadratic_levels(TIMESTEPS, args.linear_quadratic_threshold, args.linear_range)
        )
        guidance = told_guidance(args.model_type, args.hunyuan_teacher_disable_cfg)
        scale = 1.0 if args.not_apply_cfg_solver else 1 + args.distill_cfg
        method = TextVideoPhases(
            _adapted(student, args), teacher, EulerSolver(levels, TIMESTEPS, args.num_euler_timesteps),
            args.multi_phased_distill_schedule,
            PhaseOptions(1, scale, args.pred_decay_weight, args.pred_decay_type),
            None if scale == 1 else Words(clips.text[:1], clips.mask[:1], guidance),
            args.ema_decay if args.use_ema else None, guidance,
        )  # fmt: skip
        return _run(method, clips, args, folder, run, device)


def _clips(args: TrainingArguments, folder: Path, run: Path, device: torch.device) -> PromptedClips:
    """What is learned from."""
    vae = WanVAE.load(_needed(folder / AUTOENCODER)).to(device)
    channels = MODEL_TYPES[args.model_type].in_channels
    if vae.config.latent_dim != channels:
        raise ValueError(
            f"a model of type {args.model_type} has latents of {channels} channels, {folder / AUTOENCODER} makes "
            f"{vae.config.latent_dim}"
        )
    sources = read_list(args.data_json_path, run / "recordings")
    encoder = HunyuanTextEncoder(width=args.text_width)
    return PromptedClips(sources, vae, encoder, args.num_frames, args.cfg, args.log_validation, device)


def _needed(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}: no pretrained text-to-video weights come with this package; `save` of "
            "drivedit.models.dits and drivedit.models.vaes writes your own"
        )
    return file


def _new(args: TrainingArguments, clips: PromptedClips) -> VideoTransformer3DModel:
    """A transformer of the type and the sizes that are wanted, for clips of this size."""
    cell = CELL * MODEL_TYPES[args.model_type].patch
    sizes = replace(
        MODEL_TYPES[args.model_type], d_model=args.d_model, n_layers=args.n_layers, n_heads=args.n_heads,
        text_dim=args.text_width, grid=(math.ceil(clips.height / cell), math.ceil(clips.width / cell)),
    )  # fmt: skip
    with seeded(generator(args.seed, "weights")):
        return TRANSFORMERS[args.model_type].from_config(sizes)


def _adapted(transformer: VideoTransformer3DModel, args: TrainingArguments) -> nn.Module:
    """The transformer, with adapters where these are wanted."""
    if args.use_lora:
        with seeded(generator(args.seed, "adapters")):
            layers = add_lora(transformer, args.lora_rank, args.lora_alpha, patterns_of(args.lora_target_modules))
        log.info("adapters of rank %d in %d layers", args.lora_rank, len(layers))
    return transformer.train()


def _run(
    method: TextVideoMethod, clips: PromptedClips, args: TrainingArguments, folder: Path, run: Path,
    device: torch.device,
) -> VideoTransformer3DModel:  # fmt: skip
    """Trains by a method, and leaves the networks in the folder of the run."""
    for name in ("checkpointing_steps", "validation_steps"):
        if getattr(args, name) is not None:
            log.info("%s is not needed: checkpoints, and figures with them, come every few minutes", name)
    about = {
        "arguments": {name: value for name, value in args.to_dict().items() if name not in _OF_THE_LOOP},
        "autoencoder": {"fingerprint": fingerprint(folder / AUTOENCODER)},
        "data": {"fingerprint": fingerprint(clips.fingerprints)},
    }
    held = clips.batch(clips.held) if clips.held else None

    @torch.no_grad()
    def figures(trained: nn.Module) -> dict[str, float]:
        assert isinstance(trained, TextVideoMethod) and held is not None
        there = {name: value.to(device) for name, value in held.items()}
        return {"loss": float(trained.loss(there, Progress(0, 1.0), generator(0, "figures", 0))[0])}

    best = train(
        method, lambda rng: clips.draw(rng, args.train_batch_size), _loop(args, len(clips.clips)), run / "run",
        device=device, about=about, validate=None if held is None else figures, judge=None if held is None else "-loss",
    )  # fmt: skip
    assert isinstance(best, TextVideoMethod) and isinstance(best.transformer, VideoTransformer3DModel)
    return _leave(best.transformer, args, folder, run)


def _leave(
    trained: VideoTransformer3DModel, args: TrainingArguments, folder: Path, run: Path
) -> VideoTransformer3DModel:
    """Writes what an engine makes clips of, by the first process."""
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if args.use_lora:
        if first:
            base = folder / TRANSFORMER
            named = fingerprint(base) if base.is_file() else ""
            Adapter(named, args.lora_alpha / args.lora_rank, factors(trained)).save(run / ADAPTERS)
        fold_in(trained)
    trained.eval()
    if first:
        trained.save(run / TRANSFORMER)
        if not (run / AUTOENCODER).exists() or not (run / AUTOENCODER).samefile(folder / AUTOENCODER):
            shutil.copyfile(folder / AUTOENCODER, run / AUTOENCODER)
        log.info("%s and %s are in %s", TRANSFORMER, AUTOENCODER, run)
    return trained


def _loop(args: TrainingArguments, clips: int) -> LoopConfig:
    """The options of the package's loop."""
    steps = args.max_train_steps or math.ceil(clips / (args.train_batch_size * args.gradient_accumulation_steps))
    return LoopConfig(
        lr=args.learning_rate, warmup=args.lr_warmup_steps, cooldown=0.0, steps=steps,
        batch_size=args.train_batch_size, accumulate=args.gradient_accumulation_steps, clip=args.max_grad_norm,
        bf16=args.mixed_precision == "bf16", sequence_parallel=args.sp_size, checkpointing=args.gradient_checkpointing,
        shard=args.use_cpu_offload, offload=args.use_cpu_offload, seed=args.seed,
    )  # fmt: skip


_OF_THE_LOOP = {
    "learning_rate", "lr_warmup_steps", "max_train_steps", "train_batch_size", "gradient_accumulation_steps",
    "max_grad_norm", "mixed_precision", "sp_size", "gradient_checkpointing", "use_cpu_offload", "seed",
    "checkpointing_steps", "validation_steps", "output_dir", "device", "data_json_path",
    "pretrained_model_name_or_path", "teacher_model_path",
}  # fmt: skip
