"""Makes a loaded world fast on the machine that it is on; what it computes changes by rounding only.

Where the machine multiplies bfloat16 in hardware, networks are converted to it. On a CPU the weights of linear layers
are laid out once in the order that oneDNN wants, instead of at every call; in float32 that also halves the time of
torch's own product. Equal rows of a batch get equal bits, which torch's own product does not promise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models import World


class PackedLinear(nn.Module):
    """A linear layer with its weight in oneDNN's order; for inference on a CPU.

    Args:
        linear: The layer, whose type is kept.
        rows: Rows that the layer will usually be given, a hint.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.dtype, self.bias = linear.weight.dtype, linear.bias.detach()
        self.packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)

    def forward(self, x: Tensor) -> Tensor:
        """The product `[..., out]` of `[..., in]`."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def tune(world: World) -> World:
    """Converts a world in place, for dreaming only: it can no longer be trained or saved.

    Returns:
        The same world.
    """
    if world.tuned:
        return world
    dtype = fast_dtype(world.device)
    world.fingerprint = world.fingerprint or world.digest()
    world.dynamics.to(dtype)
    world.heads.to(dtype)
    for part in (*world.vae.decoder, world.vae.to_frame):
        part.to(dtype=dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if world.device.type == "cpu" and can_pack():
        _pack(world.dynamics, world.config.student.tokens_per_frame)
        _pack(world.heads, 1)
    world.requires_grad_(False)
    world.tuned = True
    return world.eval()


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() and torch.backends.mkldnn.is_available():
        return torch.bfloat16
    return torch.float32


def can_pack() -> bool:
    """Whether this torch has oneDNN and the two operators that its own compiler uses for packed weights."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _pack(module: nn.Module, rows: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child, rows))
        else:
            _pack(child, rows)
