"""Configurations of the training stages and of the published trainers."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivedit.config.base import BaseConfig
from drivedit.config.domains import DEFAULT_WORLD


@dataclass
class DataConfig(BaseConfig):
    """Where the recordings are and how clips are cut from them.

    Attributes:
        root: Folder of recording shards.
        validation_fraction: Share of the episodes (the last ones) that is only looked at.
        picture: Name of the picture that the autoencoder learns, where the recordings have several; None: the only one.
        stream: Read the shards one after the other instead of unpacking them all: for more than a disk or memory holds.
        buffer: Shards of a stream that are shuffled together.
    """

    root: str = "recordings"
    validation_fraction: float = 0.02
    picture: str | None = None
    stream: bool = False
    buffer: int = 4

    def __post_init__(self) -> None:
        if self.buffer < 1:
            raise ValueError(f"data.buffer must be at least 1, got {self.buffer}")


@dataclass
class LoopConfig(BaseConfig):
    """The training loop, the same for every stage.

    Attributes:
        lr: Peak learning rate of AdamW.
        warmup: Optimizer steps of linear warm-up.
        cooldown: Share of the run over which the rate falls linearly to zero.
        steps: Optimizer steps in all.
        minutes: Stop (resumably) after so many minutes of wall-clock time; None: no limit.
        batch_size: Clips or frames in one batch; every process takes `accumulate` of them per step.
        accumulate: Batches whose gradients are averaged before a step.
        weight_decay: AdamW's, on matrices only.
        clip: Largest norm of the gradient.
        ema: Decay of the averaged weights, once there were many steps; before, the last tenth of them counts.
        compile: Compile the stage's hot methods (a C++ compiler is needed; a minute at first, then a fifth faster).
        bf16: Autocast to bfloat16 where the hardware multiplies it (networks only; losses stay in float32).
        shard: Spread the weights over the processes (FSDP2) instead of copying them to each (DDP).
        sequence_parallel: Processes that share each clip: they spread its frames, and for attention the heads.
        checkpointing: Compute the activations of transformer blocks a second time instead of keeping them.
        offload: Keep sharded weights and what the optimizers remember in the memory of the host.
        save_every_s: Seconds between two checkpoints.
        log_every: Steps between two log lines.
        seed: Of weights, data order and noise.
    """

    lr: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.3
    steps: int = 10_000
    minutes: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    compile: bool = False
    bf16: bool = True
    shard: bool = False
    sequence_parallel: int = 1
    checkpointing: bool = False
    offload: bool = False
    save_every_s: float = 240.0
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.offload and not self.shard:
            raise ValueError("train.offload moves weights that are sharded: it needs train.shard")


@dataclass
class VAEStageConfig(BaseConfig):
    """Loss of the `vae` stage.

    Attributes:
        l1: Weight of the absolute error.
        edges: Weight of the absolute error of horizontal and vertical differences, which keeps edges sharp.
        focus: Extra weight of the pixels in `focus_boxes`.
        focus_boxes: Boxes (top, bottom, left, right), as shares of the picture, that get the extra weight.
    """

    l1: float = 0.3
    edges: float = 0.6
    focus: float = 2.0
    focus_boxes: list[tuple[float, float, float, float]] = field(default_factory=list)


@dataclass
class ClipConfig(BaseConfig):
    """Clips and what is told about them, blurred: dreams are less exact than recordings.

    Attributes:
        clip_frames: Frames of a clip.
        context_noise: Scale of the half-Cauchy noise put on a clip's history, at most 1.
        drop_past: Share of clips whose history is noise altogether, so that the route has to tell everything.
        drop_route: Share of clips that dream without a route.
        drop_layout: Share of clips that dream others on the road as they like.
        drop_motion: Share of clips that are not told their ego-motion.
        motion_noise: Standard deviation of the noise on the ego-motion that a clip is told, in its units.
    """

    clip_frames: int = 16
    context_noise: float = 0.1
    drop_past: float = 0.15
    drop_route: float = 0.1
    drop_layout: float = 0.5
    drop_motion: float = 0.05
    motion_noise: float = 0.05


@dataclass
class StudentStageConfig(ClipConfig):
    """Loss of the `student` stage: diffusion forcing first, then few-step training on the model's own rollouts.

    Attributes:
        mean_until: Share of the run in which, first of all, the mean of the next frame is learned, without noise.
        pure_noise: Share of frames whose noise level is 1.
        few_step_from: Share of the run after which few-step training begins.
        rollout: Frames of a few-step rollout (the model's own frames are its context).
        exits: Most sampling passes of the student in few-step training, one of which gets the gradient.
        head_weight: Weight of the heads' losses.
        drop_control: Share of frames that are not told their controls, those before included; above 0 the world takes
            guidance on its controls.
    """

    mean_until: float = 0.0
    pure_noise: float = 0.4
    few_step_from: float = 0.55
    rollout: int = 6
    exits: int = 1
    head_weight: float = 0.3
    drop_control: float = 0.0

    def __post_init__(self) -> None:
        if self.mean_until > self.few_step_from:
            raise ValueError(
                f"loss.mean_until must not lie after loss.few_step_from = {self.few_step_from}, got {self.mean_until}"
            )
        if self.exits < 1 or self.rollout < 0:
            raise ValueError(
                f"loss.exits must be at least 1 and loss.rollout at least 0, got {self.exits} and {self.rollout}"
            )


@dataclass
class DistillConfig(StudentStageConfig):
    """Loss of the `distill` stage, which starts from a trained student; clips and context as in `StudentStageConfig`.

    Attributes:
        method: Name of what teaches the student (`METHODS`); an unknown one is answered by those that there are.
        guidance: Weight of the teacher's controls, w of `u + w (c - u)`: at 1 it is not asked without them.
        grid: Noise levels between which the teacher steps.
        shift: How far these levels are moved towards noise (1: evenly spaced).
        target_ema: Decay of the averaged student that consistency aims at.
        phases: Phases under `phased` and `adversarial`: their number, or a schedule "2000-8,4000-4" of (last step,
            number), the last one for all steps after it.
        huber: Distance above which `phased` and `adversarial` count absolute errors, below it squares.
        adversarial: Weight of the discriminator's score beside the distance.
        layers: Layers of the teacher that the discriminator looks at, counted from 0; empty: all.
        discriminator_lr: Peak learning rate of the discriminator.
        discriminator_clip: Largest norm of its gradient.
        saturating: Whether a student that passes for right gets no more gradient from the discriminator.
        against_data: Whether the discriminator compares with recorded frames, not with the averaged student.
        data_flow: Whether `continuous` follows the data in place of the teacher.
        warmup_share: Share of the run in which the derivative comes in under `continuous`.
        critic_steps: Steps of the critic, or the discriminator, for one of the student.
        consistency: Weight of the consistency loss beside `matching`, against collapse.
    """

    method: str = "matching"
    guidance: float = 1.0
    grid: int = 16
    shift: float = 1.0
    target_ema: float = 0.99
    phases: str = "1"
    huber: float = 1e-3
    adversarial: float = 0.1
    layers: list[int] = field(default_factory=list)
    discriminator_lr: float = 1e-5
    discriminator_clip: float = 1.0
    saturating: bool = False
    against_data: bool = False
    data_flow: bool = False
    warmup_share: float = 0.3
    critic_steps: int = 3
    consistency: float = 0.25


@dataclass
class MemoryStudyConfig(BaseConfig):
    """How much `python -m drivedit.training memory` records and dreams, and the size of its two students.

    Attributes:
        drives: Drives to learn from.
        held_out: Drives to judge on.
        frames: Frames of a drive (6 m each; a lap has 150 to 210).
        window: Frames that a student sees.
        d_model: Width of a student, 64 at least.
        n_layers: Its blocks.
        sampling_steps: Network passes for a dreamed frame.
        domain: Whose landmarks it drives past (`DomainConfig.landmarks`).
    """

    drives: int = 60
    held_out: int = 8
    frames: int = 290
    window: int = 6
    d_model: int = 96
    n_layers: int = 3
    sampling_steps: int = 2
    domain: str = DEFAULT_WORLD


@dataclass
class TrainingConfig(BaseConfig):
    """Training with `drivedit.training.SelfForcingTrainer` or `drivedit.training.DistillationTrainer`.

    Attributes:
        lr: Learning rate of AdamW.
        batch_size: Clips in one step.
        epochs: Epochs planned; the share of self-made context grows over them.
        grad_clip: Largest norm of the gradient.
        self_forcing_ratio: Share of self-made frames in the context of the last epoch; the first epoch has none.
        rollout_weight: Weight of the score of self-made frames beside the flow loss.
        sampling_steps: Most network passes for a self-made frame.
        distillation_alpha: Weight of the teacher; the data have the rest.
        temperature: Softening of the teacher. Without effect on the Gaussian outputs of the networks here.
        mixed_precision: Autocast to bfloat16 where the hardware multiplies it (networks only; losses stay in float32).
        seed: Of all noise.
    """

    lr: float = 1e-4
    batch_size: int = 8
    epochs: int = 10
    grad_clip: float = 1.0
    self_forcing_ratio: float = 0.8
    rollout_weight: float = 0.5
    sampling_steps: int = 4
    distillation_alpha: float = 0.7
    temperature: float = 4.0
    mixed_precision: bool = True
    seed: int = 0
