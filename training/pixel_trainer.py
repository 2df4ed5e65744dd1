"""The published trainer of PixelHDM, thin over the steps, averages and checkpoints of the package's loop.

A step whose batch does not fit into memory is taken again in parts, whose gradients add up to that of the whole: what
is random is drawn for all of it, and no picture is lost.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from drivedit.config import LoopConfig, PixelHDMConfig, pixel_training
from drivedit.config.pixel import FREE
from drivedit.data.datasets.captioned import BucketLoader
from drivedit.models.pixel.encoders import TextEncoder
from drivedit.models.pixel.network import PixelHDM
from drivedit.training.averaging import averaged
from drivedit.training.checkpoints import read_checkpoint, write_checkpoint
from drivedit.training.loop import MOST_SKIPPED, Curve
from drivedit.training.methods.method import Progress
from drivedit.training.methods.pixel import PixelMatching
from drivedit.training.optimizers import make_optimizers, schedule
from drivedit.training.runs import RunNotes
from drivedit.training.steps import Figures, Steps, finite
from drivedit.training.zclip import ZClip
from drivedit.utils import generator, locked
from drivedit.utils.interrupts import Interrupts

log = logging.getLogger(__name__)
Batch = dict[str, Any]


class Trainer:
    """Trains a PixelHDM on pictures with captions.

    Args:
        model: The network. Its own encoders of texts and pictures are used, if it has them (`PixelHDMForT2I`).
        config: The network's configuration; None: the one that it has.
        training_config: How it is trained; None: as published.
        dataloader: Batches `{"images": [B, 3, H, W] in [-1, 1], "captions": B texts}`; it is iterated once an epoch. A
            `BucketLoader` goes on in the middle of an epoch when a run is resumed, others begin it again.
        device: Where to train; None: where the model is.
        text_encoder: Of captions, in place of the model's.
        out: Folder of the run: `last.pt`, `model.safetensors` (averaged weights), `loop.json`, `curve.jsonl` and
            tensorboard events.
        seed: Of noise, times and left-out captions.

    Attributes:
        step: Steps that are done.
        epoch: Epochs that are done.

    Raises:
        ValueError: `config` is not the one of the model.
    """

    def __init__(
        self,
        model: PixelHDM,
        config: PixelHDMConfig | None = None,
        training_config: pixel_training.TrainingConfig | None = None,
        dataloader: Iterable[Batch] | None = None,
        device: torch.device | str | None = None,
        text_encoder: TextEncoder | None = None,
        *,
        out: str | Path = "pixelhdm",
        seed: int = 0,
    ) -> None:
        self.config, self.training_config = config or model.config, training_config or pixel_training.TrainingConfig()
        self.config.check_same(model.config, "the model")
        self.dataloader, self.out, self.seed = dataloader, Path(out), seed
        self.device = torch.device(device) if device is not None else model.out.weight.device
        encoder = text_encoder or getattr(model, "text_encoder", None)
        self.method = PixelMatching(model, encoder, getattr(model, "dino_encoder", None)).to(self.device)
        c = self.training_config
        self.loop = LoopConfig(
            lr=c.learning_rate, warmup=c.warmup_steps, cooldown=0.0, steps=c.max_steps, batch_size=c.batch_size,
            weight_decay=c.weight_decay, clip=c.max_grad_norm, ema=c.ema_decay, bf16=c.mixed_precision == "bf16",
            seed=seed,
        )  # fmt: skip
        self._ema = averaged(self.method, self.loop.ema)
        optimizers = make_optimizers(self.method.groups(0), self.loop)
        self.steps = Steps(self.method, optimizers, self.loop.clip, seed, self.loop.bf16, self.device)
        self.zclip = ZClip(c.zclip_threshold, c.zclip_ema_decay)
        self.step = self.epoch = 0

    @property
    def model(self) -> PixelHDM:
        """The network that is trained."""
        return self.method.network

    @property
    def averaged(self) -> PixelHDM:
        """The network with averaged weights, which makes the better pictures."""
        return self._ema.module.network  # type: ignore[return-value]

    def train_step(self, batch: Batch) -> Figures:
        """Takes one step.

        Args:
            batch: Pictures with captions, as a dataloader gives them.

        Returns:
            "loss", its parts "vloss", "freq_loss", "repa_loss" and "gamma_l2", "grad_norm" before it is bounded, and
            "lr".

        Raises:
            FloatingPointError: The loss or its gradient is not finite; the weights are as before.
            RuntimeError: Features are to be aligned, and there is no image encoder; or memory runs out.
            ValueError: There are captions and no text encoder, or something does not fit.
        """
        return self._step(batch, 1)

    def safe_train_step(self, batch: Batch, retry_on_oom: bool = True, max_retries: int = 3) -> Figures | None:
        """Takes one step, in smaller parts where memory runs out.

        After the first time it is tried again as it was, with what is kept in reserve given back; after every further
        time the parts are halved. The step that is taken in the end is that of the whole batch.

        Args:
            batch: As for `train_step`.
            retry_on_oom: Whether it is tried again; otherwise the error passes.
            max_retries: How often it is tried again.

        Returns:
            As `train_step`; None: memory ran out at every try, the weights are as before.

        Raises:
            FloatingPointError, RuntimeError, ValueError: As `train_step`, but for memory that runs out.
        """
        parts = 1
        for tried in range(1, max_retries + 2):
            try:
                return self._step(batch, parts)
            except (RuntimeError, MemoryError) as error:
                if not retry_on_oom or not out_of_memory(error):
                    raise
            self._give_back()
            if tried > 1:
                parts = min(2 * parts, len(batch["images"]))
            if tried <= max_retries:
                log.warning("step %d: out of memory; it is tried again in %d part(s)", self.step, parts)
        log.warning("step %d: out of memory %d times; it is left out", self.step, max_retries + 1)
        return None

    def train(
        self,
        num_steps: int | None = None,
        num_epochs: int | None = None,
        log_interval: int = 100,
        save_interval: int = 1000,
        save_every_epochs: int = 0,
        callback: Callable[[int, Figures], Any] | None = None,
        use_progress_bar: bool = True,
    ) -> Figures:
        """Trains, resuming from `out/last.pt` if it is there and no step was taken yet.

        Ctrl-C and SIGTERM end it after the present step, with a checkpoint. There is one at the end as well.

        Args:
            num_steps: Steps in all, those before included; None: `max_steps`, or as many as `num_epochs` have.
            num_epochs: Epochs in all.
            log_interval: Steps between two lines of the curve.
            save_interval: Steps between two checkpoints; 0: no such.
            save_every_epochs: Epochs between two checkpoints; 0: no such.
            callback: Called after each step with its number, from 1, and its figures.
            use_progress_bar: Show a progress bar.

        Returns:
            The figures of the last step; none if there was nothing left to do.

        Raises:
            FloatingPointError: As `train_step`.
            KeyboardInterrupt, SystemExit: After Ctrl-C and SIGTERM.
            RuntimeError: There is no dataloader, it gives no batch, or memory runs out again and again.
            ValueError: Steps and epochs are given both, or the run in `out` was begun with other options.
        """
        if self.dataloader is None:
            raise RuntimeError("training needs batches: give a dataloader to the trainer")
        if num_steps is not None and num_epochs is not None:
            raise ValueError(f"give num_steps or num_epochs, got both: {num_steps} and {num_epochs}")
        if num_steps is None:
            num_steps = self.loop.steps if num_epochs is None else None
        with locked(self.out / ".lock", f"training in {self.out}", wait_s=0), Interrupts() as interrupts:
            notes = self._begin()
            bar = tqdm(
                total=num_steps, initial=self.step, desc=self.out.name, disable=not use_progress_bar, mininterval=5,
                unit=" step",
            )  # fmt: skip
            with Curve(self.out, self.step, main=True) as curve, bar:
                notes.begin(self.step, main=True)
                seen: list[Figures] = []
                figures: Figures = {}
                for figures in self._figures(num_steps, num_epochs, save_every_epochs):
                    seen.append(figures)
                    bar.update()
                    if log_interval and self.step % log_interval == 0:
                        curve.add(self.step, {name: sum(each[name] for each in seen) / len(seen) for name in figures})
                        seen = []
                    if callback is not None:
                        callback(self.step, figures)
                    if interrupts.received or (save_interval and self.step % save_interval == 0):
                        self.save()
                    if interrupts.received:
                        Interrupts.end(interrupts.received)
        if figures:
            self.save()
        return figures

    def save(self) -> None:
        """Writes `last.pt` and `model.safetensors`, the averaged weights, to the folder of the run."""
        self.save_checkpoint(self.out / "last.pt")
        self.averaged.save(self.out / "model.safetensors")

    def save_checkpoint(self, path: str | Path) -> None:
        """Writes weights, their averages, moments and progress to a file, whole or not at all.

        Raises:
            FloatingPointError: A number is not finite; nothing is written.
            OSError: The file cannot be written; an older one stays as it was.
        """
        loader = self.dataloader
        state = {
            "method": self.method.state_dict(), "ema": self._ema.state_dict(), "zclip": self.zclip.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.steps.all()],
            "step": self.step, "epoch": self.epoch,
            "loader": loader.state_dict() if isinstance(loader, BucketLoader) else {},
        }  # fmt: skip
        write_checkpoint(Path(path), state, {"config": self.config.to_dict()})

    def load_checkpoint(self, path: str | Path) -> None:
        """Reads what `save_checkpoint` wrote, so that training goes on as if it had not stopped.

        Raises:
            FileNotFoundError: There is no such file.
            RuntimeError: It is damaged, or of another configuration or other pictures.
        """

        def restore(state: dict[str, Any]) -> None:
            self.config.check_same(PixelHDMConfig.from_dict(state["config"]), "it")
            self.method.load_state_dict(state["method"])
            self._ema.load_state_dict(state["ema"])
            for optimizer, stored in zip(self.steps.all(), state["optimizers"], strict=True):
                optimizer.load_state_dict(stored)
            self.zclip.load_state_dict(state["zclip"])
            if isinstance(self.dataloader, BucketLoader) and state["loader"]:
                self.dataloader.load_state_dict(state["loader"])
            self.step, self.epoch = state["step"], state["epoch"]

        read_checkpoint(path, restore, self.device)

    def _begin(self) -> RunNotes:
        """Resumes the run that is in the folder, if there is one; the notes of what it is made of."""
        model = {name: value for name, value in self.config.to_dict().items() if name not in FREE}
        zclip = {"zclip_threshold": self.zclip.threshold, "zclip_ema_decay": self.zclip.decay}
        notes = RunNotes(self.out, self.loop, {"model": model, **zclip}, 1)
        if self.step == 0 and (self.out / "last.pt").exists():
            self.load_checkpoint(self.out / "last.pt")
            log.info("resuming %s at step %d", self.out, self.step)
        return notes

    def _figures(self, steps: int | None, epochs: int | None, save_every: int) -> Iterator[Figures]:
        """Takes steps until so many steps or epochs are done, and gives the figures of each."""
        left_out = empty = 0
        while (steps is None or self.step < steps) and (epochs is None or self.epoch < epochs):
            before = self.step
            for batch in self.dataloader or ():
                figures = self.safe_train_step(batch)
                left_out = 0 if figures else left_out + 1
                if left_out == MOST_SKIPPED:
                    raise RuntimeError(
                        f"step {self.step}: out of memory in the {MOST_SKIPPED}th batch in a row; lower batch_size or "
                        "max_bucket_size, or set use_gradient_checkpointing"
                    )
                if figures:
                    yield figures
                if self.step == steps:
                    break
            else:
                self.epoch += 1
                if save_every and self.epoch % save_every == 0:
                    self.save()
            empty = empty + 1 if self.step == before else 0
            if empty == 2:  # a loader that stood at the end of an epoch gives none once
                raise RuntimeError(f"step {self.step}: no step in two epochs; does the dataloader give batches?")

    def _step(self, batch: Batch, parts: int) -> Figures:
        """Takes a step, with the gradient of a batch that is computed in so many parts."""
        self.steps.clear()
        images = batch["images"].to(self.device)
        drawn = self.method.train().draw({**batch, "images": images}, generator(self.seed, "pixels", self.step))
        figures: Figures = {}
        progress = Progress(self.step, min(1.0, self.step / self.loop.steps))
        for place, part in enumerate(_parts(drawn, parts)):
            share = len(part["t"]) / len(images)
            loss, logs = self.steps.loss(
                part, progress, f"part{place}", lambda given, now, _: self.method.error(given, now)
            )
            (share * loss).backward()
            for name, value in logs.items():
                figures[name] = figures.get(name, 0.0) + share * float(value)
        figures["grad_norm"] = norm = self.steps.norms(self.step)["student"]
        if not finite(figures["loss"], norm):
            self.steps.clear()
            raise FloatingPointError(
                f"step {self.step}: the loss is {figures['loss']} and its gradient {norm}; lower learning_rate"
            )
        self.zclip.add(self._bounded(min(norm, self.loop.clip)))
        factor = schedule(self.step, self.loop)
        self.steps.rates(self.loop.lr, factor)
        self.steps.take(self.step)
        self._ema.update_parameters(self.method)
        self.steps.clear()
        self.step += 1
        return {**figures, "lr": self.loop.lr * factor}

    def _bounded(self, norm: float) -> float:
        """Brings a gradient of a norm that stands out down to the bound; the norm that it has then."""
        bound = self.zclip.bound()
        if norm > bound:
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), bound)
        return min(norm, bound)

    def _give_back(self) -> None:
        """Forgets gradients, and gives the memory back that is kept in reserve."""
        self.steps.clear()
        if self.device.type != "cpu":  # the host's allocator keeps nothing back
            gc.collect()
            torch.get_device_module(self.device).empty_cache()


def create_trainer(
    model: PixelHDM,
    config: PixelHDMConfig,
    training_config: pixel_training.TrainingConfig,
    dataloader: Iterable[Batch] | None = None,
    device: torch.device | str | None = None,
    text_encoder: TextEncoder | None = None,
    *,
    out: str | Path = "pixelhdm",
    seed: int = 0,
) -> Trainer:
    """The trainer of a model; the arguments are those of `Trainer`."""
    return Trainer(model, config, training_config, dataloader, device, text_encoder, out=out, seed=seed)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of an accelerator or of the host."""
    told = str(error)
    return isinstance(error, MemoryError) or "out of memory" in told or "can't allocate memory" in told


def _parts(drawn: dict[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """The pictures of a batch in so many parts of about the same size, with all that belongs to each."""
    cut = {name: values.tensor_split(count) for name, values in drawn.items()}
    return ({name: pieces[place] for name, pieces in cut.items()} for place in range(count))
