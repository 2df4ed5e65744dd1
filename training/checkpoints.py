"""Checkpoints of a training run: atomic, exact, and the same whether the networks are sharded over processes or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

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
Restored = TypeVar("Restored")
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


def save_run(path: Path, method: nn.Module, ema: AveragedModel, optimizers: list[Any], step: int) -> None:
    """Writes the checkpoint of a run; every process has to call it, the first one writes.

    Raises:
        FloatingPointError: A number of it is not finite; nothing is written.
        OSError: The file cannot be written.
    """
    state = {
        "stage": whole_state(method),
        "ema": whole_state(ema),
        "optimizers": [get_optimizer_state_dict(method, o, options=WHOLE) for o in optimizers],
        "step": step,
    }
    write_checkpoint(path, state)


def load_run(path: Path, method: nn.Module, ema: AveragedModel, optimizers: list[torch.optim.Optimizer]) -> int:
    """Loads the checkpoint of a run if there is one; returns the number of steps done."""
    if not path.exists():
        return 0

    def restore(state: dict[str, Any]) -> int:
        set_model_state_dict(method, state["stage"], options=WHOLE)
        set_model_state_dict(ema, state["ema"], options=WHOLE)
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            set_optimizer_state_dict(method, optimizer, stored, options=WHOLE)
        return int(state["step"])

    step = read_checkpoint(path, restore)
    log.info("resuming %s at step %d", path, step)
    return step


def write_checkpoint(path: Path, state: dict[str, Any], notes: Mapping[str, Any] | None = None) -> None:
    """Writes tensors and plain values to a file, by the first process, whole or not at all.

    Args:
        path: The file; an older one stays whole until the new one is on disk.
        state: Weights and moments, which must be finite, and progress.
        notes: What else is stored beside them.

    Raises:
        FloatingPointError: A number of the state is not finite; nothing is written.
        OSError: The file cannot be written; what was there before stays as it was.
    """
    if not _finite(state):
        raise FloatingPointError(
            "weights or moments of the optimizer are not finite; lower the learning rate, then the same command goes "
            f"on from {path}, if it is there, as it was"
        )
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    try:
        write_atomically(path, lambda file: torch.save({**(notes or {}), **state}, file))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; the previous one is untouched") from error


def read_checkpoint(
    path: str | Path, restore: Callable[[dict[str, Any]], Restored], device: torch.device | str = "cpu"
) -> Restored:
    """Reads what `write_checkpoint` wrote, and hands it to `restore`.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: It is damaged, or does not fit.
    """
    try:
        return restore(read_archive(path, device))
    except FileNotFoundError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RuntimeError(
            f"the checkpoint {path} is damaged or of another student or configuration ({error}); delete it to start "
            "anew"
        ) from error


def _finite(state: Any) -> bool:
    """Whether all tensors in nested dictionaries and lists are finite."""
    if isinstance(state, dict | list):
        return all(map(_finite, state.values() if isinstance(state, dict) else state))
    return not isinstance(state, torch.Tensor) or bool(state.isfinite().all())
