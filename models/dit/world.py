"""A world: autoencoder, dynamics, heads and start scenes, stepped as a pure function of state and controls.

The picture is dreamed; where the route goes is given. The car's pose on the route is integrated from the ego-motion
that the network itself reads off its dream, and the route is told to the network from that pose, so picture and pose
cannot drift apart however long the dream lasts.

Legend: B worlds, n + 1 context frames, C h w latent, P tokens per frame, D token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from drivedit.config import Modality, WorldConfig
from drivedit.models.dit.entering import enter_row
from drivedit.models.dit.generation import KVCache
from drivedit.models.dit.heads import HeadOutputs, Heads
from drivedit.models.dit.state import DiTState
from drivedit.models.dit.student import DiTStudent
from drivedit.models.dit.tokens import FrameTokenizer
from drivedit.models.dit.vae import VAE3D
from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.sampler import sample
from drivedit.models.layers.past import as_channels
from drivedit.models.scenes import ROUTE, Scene, check_scene
from drivedit.models.world import Sampling, Scenes, StepOutput, World
from drivedit.utils import Route, RouteCoder, advance_pose, load_object, noise, truncate
from drivedit.utils.route import CAPACITY

LATENT = "latent"  # the kind of observation that is not decoded
BACKBONES = {"transformer": "drivedit.models.dit.student:DiTStudent"}  # networks of the dynamics by name
ON_ROUTE: dict[str, Any] = {"points": None, "closed": False, "bounds": None, "arc": None}


class DiTWorld(World[DiTState]):
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

    config: WorldConfig
    latent_mean: Tensor
    latent_std: Tensor
    error_range: Tensor
    telemetry_scale: Tensor
    motion_scale: Tensor

    def __init__(self, config: WorldConfig, scenes: Scenes = (), card: str = "") -> None:
        super().__init__()
        spec = config.spec
        if not spec.observations or not spec.controls:
            raise ValueError(f"a world shows a picture and has controls, its spec has {spec}")
        if config.student.control_dim > config.driven:
            raise ValueError(
                f"a world of {len(spec.controls)} controls tells its student at most {config.driven}: these, those "
                f"before and the ego-motion; got student.control_dim {config.student.control_dim}"
            )
        if config.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {config.backbone!r}")
        self.config, self.card = config, card
        self.scenes = [self.check_scene(scene) for scene in scenes]
        self.vae = VAE3D.from_config(config.vae)
        self.dynamics: DiTStudent = load_object(BACKBONES[config.backbone]).from_config(config.student)
        self.tokenizer = FrameTokenizer(config.vae.latent_dim, config.patch)
        self.coder = RouteCoder(config)
        self.heads = Heads(
            config.student.d_model, config.student.tokens_per_frame, len(spec.telemetry), len(spec.learned())
        )
        channels = (1, config.vae.latent_dim, 1, 1)
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        self.register_buffer("error_range", torch.tensor([-3.0, 0.0]))  # log errors of best and worst dreams
        self.register_buffer(
            "telemetry_scale", torch.tensor([value.scale for value in spec.telemetry]), persistent=False
        )
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
    def passes(self) -> int:  # type: ignore[override]
        """Its own number of network passes for one frame."""
        return self.config.sampling_steps

    @property
    def end_threshold(self) -> float:  # type: ignore[override]
        """Probability beyond which an episode ends; 1: never."""
        return self.config.end_threshold

    @property
    def kept(self) -> int:
        """Latents that a state keeps: those that the student looks back on, and the last one, which is seen."""
        return max(self.config.student.history, 1)

    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        height, width = self.config.image_size
        return self.config.vae.latent_dim, height // 8, width // 8

    def check_scene(self, scene: Scene | Mapping[str, Any]) -> Scene:
        """A scene of this world; see `World.check_scene`."""
        return check_scene(scene, self.config.spec)

    def check_state(self, state: DiTState) -> None:
        """Checks that a state could be one of this world; see `World.check_state`."""
        state.check_layout(self.state_layout(), self.device)
        state.check_indices()
        state.check_values(max(max(abs(control.low), abs(control.high)) for control in self.config.spec.controls))

    def state_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of what each field of a state holds for one world."""
        layers, _, *ring = self.dynamics.empty_cache(0).k.shape
        shapes = {
            "clock": (), "seeds": (), "latents": (self.kept, *self.latent_shape()),
            "control": (len(self.config.spec.controls),), "motion": (3,), "pose": (3,), "arc": (),
            "points": (CAPACITY, 2), "count": (), "spacing": (), "closed": (), "bounds": (4,),
        }  # fmt: skip
        types = {"clock": torch.long, "seeds": torch.long, "count": torch.long, "closed": torch.bool}
        layout = {name: (types.get(name, torch.float32), shape) for name, shape in shapes.items()}
        return layout | dict.fromkeys(("k", "v"), (self.dtype, (layers, *ring)))

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
            ValueError: `dt` is given: this kind of world has frames of one length.
        """
        if dt is not None:
            raise ValueError(f"the frames of this world are {self.spec.dt:g} s long, it takes no dt")
        if state.k.is_inference():  # a ring made in inference mode cannot be written outside of it
            state = state.clone()
        sampling = sampling or Sampling()
        return self.dream(state, controls, self.draw(state, sampling), sampling.passes or self.config.sampling_steps)

    def draw(self, state: DiTState, sampling: Sampling) -> Tensor:
        """The noise `[B, C, h, w]` that the next frames are made from."""
        return self.noise(state.seeds.tolist(), "frame", state.clock.tolist(), sampling)

    def dream(self, state: DiTState, controls: Tensor, x: Tensor, steps: int) -> tuple[DiTState, StepOutput]:
        """`step` from the noise `x` on, in which nothing is drawn."""
        cache = KVCache(state.k, state.v, state.clock)
        route = state.route
        code = self.code(route, state.pose, state.arc, state.motion)
        driven = torch.cat([controls, state.control, state.motion], -1)
        readings: HeadOutputs | None = None

        def denoiser(x: Tensor, sigma: Tensor, given: tuple[Tensor, Tensor, Tensor, KVCache]) -> Tensor:
            nonlocal readings
            clean, readings = self.denoise(x, sigma, *given)
            return clean

        given = (driven, code, state.latents, cache)
        x = sample(denoiser, x, noise_levels(steps, self.device), given)
        if self.config.clean_cache:
            denoiser(x, torch.zeros(len(state), device=self.device), given)
        assert readings is not None
        pose = advance_pose(state.pose, readings.motion * self.motion_scale)
        arc = route.foot(pose[:, :2], state.arc)
        telemetry = readings.telemetry * self.telemetry_scale
        state = DiTState(
            cache.k, cache.v, cache.clock + 1, state.seeds,
            torch.cat([x[:, None], state.latents], 1)[:, : self.kept], controls.clone(),
            readings.motion, pose, arc, **vars(route),
        )  # fmt: skip
        return state, self.output(readings, telemetry)

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        control: Tensor,
        code: Tensor,
        past: Tensor,
        cache: KVCache,
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

    def noise(self, seeds: list[int], stream: str, steps: list[int], sampling: Sampling | None = None) -> Tensor:
        """Noise `[B, C, h, w]` of rows with these seeds at these steps of a stream, scaled as it is sampled."""
        sampling = sampling or Sampling()
        scale = self.config.temperature if sampling.temperature is None else sampling.temperature
        return scale * truncate(noise(seeds, stream, steps, self.latent_shape()), sampling.top_p).to(self.device)

    def code(self, route: Route, pose: Tensor, arc: Tensor, motion: Tensor) -> Tensor:
        """The route as told for the coming frame, from where the last motion would bring the car."""
        return self.coder(route, advance_pose(pose, motion * self.motion_scale), arc)

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

    # -- what is given -------------------------------------------------------------------------------------------

    def condition(self, state: DiTState, values: Mapping[str, Any]) -> DiTState:
        """The state on another road; see `World.condition`."""
        self.check_conditions(values)
        if ROUTE not in values:
            return state
        told = ON_ROUTE | (values[ROUTE] or {})
        if told.keys() - ON_ROUTE.keys():
            raise ValueError(f"the condition route has the parts {list(ON_ROUTE)}, got {list(values[ROUTE])}")
        *given, arc = told.values()
        route = Route.from_points(*([part] * len(state) for part in given))
        state = replace(state, **vars(route.to(self.device)))
        begin = None if arc is None else torch.full_like(state.arc, arc)
        # a drawing may pass the car several times: this is where it is
        state.arc = state.route.foot(state.pose[:, :2], begin)
        return state

    def conditions(self, state: DiTState) -> dict[str, Any]:
        """The `route` of all rows, and where on it the cars are: `arc` `[B]` in metres."""
        return {ROUTE: state.route, "arc": state.arc}

    def reseed(self, state: DiTState, seeds: Sequence[int]) -> DiTState:
        """The state with other futures."""
        return replace(state, seeds=torch.as_tensor(list(seeds), dtype=torch.long, device=self.device))

    def poses(self, state: DiTState) -> Tensor:
        """The cars' poses, integrated from the dreamed motions, `[B, 3]`."""
        return state.pose
