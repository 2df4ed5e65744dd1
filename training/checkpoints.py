"""Checkpoints of a training run: atomic, exact, and the same whether the networks are sharded over processes or not."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.swa_utils import AveragedModel

log = logging.getLogger(__name__)
WHOLE = StateDictOptions(full_state_dict=True)


def shard(stage: nn.Module) -> None:
    """Spreads the weights of a stage over all processes (FSDP2): each block by itself, then the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(stage.parameters()).device.type
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for module in list(stage.modules()):
        for block in module if isinstance(module, nn.ModuleList) else ():
            fully_shard(block, mesh=mesh)
    fully_shard(stage, mesh=mesh)


def whole_state(module: nn.Module) -> dict[str, Any]:
    """The state of a module, put together where it is sharded; every process has to ask for it."""
    return get_model_state_dict(module, options=WHOLE)


def save_checkpoint(path: Path, stage: nn.Module, ema: AveragedModel, optimizers: list[Any], step: int) -> None:
    """Writes a checkpoint atomically: the old one stays whole until the new one is on disk.

    Every process has to call it; the first one writes.
    """
    state = {
        "stage": whole_state(stage),
        "ema": whole_state(ema),
        "optimizers": [get_optimizer_state_dict(stage, o, options=WHOLE) for o in optimizers],
        "step": step,
    }
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"could not write the checkpoint {path} ({error}); the previous one is untouched") from error


def load_checkpoint(path: Path, stage: nn.Module, ema: AveragedModel, optimizers: list[torch.optim.Optimizer]) -> int:
    """Loads a checkpoint if there is one; returns the number of steps done."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        set_model_state_dict(stage, state["stage"], options=WHOLE)
        set_model_state_dict(ema, state["ema"], options=WHOLE)
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            set_optimizer_state_dict(stage, optimizer, stored, options=WHOLE)
    except (RuntimeError, KeyError, EOFError) as error:
        raise RuntimeError(
            f"the checkpoint {path} is damaged or of another configuration ({error}); delete it to start anew"
        ) from error
    log.info("resuming %s at step %d", path, state["step"])
    return int(state["step"])
