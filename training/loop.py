"""The one training loop: progress, curves, averaged weights, clipping, mixed precision, exact resuming.

A stage is an `nn.Module` that owns the networks being trained; calling it with a batch returns `(loss, logs)`. Batches
and noise are functions of (seed, step, process), so a run that was stopped and resumed equals one that was not.
Several processes (torchrun, accelerate launch) train the same stage data-parallel.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from drivedit.config import LoopConfig
from drivedit.utils import generator, write_atomically

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
        stage: Module whose call `stage(batch, progress, generator)` returns `(loss, {"name": value})`.
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
    optimizers = make_optimizers(stage, config)
    ema = AveragedModel(stage, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
    step = load_checkpoint(out / "last.pt", stage, ema, optimizers)
    for name in getattr(stage, "hot", ()) if config.compile else ():
        setattr(stage, name, torch.compile(getattr(stage, name)))
    wrapped, *optimizers = accelerator.prepare(stage, *optimizers)
    writer = None
    if main:
        out.mkdir(parents=True, exist_ok=True)
        config.save_json(out / "loop.json")
        writer = SummaryWriter(str(out))
    bar = tqdm(
        total=config.steps, initial=step, desc=type(stage).__name__, disable=not main, mininterval=5, unit="step"
    )
    started = saved = time.monotonic()
    sums: dict[str, float] = {}
    while step < config.steps:
        rank = accelerator.process_index
        batch = {
            k: v.to(accelerator.device) for k, v in make_batch(generator(config.seed, f"batch{rank}", step)).items()
        }
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = config.lr * schedule(step, config)
        loss, logs = wrapped(batch, step / config.steps, generator(config.seed, f"noise{rank}", step))
        accelerator.backward(loss)
        logs["grad_norm"] = accelerator.clip_grad_norm_(stage.parameters(), config.clip)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"step {step}: the loss is {loss.item()}; lower train.lr and resume from {out / 'last.pt'}"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(stage)
        step += 1
        bar.update()
        for name, value in {"loss": loss.detach(), **logs}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        if step % config.log_every == 0 and main:
            means = {name: value / config.log_every for name, value in sums.items()}
            bar.set_postfix({k: f"{v:.4g}" for k, v in list(means.items())[:5]}, refresh=False)
            write_curve(out, writer, step, means)
        if step % config.log_every == 0:
            sums = {}
        stop = False
        if config.minutes is not None and step % config.log_every == 0:
            spent = torch.tensor([time.monotonic() - started], device=accelerator.device)
            mean = accelerator.reduce(spent, "mean")
            stop = isinstance(mean, Tensor) and mean.item() > 60 * config.minutes
        if main and (time.monotonic() - saved > config.save_every_s or stop or step == config.steps):
            save_checkpoint(out / "last.pt", stage, ema, optimizers, step)
            saved = time.monotonic()
            if validate is not None:
                figures = validate(ema.module)
                write_curve(out, writer, step, {f"val/{k}": v for k, v in figures.items()})
                tqdm.write(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        if stop:
            break
    bar.close()
    accelerator.wait_for_everyone()
    return ema.module


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


def save_checkpoint(path: Path, stage: nn.Module, ema: AveragedModel, optimizers: list[Any], step: int) -> None:
    """Writes a checkpoint atomically: the old one stays whole until the new one is on disk."""
    state = {
        "stage": stage.state_dict(),
        "ema": ema.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
    }
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except OSError as error:
        raise OSError(f"could not write the checkpoint {path} ({error}); the previous one is untouched") from error


def load_checkpoint(path: Path, stage: nn.Module, ema: AveragedModel, optimizers: list[torch.optim.Optimizer]) -> int:
    """Loads a checkpoint if there is one; returns the number of steps done."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        stage.load_state_dict(state["stage"])
        ema.load_state_dict(state["ema"])
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
    except (RuntimeError, KeyError, EOFError) as error:
        raise RuntimeError(
            f"the checkpoint {path} is damaged or of another configuration ({error}); delete it to start anew"
        ) from error
    log.info("resuming %s at step %d", path, state["step"])
    return int(state["step"])


def write_curve(out: Path, writer: Any, step: int, values: dict[str, float]) -> None:
    """Appends figures to the run's curve and to tensorboard."""
    with open(out / "curve.jsonl", "a") as file:
        file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
    for name, value in values.items():
        writer.add_scalar(name, value, step)
