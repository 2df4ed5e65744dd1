"""The one training loop: progress, curves, averaged weights, clipping, mixed precision, exact resuming.

A stage is an `nn.Module` that owns the networks being trained; calling it with a batch returns `(loss, logs)`. Batches
and noise are functions of (seed, step, process), so a run that was stopped and resumed equals one that was not.
Several processes (torchrun, accelerate launch) train the same stage data-parallel: n processes, or one that accumulates
n batches, take the same steps.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from drivedit.config import LoopConfig
from drivedit.training.averaging import averaged, better, measure_both, swap
from drivedit.training.checkpoints import load_checkpoint, save_checkpoint, shard, whole_state
from drivedit.utils import fast_dtype, generator

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]


def train(
    stage: nn.Module,
    make_batch: Callable[[torch.Generator], Batch],
    config: LoopConfig,
    out: str | Path,
    *,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    judge: str | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Trains a stage, resuming from `out/last.pt` if it is there.

    Args:
        stage: Module whose call `stage(batch, progress, generator)` returns `(loss, {"name": value})`. Where it has
            methods `before_step()` and `after_step()`, they are called around every optimizer step.
        make_batch: Draws one batch with the generator that it is given.
        config: The loop's configuration.
        out: Folder of the run: `last.pt`, `loop.json`, `curve.jsonl`, tensorboard events.
        validate: Figures of the averaged stage, computed at every checkpoint; in the end also with the last weights.
        judge: Name of the figure by which the better weights are returned, after a minus where less is better; None:
            the averaged ones are.
        device: Device of a single process; several processes choose theirs by rank.

    Returns:
        The stage with averaged weights, or with the last ones where `judge` finds them better.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter

    accelerator = Accelerator(cpu=torch.device(device).type == "cpu", step_scheduler_with_optimizer=False)
    half = config.bf16 and fast_dtype(accelerator.device) == torch.bfloat16
    out = Path(out)
    main = accelerator.is_main_process
    stage.to(accelerator.device)
    ema = averaged(stage, config.ema)
    whole = copy.deepcopy(stage) if config.shard else None
    if config.shard:
        shard(stage)
        shard(ema.module)
    optimizers = make_optimizers(stage, config)
    step = load_checkpoint(out / "last.pt", stage, ema, optimizers)
    for name in getattr(stage, "hot", ()) if config.compile else ():
        part, _, method = name.rpartition(".")
        owner = stage.get_submodule(part)
        setattr(owner, method, torch.compile(getattr(owner, method)))
        warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")  # rotations
    wrapped = stage if config.shard else accelerator.prepare(stage)
    writer = None
    if main:
        out.mkdir(parents=True, exist_ok=True)
        config.save_json(out / "loop.json")
        writer = SummaryWriter(str(out))
    bar = tqdm(
        total=config.steps, initial=step, desc=type(stage).__name__, disable=not main, mininterval=5, unit="step"
    )
    started, saved = time.monotonic(), 0.0
    seen: dict[str, list[float]] = {}
    while step < config.steps:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = config.lr * schedule(step, config)
        for part in range(config.accumulate):
            number = accelerator.process_index * config.accumulate + part  # of this part of the step's whole batch
            batch = make_batch(generator(config.seed, f"batch{number}", step))
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            with nullcontext() if part == config.accumulate - 1 else accelerator.no_sync(wrapped):
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=half):
                    loss, logs = wrapped(batch, step / config.steps, generator(config.seed, f"noise{number}", step))
                accelerator.backward(loss / config.accumulate)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"step {step}: the loss is {loss.item()}; lower train.lr and resume from {out / 'last.pt'}"
                )
            for name, value in {"loss": loss.detach(), **logs}.items():
                seen.setdefault(name, []).append(float(value))
        getattr(stage, "before_step", nullcontext)()
        norm = torch.nn.utils.clip_grad_norm_(stage.parameters(), config.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        seen.setdefault("grad_norm", []).append(float(norm))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        getattr(stage, "after_step", nullcontext)()
        ema.update_parameters(stage)
        step += 1
        bar.update()
        if step % config.log_every == 0:
            means = {name: sum(values) / len(values) for name, values in seen.items()}
            means = _mean_over_processes(accelerator, means)
            seen = {}
            if main:
                bar.set_postfix({k: f"{v:.4g}" for k, v in list(means.items())[:5]}, refresh=False)
                write_curve(out, writer, step, means)
        stop, due = False, step == config.steps
        if step % config.log_every == 0:  # every process decides alike
            now = _mean_over_processes(accelerator, {"s": time.monotonic() - started})["s"]
            stop = config.minutes is not None and now > 60 * config.minutes
            due = due or stop or now - saved > config.save_every_s
        if due:
            saved = time.monotonic() - started
            save_checkpoint(out / "last.pt", stage, ema, optimizers, step)
            if validate is not None and step < config.steps and not stop and (main or config.shard):
                figures = validate(ema.module)
                if main:
                    write_curve(out, writer, step, {f"val/{k}": v for k, v in figures.items()})
                    tqdm.write(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        if stop:
            break
    bar.close()
    if validate is not None:
        keep, raw = True, {}
        if main or config.shard:
            figures, raw = measure_both(ema.module, stage, validate)
            keep = judge is None or better(judge, figures, raw)
        if main:
            tell(out, writer, step, figures, raw, judge, keep)
        if not _agreed(accelerator, keep):
            swap(ema.module, stage)
    accelerator.wait_for_everyone()
    if whole is None:
        return ema.module
    whole.load_state_dict(whole_state(ema.module))
    return whole


def _mean_over_processes(accelerator: Any, values: dict[str, float]) -> dict[str, float]:
    """The same figures on every process; each process has the same names in the same order."""
    stacked = torch.tensor(list(values.values()), device=accelerator.device)
    return dict(zip(values, accelerator.reduce(stacked, "mean").tolist(), strict=True))


def _agreed(accelerator: Any, decision: bool) -> bool:
    """What the first process decided, told to all."""
    told = torch.tensor(float(decision and accelerator.is_main_process), device=accelerator.device)
    return bool(accelerator.reduce(told, "sum"))


def make_optimizers(stage: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """Muon for what `stage.matrices()` names, AdamW for the rest; weight decay on matrices and kernels only.

    Muon (Jordan et al. 2024) orthogonalises the update of a weight matrix; its step is scaled to the size of AdamW's,
    so both share one learning rate.
    """
    matrices = list(getattr(stage, "matrices", list)())
    named = {id(p) for p in matrices}
    rest = [p for p in stage.parameters() if p.requires_grad and id(p) not in named]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)]
    if matrices:
        muon = torch.optim.Muon(
            matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    return optimizers


def schedule(step: int, config: LoopConfig) -> float:
    """Warm-up, constant, linear cool-down to 2%: the factor of the learning rate at a step."""
    cool = config.steps * config.cooldown
    down = min(1.0, (config.steps - step) / cool) if cool > 0 else 1.0
    return min(1.0, (step + 1) / max(config.warmup, 1)) * max(down, 0.02)


def write_curve(out: Path, writer: Any, step: int, values: dict[str, float]) -> None:
    """Appends figures to the run's curve and to tensorboard."""
    with open(out / "curve.jsonl", "a") as file:
        file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
    for name, value in values.items():
        writer.add_scalar(name, value, step)


def tell(
    out: Path, writer: Any, step: int, averaged: dict[str, float], raw: dict[str, float], judge: str | None, keep: bool
) -> None:
    """Notes the figures of averaged and last weights in the curve, and says which are kept and why."""
    both = {f"val/{k}": v for k, v in averaged.items()} | {f"raw/{k}": v for k, v in raw.items()}
    write_curve(out, writer, step, {**both, "kept_averaged": float(keep)})
    name = judge.removeprefix("-") if judge else None
    shown = [f"{k} {averaged[k]:.4g} averaged, {raw[k]:.4g} last" for k in ([name] if name else averaged)]
    why = "the better ones" if judge else "as in every run of this stage"
    log.info("step %d: kept the %s weights, %s (%s)", step, "averaged" if keep else "last", why, "; ".join(shown))
