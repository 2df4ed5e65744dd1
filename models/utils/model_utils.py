"""Helpers for modules: counting, freezing, initial weights, gradients, checkpoints, averaged weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivedit.utils.archives import read_archive
from drivedit.utils.device import resolve_device
from drivedit.utils.files import write_atomically
from drivedit.utils.tensor_utils import tensor_memory_usage

INIT_TYPES = ("xavier", "kaiming", "orthogonal", "normal")


def count_parameters(model: nn.Module, trainable_only: bool = True) -> int:
    """Number of weights, shared ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def freeze_parameters(model: nn.Module, freeze: bool = True) -> None:
    """Stops (or, with `freeze=False`, resumes) the training of all weights."""
    model.requires_grad_(not freeze)


def get_device(model: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a module without any."""
    return next((t.device for group in (model.parameters(), model.buffers()) for t in group), torch.device("cpu"))


def set_seed(seed: int) -> None:
    """Seeds the global generators of Python, numpy and torch (all devices).

    The package itself draws from explicit generators (`drivedit.utils.generator`); this is for scripts around it.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def initialize_weights(model: nn.Module, init_type: str = "xavier", gain: float = 1.0) -> None:
    """Draws the weight matrices and kernels of linear, convolutional and embedding layers anew; biases become zero.

    Args:
        model: Changed in place.
        init_type: `"xavier"` (Glorot and Bengio 2010), `"kaiming"` (He et al. 2015), `"orthogonal"` (Saxe et al. 2014),
            or `"normal"` with a standard deviation of .02.
        gain: Factor of the weights.

    Raises:
        ValueError: `init_type` is unknown.
    """
    if init_type not in INIT_TYPES:
        raise ValueError(f"init_type must be one of {list(INIT_TYPES)}, got {init_type!r}")
    layers = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
    for layer in (m for m in model.modules() if isinstance(m, layers)):
        weight, bias = layer.weight, getattr(layer, "bias", None)
        with torch.no_grad():
            if init_type == "xavier":
                nn.init.xavier_uniform_(weight, gain)
            elif init_type == "kaiming":
                nn.init.kaiming_normal_(weight).mul_(gain)
            elif init_type == "orthogonal":
                nn.init.orthogonal_(weight, gain)
            else:
                nn.init.normal_(weight, std=0.02 * gain)
            if isinstance(bias, Tensor):
                bias.zero_()


def clip_gradients(model: nn.Module, max_norm: float = 1.0) -> float:
    """Scales all gradients so that their norm is at most `max_norm`; returns the norm before.

    Raises:
        ValueError: `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    return float(nn.utils.clip_grad_norm_(model.parameters(), max_norm))


def get_gradient_norm(model: nn.Module) -> float:
    """Euclidean norm of all gradients together; 0 where there are none."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0


def save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, epoch: int, loss: float, filepath: str | Path,
    **kwargs: Any,
) -> None:  # fmt: skip
    """Writes a checkpoint atomically: the old one stays whole until the new one is on disk.

    Args:
        model: Its state is stored.
        optimizer: Its state is stored, unless None.
        epoch: Number of the epoch.
        loss: A figure of that epoch.
        filepath: The file; its folder is made.
        **kwargs: Further entries: numbers, strings, tensors, and lists, tuples and dictionaries of them.

    Raises:
        ValueError: An entry could not be read again without unpickling code.
        OSError: The file could not be written.
    """
    for name, value in kwargs.items():
        _check_plain(name, value)
    state = {"model": model.state_dict(), "epoch": int(epoch), "loss": float(loss), **kwargs}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    write_atomically(filepath, lambda file: torch.save(state, file))


def load_checkpoint(
    filepath: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Loads a checkpoint of `save_checkpoint` into a model, and into an optimizer if one is given.

    No code is unpickled, so a checkpoint from elsewhere is safe to open.

    Args:
        filepath: The file.
        model: Changed in place.
        optimizer: Changed in place; None: its state is not read.
        device: Where the further tensors go; None: where the model is. The model stays where it is.

    Returns:
        `epoch`, `loss` and the further entries that were saved.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: The file lacks the model's state, or the optimizer's where one is asked for.
        RuntimeError: The file is damaged, or of another model.
    """
    path = Path(filepath)
    state = read_archive(path, get_device(model) if device is None else resolve_device(device))
    needed = {"model"} if optimizer is None else {"model", "optimizer"}
    missing = needed - set(state if isinstance(state, dict) else ())
    if missing:
        raise KeyError(f"the checkpoint {path} lacks {sorted(missing)}; was it written by save_checkpoint?")
    try:
        model.load_state_dict(state.pop("model"))
        stored = state.pop("optimizer", None)
        if optimizer is not None:
            optimizer.load_state_dict(stored)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RuntimeError(f"the checkpoint {path} is of another model or optimizer: {error}") from error
    return state


@torch.no_grad()
def exponential_moving_average(model: nn.Module, ema_model: nn.Module, decay: float = 0.999) -> None:
    """Moves the averaged weights towards the model's: `ema = decay * ema + (1 - decay) * model`; buffers are copied.

    Args:
        model: Being trained.
        ema_model: Of the same architecture; changed in place.
        decay: In [0, 1].

    Raises:
        ValueError: `decay` is out of range, or the models differ.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    for kind in ("named_parameters", "named_buffers"):
        new, averaged = dict(getattr(model, kind)()), dict(getattr(ema_model, kind)())
        if {k: v.shape for k, v in new.items()} != {k: v.shape for k, v in averaged.items()}:
            odd = sorted(set(new) ^ set(averaged)) or "shapes"
            raise ValueError(f"the averaged model is not of the model's architecture: they differ in {odd}")
        for name, value in averaged.items():
            if kind == "named_parameters" and value.is_floating_point():
                value.lerp_(new[name].to(value), 1 - decay)
            else:
                value.copy_(new[name])


def get_model_size_mb(model: nn.Module) -> float:
    """Memory of parameters and buffers in MiB, shared ones counted once."""
    return sum(tensor_memory_usage(t) for group in (model.parameters(), model.buffers()) for t in group)


def _check_plain(name: str, value: Any) -> None:
    """ValueError for what `torch.load(weights_only=True)` would refuse."""
    if type(value) is dict:
        inside = [*value.keys(), *value.values()]
    elif type(value) in (list, tuple):
        inside = list(value)
    elif value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str):
        return
    else:
        raise ValueError(
            f"checkpoint entry {name!r} holds a {type(value).__name__}, which could not be read again safely; "
            "store numbers, strings, tensors, and lists or dictionaries of them"
        )
    for item in inside:
        _check_plain(name, item)
