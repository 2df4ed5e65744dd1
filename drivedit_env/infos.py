"""Info of many worlds as Gymnasium's vector environments give it: dictionaries of arrays, and masks beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Infos = dict[str, Any]


def zeros(infos: Infos, count: int) -> Infos:
    """The same dictionaries with zeros for `count` worlds."""
    return _each(infos, lambda value: np.zeros((count, *value.shape[1:]), value.dtype))


def take(infos: Infos, mask: np.ndarray) -> Infos:
    """The values of the worlds in the mask."""
    return _each(infos, lambda value: value[mask])


def _each(infos: Infos, change: Callable[[np.ndarray], np.ndarray]) -> Infos:
    return {name: _each(value, change) if isinstance(value, dict) else change(value) for name, value in infos.items()}


def put(infos: Infos, mask: np.ndarray, values: Infos) -> None:
    """Overwrites the values of the worlds in the mask."""
    for name, value in values.items():
        if isinstance(value, dict):
            put(infos[name], mask, value)
        else:
            infos[name][mask] = value


def cat(infos: Sequence[Infos]) -> Infos:
    """Infos of several worlds one after another."""
    joined: Infos = {}
    for name, value in infos[0].items():
        parts = [info[name] for info in infos]
        joined[name] = cat(parts) if isinstance(value, dict) else np.concatenate(parts)
    return joined


def masked(infos: Infos, mask: np.ndarray) -> Infos:
    """Adds Gymnasium's masks: which worlds each value belongs to."""
    both: Infos = {}
    for name, value in infos.items():
        both[name] = masked(value, mask) if isinstance(value, dict) else value
        both[f"_{name}"] = mask.copy()
    return both
