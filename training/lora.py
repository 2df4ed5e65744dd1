"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): of a linear layer only `W + (alpha / r) B A` is trained.

B begins as zeros, so that a network with new adapters tells bit for bit what it told without. Adapters belong to the
network before it is spread over processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import parametrize

from drivedit.utils import read_tensors, write_tensors

FORMAT = "drivedit-lora-1"
PUBLISHED = {"to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "out"}  # names of layers elsewhere, and ours


class LowRank(nn.Module):
    """What is added to a weight.

    Args:
        weight: `[M, N]`.
        rank: r, at least 1.
        alpha: The product is scaled by alpha / r.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = alpha / rank
        self.a = nn.Parameter(weight.new_empty(rank, columns).normal_().mul_(columns**-0.5))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with what is added."""
        return weight + self.scale * (self.b @ self.a)


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
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha))
    return list(layers)


def merge_lora(network: nn.Module) -> None:
    """Makes plain weights of weights with adapters."""
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def save_lora(network: nn.Module, path: str | Path) -> None:
    """Writes the adapters of a network, and their scales, to one safetensors file, whole or not at all."""
    adapters = _adapters(network)
    weights = {f"{name}.{part}": getattr(each, part).detach() for name, each in adapters.items() for part in ("a", "b")}
    write_tensors(path, weights, FORMAT, {name: each.scale for name, each in adapters.items()})


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
        adapter = LowRank(layer.weight, len(a), scale * len(a))
        adapter.a.data.copy_(a)
        adapter.b.data.copy_(b)
        parametrize.register_parametrization(layer, "weight", adapter)


def _adapters(network: nn.Module) -> dict[str, LowRank]:
    """The adapters of a network by the names of their layers."""
    return {
        name.removesuffix(".parametrizations.weight.0"): part
        for name, part in network.named_modules()
        if isinstance(part, LowRank)
    }
