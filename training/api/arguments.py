"""The published tables of arguments, as configurations: what is unknown is refused, and what is needed asked for."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from typing import Self

from drivedit.config import MODEL_TYPES, BaseConfig
from drivedit.models.flow.phases import check_phases
from drivedit.models.flow.schedules import SCHEMES

PRECISIONS = ("no", "bf16")
SCHEDULERS = ("pcm", "pcm_linear_quadratic")


@dataclass
class TrainingArguments(BaseConfig):
    """Arguments of `drivedit.training.api.train.main`.

    Attributes:
        data_json_path: JSON list of recordings and films (`drivedit.training.api.prompted`); it must be given.
        model_type: Name of a configuration of the transformer.
        pretrained_model_name_or_path: Folder with `vae.safetensors`, and with `transformer.safetensors` where training
            goes on from it.
        output_dir: Folder of the run; an interrupted run goes on.
        train_batch_size: Clips of a batch, on each device.
        max_train_steps: Steps in all; None: as many as show each clip once.
        learning_rate: Peak learning rate.
        lr_warmup_steps: Steps of linear warm-up.
        gradient_accumulation_steps: Batches whose gradients are averaged before a step.
        max_grad_norm: Largest norm of the gradient.
        use_lora: Train low-rank adapters alone.
        lora_rank: Their rank.
        lora_alpha: Their scale times the rank.
        lora_target_modules: Which linear layers have them.
        sp_size: Processes that share each clip.
        gradient_checkpointing: Compute the activations of blocks a second time instead of keeping them.
        mixed_precision: "no", or "bf16" where the hardware multiplies it.
        use_cpu_offload: Spread the weights over the processes, and keep them in the memory of the host.
        checkpointing_steps: Of the published table: the package's loop writes checkpoints every few minutes.
        validation_steps: Of the published table: with `log_validation` there are figures at every checkpoint.
        log_validation: Keep the last drives of each recording for figures.
        precondition_outputs: Compare clean estimates instead of velocities.
        weighting_scheme: Density of the noise levels.
        logit_mean: For "logit_normal".
        logit_std: For "logit_normal".
        mode_scale: For "mode".
        shift: How far the levels are moved towards noise.
        cfg: Share of clips that are told no words, which guidance needs.
        num_frames: Frames of a clip, 4 k + 1.
        d_model: Width of a new transformer.
        n_layers: Its blocks.
        n_heads: Its attention heads.
        text_width: Width of a word, as it is told.
        seed: Of weights, data order and noise.
        device: Where it trains: auto, cpu, cuda, ...
    """

    data_json_path: str = ""
    model_type: str = "mochi"
    pretrained_model_name_or_path: str = ""
    output_dir: str = "outputs"
    train_batch_size: int = 16
    max_train_steps: int | None = None
    learning_rate: float = 1e-4
    lr_warmup_steps: int = 10
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    use_lora: bool = False
    lora_rank: int = 128
    lora_alpha: float = 256.0
    lora_target_modules: list[str] = field(default_factory=lambda: ["to_k", "to_q", "to_v", "to_out.0"])
    sp_size: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: str = "bf16"
    use_cpu_offload: bool = False
    checkpointing_steps: int | None = None
    validation_steps: int | None = None
    log_validation: bool = False
    precondition_outputs: bool = False
    weighting_scheme: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    shift: float = 1.0
    cfg: float = 0.1
    num_frames: int = 17
    d_model: int = 512
    n_layers: int = 12
    n_heads: int = 8
    text_width: int = 512
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.data_json_path:
            raise ValueError("data_json_path must be given: a JSON list of recordings and films")
        for name, known in (
            ("model_type", tuple(MODEL_TYPES)),
            ("mixed_precision", PRECISIONS),
            ("weighting_scheme", SCHEMES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        many = (1, 2**31)
        self.check_ranges(
            train_batch_size=many, max_train_steps=many, gradient_accumulation_steps=many, lora_rank=many, sp_size=many,
            num_frames=many, learning_rate=(0, 1e3), max_grad_norm=(0, float("inf")), cfg=(0, 1), shift=(1e-6, 1e6),
        )  # fmt: skip
        if (self.num_frames - 1) % 4:
            raise ValueError(f"num_frames must be 4 k + 1 (1, 5, 9, ...), got {self.num_frames}")

    @classmethod
    def read(cls, args: Namespace) -> Self:
        """The arguments of a namespace.

        Raises:
            KeyError: One is unknown.
            ValueError: One is missing, of another type or out of its range.
        """
        return cls.from_dict(vars(args))


@dataclass
class DistillationArguments(TrainingArguments):
    """Arguments of `drivedit.training.api.distill.main`, beside those of `TrainingArguments`.

    Attributes:
        teacher_model_path: Folder of the teacher, with both networks; it must be given. A student begins as the
            teacher, where `pretrained_model_name_or_path` names no other.
        num_euler_timesteps: Points of the grid, a divisor of 1000.
        multi_phased_distill_schedule: Phases by steps, "2000-2,4000-4" of (last step, number).
        distill_cfg: Extra guidance of the teacher, w of `c + w (c - u)`.
        not_apply_cfg_solver: The teacher is not guided, and asked once.
        use_ema: Aim at an average of the student; else at the student.
        ema_decay: Of that average.
        pred_decay_weight: Weight of the size of what the student predicts.
        pred_decay_type: "l1" or "l2".
        hunyuan_teacher_disable_cfg: Student and teacher of the hunyuan family are told no guidance as a number.
        scheduler_type: "pcm", whose levels `shift` moves, or "pcm_linear_quadratic".
        linear_quadratic_threshold: Of the latter.
        linear_range: Of the latter.
    """

    teacher_model_path: str = ""
    num_euler_timesteps: int = 50
    multi_phased_distill_schedule: str = "1"
    distill_cfg: float = 3.0
    not_apply_cfg_solver: bool = False
    use_ema: bool = False
    ema_decay: float = 0.95
    pred_decay_weight: float = 0.0
    pred_decay_type: str = "l1"
    hunyuan_teacher_disable_cfg: bool = False
    scheduler_type: str = "pcm"
    linear_quadratic_threshold: float = 0.025
    linear_range: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teacher_model_path:
            raise ValueError("teacher_model_path must be given: the folder of the teacher")
        for name, known in (("pred_decay_type", ("l1", "l2")), ("scheduler_type", SCHEDULERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        self.check_ranges(ema_decay=(0, 1), pred_decay_weight=(0, 1e6), num_euler_timesteps=(1, 1000))
        check_phases(self.multi_phased_distill_schedule, self.num_euler_timesteps)
