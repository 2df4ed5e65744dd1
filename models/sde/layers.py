"""Convolutions whose columns may wrap around, nonlinearities by name, and configurations however they are written.

Legend: B rows, C channels, H W rows and columns of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import BaseConfig

NONLINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "relu": F.relu, "softplus": F.softplus, "elu": F.elu, "swish": F.silu
}  # fmt: skip

Config = TypeVar("Config", bound=BaseConfig)


class Conv(nn.Conv2d):
    """A convolution of odd size that keeps height and width, or halves them.

    Args:
        inputs: Channels.
        outputs: Channels.
        size: Rows and columns of the kernel.
        circular: Whether the last column lies beside the first one. Above and below there are zeros.
        stride: 1 keeps the size, 2 halves it.
        zero: Whether weights begin at zero.
        groups: Of channels, each of which is convolved alone.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, circular: bool = False, stride: int = 1, zero: bool = False,
        groups: int = 1,
    ) -> None:  # fmt: skip
        margin = size // 2
        super().__init__(inputs, outputs, size, stride, (margin, 0 if circular else margin), groups=groups)
        self.wrapped = margin if circular else 0
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H, W]`, or half the size."""
        if self.wrapped:
            input = F.pad(input, (self.wrapped, self.wrapped, 0, 0), mode="circular")
        return super().forward(input)


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
