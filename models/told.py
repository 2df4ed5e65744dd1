"""What a world that is seen in pictures is told for a frame, and what it tells of it: shared by its kinds.

Legend: B worlds, A others, P tokens per frame, K numbers of a code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models.conditions.layout import TOLD, LayoutCoder, drive_on, join
from drivedit.models.conditions.route import RouteCoder
from drivedit.models.layers.heads import HeadOutputs
from drivedit.models.world import StepOutput
from drivedit.utils import Route, advance_pose


class TellingNetworks(nn.Module):
    """Networks of a world that is seen in pictures, and the meaning of the heads' numbers.

    Args:
        config: The world's configuration.

    Raises:
        ValueError: The spec shows no picture, or has no controls.
    """

    config: Any
    error_range: Tensor
    telemetry_scale: Tensor
    motion_scale: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        spec = config.spec
        if not spec.observations or not spec.controls:
            raise ValueError(f"a world shows a picture and has controls, its spec has {spec}")
        self.config = config
        self.register_buffer("error_range", torch.tensor([-3.0, 0.0]))  # log errors of best and worst dreams
        scales = torch.tensor([value.scale for value in spec.telemetry])
        self.register_buffer("telemetry_scale", scales, persistent=False)
        self.register_buffer("motion_scale", torch.tensor(config.motion_scale), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the world lives."""
        return self.error_range.device

    def output(self, readings: HeadOutputs, telemetry: Tensor) -> StepOutput:
        """What is told, of the raw readings and the telemetry `[B, K]` in its units."""
        spec = self.config.spec
        probability = readings.ended.double().sigmoid().float()  # in float32 equal rows may differ in the last bit
        ended = probability > self.config.end_threshold
        told = dict(zip(spec.names("telemetry"), telemetry.unbind(-1), strict=False))  # without any, one is unused
        learned = dict(zip(spec.learned(), readings.reward.unbind(-1), strict=False))
        terms = {}
        for name, term in spec.rewards.items():
            if term.kind == "constant":
                terms[name] = torch.full_like(probability, term.value)
            elif term.kind == "on_end":
                terms[name] = term.value * ended.float()
            else:
                terms[name] = (learned if term.kind == "learned" else told)[name] * term.value
        low, high = self.error_range
        confidence = 1 - ((readings.log_error - low) / (high - low)).clamp(0, 1)
        return StepOutput(terms, ended, probability, told, confidence)


class ToldNetworks(TellingNetworks):
    """Codes of the route and of others on the road, as the picture shows them.

    Args:
        config: The world's configuration.

    Raises:
        ValueError: The spec shows no picture, or has no controls.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.coder = RouteCoder(config)
        self.layout = LayoutCoder(config) if config.others else None

    def code(
        self, route: Route, pose: Tensor, arc: Tensor, motion: Tensor, others: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """What is told for the coming frame, from where the last motion would bring the car.

        Args:
            route: The routes.
            pose: The cars' `[B, 3]`.
            arc: Where on the route they are `[B]`.
            motion: Their last motions `[B, 3]`.
            others: Whether it is told who else is there `[B]`, and what of them, as `drive_others` gives it; None: no.
        """
        code = self.coder(route, advance_pose(pose, motion * self.motion_scale), arc)
        if self.layout is None:
            return code
        return join(code, *(others or (torch.zeros(len(code), device=self.device), self.nobody(len(code)))))

    def drive_others(self, state: Any) -> tuple[Tensor, Tensor]:
        """Others `[B, A, 8]` at the coming frame, and what is told of them `[B, P, k]`: zeros where nothing is."""
        if self.layout is None or not state.told.any():
            return state.others, self.nobody(len(state))
        others = drive_on(state.others, state.route, self.config.spec.dt)
        return others, self.see_others(others, state.pose, state.motion) * state.told[:, None, None]

    def see_others(self, others: Tensor, pose: Tensor, motion: Tensor) -> Tensor:
        """What is told of others `[B, A, 8]` for the coming frame, from where the last motion would bring the car."""
        if self.layout is None:
            return self.nobody(len(others))
        return self.layout(others, advance_pose(pose, motion * self.motion_scale))

    def nobody(self, rows: int) -> Tensor:
        """What is told of others where nothing is: zeros `[B, P, k]`."""
        width = 0 if self.layout is None else TOLD * self.config.map_cells**2
        return torch.zeros(rows, self.config.map_tokens, width, device=self.device)
