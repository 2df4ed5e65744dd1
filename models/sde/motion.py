"""The motion of observed frames, carried to any later time: STDiff's temporal dynamics encoder.

Times are in the unit in which the network was trained; only differences of times count.

Legend: N clips, To observed frames, Tp predicted ones, C channels of a frame, H W its rows and columns, M channels of
the motion state, h w its rows and columns, A numbers of a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.config import DiffUnetConfig, IntegrationConfig, MotionEncoderConfig
from drivedit.models.flow.path import over
from drivedit.models.flow.sde import ODE_METHODS, BrownianPath, FreshPath, calculus, integrate_ode, integrate_sde
from drivedit.models.sde.dynamics import DiffUnet
from drivedit.models.sde.encoder import encoder_of
from drivedit.models.sde.layers import configured

STREAM = "motion"  # of the noise

Times = Tensor | Sequence[float]


class DiffModel(nn.Module):
    """Motion encoder and motion equation.

    Args:
        int_cfg: `Int` of a published configuration (`drivedit.config.IntegrationConfig`): how the equation is solved.
        motion_encoder_cfg: `MotionEncoder` (`drivedit.config.MotionEncoderConfig`).
        diff_unet_cfg: `DiffUnet` (`drivedit.config.DiffUnetConfig`).

    Attributes:
        encoder_config: The second one.
        integration: The first one.

    Raises:
        KeyError: A published key is missing, or one is unknown.
        ValueError: A value is out of its range, sizes do not divide, or the method solves another kind of equation.
    """

    def __init__(self, int_cfg: Any, motion_encoder_cfg: Any, diff_unet_cfg: Any) -> None:
        super().__init__()
        self.integration = configured(IntegrationConfig, int_cfg, "Int")
        self.encoder_config = config = configured(MotionEncoderConfig, motion_encoder_cfg, "MotionEncoder")
        unet = configured(DiffUnetConfig, diff_unet_cfg, "DiffUnet")
        self._check_size(*config.image_size)
        self._check_method()
        self.motion_encoder, self.gru = encoder_of(config)
        self.diff_unet = DiffUnet(
            config.m_channels, unet.n_layers, unet.nonlinear, config.circular, unet.control_dim, unet.decay
        )

    def context_encode(self, Vo: Tensor, idx_o: Times) -> Tensor:
        """The motion state after observed frames.

        Differences of frames are divided by the time between them (the original does not know when frames were taken).

        Args:
            Vo: `[N, To, C, H, W]`.
            idx_o: Their times `[To]`, rising.

        Returns:
            `[N, M, h, w]`.

        Raises:
            ValueError: Frames are too few, of another shape, or do not divide; times do not rise.
        """
        least = 2 if self.encoder_config.learn_diff_image else 1
        if Vo.ndim != 5 or Vo.shape[1] < least or Vo.shape[2] != self.encoder_config.in_channels:
            expected = f"[N, To >= {least}, {self.encoder_config.in_channels}, H, W]"
            raise ValueError(f"observed frames must be {expected}, got {list(Vo.shape)}")
        self._check_size(*Vo.shape[-2:])
        times = rising(idx_o, Vo.shape[1], "idx_o")
        seen = Vo.transpose(0, 1)
        if self.encoder_config.learn_diff_image:
            seen = seen.diff(dim=0) / over(times.diff().to(Vo), seen)
        read = self.motion_encoder(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        m = torch.zeros_like(read[0])
        for each in read:
            m = self.gru(each, m)
        return m

    def future_predict(
        self, m: Tensor, idx: Times, *, seeds: Sequence[int] | None = None, controls: Tensor | None = None,
        told: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The motion states at later times.

        Args:
            m: `[N, M, h, w]` at the first time.
            idx: Times `[Tp + 1]`, rising: of `m`, and those asked for.
            seeds: N whole numbers, on which and on the times the noise of each clip depends, and on nothing else; None:
                they are drawn from torch's global generator.
            controls: `[N, Tp, A]`, each held until the time that it is given for; None: none is told.
            told: bool `[N]`, which clips are told theirs; None: all.

        Returns:
            `[Tp, N, M, h, w]`.

        Raises:
            ValueError: Times do not rise, or seeds or controls do not fit.
        """
        times = rising(idx, None, "idx")
        if controls is not None and controls.shape[:2] != (len(m), len(times) - 1):
            raise ValueError(f"controls must be [{len(m)}, {len(times) - 1}, A], got {list(controls.shape)}")
        seeds, found = self.seeds(len(m), seeds), []
        for index, (start, end) in enumerate(pairwise(times.expand(len(m), -1).T)):
            m = self.advance(m, start, end, seeds, None if controls is None else controls[:, index], told)
            found.append(m)
        return torch.stack(found)

    def advance(
        self, m: Tensor, start: Tensor, end: Tensor, seeds: Sequence[int] | torch.Generator,
        controls: Tensor | None = None, told: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Motion states carried from each row's own time to its own, under a control that is held meanwhile.

        Args:
            m: `[N, M, h, w]`.
            start: float64 `[N]`.
            end: float64 `[N]`.
            seeds: Of the noise, a whole number for each row; or, where no path is asked for twice, a generator of m's
                device that it is drawn from.
            controls: `[N, A]`; None: none is told.
            told: bool `[N]`, which rows are told theirs; None: all.

        Returns:
            `[N, M, h, w]`.

        Raises:
            ValueError: A time falls, or controls do not fit.
        """
        code, how = self.diff_unet.code(controls, told), self.integration

        def drift(m: Tensor) -> Tensor:
            return self.diff_unet.drift(m, code)

        if not how.sde:
            return integrate_ode(drift, m, start, end, how.dt, how.method)
        fresh = isinstance(seeds, torch.Generator)
        path = FreshPath(seeds, m.shape[1:]) if fresh else BrownianPath(seeds, m.shape[1:], how.dt, STREAM)
        return integrate_sde(
            drift, lambda m: self.diff_unet.diffusion(m, code), m, start, end, path, how.dt, how.method
        )

    @staticmethod
    def seeds(count: int, seeds: Sequence[int] | None) -> list[int]:
        """Seeds as they are given, or drawn from torch's global generator.

        Raises:
            ValueError: Their number is another one.
        """
        if seeds is None:
            return torch.randint(2**62, (count,)).tolist()
        if len(seeds) != count:
            raise ValueError(f"there must be a seed for each of {count} clips, got {len(seeds)}")
        return [int(seed) for seed in seeds]

    def _check_size(self, height: int, width: int) -> None:
        whole = 2**self.encoder_config.n_downs
        if height % whole or width % whole:
            raise ValueError(
                f"height and width of observed frames must be multiples of {whole}, got {height} x {width}"
            )

    def _check_method(self) -> None:
        how = self.integration
        if not how.sde and how.method not in ODE_METHODS:
            raise ValueError(f"with sde: False the method must be one of {', '.join(ODE_METHODS)}, got {how.method!r}")
        if how.sde and how.sde_options.sde_type != calculus(how.method):
            raise ValueError(f"{how.method} solves {calculus(how.method)} equations, got {how.sde_options.sde_type!r}")


def rising(times: Times, count: int | None, name: str) -> Tensor:
    """Times as float64 `[T]` on the CPU.

    Args:
        times: Numbers or a tensor.
        count: How many they must be; None: two at least.
        name: What they are called, for errors.

    Raises:
        ValueError: They do not rise, are not finite, or are of another number.
    """
    found = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if found.ndim != 1 or (len(found) < 2 if count is None else len(found) != count):
        wanted = "at least 2" if count is None else count
        raise ValueError(f"{name} must hold {wanted} times, got shape {list(found.shape)}")
    if not bool(found.isfinite().all() and (found.diff() > 0).all()):
        raise ValueError(f"{name} must rise strictly and be finite, got {found.tolist()}")
    return found
