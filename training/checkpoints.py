"""Checkpoints of a training run: atomic, exact, and the same whether the networks are sharded over processes or not."""

from __future__ import annotations

import logging
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

from drivedit.utils import read_archive, write_atomically

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

    Raises:
        FloatingPointError: A number of it is not finite; nothing is written.
        OSError: The file cannot be written.
    """
    state = {
        "stage": whole_state(stage),
        "ema": whole_state(ema),
        "optimizers": [get_optimizer_state_dict(stage, o, options=WHOLE) for o in optimizers],
        "step": step,
    }
    if not _finite(state):
        raise FloatingPointError(
            f"at step {step} weights or moments of the optimizer are not finite; lower train.lr, then the same command "
            f"goes on from {path}, if it is there, as it was"
        )
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    write_state(path, state)


def _finite(state: Any) -> bool:
    """Whether all tensors in nested dictionaries and lists are finite."""
    if isinstance(state, dict | list):
        return all(map(_finite, state.values() if isinstance(state, dict) else state))
    return not isinstance(state, torch.Tensor) or bool(state.isfinite().all())


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values to a file, whole or not at all.

    Raises:
        OSError: The file cannot be written; what was there before stays as it was.
    """
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; the previous one is untouched") from error


def load_checkpoint(path: Path, stage: nn.Module, ema: AveragedModel, optimizers: list[torch.optim.Optimizer]) -> int:
    """Loads a checkpoint if there is one; returns the number of steps done."""
    if not path.exists():
        return 0
    try:
        state = read_archive(path)
        set_model_state_dict(stage, state["stage"], options=WHOLE)
        set_model_state_dict(ema, state["ema"], options=WHOLE)
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            set_optimizer_state_dict(stage, optimizer, stored, options=WHOLE)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RuntimeError(
            f"the checkpoint {path} is damaged or of another configuration ({error}); delete it to start anew"
        ) from error
    log.info("resuming %s at step %d", path, state["step"])
    return int(state["step"])
