"""Nonlinearities by name, and configurations however they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import BaseConfig

NONLINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "relu": F.relu, "softplus": F.softplus, "elu": F.elu, "swish": F.silu
}  # fmt: skip

Config = TypeVar("Config", bound=BaseConfig)


def nonlinearity(name: str) -> Callable[[Tensor], Tensor]:
    """A nonlinearity by its name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in NONLINEAR:
        raise ValueError(f"nonlinear must be one of {', '.join(NONLINEAR)}, got {name!r}")
    return NONLINEAR[name]


def plain(value: Any) -> Any:
    """Nested dictionaries and lists, of mappings (those of OmegaConf too, resolved), sequences and configurations."""
    if isinstance(value, BaseConfig):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value


def configured(kind: type[Config], values: Any, name: str) -> Config:
    """A configuration of what a user wrote, as a dictionary, with OmegaConf, or as a configuration.

    Args:
        kind: Its class.
        values: What was written.
        name: What it is called in the file, for errors.

    Raises:
        KeyError: A published key is missing, or one is unknown.
        ValueError: A value has the wrong type, or is out of its range.
    """
    written = plain(values)
    if not isinstance(written, dict):
        raise ValueError(f"{name} must be a mapping of names to values, got {type(values).__name__}")
    missing = [key for key in getattr(kind, "PUBLISHED", ()) if key not in written]
    if missing:
        raise KeyError(f"{name} lacks {', '.join(missing)}; it has {', '.join(written) or 'nothing'}")
    for key in written:
        inner = kind.__dataclass_fields__.get(key)
        part = getattr(inner, "default_factory", None)
        if isinstance(part, type) and issubclass(part, BaseConfig):
            configured(part, written[key], f"{name}.{key}")
    return kind.from_dict(written)
