"""What the published trainers share: epochs over a DataLoader and checkpoints, around the steps of a method.

They train a `DiTStudent` on clips from a DataLoader (`drivedit.training.methods.next_frames` says which), with the
optimizer that they are given. The steps are those of `drivedit.training.loop`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from tqdm import tqdm

from drivedit.config import TrainingConfig
from drivedit.training.checkpoints import read_checkpoint, write_checkpoint
from drivedit.training.methods.method import Progress
from drivedit.training.methods.next_frames import NextFrames
from drivedit.training.steps import Figures, Steps, finite
from drivedit.utils import extra, resolve_device

Batch = dict[str, Any]


class Trainer:
    """Trains a student epoch by epoch; a subclass says by which method.

    Args:
        method: The method.
        optimizer: Of the student's parameters.
        device: Where to train; a CUDA device that does not exist becomes the CPU.
        mixed_precision: Autocast to bfloat16 where the hardware multiplies it.
        use_wandb: Log every epoch's means to Weights & Biases.
        grad_clip: Largest norm of the gradient.
        seed: Of all noise.

    Raises:
        ImportError: `use_wandb` without wandb.
    """

    epochs = 1  # after which all of a method's share is reached

    def __init__(
        self,
        method: NextFrames,
        optimizer: torch.optim.Optimizer,
        device: str,
        mixed_precision: bool,
        use_wandb: bool,
        grad_clip: float,
        seed: int,
    ) -> None:
        self.device = resolve_device(device)
        self.method, self.student = method.to(self.device), method.student
        self.optimizer, self.mixed_precision = optimizer, mixed_precision
        self.step, self.epoch = 0, 0
        self.steps = Steps(method, {"student": [optimizer]}, grad_clip, seed, mixed_precision, self.device)
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

    @property
    def grad_clip(self) -> float:
        """Largest norm of the gradient."""
        return self.steps.clip

    @property
    def seed(self) -> int:
        """Of all noise."""
        return self.steps.seed

    def share(self) -> float:
        """How far the present epoch is among those planned, from 0 in the first to 1 in the last."""
        return min(1.0, self.epoch / max(self.epochs - 1, 1))

    def train_epoch(self, dataloader: Iterable[Batch]) -> Figures:
        """Trains on every batch once.

        Returns:
            Means over the batches of "loss", of its parts, and of "grad_norm".

        Raises:
            FloatingPointError: The loss is not finite; the weights are those before that step.
            KeyError, ValueError: A batch lacks what the networks need, or the loader is empty.
        """
        means = _Means()
        self.method.train()
        for batch in tqdm(dataloader, desc=f"epoch {self.epoch}", mininterval=5, unit=" step"):
            self.steps.clear()
            loss, values = self.steps.loss(batch, Progress(self.step, self.share()), "train")
            loss.backward()
            norm, lost = self.steps.norms(self.step)["student"], float(values["loss"])
            if not finite(lost, norm):
                raise FloatingPointError(
                    f"step {self.step}: the loss is {lost} and its gradient {norm}; lower the learning rate"
                )
            self.steps.take(self.step)
            self.step += 1
            means.add({**values, "grad_norm": norm})
        result = means.result()
        if self.tracker is not None:
            self.tracker.log({f"train/{name}": value for name, value in result.items()}, step=self.epoch)
        self.epoch += 1
        return result

    @torch.no_grad()
    def validate_epoch(self, dataloader: Iterable[Batch]) -> Figures:
        """Means over the batches of "loss" and its parts, with the same noise at every call, as in the last epoch.

        Raises:
            KeyError, ValueError: A batch lacks what the networks need, or the loader is empty.
        """
        means = _Means()
        was = self.method.training
        self.method.eval()
        for index, batch in enumerate(dataloader):
            means.add(self.steps.loss(batch, Progress(index, 1.0), "validate")[1])
        self.method.train(was)
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
            FloatingPointError: A weight or a moment is not finite; nothing is written.
            OSError: The file cannot be written; an older one stays as it was.
            ValueError: One of `kwargs` has a name that is taken.
        """
        progress = {"trainer_step": self.step, "trainer_epoch": self.epoch}
        state = {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict(), **progress}
        if taken := state.keys() & kwargs.keys():
            raise ValueError(f"{sorted(taken)} is what the checkpoint holds anyway; give it another name")
        write_checkpoint(Path(filepath), state, {**kwargs, "epoch": epoch, "best_metric": best_metric})

    def load_checkpoint(self, filepath: str | Path) -> dict[str, Any]:
        """Reads what `save_checkpoint` wrote, so that training goes on as if it had not stopped.

        Returns:
            "epoch", "best_metric" and what else was stored.

        Raises:
            FileNotFoundError: There is no such file.
            RuntimeError: It is damaged, no checkpoint of a trainer, or of another student.
        """

        def restore(state: dict[str, Any]) -> dict[str, Any]:
            self.student.load_state_dict(state.pop("student"))
            self.optimizer.load_state_dict(state.pop("optimizer"))
            self.step, self.epoch = state.pop("trainer_step"), state.pop("trainer_epoch")
            return state

        return read_checkpoint(filepath, restore, self.device)


class _Means:
    """Means of named scalars over batches."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: Mapping[str, torch.Tensor | float]) -> None:
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def result(self) -> Figures:
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
