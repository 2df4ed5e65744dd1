"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): of a linear layer only `W + (alpha / r) B A` is trained.

B begins as zeros, so that a network with new adapters tells bit for bit what it told without. Adapters belong to the
network before it is spread over processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.utils import Undrawn, read_tensors, write_tensors

FORMAT = "drivedit-lora-1"
PUBLISHED = {"to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "out"}  # names of layers elsewhere, and ours


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter; its weight and bias are those of the layer whose place it takes.

    Args:
        layer: That layer.
        rank: r, at least 1.
        alpha: The product is scaled by alpha / r.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        with Undrawn():
            super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        self.a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features).normal_().mul_(layer.in_features**-0.5))
        self.b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer with the sum of both weights."""
        return F.linear(x, self.whole(), self.bias)

    def whole(self) -> Tensor:
        """The weight with what is added."""
        return self.weight + self.scale * (self.b @ self.a)


def add_lora(network: nn.Module, rank: int, alpha: float, targets: Iterable[str] = ("qkv", "out")) -> list[str]:
    """Gives linear layers adapters, which alone are trained from now on.

    Args:
        network: The network.
        rank: Of the adapters.
        alpha: Their scale times the rank.
        targets: Last names of the layers; `to_q`, `to_k`, `to_v` and `to_out.0` are understood.

    Returns:
        Full names of the layers.

    Raises:
        ValueError: The rank is less than 1, or no layer has one of the names.
    """
    if rank < 1:
        raise ValueError(f"lora_rank must be at least 1, got {rank}")
    wanted = {PUBLISHED.get(name, name) for name in targets}
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in wanted
    }
    if not layers:
        raise ValueError(f"no linear layer is called {' or '.join(sorted(wanted))}")
    network.requires_grad_(False)
    for name, layer in layers.items():
        _put(network, name, AdaptedLinear(layer, rank, alpha))
    return list(layers)


def merge_lora(network: nn.Module) -> None:
    """Makes plain layers of layers with adapters."""
    for name, layer in _adapted(network).items():
        with Undrawn():
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight, plain.bias = nn.Parameter(layer.whole().detach()), layer.bias
        _put(network, name, plain)


def save_lora(network: nn.Module, path: str | Path) -> None:
    """Writes the adapters of a network, and their scales, to one safetensors file, whole or not at all."""
    layers = _adapted(network)
    weights = {f"{name}.{part}": getattr(layer, part).detach() for name, layer in layers.items() for part in ("a", "b")}
    write_tensors(path, weights, FORMAT, {name: layer.scale for name, layer in layers.items()})


def load_lora(network: nn.Module, path: str | Path) -> None:
    """Gives a network without adapters those that `save_lora` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or of another network.
    """
    weights, scales = read_tensors(path, FORMAT)
    layers = dict(network.named_modules())
    network.requires_grad_(False)
    for name, scale in scales.items():
        a, b, layer = weights[f"{name}.a"], weights[f"{name}.b"], layers.get(name)
        if not isinstance(layer, nn.Linear) or [len(b), a.shape[1]] != list(layer.weight.shape):
            raise ValueError(f"{path} has an adapter of {len(b)} x {a.shape[1]} for {name!r}, which does not fit")
        adapted = AdaptedLinear(layer, len(a), scale * len(a))
        with torch.no_grad():
            adapted.a.copy_(a)
            adapted.b.copy_(b)
        _put(network, name, adapted)


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, layer)


def _adapted(network: nn.Module) -> dict[str, AdaptedLinear]:
    """The layers with adapters, by their names."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, AdaptedLinear)}
