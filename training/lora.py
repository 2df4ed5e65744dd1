"""Low-rank factors in training (LoRA, Hu et al. 2021), by peft; put in before a network is averaged or sharded."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from drivedit.utils import extra

PUBLISHED = {"to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "out"}  # names of layers elsewhere, and ours


def patterns_of(names: Sequence[str]) -> list[str]:
    """Patterns for `add_lora` of the last names of layers; those that are usual elsewhere are understood."""
    return list(dict.fromkeys(f"*{PUBLISHED.get(name, name)}" for name in names))


def add_lora(network: nn.Module, rank: int, alpha: float, targets: Sequence[str] = ("*",)) -> list[str]:
    """Freezes a network and puts trainable factors beside its linear layers and convolutions.

    The second factor begins at zero, so the network computes what it did before.

    Args:
        network: Changed in place.
        rank: Of the factors, the same for every layer.
        alpha: The product is scaled by `alpha / rank`.
        targets: Patterns of the layers' names, `*` for anything: "blocks.*".

    Returns:
        The names of the layers.

    Raises:
        ValueError: A pattern matches no layer, or the rank is below 1.
        ImportError: peft is not installed.
    """
    with extra("train", "adapting"):
        from peft import LoraConfig, inject_adapter_in_model

    if rank < 1 or not alpha > 0:
        raise ValueError(f"rank must be at least 1 and alpha above 0, got {rank} and {alpha}")
    layers = [name for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    empty = [pattern for pattern in targets if not fnmatch.filter(layers, pattern)]
    if empty:
        raise ValueError(f"the targets {empty} match none of the layers {', '.join(layers)}")
    chosen = [name for name in layers if any(fnmatch.fnmatch(name, pattern) for pattern in targets)]
    exactly = "|".join(map(re.escape, chosen))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=exactly)  # type: ignore[arg-type]
    inject_adapter_in_model(config, network.requires_grad_(False))
    return chosen


def factors(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The trained factors A `[r, in]` and B `[out, r]` by the names that the weights have without them."""
    found = {}
    for name, layer in _adapted(network).items():
        a, b = (getattr(layer, part)["default"].weight.detach() for part in ("lora_A", "lora_B"))
        found[f"{name}.weight"] = (a.flatten(1), b.flatten(1))
    return found


def fold_in(network: nn.Module) -> None:
    """Adds the factors to the weights and takes them out: the network has its own layers again."""
    for name, layer in _adapted(network).items():
        layer.merge()
        owner, _, child = name.rpartition(".")
        setattr(network.get_submodule(owner), child, layer.get_base_layer())


def _adapted(network: nn.Module) -> dict[str, Any]:
    """The layers with factors, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
