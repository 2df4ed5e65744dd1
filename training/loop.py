"""The one training loop: progress, curves, averaged weights, clipping, mixed precision, exact resuming.

What is trained, and by which loss, is a `Method`. Batches, noise and dropout are functions of (seed, step, process), so
a run that was stopped and resumed equals one that was not. Several processes (torchrun, accelerate launch) train the
same method data-parallel: n processes, or one that accumulates n batches, take the same steps. Processes may also share
clips (`sequence_parallel`), and take the steps that one takes for each group of them.
"""

from __future__ import annotations

import copy
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from drivedit.config import LoopConfig
from drivedit.training.ahead import Ahead
from drivedit.training.averaging import averaged, better, swap
from drivedit.training.checkpoints import computed_twice, load_run, save_run, shard, whole_state
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.training.optimizers import make_optimizers, schedule
from drivedit.training.runs import RunNotes
from drivedit.training.sequence_parallel import Ulysses
from drivedit.training.steps import Figures, Steps, finite, norm_figures
from drivedit.utils import extra, generator, write_atomically
from drivedit.utils.interrupts import Interrupts

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]
MOST_SKIPPED = 5  # steps in a row without a finite gradient


@runtime_checkable
class Stream(Protocol):
    """Batches that follow one another: every part of a step (see `LoopConfig.accumulate`) has a stream of its own."""

    def at(self, step: int, part: int, parts: int) -> Batch:
        """The batch of one of the parts of a step."""
        ...


def train(
    method: Method,
    make_batch: Callable[[torch.Generator], Batch] | Stream,
    config: LoopConfig,
    out: str | Path,
    *,
    validate: Callable[[nn.Module], Figures] | None = None,
    judge: str | None = None,
    about: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Method:
    """Trains by a method, resuming from `out/last.pt` if it is there.

    A step whose gradient is not finite is left out. Ctrl-C and SIGTERM end the run after the present step, with a
    checkpoint.

    Args:
        method: The method.
        make_batch: Draws one batch with the generator that it is given; or gives those that follow one another.
        config: The loop's configuration.
        out: Folder of the run: `last.pt`, `loop.json`, `curve.jsonl`, tensorboard events.
        validate: Figures of the averaged method, computed at every checkpoint; in the end also with the last weights.
        judge: Name of the figure by which the better weights are returned, after a minus where less is better; None:
            the averaged ones are.
        about: What else the run is made of (networks, loss, recordings), in plain values: a resumed run must have the
            same.
        device: Device of a single process; several processes choose theirs by rank.

    Returns:
        The method with averaged weights, or with the last ones where `judge` finds them better.

    Raises:
        FloatingPointError: The gradients of several steps in a row are not finite, or weights are not.
        ValueError: The run in `out` was begun with other options that cannot be changed on the way, or clips, heads or
            processes do not divide as `sequence_parallel` wants.
        KeyboardInterrupt, SystemExit: After Ctrl-C and SIGTERM.
    """
    run = _Run(method, make_batch, config, Path(out), about or {}, device)
    with (
        Interrupts() as interrupts,
        warnings.catch_warnings(),
        Curve(run.out, run.step, run.main) as curve,
        computed_twice(method, config.checkpointing),
        run.ulysses.spreading(method),
    ):
        warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")  # rotations
        run.notes.begin(run.step, run.main)
        started, saved, late = time.monotonic(), 0.0, False
        while run.step < config.steps and not late:
            signal = run.advance(interrupts.received)
            run.bar.update()
            due = signal is not None or run.step == config.steps
            if run.step % config.log_every == 0:  # every process decides alike
                now = run.tell(time.monotonic() - started, curve)
                late = config.minutes is not None and now > 60 * config.minutes
                due = due or late or now - saved > config.save_every_s
            if due:
                saved = time.monotonic() - started
                run.save()
                if signal is not None:
                    Interrupts.end(signal)
                if validate is not None and run.step < config.steps and not late:
                    run.measure(validate, curve)
        run.bar.close()
        if validate is not None:
            run.choose(validate, judge, curve)
    return run.result()


class _Run:
    """What is trained, and how far it is; the arguments are those of `train`."""

    def __init__(
        self, method: Method, make_batch: Callable[[torch.Generator], Batch] | Stream, config: LoopConfig, out: Path,
        about: Mapping[str, Any], device: torch.device | str,
    ) -> None:  # fmt: skip
        with extra("train", "training"):
            from accelerate import Accelerator

        self.method, self.config, self.out = method, config, out
        on_cpu = torch.device(device).type == "cpu"
        self.accelerator = Accelerator(cpu=on_cpu, step_scheduler_with_optimizer=False)
        self.device: torch.device = self.accelerator.device
        self.main: bool = self.accelerator.is_main_process
        self.ulysses = Ulysses(config.sequence_parallel, self.device)
        self.notes = RunNotes(out, config, about, self.ulysses.clips)
        self.batches = Ahead(self._draw, ahead=self.device.type != "cpu")
        self.make_batch = make_batch
        method.to(self.device)
        self.ema = averaged(method, config.ema)
        self.whole = copy.deepcopy(method) if config.shard else None
        if config.shard:
            shard(method, self.ema.module, offload=config.offload)
        optimizers = make_optimizers(method.groups(0), config)
        self.steps = Steps(method, optimizers, config.clip, config.seed, config.bf16, self.device)
        self.step = load_run(out / "last.pt", method, self.ema, self.steps.all())
        for name in method.hot if config.compile else ():
            place, _, function = name.rpartition(".")
            owner = attrgetter(place)(method) if place else method
            setattr(owner, function, torch.compile(getattr(owner, function)))
        self.wrapped = method if config.shard else self.accelerator.prepare(method)
        self.bar = tqdm(
            total=config.steps, initial=self.step, desc=out.name, disable=not self.main, mininterval=5, unit=" step"
        )
        self.seen: dict[str, list[Tensor | float]] = {}
        self.skipped = 0  # steps in a row
        self.left_out = 0  # steps since the last means

    def advance(self, signal: int | None) -> int | None:
        """Takes a step, or leaves it out where its gradient is not finite.

        Args:
            signal: What this process was sent, if anything.

        Returns:
            What one of the processes was sent.

        Raises:
            FloatingPointError: Several steps in a row were left out.
        """
        self.steps.rates(self.config.lr, schedule(self.step, self.config))
        seen = [self._gradient(part) for part in range(self.config.accumulate)]
        norms = self.steps.norms(self.step)  # here an accelerator is waited for, once in a step
        losses = [float(logs["loss"]) for logs in seen]
        fine = finite(*losses, *norms.values())
        bad, *signals = self._any(not fine, signal == SIGTERM, signal == SIGINT)
        if bad:
            self._skip(losses, norm_figures(norms)["grad_norm"])
        else:
            self.skipped = 0
            self.steps.take(self.step)
            self.ema.update_parameters(self.method)
            for logs in (*seen, norm_figures(norms)):
                for name, value in logs.items():
                    self.seen.setdefault(name, []).append(value)
        self.steps.clear()
        self.step += 1
        return next((number for number, sent in zip((SIGTERM, SIGINT), signals, strict=True) if sent), None)

    def _draw(self, place: int) -> Batch:
        """The batch of a part of a step, counted over all steps."""
        step, part = divmod(place, self.config.accumulate)
        if isinstance(self.make_batch, Stream):
            return self.make_batch.at(step, self._number(part), self.ulysses.clips * self.config.accumulate)
        return self.make_batch(generator(self.config.seed, f"batch{self._number(part)}", step))

    def _number(self, part: int) -> int:
        """Of a part of this process among those of all; processes that share clips have the same."""
        return self.ulysses.number * self.config.accumulate + part

    def _gradient(self, part: int) -> Logs:
        """Adds the gradient of one part of the step's whole batch; returns what is logged."""
        batch = self.batches(self.step * self.config.accumulate + part)
        progress = Progress(self.step, self.step / self.config.steps)
        last = part == self.config.accumulate - 1
        with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
            loss, logs = self.steps.loss(batch, progress, str(self._number(part)), self.wrapped)
            self.accelerator.backward(loss / self.config.accumulate)
        return logs

    def _skip(self, losses: list[float], norm: float) -> None:
        """Counts and tells a step that is left out."""
        self.skipped += 1
        self.left_out += 1
        told = f"the loss is {losses[0] if len(losses) == 1 else losses} and its gradient {norm}"
        if self.skipped == MOST_SKIPPED:
            raise FloatingPointError(
                f"step {self.step}: {told}, in the {MOST_SKIPPED}th step in a row; lower train.lr, then the same "
                f"command goes on from {self.out / 'last.pt'} if it is there"
            )
        if self.main:
            log.warning("step %d is left out: %s", self.step, told)

    def _any(self, *decisions: bool) -> list[bool]:
        """Whether one of the processes says so, for several questions."""
        return [share > 0 for share in self._mean(map(float, decisions))]

    def _mean(self, values: Iterable[float]) -> list[float]:
        """Means over the processes."""
        mean = self.accelerator.reduce(torch.tensor(list(values), device=self.device), "mean")
        assert isinstance(mean, Tensor)
        return mean.tolist()

    def tell(self, seconds: float, curve: Curve) -> float:
        """Tells means, over steps and processes, of what was logged since the last call; returns that of the seconds.

        Where steps were left out their number is told, "skipped".
        """
        means = {name: sum(map(float, values)) / len(values) for name, values in self.seen.items()}
        means["seconds"] = seconds
        if self.left_out:
            means["skipped"] = self.left_out
        self.seen, self.left_out = {}, 0
        means = dict(zip(means, self._mean(means.values()), strict=True))
        now = means.pop("seconds")
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in list(means.items())[:5]}, refresh=False)
        curve.add(self.step, means)
        return now

    def save(self) -> None:
        """Writes the checkpoint; all processes wait for it."""
        save_run(self.out / "last.pt", self.method, self.ema, self.steps.all(), self.step)
        self.accelerator.wait_for_everyone()

    def measure(self, validate: Callable[[nn.Module], Figures], curve: Curve) -> None:
        """Tells the figures of the averaged method."""
        figures = self._figures(validate)
        if self.main:
            curve.add(self.step, {f"val/{k}": v for k, v in figures.items()})
            self.bar.write(f"step {self.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    def choose(self, validate: Callable[[nn.Module], Figures], judge: str | None, curve: Curve) -> None:
        """Leaves the better ones of averaged and last weights in the averaged method, and says which and why."""
        keep = False
        if self.main:
            log.info("measuring the averaged and the last weights")
        figures = self._figures(validate)
        swap(self.ema.module, self.method)
        raw = self._figures(validate)
        if self.main:
            keep = judge is None or better(judge, figures, raw)
            both = {f"val/{k}": v for k, v in figures.items()} | {f"raw/{k}": v for k, v in raw.items()}
            curve.add(self.step, {**both, "kept_averaged": float(keep)})
            kept = "averaged" if keep else "last"
            self.notes.add(kept=kept, judge=judge, averaged=figures, last=raw)
            shown = figures if judge is None else [judge.removeprefix("-")]
            told = "; ".join(f"{name} {figures[name]:.4g} averaged, {raw[name]:.4g} last" for name in shown)
            why = "which are better" if judge else "as always here"
            log.info("step %d: kept the %s weights, %s (%s)", self.step, kept, why, told)
        if self._any(keep)[0]:
            swap(self.ema.module, self.method)

    def _figures(self, validate: Callable[[nn.Module], Figures]) -> Figures:
        """Figures of the averaged method, measured by the first process; every process has to ask for them."""
        method = self._whole()
        return validate(method) if self.main else {}

    def _whole(self) -> Method:
        """The averaged method, in whole; every process has to ask for it."""
        method = self.ema.module
        if self.whole is not None:
            self.whole.load_state_dict(whole_state(method))
            method = self.whole
        assert isinstance(method, Method)
        return method

    def result(self) -> Method:
        """The averaged method, on every process in whole."""
        self.accelerator.wait_for_everyone()
        return self._whole()


class Curve:
    """`curve.jsonl` and tensorboard, written by the first process.

    Args:
        out: Folder of the run.
        step: Steps done; what a killed run noted beyond them is taken out.
        main: Whether this is the first process.
    """

    def __init__(self, out: Path, step: int, main: bool) -> None:
        self.path, self.step, self.main = out / "curve.jsonl", step, main

    def __enter__(self) -> Curve:
        with extra("train", "training"):
            from torch.utils.tensorboard import SummaryWriter

        if self.main:
            rows = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
            kept = "".join(row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= self.step)
            write_atomically(self.path, lambda file: file.write(kept.encode()))
            self.writer = SummaryWriter(str(self.path.parent), purge_step=self.step + 1)
        return self

    def __exit__(self, *_error: object) -> None:
        if self.main:
            self.writer.close()

    def add(self, step: int, values: Figures) -> None:
        """Appends figures of a step."""
        if not self.main:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
