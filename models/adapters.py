"""Adapters: small files that turn a trained world into a similar one (LoRA, Hu et al. 2021, arXiv 2106.09685).

To a weight W `[out, in]` an adapter adds `scale * B A`, with A `[r, in]` and B `[out, r]`; the kernel of a convolution
counts as `[out, in * k * k]`. The sum is taken when the world is loaded: an adapted world is as fast as any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivedit.utils import fingerprint, read_tensors, write_tensors

FORMAT = "drivedit-adapter-1"
DOWN, UP, WHOLE, SCENES = "a/", "b/", "whole/", "scenes/"  # beginnings of the names of tensors


@dataclass
class Adapter:
    """What is added to the weights of one world.

    Attributes:
        base: Fingerprint of the world.
        scale: Factor of all products, alpha / rank.
        factors: A `[r, in]` and B `[out, r]` by the name of the weight.
        whole: Tensors that take the place of the world's, by name.
        scenes: Arrays of start scenes (`pack_scenes`) that take the place of the world's; none: those stay.
        card: What it was made from, in words.
    """

    base: str
    scale: float
    factors: dict[str, tuple[Tensor, Tensor]]
    whole: dict[str, Tensor] = field(default_factory=dict)
    scenes: dict[str, np.ndarray] = field(default_factory=dict)
    card: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Names everything that it holds."""
        parts: list[Any] = [self._told()]
        for name, value in sorted(self._tensors().items()):
            parts += [[name, str(value.dtype), list(value.shape)], value.numpy().tobytes()]
        return fingerprint(*parts)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, in half precision, in one move.

        Raises:
            ValueError: A number is not finite in half precision.
            OSError: The file cannot be written; an older one stays as it was.
        """
        tensors = self._tensors()
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise ValueError(f"{name} of the adapter is not finite in half precision")
        write_tensors(path, tensors, FORMAT, self._told())

    @classmethod
    def load(cls, path: str | Path) -> Adapter:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no adapter, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no adapter {path}: python -m drivedit.training adapt makes one")
        try:
            tensors, told = read_tensors(path, FORMAT)
            down, up, whole, starts = (_part(tensors, beginning) for beginning in (DOWN, UP, WHOLE, SCENES))
            if set(down) != set(up) or len(down) * 2 + len(whole) + len(starts) != len(tensors):
                raise ValueError("its tensors do not belong together")
            factors = {name: (down[name].float(), up[name].float()) for name in sorted(down)}
            for name, (a, b) in factors.items():
                if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
                    raise ValueError(f"the factors of {name} are {list(a.shape)} and {list(b.shape)}")
            scale, base, card = float(told["scale"]), str(told["base"]), str(told["card"])
            if not math.isfinite(scale):
                raise ValueError(f"its scale is {scale}")
            scenes = {name: value.numpy() for name, value in starts.items()}
            whole = {name: value.float() for name, value in whole.items()}
            return cls(base, scale, factors, whole, scenes, card)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no adapter, or damaged ({error})") from error

    def added(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that are others with it, by name, in the type of those that they replace.

        Args:
            weights: Those of its world.

        Raises:
            ValueError: A tensor does not fit.
        """
        new = {name: _sum(name, weights, self.scale, *pair) for name, pair in self.factors.items()}
        for name, value in self.whole.items():
            if name not in weights or weights[name].shape != value.shape:
                raise ValueError(f"the world has no {name} {list(value.shape)}, which the adapter replaces")
            new[name] = value.to(weights[name])
        return new

    def _tensors(self) -> dict[str, Tensor]:
        """What its file holds, by name."""
        tensors = {}
        for name, pair in sorted(self.factors.items()):
            tensors |= {f"{part}{name}": value.half() for part, value in zip((DOWN, UP), pair, strict=True)}
        tensors |= {f"{WHOLE}{name}": value.float() for name, value in self.whole.items()}
        tensors |= {f"{SCENES}{name}": torch.from_numpy(np.array(array)) for name, array in self.scenes.items()}
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def _told(self) -> dict[str, Any]:
        """What its file says."""
        return {"base": self.base, "scale": float(self.scale), "card": self.card}


@dataclass
class Before:
    """What a world was before an adapter was merged."""

    weights: dict[str, Tensor]
    scenes: list[Any]
    fingerprint: str


def _part(tensors: dict[str, Any], beginning: str) -> dict[str, Any]:
    """The tensors whose names begin so, by the rest of the name."""
    return {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}


def _sum(name: str, weights: Mapping[str, Tensor], scale: float, a: Tensor, b: Tensor) -> Tensor:
    """A weight with the product added, in single precision."""
    weight = weights.get(name)
    if weight is None or weight.ndim < 2 or (len(weight), weight[0].numel()) != (len(b), a.shape[1]):
        there = "no such weight" if weight is None else list(weight.shape)
        raise ValueError(f"the adapter has {name} [{len(b)}, {a.shape[1]}], the world has {there}")
    a, b = (factor.half().to(weight) for factor in (a, b))  # as its file holds them
    return weight + scale * (b @ a).view_as(weight)
