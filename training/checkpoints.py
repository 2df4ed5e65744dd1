"""Checkpoints of a training run: atomic, exact, and the same whether the networks are sharded over processes or not.

Beside them what makes networks fit: shards of their weights, and blocks that compute twice instead of remembering.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
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
from torch.utils.checkpoint import checkpoint

from drivedit.models.layers.blocks import Block
from drivedit.utils import read_archive, write_atomically

log = logging.getLogger(__name__)
Restored = TypeVar("Restored")
WHOLE = StateDictOptions(full_state_dict=True)


def shard(*stages: nn.Module, offload: bool = False) -> None:
    """Spreads the weights of stages over all processes (FSDP2): each block by itself, then the rest.

    Args:
        *stages: The stages, on one device.
        offload: Whether weights lie in the memory of the host while nothing is computed with them.
    """
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    device, policy = next(stages[0].parameters()).device.type, OffloadPolicy()
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    if offload and device != "cpu":
        backends = f"cpu:gloo,{device}:{torch.distributed.get_default_backend_for_device(device)}"
        both = torch.distributed.new_group(backend=backends)
        assert isinstance(both, torch.distributed.ProcessGroup)
        mesh = DeviceMesh.from_group(both, device)
        policy = CPUOffloadPolicy()
    for stage in stages:
        lists = [module for module in stage.modules() if isinstance(module, nn.ModuleList)]
        for module in (*(block for blocks in lists for block in blocks), stage):
            fully_shard(module, mesh=mesh, offload_policy=policy)


@contextmanager
def computed_twice(stage: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Lets transformer blocks keep their inputs alone for the backward pass as long as it is open, if that is wanted.

    All else is computed a second time, with the same dropout (Chen et al. 2016).
    """
    blocks = [module for module in stage.modules() if isinstance(module, Block)] if wanted else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


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
