"""What the published trainers share: epochs over a DataLoader, checkpoints, and clips as tokens.

They train a `DiTStudent` on clips from a DataLoader, dictionaries of frames `[B, T, C, H, W]` in [0, 1] and, where the
networks take them, controls `[B, T, >= cd]`, of which `controls[:, t]` leads from frame t to frame t + 1. Of wider
controls, as `VideoDataset` gives them, a student takes the first columns: with a `control_dim` of 2 steering and
acceleration, not the goal. The autoencoder stays as it is. All noise is a function of (seed, step), so a run that was
stopped and resumed equals one that was not.

Legend: B clips, T frames, P tokens per frame, D token width, cd width of the controls.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from tqdm import tqdm

from drivedit.config import TrainingConfig
from drivedit.models import VAE3D, DiTStudent, FrameTokenizer
from drivedit.models.flow.path import add_noise
from drivedit.models.layers.past import past_of
from drivedit.training.checkpoints import write_state
from drivedit.training.losses import FlowMatchingLoss
from drivedit.utils import extra, fast_dtype, generator, read_archive, resolve_device, seeded

LEAST_NOISE = 0.05  # a velocity is (x - clean) / sigma: at less noise than this it would only magnify rounding
Batch = dict[str, Any]
Losses = dict[str, Tensor]


class Trainer(ABC):
    """Trains a student epoch by epoch; a subclass says with which losses.

    Args:
        student_model: The student; its `latent_dim` is that of the autoencoder times the square of a whole number.
        vae_model: The autoencoder, used in evaluation mode; its latents should be about normal.
        optimizer: Of the student's parameters.
        device: Where to train; a CUDA device that does not exist becomes the CPU.
        mixed_precision: Autocast to bfloat16 where the hardware multiplies it.
        use_wandb: Log every epoch's means to Weights & Biases.
        grad_clip: Largest norm of the gradient.
        seed: Of all noise.

    Raises:
        ImportError: `use_wandb` without wandb.
        ValueError: The networks are of other kinds, or their widths do not fit together.
    """

    def __init__(
        self,
        student_model: nn.Module,
        vae_model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: str,
        mixed_precision: bool,
        use_wandb: bool,
        grad_clip: float,
        seed: int,
    ) -> None:
        if not isinstance(student_model, DiTStudent) or not isinstance(vae_model, VAE3D):
            raise ValueError(
                "a DiTStudent and a VAE3D are needed, got "
                f"{type(student_model).__name__} and {type(vae_model).__name__}"
            )
        self.device = resolve_device(device)
        self.student, self.vae = student_model.to(self.device), vae_model.to(self.device).eval()
        self.tokenizer = FrameTokenizer.between(self.vae.latent_dim, self.student.latent_dim)
        self.optimizer, self.mixed_precision, self.grad_clip = optimizer, mixed_precision, grad_clip
        self.seed, self.step, self.epoch = seed, 0, 0
        self.flow = FlowMatchingLoss(sigma_min=LEAST_NOISE)
        self.tracker = _wandb() if use_wandb else None

    @classmethod
    def from_config(cls, config: TrainingConfig, **arguments: Any) -> Self:
        """Builds the trainer that a configuration describes, with AdamW.

        Args:
            config: Every field that is also an argument of the trainer is given to it.
            arguments: The models by name, and what else the configuration does not say.
        """
        optimizer = torch.optim.AdamW(arguments["student_model"].parameters(), lr=config.lr)
        names = inspect.signature(cls).parameters
        options = {name: value for name, value in config.to_dict().items() if name in names}
        return cls(**{"optimizer": optimizer, **options, **arguments})

    @abstractmethod
    def losses(self, batch: Batch, rng: torch.Generator) -> Losses:
        """The losses of a batch; "loss" is the one to train on."""

    def train_epoch(self, dataloader: Iterable[Batch]) -> dict[str, float]:
        """Trains on every batch once.

        Returns:
            Means over the batches of "loss", of its parts, and of "grad_norm".

        Raises:
            FloatingPointError: The loss is not finite; the weights are those before that step.
            KeyError, ValueError: A batch lacks what the networks need, or the loader is empty.
        """
        means = _Means()
        self.student.train()
        for batch in tqdm(dataloader, desc=f"{type(self).__name__} epoch {self.epoch}", mininterval=5, unit="step"):
            losses = self._drawn(batch, "train", self.step)
            self.optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.grad_clip)
            if not math.isfinite(losses["loss"].item()) or not math.isfinite(norm.item()):
                raise FloatingPointError(
                    f"step {self.step}: the loss is {losses['loss'].item()} and its gradient {norm.item()}; "
                    "lower the learning rate"
                )
            self.optimizer.step()
            self.step += 1
            means.add({**losses, "grad_norm": norm})
        result = means.result()
        if self.tracker is not None:
            self.tracker.log({f"train/{name}": value for name, value in result.items()}, step=self.epoch)
        self.epoch += 1
        return result

    @torch.no_grad()
    def validate_epoch(self, dataloader: Iterable[Batch]) -> dict[str, float]:
        """Means over the batches of "loss" and its parts, with the same noise at every call.

        Raises:
            KeyError, ValueError: A batch lacks what the networks need, or the loader is empty.
        """
        means = _Means()
        was = self.student.training
        self.student.eval()
        for index, batch in enumerate(dataloader):
            means.add(self._drawn(batch, "validate", index))
        self.student.train(was)
        result = means.result()
        if self.tracker is not None:
            self.tracker.log({f"val/{name}": value for name, value in result.items()}, step=self.epoch)
        return result

    def save_checkpoint(
        self, filepath: str | Path, epoch: int = 0, best_metric: float = float("inf"), **kwargs: Any
    ) -> None:
        """Writes student, optimizer and progress to a file, whole or not at all.

        Args:
            filepath: The file.
            epoch: Number to store beside them.
            best_metric: Figure to store beside them.
            kwargs: More tensors and plain values to store.

        Raises:
            OSError: The file cannot be written; an older one stays as it was.
            ValueError: One of `kwargs` has a name that is taken.
        """
        progress = {"trainer_step": self.step, "trainer_epoch": self.epoch}
        state = {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict(), **progress}
        if taken := state.keys() & kwargs.keys():
            raise ValueError(f"{sorted(taken)} is what the checkpoint holds anyway; give it another name")
        write_state(Path(filepath), {**kwargs, **state, "epoch": epoch, "best_metric": best_metric})

    def load_checkpoint(self, filepath: str | Path) -> dict[str, Any]:
        """Reads what `save_checkpoint` wrote, so that training goes on as if it had not stopped.

        Returns:
            "epoch", "best_metric" and what else was stored.

        Raises:
            FileNotFoundError: There is no such file.
            RuntimeError: It is damaged, no checkpoint of a trainer, or of another student.
        """
        try:
            state = read_archive(filepath, self.device)
            self.student.load_state_dict(state.pop("student"))
            self.optimizer.load_state_dict(state.pop("optimizer"))
            self.step, self.epoch = state.pop("trainer_step"), state.pop("trainer_epoch")
        except FileNotFoundError:
            raise
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RuntimeError(f"{filepath} is damaged or of another student or trainer ({error})") from error
        return state

    def _drawn(self, batch: Batch, stream: str, step: int) -> Losses:
        """The losses with noise, dropout's too, that depends on (seed, stream, step) only."""
        rng = generator(self.seed, stream, step)
        with seeded(rng, self.device):
            return self.losses(batch, rng)

    def _clips(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Clean tokens `[B, T, P, D]`, and what led to each frame `[B, T, cd]` or None."""
        if "frames" not in batch:
            raise KeyError(f"a batch must have 'frames' [B, T, C, H, W] in [0, 1], got {sorted(batch)}")
        frames, control = batch["frames"].to(self.device), None
        if frames.ndim != 5 or frames.shape[1] < 2 or not frames.is_floating_point():
            raise ValueError(
                f"frames must be floats [B, T, C, H, W] with T of at least 2, got {tuple(frames.shape)} {frames.dtype}"
            )
        if frames.min() < -1e-3 or frames.max() > 1 + 1e-3:
            raise ValueError(f"frames must be in [0, 1], got {frames.min().item():.3g} to {frames.max().item():.3g}")
        with torch.no_grad():
            mean, _ = self.vae.encode(frames.transpose(1, 2) * 2 - 1)
        tokens = self.tokenizer.tokens(mean.transpose(1, 2))
        if tokens.shape[2] != self.student.tokens_per_frame:
            raise ValueError(
                f"frames of {frames.shape[-2]} x {frames.shape[-1]} make {tokens.shape[2]} tokens each, "
                f"the student has tokens_per_frame = {self.student.tokens_per_frame}"
            )
        if width := self.student.control_dim:
            if "controls" not in batch:
                raise KeyError(f"the student has control_dim = {width}: it needs 'controls' [B, T, >= {width}]")
            control = batch["controls"].to(tokens)
            if control.ndim != 3 or control.shape[:2] != frames.shape[:2] or control.shape[2] < width:
                raise ValueError(f"controls must be {[*frames.shape[:2], f'>= {width}']}, got {list(control.shape)}")
            control = control[..., :width]
            control = torch.cat([torch.zeros_like(control[:, :1]), control[:, :-1]], 1)
        return tokens, control

    def _autocast(self) -> torch.autocast:
        wanted = self.mixed_precision and fast_dtype(self.device) == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def _next_frames(
        self, context: Tensor, control: Tensor | None, states: list[Tensor], levels: list[Tensor]
    ) -> list[Tensor]:
        """Clean estimates of frames 1 to T - 1, each seen beside the clean context before it, in one pass.

        Args:
            context: Clean `[B, T, P, D]`.
            control: What led to each frame `[B, T, cd]`, or None.
            states: Noisy versions of the frames, each `[B, T - 1, P, D]`.
            levels: Their noise levels, each `[B, T - 1]`.

        Returns:
            One estimate `[B, T - 1, P, D]` for each of the states.
        """
        rows, frames = context.shape[:2]
        times = torch.arange(frames, device=self.device)
        past = past_of(context, self.student.history)

        def beside(of_frame: Tensor) -> Tensor:
            return torch.cat([of_frame] + [of_frame[:, 1:]] * len(states), 1)

        with self._autocast():
            clean, _ = self.student(
                torch.cat([context, *states], 1).flatten(1, 2),
                sigma=torch.cat([context.new_zeros(rows, frames), *levels], 1),
                control=None if control is None else beside(control),
                past=beside(past).flatten(1, 2),
                frame_ids=beside(times[None])[0],
            )
        parts = clean.float().unflatten(1, (-1, context.shape[2]))[:, frames:]
        return list(parts.split(frames - 1, 1))

    def _noisy(self, clean: Tensor, sigma: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean frames `[B, F, P, D]` at noise levels `[B, F]`, and the noise."""
        noise = self._normal(clean, rng)
        return add_noise(clean, noise, sigma), noise

    def _normal(self, like: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=rng).to(like)


class _Means:
    """Means of named scalars over batches."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: Losses) -> None:
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def result(self) -> dict[str, float]:
        if not self.count:
            raise ValueError("the dataloader gave no batch: are there fewer clips than its batch_size with drop_last?")
        return {name: total / self.count for name, total in self.sums.items()}


def _wandb() -> Any:
    with extra("train", "use_wandb=True"):
        from accelerate.tracking import WandBTracker
        from accelerate.utils import is_wandb_available

    if not is_wandb_available():
        raise ImportError("use_wandb=True needs Weights & Biases: pip install wandb, or leave use_wandb out")
    tracker = WandBTracker("drivedit")
    tracker.start()
    return tracker
