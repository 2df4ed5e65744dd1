"""A world: autoencoder, dynamics, heads and start scenes, stepped as a pure function of state and controls.

The picture is dreamed; where the route goes is given. The car's pose on the route is integrated from the ego-motion
that the network itself reads off its dream, and the route is told to the network from that pose, so picture and pose
cannot drift apart however long the dream lasts.

Legend: B worlds, n + 1 context frames, C h w latent, P tokens per frame, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from drivedit.config import WorldConfig
from drivedit.models.dit.heads import HeadOutputs, Heads
from drivedit.models.dit.state import WorldState
from drivedit.models.dit.student import DiTStudent
from drivedit.models.dit.tokens import FrameTokenizer
from drivedit.models.dit.vae import VAE3D
from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.sampler import sample
from drivedit.models.layers.past import as_channels
from drivedit.models.scenes import Scene, check_scene
from drivedit.models.storage import WorldStorage
from drivedit.utils import Route, RouteCoder, advance_pose, motion_between, noise, truncate
from drivedit.utils.route import CAPACITY

Scenes = Sequence[Scene | Mapping[str, Any]]
DRIVEN = 7  # what a world tells its dynamics: controls, the controls before, ego-motion
LARGEST_MOTION = 100.0  # between two frames of a scene, in units of `WorldConfig.motion_scale`


@dataclass
class StepOutput:
    """What a step of B worlds gives.

    Attributes:
        latent: `[B, C, h, w]`, about unit variance; `World.decode` makes frames of it.
        reward_terms: Named terms, each `[B]`.
        ended: `[B]` bool.
        ended_probability: `[B]`.
        telemetry: `[B, K]` in the units of the recording.
        confidence: `[B]` in (0, 1): 1 where the world expects to be as right as it ever is.
    """

    latent: Tensor
    reward_terms: dict[str, Tensor]
    ended: Tensor
    ended_probability: Tensor
    telemetry: Tensor
    confidence: Tensor

    @property
    def reward(self) -> Tensor:
        """Sum of the terms `[B]`."""
        return torch.stack(list(self.reward_terms.values())).sum(0)

    @classmethod
    def cat(cls, outs: Sequence[StepOutput]) -> StepOutput:
        """The outputs of several worlds, row after row."""
        rows = [vars(out) for out in outs]
        terms = {name: torch.cat([out.reward_terms[name] for out in outs]) for name in outs[0].reward_terms}
        rest = {name: torch.cat([row[name] for row in rows]) for name in rows[0] if name != "reward_terms"}
        return cls(reward_terms=terms, **rest)


class World(WorldStorage):
    """A learned driving world.

    Args:
        config: Configuration of the networks, the picture and the heads.
        scenes: Start scenes by index (see `drivedit.models.Scene`).
        card: Text of the world's CARD.md.

    Raises:
        ValueError: A scene does not fit, or the student wants more controls than a world tells.
    """

    latent_mean: Tensor
    latent_std: Tensor
    error_range: Tensor
    telemetry_scale: Tensor
    motion_scale: Tensor

    def __init__(self, config: WorldConfig, scenes: Scenes = (), card: str = "") -> None:
        super().__init__()
        if config.student.control_dim > DRIVEN:
            raise ValueError(f"a world tells its student at most {DRIVEN} controls, got {config.student.control_dim}")
        self.config, self.card = config, card
        self.scenes = [check_scene(scene, config.image_size) for scene in scenes]
        self.vae = VAE3D.from_config(config.vae)
        self.dynamics = DiTStudent.from_config(config.student)
        self.tokenizer = FrameTokenizer(config.vae.latent_dim, config.patch)
        self.coder = RouteCoder(config)
        self.heads = Heads(config.student.d_model, config.student.tokens_per_frame, len(config.telemetry))
        channels = (1, config.vae.latent_dim, 1, 1)
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        self.register_buffer("error_range", torch.tensor([-3.0, 0.0]))  # log errors of best and worst dreams
        self.register_buffer("telemetry_scale", torch.tensor(config.telemetry_scale), persistent=False)
        self.register_buffer("motion_scale", torch.tensor(config.motion_scale), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the world lives."""
        return self.latent_mean.device

    @property
    def dtype(self) -> torch.dtype:
        """In which the dynamics compute."""
        return self.dynamics.position.dtype

    @property
    def _kept(self) -> int:
        """Latents that a state keeps: those that the student looks back on, and the last one, which is seen."""
        return max(self.config.student.history, 1)

    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        height, width = self.config.image_size
        return self.config.vae.latent_dim, height // 8, width // 8

    def check_state(self, state: WorldState) -> None:
        """Checks that a state could be one of this world: types, shapes, place and ranges of all fields.

        Raises:
            ValueError: A field could not; it is named, with what was expected and what was got.
        """
        state.check_layout(self.state_layout(), self.device)
        state.check_values()

    def state_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of what each field of a state holds for one world."""
        layers, _, *ring = self.dynamics.empty_cache(0)["k"].shape
        shapes = {
            "clock": (), "seeds": (), "latents": (self._kept, *self.latent_shape()), "control": (2,),
            "motion": (3,), "pose": (3,), "arc": (), "points": (CAPACITY, 2), "count": (), "spacing": (), "closed": (),
            "bounds": (4,),
        }  # fmt: skip
        types = {"clock": torch.long, "seeds": torch.long, "count": torch.long, "closed": torch.bool}
        layout = {name: (types.get(name, torch.float32), shape) for name, shape in shapes.items()}
        return layout | dict.fromkeys(("k", "v"), (self.dtype, (layers, *ring)))

    # -- pictures ------------------------------------------------------------------------------------------------

    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Encodes uint8 frames `[B, T, H, W, 3]` to latents `[B, T, C, h, w]`."""
        x = torch.as_tensor(frames).to(self.device)
        mean, _ = self.vae.encode(rearrange(x, "b t h w c -> b c t h w").float() / 127.5 - 1)
        return (mean.transpose(1, 2) - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor) -> np.ndarray:
        """Decodes latents `[B, C, h, w]` to uint8 frames `[B, H, W, 3]`."""
        return self.picture(latents).cpu().numpy()

    def picture(self, latents: Tensor) -> Tensor:
        """`decode` to a tensor where the world is."""
        z = (latents * self.latent_std + self.latent_mean)[:, :, None]
        x = self.vae.decode(z.to(next(self.vae.to_frame.parameters()).dtype))[:, :, 0]
        return ((x + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents `[..., C, h, w]` to tokens `[..., P, D]`."""
        return self.tokenizer.tokens(latents)

    def untokens(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., P, D]` to latents `[..., C, h, w]`."""
        return self.tokenizer.latents(tokens, *self.latent_shape()[1:])

    # -- dreaming ------------------------------------------------------------------------------------------------

    def start(self, scenes: Scenes, seeds: Sequence[int]) -> WorldState:
        """Starts one world per scene; `enter` without the readings."""
        return self.enter(scenes, seeds)[0]

    @torch.inference_mode(False)
    @torch.no_grad()
    def enter(self, scenes: Scenes, seeds: Sequence[int]) -> tuple[WorldState, StepOutput]:
        """Starts one world per scene.

        Args:
            scenes: Scenes (see `drivedit.models.Scene`).
            seeds: Seeds of the worlds' futures.

        Returns:
            The state, and what the network reads off the last frame of each scene.

        Raises:
            ValueError: A scene does not fit the world, its poses jump, or the numbers of scenes and seeds differ.
        """
        if len(scenes) != len(seeds) or not scenes:
            raise ValueError(f"one seed per scene is needed and at least one, got {len(scenes)} and {len(seeds)}")
        checked = [check_scene(scene, self.config.image_size) for scene in scenes]
        rows = [self._enter_row(scene, int(seed)) for scene, seed in zip(checked, seeds, strict=True)]
        states, outs = zip(*rows, strict=True)
        return WorldState.cat(states), StepOutput.cat(outs)

    def _enter_row(self, scene: Scene, seed: int) -> tuple[WorldState, StepOutput]:
        """Fills the ring with the context's frames, each as if the world had just made it."""
        keep = self.dynamics.capacity
        self._check_motion(scene)
        frames, controls = scene.frames[-keep - 1 :], scene.controls[-keep:]
        history = self.config.student.history
        latents = self.encode(frames[None])[0].flip(0)  # the latest first
        if scene.route is not None and not self.config.student.route_dim:
            raise ValueError("this world has learned nothing about routes (its recordings had none); give it no route")
        route = Route.from_points([scene.route], [scene.closed], [scene.bounds]).to(self.device)
        told = route if scene.poses is not None else Route.from_points([None], [False]).to(self.device)
        poses = torch.from_numpy(scene.poses_or_start()[-keep - 1 :]).to(self.device)
        arc = route.foot(poses[:1, :2], None)
        cache = self.dynamics.empty_cache(1, self.device, self.dtype)
        control = torch.from_numpy(controls).to(self.device)
        motion = torch.zeros(1, 3, device=self.device)
        latents = torch.cat([latents, latents[-1:].expand(history, -1, -1, -1)])  # before the first: the first
        recached = self.config.clean_cache
        for index in range(0 if recached else min(max(history, 1), len(frames) - 1), len(frames)):
            past = latents[len(frames) - index :][:history][None]
            pose = poses[max(index - 1, 0) : max(index, 1)]
            arc = route.foot(pose[:, :2], arc)
            if scene.poses is not None and index > 1:
                motion = motion_between(poses[index - 2 : index - 1], poses[index - 1 : index]) / self.motion_scale
            code = self._code(told, pose, arc, motion)
            x = self._noise([0], "context", [index])  # not the seed's: a scene begins the same way in every future
            if recached:
                x = latents[len(frames) - 1 - index][None]
            sigma = torch.full((1,), 0.0 if recached else 1.0, device=self.device)
            before = control[max(index - 2, 0) : max(index - 1, 1)]
            led = control[index - 1 : index] if index else torch.zeros_like(before)
            driven = torch.cat([led, before, motion], -1)
            clean, readings = self._pass(x, sigma, driven, code, past, cache, last=True)
            motion = readings.motion
        arc = route.foot(poses[-1:, :2], arc)
        if scene.poses is not None:
            motion = motion_between(poses[-2:-1], poses[-1:]) / self.motion_scale
        out = self._output(clean, readings, readings.telemetry * self.telemetry_scale)
        return WorldState(
            cache["k"], cache["v"], cache["clock"], torch.tensor([seed], device=self.device),
            latents[None, : self._kept].clone(), control[-1:].clone(), motion, poses[-1:], arc, **vars(route),
        ), out  # fmt: skip

    def _check_motion(self, scene: Scene) -> None:
        """ValueError where the poses of a scene jump."""
        if scene.poses is None:
            return
        poses = torch.from_numpy(scene.poses).to(self.device)
        motion = motion_between(poses[:-1], poses[1:])
        far = (motion.abs() > LARGEST_MOTION * self.motion_scale).any(1)
        if far.any():
            frame = int(far.nonzero()[0])
            most = [LARGEST_MOTION * scale for scale in self.config.motion_scale]
            raise ValueError(
                f"scene poses jump between frames {frame} and {frame + 1} by {motion[frame].tolist()}: a car moves at "
                f"most {most} (m forward, m to the right, rad) from one frame to the next"
            )

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(
        self,
        state: WorldState,
        controls: Tensor,
        sampling_steps: int | None = None,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> tuple[WorldState, StepOutput]:
        """Dreams one frame of every world. The state that goes in is used up; `clone()` it to keep it.

        A step that is broken off leaves its state as good as before.

        Args:
            state: States of B worlds.
            controls: `[B, 2]` steering and throttle in [-1, 1].
            sampling_steps: Network passes; None: the world's own number.
            temperature: Scale of the noise that the frame is made from; None: the world's own.
            top_p: Central mass of the normal distribution that the noise comes from; None: all of it.

        Returns:
            The new state and what the step gave.
        """
        if state.k.is_inference():  # a ring made in inference mode cannot be written outside of it
            state = state.clone()
        x = self.draw(state, temperature, top_p)
        return self.dream(state, controls, x, sampling_steps or self.config.sampling_steps)

    def draw(self, state: WorldState, temperature: float | None = None, top_p: float | None = None) -> Tensor:
        """The noise `[B, C, h, w]` that the next frames are made from; arguments as in `step`."""
        return self._noise(state.seeds.tolist(), "frame", state.clock.tolist(), temperature, top_p)

    def dream(self, state: WorldState, controls: Tensor, x: Tensor, steps: int) -> tuple[WorldState, StepOutput]:
        """`step` from the noise `x` on, in which nothing is drawn."""
        cache = {"k": state.k, "v": state.v, "clock": state.clock}
        route = state.route
        code = self._code(route, state.pose, state.arc, state.motion)
        driven = torch.cat([controls, state.control, state.motion], -1)
        readings: HeadOutputs | None = None

        def denoiser(x: Tensor, sigma: Tensor, given: tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]) -> Tensor:
            nonlocal readings
            clean, readings = self._pass(x, sigma, *given)
            return clean

        given = (driven, code, state.latents, cache)
        x = sample(denoiser, x, noise_levels(steps, self.device), given)
        if self.config.clean_cache:
            denoiser(x, torch.zeros(len(state), device=self.device), given)
        assert readings is not None
        cache["clock"] = cache["clock"] + 1
        pose = advance_pose(state.pose, readings.motion * self.motion_scale)
        arc = route.foot(pose[:, :2], state.arc)
        telemetry = readings.telemetry * self.telemetry_scale
        state = WorldState(
            cache["k"], cache["v"], cache["clock"], state.seeds,
            torch.cat([x[:, None], state.latents], 1)[:, : self._kept], controls.clone(),
            readings.motion, pose, arc, **vars(route),
        )  # fmt: skip
        return state, self._output(x, readings, telemetry)

    def _pass(
        self,
        x: Tensor,
        sigma: Tensor,
        control: Tensor,
        code: Tensor,
        past: Tensor,
        cache: dict[str, Tensor],
        last: bool = False,
    ) -> tuple[Tensor, HeadOutputs]:
        """One pass of the network for one frame of every row; x `[B, C, h, w]`, past `[B, history, C, h, w]`."""
        tokens, network = self.tokens(x), self.dynamics
        before = as_channels(self.tokens(past).unbind(1)[: network.history], tokens)
        hidden, modulation, _ = network.features(
            tokens.to(self.dtype),
            cache,
            last,
            sigma=sigma[:, None].to(self.dtype),
            control=control[:, None, : network.control_dim].to(self.dtype),
            route=code[:, None].to(self.dtype),
            past=before.to(self.dtype),
        )
        clean = network.read(hidden, modulation, None).float()
        if network.history:
            clean = clean + before[..., : network.latent_dim]
        return self.untokens(clean), self.heads(hidden[:, 0])

    def _noise(
        self,
        seeds: list[int],
        stream: str,
        steps: list[int],
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        scale = self.config.temperature if temperature is None else temperature
        return scale * truncate(noise(seeds, stream, steps, self.latent_shape()), top_p).to(self.device)

    def _code(self, route: Route, pose: Tensor, arc: Tensor, motion: Tensor) -> Tensor:
        """The route as told for the coming frame, from where the last motion would bring the car."""
        return self.coder(route, advance_pose(pose, motion * self.motion_scale), arc)

    def _output(self, latent: Tensor, readings: HeadOutputs, telemetry: Tensor) -> StepOutput:
        probability = readings.ended.double().sigmoid().float()  # in float32 equal rows may differ in the last bit
        ended = probability > self.config.end_threshold
        terms = {"progress": readings.reward * self.config.reward_scale}
        terms |= {k: torch.full_like(probability, v) for k, v in self.config.constant_reward.items()}
        terms |= {k: v * ended.float() for k, v in self.config.end_reward.items()}
        low, high = self.error_range
        confidence = 1 - ((readings.log_error - low) / (high - low)).clamp(0, 1)
        return StepOutput(latent, terms, ended, probability, telemetry, confidence)
