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
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from drivedit.config import LoopConfig
from drivedit.training.checkpoints import load_checkpoint, save_checkpoint, shard, whole_state
from drivedit.utils import generator

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]


def train(
    stage: nn.Module,
    make_batch: Callable[[torch.Generator], Batch],
    config: LoopConfig,
    out: str | Path,
    *,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Trains a stage, resuming from `out/last.pt` if it is there.

    Args:
        stage: Module whose call `stage(batch, progress, generator)` returns `(loss, {"name": value})`. Where it has
            methods `before_step()` and `after_step()`, they are called around every optimizer step.
        make_batch: Draws one batch with the generator that it is given.
        config: The loop's configuration.
        out: Folder of the run: `last.pt`, `loop.json`, `curve.jsonl`, tensorboard events.
        validate: Figures of the averaged stage, computed at every checkpoint.
        device: Device of a single process; several processes choose theirs by rank.

    Returns:
        The stage with averaged weights.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter

    accelerator = Accelerator(
        mixed_precision="bf16" if config.bf16 else "no",
        cpu=torch.device(device).type == "cpu",
        step_scheduler_with_optimizer=False,
    )
    out = Path(out)
    main = accelerator.is_main_process
    stage.to(accelerator.device)
    ema = AveragedModel(stage, multi_avg_fn=_averaging(config.ema), use_buffers=True)
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
                with accelerator.autocast():
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
            if validate is not None and (main or config.shard):
                figures = validate(ema.module)
                if main:
                    write_curve(out, writer, step, {f"val/{k}": v for k, v in figures.items()})
                    tqdm.write(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        if stop:
            break
    bar.close()
    accelerator.wait_for_everyone()
    if whole is None:
        return ema.module
    whole.load_state_dict(whole_state(ema.module))
    return whole


def _averaging(decay: float) -> Callable[..., None]:
    """How averaged weights follow the weights, in whole or in shards."""

    def follow(means: Any, values: Any, _count: Any) -> None:
        for mean, value in zip(means, values, strict=True):
            mean.lerp_(value, 1 - decay)

    return follow


def _mean_over_processes(accelerator: Any, values: dict[str, float]) -> dict[str, float]:
    """The same figures on every process; each process has the same names in the same order."""
    stacked = torch.tensor(list(values.values()), device=accelerator.device)
    return dict(zip(values, accelerator.reduce(stacked, "mean").tolist(), strict=True))


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
