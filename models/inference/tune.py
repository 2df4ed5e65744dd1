"""Makes a loaded world fast on the machine that it is on; what it computes changes by rounding only.

Where the machine multiplies bfloat16 in hardware, networks are converted to it. On a CPU the weights of linear layers
and convolutions are laid out once in the order that oneDNN wants, instead of at every call, and activations ride on the
products; in float32 that also halves the time of torch's own product. Equal rows of a batch get equal bits, which
torch's own product does not promise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models import World
from drivedit.models.student import Block
from drivedit.models.vae import CausalConv3d, ResBlock


class PackedLinear(nn.Module):
    """A linear layer with its weight in oneDNN's order; for inference on a CPU.

    Args:
        linear: The layer, whose type is kept.
        activation: `"none"` or `"relu"`.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.activation = linear.weight.detach(), linear.bias.detach(), activation
        self.packed: Any = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The product `[..., out]` of `[..., in]`."""
        if torch.compiler.is_compiling():  # the compiler packs by itself
            y = F.linear(x, self.weight, self.bias)
            return y.relu() if self.activation == "relu" else y
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "")


class PackedConv(nn.Module):
    """A `CausalConv3d` that sees one frame, with its weight in oneDNN's order; for inference on a CPU.

    Args:
        conv: The layer, whose type is kept.
        activation: `"none"` or `"relu"`.
    """

    def __init__(self, conv: nn.Conv2d, activation: str = "none") -> None:
        super().__init__()
        self.bias, self.activation = conv.bias, activation
        self.shape: Any = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.packed: Any = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.shape)

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        """Convolves `[B, C, H, W]`."""
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self.shape, self.activation, [], "")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The convolution of `x`, added to `other`."""
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self.packed, self.bias, *self.shape, "add", None, None, [], None
        )


class PackedResBlock(nn.Module):
    """A `ResBlock` of packed convolutions."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = PackedConv(block.conv1.conv, "relu"), PackedConv(block.conv2.conv)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transforms `[B, C, H, W]`."""
        return self.conv2.plus(self.conv1(x.relu()), x)


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
        _pack(world.dynamics)
        _pack(world.heads)
        if world.config.vae.temporal_kernel == 1:
            for layer in (world.vae.decoder, world.vae):
                _pack_convolutions(layer, skip=("encoder", "to_moments", "decoder"))
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
    """Whether this torch has oneDNN and the operators that its own compiler uses for packed weights."""
    names = (
        "_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise"
    )  # fmt: skip
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            squared = isinstance(module, Block) and name == "up"
            setattr(module, name, PackedLinear(child, "relu" if squared else "none"))
        else:
            _pack(child)
    if isinstance(module, Block):
        module.activate = torch.Tensor.square_


def _pack_convolutions(module: nn.Module, skip: tuple[str, ...] = ()) -> None:
    for name, child in module.named_children():
        if name in skip:
            continue
        if isinstance(child, ResBlock):
            setattr(module, name, PackedResBlock(child))
        elif isinstance(child, CausalConv3d):
            setattr(module, name, PackedConv(child.conv))
        else:
            _pack_convolutions(child)
