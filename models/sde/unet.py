"""The network that paints a frame: a U-Net over a noisy frame, told the motion state at every place.

Its arguments have the names of diffusers' `UNet2DModel`, of which it is no copy; it needs no other package than torch.

Legend: B rows, H W rows and columns of a frame, M channels of a motion state, h w its rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import MotionUNetConfig
from drivedit.models.layers.blocks import mlp, waves
from drivedit.models.layers.convnext import Conv
from drivedit.models.sde.unet_blocks import Attention, ResBlock, Stage


@dataclass
class UNet2DMotionCondOutput:
    """What the network tells.

    Attributes:
        sample: `[B, out_channels, H, W]`; the noise where it was trained to tell that, or the frame.
    """

    sample: Tensor


class UNet2DMotionCond(nn.Module):
    """A U-Net whose residual blocks are scaled and shifted by a motion state; see `drivedit.config.MotionUNetConfig`.

    Args:
        sample_size: Height and width of frames; one number: both.
        in_channels: Channels of what it reads: a noisy frame, and the one before it beside that.
        out_channels: Channels of a frame.
        m_channels: M.
        layers_per_block: Residual blocks of a stage on the way down; on the way up there is one more.
        block_out_channels: Widths of the stages.
        down_block_types: "DownBlock2D" or "AttnDownBlock2D" for each.
        up_block_types: "UpBlock2D" or "AttnUpBlock2D", the narrowest picture first.
        attention_head_dim: Width of a head, for all stages or for each; None: one head.
        norm_num_groups: Groups of the group norms.
        norm_eps: What is added to their variances.
        dropout: Share of features left out within residual blocks in training.
        circular: Whether columns wrap around.
        coarse_motion: Whether scale and shift are read off the motion in its own size and then enlarged, instead of off
            the enlarged motion, as published.

    Attributes:
        config: The arguments, a `drivedit.config.MotionUNetConfig`.

    Raises:
        ValueError: Lists differ in length, a type of block is unknown, or widths or sizes do not divide.
    """

    def __init__(
        self,
        sample_size: int | Sequence[int] = (64, 512),
        in_channels: int = 2,
        out_channels: int = 1,
        m_channels: int = 256,
        layers_per_block: int = 2,
        block_out_channels: Sequence[int] = (128, 256, 256, 512, 512),
        down_block_types: Sequence[str] = ("DownBlock2D", *["AttnDownBlock2D"] * 4),
        up_block_types: Sequence[str] = (*["AttnUpBlock2D"] * 4, "UpBlock2D"),
        attention_head_dim: int | None | Sequence[int | None] = (None, 128, 128, 128, 128),
        *,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        circular: bool = False,
        coarse_motion: bool = False,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name in MotionUNetConfig.__dataclass_fields__}
        lists = {name: list(value) for name, value in given.items() if isinstance(value, (list, tuple))}
        self.config = config = MotionUNetConfig.from_dict({**given, **lists})
        self.check_size(*config.size)
        widths = config.block_out_channels
        time_dim = 4 * widths[0]
        self.conv_in, self.time = Conv(in_channels, widths[0], 3, circular), mlp(widths[0], time_dim)
        heads, last = config.head_dims, len(widths) - 1
        skips, width = [widths[0]], widths[0]  # widths of what the way up is shown, in the order of the way down
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, kind in enumerate(config.down_block_types):
            inputs = [width] + [widths[level]] * (layers_per_block - 1)
            self.down.append(self._stage(inputs, widths[level], kind, heads[level]))
            width = widths[level]
            skips += [width] * (layers_per_block + (level < last))
            self.shrink.append(Conv(width, width, 3, circular, stride=2) if level < last else nn.Identity())
        self.middle = self._stage([width, width], width, "Attn", heads[-1])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, kind in zip(range(last, -1, -1), config.up_block_types, strict=True):
            inputs = [own + skips.pop() for own in [width] + [widths[level]] * layers_per_block]
            self.up.append(self._stage(inputs, widths[level], kind, heads[level]))
            width = widths[level]
            self.grow.append(Conv(width, width, 3, circular) if level else nn.Identity())
        self.norm_out, self.conv_out = (
            nn.GroupNorm(norm_num_groups, width, norm_eps),
            Conv(width, out_channels, 3, circular),
        )

    def forward(
        self, sample: Tensor, timestep: Tensor | float, m_feat: Tensor, return_dict: bool = True
    ) -> UNet2DMotionCondOutput | tuple[Tensor]:
        """What the network tells of noisy frames.

        Args:
            sample: `[B, in_channels, H, W]`.
            timestep: Index of the noise level, `[B]` or one for all.
            m_feat: Motion states `[B, M, h, w]`.
            return_dict: Whether the answer has a name, or is the first and only one of a tuple.

        Raises:
            ValueError: A shape is another one.
        """
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels:
            raise ValueError(f"samples must be [B, {self.config.in_channels}, H, W], got {list(sample.shape)}")
        if m_feat.ndim != 4 or m_feat.shape[:2] != (len(sample), self.config.m_channels):
            wanted = f"[{len(sample)}, {self.config.m_channels}, h, w]"
            raise ValueError(f"motion states must be {wanted}, got {list(m_feat.shape)}")
        self.check_size(*sample.shape[-2:])
        time = self.time(waves(self._indices(timestep, sample), self.config.block_out_channels[0]))
        x = self.conv_in(sample)
        skips = [x]
        for level, stage in enumerate(self.down):
            for index in range(self.config.layers_per_block):
                skips.append(x := stage.apply_block(index, x, m_feat, time))  # type: ignore[operator]
            if level + 1 < len(self.down):
                skips.append(x := self.shrink[level](x))
        x = self.middle.apply_block(1, self.middle.apply_block(0, x, m_feat, time), m_feat, time)
        for level, stage in enumerate(self.up):
            for index in range(self.config.layers_per_block + 1):
                x = stage.apply_block(index, torch.cat([x, skips.pop()], 1), m_feat, time)  # type: ignore[operator]
            if level + 1 < len(self.up):
                x = self.grow[level](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        out = self.conv_out(F.silu(self.norm_out(x)))
        return UNet2DMotionCondOutput(out) if return_dict else (out,)

    def check_size(self, height: int, width: int) -> None:
        """ValueError unless frames of this size can be halved so often."""
        whole = 2 ** (len(self.config.block_out_channels) - 1)
        if height % whole or width % whole:
            raise ValueError(f"height and width of frames must be multiples of {whole}, got {height} x {width}")

    def _stage(self, inputs: list[int], width: int, kind: str, head_dim: int | None) -> Stage:
        c = self.config
        common = (width, c.m_channels, 4 * c.block_out_channels[0], c.norm_num_groups, c.norm_eps, c.dropout)
        blocks = [ResBlock(each, *common, c.circular, c.coarse_motion) for each in inputs]
        count = len(blocks) if kind.startswith("Attn") else 0
        return Stage(blocks, [Attention(width, head_dim, c.norm_num_groups, c.norm_eps) for _ in range(count)])

    @staticmethod
    def _indices(timestep: Tensor | float, sample: Tensor) -> Tensor:
        """Indices of the noise level `[B]`, or ValueError."""
        index = torch.as_tensor(timestep, device=sample.device).to(sample.dtype)
        if index.shape not in ((), (1,), (len(sample),)):
            raise ValueError(f"timestep must be one number or [{len(sample)}], got {list(index.shape)}")
        return index.expand(len(sample))
