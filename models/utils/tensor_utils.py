"""Helpers for tensors and for nested containers of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.utils.device import resolve_device

MEBIBYTE = 2**20


def safe_cat(tensors: Sequence[Tensor | None], dim: int = 0) -> Tensor:
    """Concatenates what is there: entries that are None are left out, and of nothing comes an empty tensor `[0]`.

    Raises:
        ValueError: The shapes differ in another axis than `dim`.
    """
    return _join(torch.cat, tensors, dim)


def safe_stack(tensors: Sequence[Tensor | None], dim: int = 0) -> Tensor:
    """Stacks what is there: entries that are None are left out, and of nothing comes an empty tensor `[0]`.

    Raises:
        ValueError: The shapes differ.
    """
    return _join(torch.stack, tensors, dim)


def pad_sequence(sequences: Sequence[Tensor], batch_first: bool = True, padding_value: float = 0.0) -> Tensor:
    """Stacks B sequences `[T_i, ...]` of different lengths, filled up at their ends.

    Returns:
        `[B, T, ...]`, or `[T, B, ...]` unless `batch_first`, with T the longest length; `[0]` of no sequences.

    Raises:
        ValueError: The shapes differ beyond the first axis.
    """
    if not sequences:
        return torch.empty(0)
    if len({(s.ndim, s.shape[1:]) for s in sequences}) > 1 or sequences[0].ndim == 0:
        raise ValueError(f"sequences must be [T_i, ...] with equal other axes, got {_shapes(sequences)}")
    return nn.utils.rnn.pad_sequence(list(sequences), batch_first=batch_first, padding_value=padding_value)


def chunk_tensor(tensor: Tensor, chunk_size: int, dim: int = 0, overlap: int = 0) -> list[Tensor]:
    """Cuts a tensor into chunks; the last one may be shorter, and every entry is in some chunk.

    Args:
        tensor: What to cut.
        chunk_size: Entries of a chunk along `dim`, at least 1.
        dim: The axis.
        overlap: Entries that two neighbouring chunks share, less than `chunk_size`.

    Raises:
        ValueError: `chunk_size` or `overlap` is out of range.
    """
    if chunk_size < 1 or not 0 <= overlap < chunk_size:
        raise ValueError(
            f"chunk_size must be at least 1 and overlap in [0, chunk_size), got chunk_size={chunk_size}, "
            f"overlap={overlap}"
        )
    size, step = tensor.shape[dim], chunk_size - overlap
    starts = range(0, max(size - overlap, 1), step) if size else range(0)
    return [tensor.narrow(dim, start, min(chunk_size, size - start)) for start in starts]


def move_to_device(obj: Any, device: torch.device | str) -> Any:
    """Moves tensors and modules, also inside mappings, lists and (named) tuples; everything else stays as it is.

    Args:
        obj: What to move.
        device: Anything that `resolve_device` takes.
    """
    where = resolve_device(device)
    if isinstance(obj, Tensor | nn.Module):
        return obj.to(where)
    if isinstance(obj, Mapping):
        return {key: move_to_device(value, where) for key, value in obj.items()}
    if isinstance(obj, tuple) and hasattr(obj, "_fields"):
        return type(obj)(*(move_to_device(value, where) for value in obj))
    if isinstance(obj, list | tuple):
        return type(obj)(move_to_device(value, where) for value in obj)
    return obj


def tensor_memory_usage(tensor: Tensor) -> float:
    """Memory of a tensor's entries in MiB."""
    return tensor.numel() * tensor.element_size() / MEBIBYTE


def normalize_tensor(tensor: Tensor, dim: int = -1) -> Tensor:
    """Divides by the Euclidean length along `dim`; vectors shorter than 1e-12 stay near zero."""
    return F.normalize(tensor, dim=dim)


def _join(join: Callable[..., Tensor], tensors: Sequence[Tensor | None], dim: int) -> Tensor:
    kept = [tensor for tensor in tensors if tensor is not None]
    if not kept:
        return torch.empty(0)
    try:
        return join(kept, dim=dim)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"tensors of shapes {_shapes(kept)} do not fit together along axis {dim}: {error}") from error


def _shapes(tensors: Sequence[Tensor]) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors]
