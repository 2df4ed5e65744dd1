"""Makes a loaded world fast on the machine that it is on; what it computes changes by rounding only.

Where the machine multiplies bfloat16 in hardware, networks are converted to it. On a CPU the weights of linear layers
and convolutions are laid out once in the order that oneDNN wants, instead of at every call, and activations ride on the
products; in float32 that also halves the time of torch's own product. Equal rows of a batch get equal bits, which
torch's own product does not promise.
"""

from __future__ import annotations

from itertools import product
from typing import Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from drivedit.models import DiTWorld, World
from drivedit.models.dit.vae import VAE3D, CausalConv3d, ResBlock, ToFrame, Up
from drivedit.models.layers.blocks import Block, squared_relu
from drivedit.utils import fast_dtype

W = TypeVar("W", bound=World)


class _Packed(nn.Module):
    """A layer with its weight in oneDNN's order beside it. A packed tensor cannot be copied: copies pack anew."""

    packed: Any

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.pack()

    def pack(self) -> None:
        """Lays the weight out as oneDNN wants it."""
        raise NotImplementedError


class PackedLinear(_Packed):
    """A linear layer with its weight in oneDNN's order; for inference on a CPU.

    Args:
        linear: The layer, whose type is kept.
        activation: `"none"` or `"relu"`.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.activation = linear.weight.detach(), linear.bias.detach(), activation
        self.pack()

    def pack(self) -> None:
        """Lays the weight out as oneDNN wants it."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The product `[..., out]` of `[..., in]`."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "")


class PackedConv(_Packed):
    """A `CausalConv3d` that sees one frame, with its weight in oneDNN's order; for inference on a CPU.

    Args:
        conv: The layer, whose type is kept.
        activation: `"none"` or `"relu"`.
    """

    def __init__(self, conv: nn.Conv2d, activation: str = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.activation = conv.weight.detach(), conv.bias, activation
        self.shape: Any = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.pack()

    def pack(self) -> None:
        """Lays the weight out as oneDNN wants it."""
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.shape)

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


class PackedUp(nn.Module):
    """An `Up` on channels-last pictures: its pixels move as whole rows of channels.

    Args:
        up: The layer, whose type is kept.
        last: Whether `FoldedFrame` follows, which takes the positive part of the four pixels side by side.
    """

    def __init__(self, up: Up, last: bool = False) -> None:
        super().__init__()
        conv, self.last = up.conv, last
        linear = nn.Linear(conv.in_channels, conv.out_channels, dtype=conv.weight.dtype)
        for mine, theirs in ((linear.weight, conv.weight), (linear.bias, conv.bias)):
            assert theirs is not None
            mine.data = rearrange(theirs.detach(), "(c r s) ... -> (r s c) ...", r=2, s=2).reshape(mine.shape)
        self.linear = PackedLinear(linear, "relu" if last else "none")

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transforms `[B, C, H, W]` to `[B, C', 2 H, 2 W]`, or to `[B, 4 C', H, W]` before the last convolution."""
        y = self.linear(x.permute(0, 2, 3, 1))
        if not self.last:
            y = rearrange(y, "b h w (r s c) -> b (h r) (w s) c", r=2, s=2)
        return y.permute(0, 3, 1, 2)


class FoldedFrame(nn.Module):
    """The 3x3 convolution to the frame, on pixels that still lie four by four in the channels: the same sums.

    The widest picture is never laid out: at full size moving it costs more than convolving it.

    Args:
        frame: The convolution, whose type is kept.
    """

    def __init__(self, frame: ToFrame) -> None:
        super().__init__()
        weight = frame.conv.weight.detach()
        colours, channels = weight.shape[:2]
        folded = weight.new_zeros(2, 2, colours, 2, 2, channels, 3, 3)
        for a, b, i, j in product(range(2), range(2), range(3), range(3)):  # pixel of the cell; place in the kernel
            y, x = a + i - 1, b + j - 1
            folded[a, b, :, y % 2, x % 2, :, y // 2 + 1, x // 2 + 1] += weight[:, :, i, j]
        conv = nn.Conv2d(4 * channels, 4 * colours, 3, padding=1, dtype=weight.dtype)
        conv.weight.data = folded.reshape(conv.weight.shape).contiguous(memory_format=torch.channels_last)
        bias: Any = frame.conv.bias
        conv.bias = nn.Parameter(bias.detach().repeat(4), False)
        self.conv, self.frame = PackedConv(conv), frame

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Transforms `[B, 4 C, H, W]` to the frame `[B, 3, 2 H, 2 W]`."""
        y = self.conv(x).permute(0, 2, 3, 1)
        return rearrange(y, "b h w (r s c) -> b (h r) (w s) c", r=2, s=2).permute(0, 3, 1, 2)


def tune(world: W) -> W:
    """Converts a world in place, for dreaming only: it can no longer be trained or saved, but copied and pickled.

    Returns:
        The same world.
    """
    if world.tuned:
        return world
    world.fingerprint = world.fingerprint or world.digest()
    if isinstance(world, DiTWorld):
        _tune(world, fast_dtype(world.device))
    world.requires_grad_(False)
    world.tuned = True
    return world.eval()


def _tune(world: DiTWorld, dtype: torch.dtype) -> None:
    """Converts and packs the networks."""
    world.dynamics.to(dtype)
    world.heads.to(dtype)
    for part in (*world.vae.decoder, world.vae.to_frame):
        part.to(dtype=dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if world.device.type == "cpu" and can_pack():
        _pack(world.dynamics)
        _pack(world.heads)
        if world.config.vae.temporal_kernel == 1:
            pack_decoder(world.vae)


def can_pack() -> bool:
    """Whether this torch has oneDNN and the operators that its own compiler uses for packed weights."""
    names = (
        "_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise"
    )  # fmt: skip
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _pack(module: nn.Module) -> None:
    squared = isinstance(module, Block) and module.activate is squared_relu
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child, "relu" if squared and name == "up" else "none"))
        else:
            _pack(child)
    if isinstance(module, Block) and squared:
        module.activate = torch.Tensor.square_


def pack_decoder(vae: VAE3D) -> None:
    """Packs the decoder of an autoencoder that codes every frame by itself, in place."""
    layers: Any = vae.decoder
    for number, layer in enumerate(layers):
        if isinstance(layer, ResBlock):
            layers[number] = PackedResBlock(layer)
        elif isinstance(layer, Up):
            layers[number] = PackedUp(layer, last=number == len(layers) - 1)
        elif isinstance(layer, CausalConv3d):
            layers[number] = PackedConv(layer.conv)
    if isinstance(layers[-1], PackedUp):
        vae.to_frame = FoldedFrame(vae.to_frame)  # type: ignore[assignment]
