"""The networks of a `RangeWorld`, and the four parts of a step: motion moves, a scan is painted, seen, and read.

Training and dreaming run the same parts. Times are in units of the spec's `dt`.

Legend: B rows, H W rows and columns of a scan, M h w the motion state, A controls, R numbers of the route's code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import RangeWorldConfig
from drivedit.models.conditions.route import route_code
from drivedit.models.flow.path import over
from drivedit.models.layers.blocks import mlp
from drivedit.models.layers.ego import EgoMotion
from drivedit.models.sde.beams import Beams
from drivedit.models.sde.motion import DiffModel
from drivedit.models.sde.painter import Painter
from drivedit.utils import Route, advance_pose
from drivedit.utils.ranges import RangeView

CODE = 64  # width of what painter and heads are told
SQUEEZED = 16  # channels of the motion state at each of its cells, for the heads


@dataclass
class RangeReadings:
    """Raw outputs of the heads, in the units of the configuration.

    Attributes:
        rates: `[B, 3]` ego-motion of a unit of time, as the scans show it.
        telemetry: `[B, K]`; of 0 there is one unused.
        reward: `[B, L]` learned terms of a unit of time, likewise.
        ended: `[B]` logit.
        log_error: `[B]` log of the expected error of the scan.
    """

    rates: Tensor
    telemetry: Tensor
    reward: Tensor
    ended: Tensor
    log_error: Tensor


class RangeHeads(nn.Module):
    """Reads a motion state.

    Args:
        channels: M.
        cells: h times w.
        width: Of the hidden layer.
        outputs: Numbers.
    """

    def __init__(self, channels: int, cells: int, width: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, SQUEEZED, 1)
        self.hidden = nn.Linear(SQUEEZED * cells + CODE, width)
        self.middle, self.last = nn.Linear(width, width), nn.Linear(width, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, motion: Tensor, code: Tensor) -> Tensor:
        """Numbers `[B, outputs]` of motion states `[B, M, h, w]` and codes `[B, CODE]`."""
        x = torch.cat([self.squeeze(motion).flatten(1), code], 1)
        return self.last(F.silu(self.middle(F.silu(self.hidden(x)))))


class RangeNetworks(nn.Module):
    """Motion encoder and equation, painter, and heads.

    Args:
        config: Configuration of the networks, the range image and the heads.

    Raises:
        ValueError: The spec shows no range image, or has no controls.
    """

    config: RangeWorldConfig
    error_range: Tensor
    telemetry_scale: Tensor
    rate_scale: Tensor
    offsets: Tensor

    def __init__(self, config: RangeWorldConfig) -> None:
        super().__init__()
        spec = config.spec
        if not spec.observations or not spec.controls:
            raise ValueError(f"a world shows a range image and has controls, its spec has {spec}")
        self.config = config
        rows, columns = config.size
        edges = math.radians(config.highest), math.radians(config.lowest)
        view = RangeView(rows, columns, *edges, config.reach)
        self.beams = Beams(view, config.sensor_height, config.corridor)
        self.motion = DiffModel(*config.motion_parts())
        channels, cells = config.motion_channels, rows * columns // 4**config.n_downs
        self.code = mlp(config.told_dim + 1, CODE)
        self.painter = Painter(config.painter, channels, CODE)
        self.ego = EgoMotion(len(spec.controls))
        names = config.learned_telemetry()
        self.counts = [3, max(len(names), 1), max(len(spec.learned()), 1), 1, 1]
        self.heads = RangeHeads(channels, cells, config.head, sum(self.counts))
        self.register_buffer("error_range", torch.tensor([-6.0, 0.0]))  # log errors of best and worst dreams
        scales = {value.name: value.scale for value in spec.telemetry}
        scale = torch.tensor([scales[name] for name in names] or [1.0])
        self.register_buffer("telemetry_scale", scale, persistent=False)
        self.register_buffer("rate_scale", torch.tensor(config.rate_scale), persistent=False)
        self.register_buffer("offsets", torch.tensor(config.route_offsets), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.error_range.device

    def motion_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the motion state."""
        rows, columns = self.config.size
        halved = 2**self.config.n_downs
        return self.config.motion_channels, rows // halved, columns // halved

    # -- what is told --------------------------------------------------------------------------------------------

    def told(self, controls: Tensor, rates: Tensor, route: Tensor) -> Tensor:
        """What the motion is told: controls `[B, A]`, rates `[B, 3]` and the route's code `[B, R]`, side by side."""
        return torch.cat([controls, rates, route], 1)

    def route_code(self, route: Route, pose: Tensor, arc: Tensor, motion: Tensor) -> Tensor:
        """The route's code `[B, R]` from where a motion `[B, 3]` (m, m, rad) would bring the car; R may be 0."""
        if not self.config.route_dim:
            return pose.new_zeros(len(pose), 0)
        return route_code(route, advance_pose(pose, motion), arc, self.offsets, self.config.route_scale)

    def encoded(self, told: Tensor, dt: Tensor) -> Tensor:
        """The code `[B, CODE]` of what is told, and of the interval `[B]`."""
        return self.code(torch.cat([told, dt.to(told)[:, None]], 1))

    # -- a step ---------------------------------------------------------------------------------------------------

    def carried(
        self, motion: Tensor, clock: Tensor, dt: Tensor, seeds: list[int] | torch.Generator, told: Tensor
    ) -> Tensor:
        """The motion states `[B, M, h, w]` after intervals `[B]`, before anything is seen (`DiffModel.advance`)."""
        return self.motion.advance(motion, clock, clock + dt.to(clock), seeds, told)

    def gone(self, rates: Tensor, dt: Tensor) -> Tensor:
        """Ego-motions `[B, 3]` in metres and rad, at rates that are held for intervals `[B]`."""
        return rates * self.rate_scale * over(dt.to(rates), rates)

    def absorbed(self, motion: Tensor, scan: Tensor, moved: Tensor, dt: Tensor) -> Tensor:
        """The motion state when a scan is seen, dreamed or real.

        It is corrected by the scan, and by how that differs from what ego-motion alone had made of the one before.

        Args:
            motion: `[B, M, h, w]`.
            scan: `[B, 2, H, W]`.
            moved: The one before, moved, `[B, 2, H, W]`.
            dt: Since then, `[B]`.
        """
        change = (scan - moved) / over(dt.to(scan), scan)
        both = ((scan[:, 1:] > 0) & (moved[:, 1:] > 0)).to(scan)
        change = torch.cat([change[:, :1] * both, change[:, 1:] / 2], 1)
        return self.motion.gru(self.motion.motion_encoder(torch.cat([scan, change], 1)), motion)

    def read(self, motion: Tensor, code: Tensor, rates: Tensor) -> RangeReadings:
        """What the heads tell after a scan was seen; `rates` are those that led to it."""
        out = self.heads(motion, code).float()
        seen, telemetry, reward, ended, log_error = torch.split(out, self.counts, 1)
        return RangeReadings(rates + seen, telemetry, reward, ended[:, 0], log_error[:, 0])

    def diffusion(self, motion: Tensor, told: Tensor) -> Tensor:
        """Mean size of the noise g at motion states: near zero, all futures are one."""
        unet = self.motion.diff_unet
        return unet.diffusion(motion, unet.code(told)).abs().mean()
