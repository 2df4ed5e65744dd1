"""A world: autoencoder, dynamics, heads and start scenes, stepped as a pure function of state and controls.

The picture is dreamed; where the route goes is given. The car's pose on the route is integrated from the ego-motion
that the network itself reads off its dream, and the route is told to the network from that pose, so picture and pose
cannot drift apart however long the dream lasts.

Legend: B worlds, n + 1 context frames, C h w latent, P tokens per frame, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from drivedit.config import Modality, WorldConfig
from drivedit.models.conditions.layout import LAYOUT
from drivedit.models.dit.entering import enter_row
from drivedit.models.dit.generation import KVCache
from drivedit.models.dit.networks import DiTNetworks, without_controls
from drivedit.models.dit.state import DiTState
from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.sampler import guided, sample
from drivedit.models.layers.heads import HeadOutputs
from drivedit.models.road import RoadWorld
from drivedit.models.world import Sampling, Scenes, StepOutput
from drivedit.utils import advance_pose
from drivedit.utils.route import CAPACITY

LATENT = "latent"  # the kind of observation that is not decoded


class DiTWorld(DiTNetworks, RoadWorld[DiTState]):
    """A world of autoencoder, causal diffusion transformer, and heads.

    Args:
        config: Configuration of the networks, the picture and the heads.
        scenes: Start scenes by index (see `drivedit.models.Scene`).
        card: Text of the world's CARD.md.

    Raises:
        ValueError: A scene does not fit, the spec shows no picture, there is no such backbone, or the student wants
            more controls than a world tells.
    """

    kind = "dit"
    config_type = WorldConfig
    State: ClassVar[type[DiTState]] = DiTState

    def __init__(self, config: WorldConfig, scenes: Scenes = (), card: str = "") -> None:
        super().__init__(config)
        self.card = card
        self.scenes = [self.check_scene(scene) for scene in scenes]

    @property
    def passes(self) -> int:  # type: ignore[override]
        """Its own number of network passes for one frame."""
        return self.config.sampling_steps

    @property
    def guidable(self) -> bool:
        """Whether guidance on the controls is possible; see `World.guidable`."""
        return self.config.null_control

    def check_state(self, state: DiTState) -> None:
        """Checks that a state could be one of this world; see `World.check_state`."""
        state.check_layout(self.state_layout(), self.device)
        state.check_indices()
        state.check_values(max(max(abs(control.low), abs(control.high)) for control in self.config.spec.controls))

    def state_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of what each field of a state holds for one world."""
        whole, flags = ("clock", "seeds", "count"), ("closed", "told")
        types = dict.fromkeys(whole, torch.long) | dict.fromkeys(flags, torch.bool) | dict.fromkeys("kv", self.dtype)
        return {name: (types.get(name, torch.float32), shape) for name, shape in self._shapes.items()}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what each field of a state holds for one world."""
        layers, _, *ring = self.dynamics.empty_cache(0).k.shape
        return dict.fromkeys("kv", (layers, *ring)) | {
            "clock": (), "seeds": (), "latents": (self.kept, *self.latent_shape()),
            "control": (len(self.config.spec.controls),), "motion": (3,), "pose": (3,), "arc": (),
            "points": (CAPACITY, 2), "count": (), "spacing": (), "closed": (), "bounds": (4,),
            "others": (self.config.others, LAYOUT), "told": (),
        }  # fmt: skip

    # -- pictures ------------------------------------------------------------------------------------------------

    def modality(self, kind: str) -> Modality:
        """Shape, type and range of the picture, or of `latent`."""
        if kind == LATENT:
            return Modality(self.latent_shape(), "float32", -np.inf, np.inf)
        if kind not in self.config.spec.observations:
            raise ValueError(f"this world shows {[*self.config.spec.observations, LATENT]}, got {kind!r}")
        return self.config.spec.observations[kind]

    @torch.no_grad()
    def observe(self, state: DiTState, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Observations of a state: the picture by its name, uint8 `[B, H, W, C]`, or `latent` `[B, C, h, w]`."""
        latents, seen = state.latents[:, 0], {}
        for kind in kinds:
            if kind != LATENT:
                self.modality(kind)  # or there is no such kind
            seen[kind] = latents if kind == LATENT else self.picture(latents)
        return seen

    @torch.no_grad()
    def embed(self, observations: np.ndarray) -> Tensor:
        """Latents float32 `[B, C, h, w]` of pictures uint8 `[B, H, W, C]`; see `World.embed`."""
        wanted, kernel = self.modality(self.spec.picture), self.config.vae.temporal_kernel
        if observations.dtype != wanted.dtype or observations.shape[1:] != wanted.shape:
            expected = f"uint8 [B, {', '.join(map(str, wanted.shape))}]"
            raise ValueError(
                f"this world encodes frames {expected}, got {observations.dtype} {list(observations.shape)}"
            )
        if kernel != 1:
            raise ValueError(f"this world's encoder looks at {kernel} frames at once, not at one")
        return self.encode(observations[:, None])[:, 0].float()

    # -- dreaming ------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def enter(self, scenes: Scenes, seeds: Sequence[int]) -> tuple[DiTState, StepOutput]:
        """Starts one world per scene; see `World.enter`. Poses that jump are refused."""
        if len(scenes) != len(seeds) or not scenes:
            raise ValueError(f"one seed per scene is needed and at least one, got {len(scenes)} and {len(seeds)}")
        checked = [self.check_scene(scene) for scene in scenes]
        rows = [enter_row(self, scene, int(seed)) for scene, seed in zip(checked, seeds, strict=True)]  # type: ignore[arg-type]
        states, outs = zip(*rows, strict=True)
        return DiTState.cat(states), StepOutput.cat(outs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(
        self, state: DiTState, controls: Tensor, dt: Tensor | None = None, *, sampling: Sampling | None = None
    ) -> tuple[DiTState, StepOutput]:
        """Dreams one frame of every world; see `World.step`.

        Raises:
            ValueError: `dt` is given: this kind of world has frames of one length. Or the guidance is none for it.
        """
        self.check_dt(dt, len(state))
        if state.k.is_inference():  # a ring made in inference mode cannot be written outside of it
            state = state.clone()
        sampling = sampling or Sampling()
        passes, scale = sampling.passes or self.config.sampling_steps, self.check_guidance(sampling.guidance)
        return self.dream(state, controls, self.draw(state, sampling), passes, scale)

    def draw(self, state: DiTState, sampling: Sampling) -> Tensor:
        """The noise `[B, C, h, w]` that the next frames are made from."""
        return self.noise(state.seeds.tolist(), "frame", state.clock.tolist(), sampling)

    def dream(
        self, state: DiTState, controls: Tensor, x: Tensor, steps: int, guidance: float = 1.0
    ) -> tuple[DiTState, StepOutput]:
        """`step` from the noise `x` on, in which nothing is drawn."""
        cache = KVCache(state.k, state.v, state.clock)
        route = state.route
        others, layout = self.drive_others(state)
        code = self.code(route, state.pose, state.arc, state.motion, (state.told, layout))
        driven = torch.cat([controls, state.control, state.motion], -1)
        read: list[HeadOutputs] = []

        def denoiser(x: Tensor, sigma: Tensor, given: tuple[Tensor, Tensor, Tensor, KVCache]) -> Tensor:
            clean, readings = self.denoise(x, sigma, *given)
            read.append(readings)
            return clean

        given = plain = (driven, code, state.latents, cache)
        if guidance != 1:  # the pass without controls goes first: that under controls stays in the ring
            plain = (without_controls(driven, self.null_control), *given[1:])
        x = sample(guided(denoiser, guidance, plain), x, noise_levels(steps, self.device), given)
        readings = read[-1] if guidance == 1 else read[-1].beyond(read[-2], guidance)
        if self.config.clean_cache:
            denoiser(x, torch.zeros(len(state), device=self.device), given)
            readings = read[-1]
        pose = advance_pose(state.pose, readings.motion * self.motion_scale)
        arc = route.foot(pose[:, :2], state.arc)
        telemetry = readings.telemetry * self.telemetry_scale
        state = DiTState(
            cache.k, cache.v, cache.clock + 1, state.seeds,
            torch.cat([x[:, None], state.latents], 1)[:, : self.kept], controls.clone(),
            readings.motion, pose, arc, **vars(route), others=others, told=state.told,
        )  # fmt: skip
        return state, self.output(readings, telemetry)
