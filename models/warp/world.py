"""A world whose next picture is the last one, warped by the ego-motion that it foretells, and painted over.

Most of what a camera in a car sees stands still: where it will be seen next follows from the motion of the car and from
how far away it is. So this kind of world keeps what it has seen as sharp as it was, for as long as it is seen, and its
network has only to choose distances, and to paint what is new. A step is one pass.

Legend: B worlds, A controls, C H W the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from drivedit.config import Modality, WarpWorldConfig
from drivedit.models.conditions.layout import LAYOUT
from drivedit.models.road import RoadWorld
from drivedit.models.scenes import Scene
from drivedit.models.warp.entering import enter_row, told_code
from drivedit.models.warp.networks import WarpNetworks, shown
from drivedit.models.warp.state import WarpState
from drivedit.models.world import Sampling, Scenes, StepOutput
from drivedit.utils import advance_pose, noise, truncate
from drivedit.utils.route import CAPACITY

LATENT = "latent"  # a picture whose patches are channels
STREAM = "frame"  # of the noise


class WarpWorld(WarpNetworks, RoadWorld[WarpState]):
    """A world of a camera in a car.

    Args:
        config: Configuration of the networks, the picture and the heads.
        scenes: Start scenes by index (see `drivedit.models.Scene`).
        card: Text of the world's CARD.md.

    Raises:
        ValueError: A scene does not fit, or the spec shows no picture.
    """

    kind = "warp"
    config_type = WarpWorldConfig
    State: ClassVar[type[WarpState]] = WarpState
    passes = 1

    def __init__(self, config: WarpWorldConfig, scenes: Scenes = (), card: str = "") -> None:
        super().__init__(config)
        self.card = card
        self.scenes: list[Scene] = [self.check_scene(scene) for scene in scenes]

    def check_state(self, state: WarpState) -> None:
        """Checks that a state could be one of this world; see `World.check_state`."""
        state.check_layout(self.state_layout(), self.device)
        state.check_values(max(max(abs(control.low), abs(control.high)) for control in self.config.spec.controls))

    def state_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of what each field of a state holds for one world."""
        whole, flags = ("clock", "seeds", "count"), ("closed", "told")
        types: dict[str, torch.dtype] = {name: torch.long for name in whole} | {name: torch.bool for name in flags}
        return {name: (types.get(name, torch.float32), shape) for name, shape in self._shapes.items()}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.config
        return {
            "frames": (2, config.channels, *config.image_size), "memory": self.memory_shape(), "clock": (), "seeds": (),
            "control": (len(config.spec.controls),), "motion": (3,), "pose": (3,), "arc": (), "points": (CAPACITY, 2),
            "count": (), "spacing": (), "closed": (), "bounds": (4,), "others": (config.others, LAYOUT), "told": (),
        }  # fmt: skip

    # -- pictures ------------------------------------------------------------------------------------------------

    def modality(self, kind: str) -> Modality:
        """Shape, type and range of the picture, or of `latent`."""
        if kind == LATENT:
            return Modality(self.latent_shape(), "float32", -1.0, 1.0)
        if kind not in self.config.spec.observations:
            raise ValueError(f"this world shows {[*self.config.spec.observations, LATENT]}, got {kind!r}")
        return self.config.spec.observations[kind]

    @torch.no_grad()
    def observe(self, state: WarpState, kinds: Sequence[str]) -> dict[str, Tensor]:
        """The picture by its name, uint8 `[B, H, W, C]`, or `latent`, the same in patches `[B, D, h, w]`."""
        seen = {}
        for kind in kinds:
            if kind != LATENT:
                self.modality(kind)  # or there is no such kind
            picture = shown(state.frames[:, -1])
            seen[kind] = self.encode(picture[:, None])[:, 0] if kind == LATENT else picture
        return seen

    @torch.no_grad()
    def embed(self, observations: np.ndarray) -> Tensor:
        """Latents float32 `[B, D, h, w]` of pictures uint8 `[B, H, W, C]`; see `World.embed`."""
        wanted = self.modality(self.spec.picture)
        if observations.dtype != wanted.dtype or observations.shape[1:] != wanted.shape:
            expected = f"uint8 [B, {', '.join(map(str, wanted.shape))}]"
            raise ValueError(
                f"this world encodes frames {expected}, got {observations.dtype} {list(observations.shape)}"
            )
        return self.encode(observations[:, None])[:, 0]

    # -- dreaming ------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def enter(self, scenes: Scenes, seeds: Sequence[int]) -> tuple[WarpState, StepOutput]:
        """Starts one world per scene; see `World.enter`. Poses that jump are refused."""
        if len(scenes) != len(seeds) or not scenes:
            raise ValueError(f"one seed per scene is needed and at least one, got {len(scenes)} and {len(seeds)}")
        checked = [self.check_scene(scene) for scene in scenes]
        rows = [enter_row(self, scene, int(seed)) for scene, seed in zip(checked, seeds, strict=True)]
        states, outs = zip(*rows, strict=True)
        return WarpState.cat(states), StepOutput.cat(outs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(
        self, state: WarpState, controls: Tensor, dt: Tensor | None = None, *, sampling: Sampling | None = None
    ) -> tuple[WarpState, StepOutput]:
        """Dreams one frame of every world; see `World.step`.

        Raises:
            ValueError: `dt` is given: this kind of world has frames of one length; or several passes, or guidance, are
                wanted.
        """
        sampling = sampling or Sampling()
        self.check_dt(dt, len(state))
        self.check_guidance(sampling.guidance)
        self.check_passes(sampling.passes)
        scale = self.config.temperature if sampling.temperature is None else sampling.temperature
        drawn = noise(state.seeds.tolist(), STREAM, state.clock.tolist(), (1, *self.config.image_size))
        return self.dream(state, controls, scale * truncate(drawn, sampling.top_p).to(state.frames))

    def dream(self, state: WarpState, controls: Tensor, drawn: Tensor) -> tuple[WarpState, StepOutput]:
        """`step` from the noise `[B, 1, H, W]` on."""
        others, layout = self.drive_others(state)
        code = told_code(self, state.route, state.pose, state.arc, state.motion, (state.told, layout))
        driven = torch.cat([controls.to(state.motion), state.control, state.motion], 1)
        motion = self.foretold(controls.to(state.motion), state.motion)
        sight = self.sight(state.frames, driven, motion)
        painted = self.paint(state.frames, sight, state.memory, driven, code, motion, drawn)
        frame = painted.frame.clamp(-1, 1)
        pose = advance_pose(state.pose, motion * self.motion_scale)
        state = replace(
            state, frames=torch.stack([state.frames[:, -1], frame], 1), memory=painted.memory, clock=state.clock + 1,
            control=controls.to(state.control).clone(), motion=motion, pose=pose,
            arc=state.route.foot(pose[:, :2], state.arc), others=others,
        )  # fmt: skip
        return state, self.output(painted.read, painted.read.telemetry * self.telemetry_scale)

    def check_passes(self, passes: int | None) -> int:
        """One pass: the painter has learned no other; see `World.check_passes`."""
        if passes not in (None, self.passes):
            raise ValueError(f"this world paints a frame in {self.passes} pass, got sampling_steps {passes}")
        return self.passes
