"""What the single and the vector environment have in common: settings, observations, rewards, info, checks."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from drivedit.inference import compile_decoder, compile_step
from drivedit.models import World, WorldState, shipped_worlds
from drivedit.models.dit.world import StepOutput
from drivedit.models.finding import HUB
from drivedit.utils import real_numbers, whole_number
from drivedit_env.shipped import load_world
from drivedit_env.state import EnvState

OBS_TYPES = ("pixels", "latent")
RENDER_HEIGHT = 512  # px
MOST_PASSES = 1000  # of the network for one frame


@dataclass(frozen=True)
class WorldName:
    """By what a copied environment finds its world again: the same files, on the same kind of device."""

    world: str
    device: str
    fingerprint: str


class DreamSettings:
    """Settings of a dream, and what follows from them.

    A call first checks, then computes, and then changes the environment at once (`_change`), so that one that is
    refused or broken off leaves everything as it was. Copies (`copy.deepcopy`, `pickle`) go on exactly from where their
    original is; they share its world, or load it by its name.

    Attributes:
        render_modes: The render modes that there are, beside None.
    """

    render_modes: tuple[str, ...] = ("rgb_array",)

    _world: Any
    _passes: int | None
    _compiled: Any
    _decoder: Any

    def _configure(
        self,
        world: str | Path | World,
        render_mode: str | None,
        obs_type: str,
        sampling_steps: int | None,
        reward_weights: dict[str, float] | None,
        device: str,
        compile: bool,
    ) -> tuple[spaces.Box, spaces.Box]:
        """Checks and keeps the settings; returns the spaces of observations and actions of one."""
        if render_mode not in (None, *self.render_modes):
            raise ValueError(f"render_mode must be None or one of {list(self.render_modes)}, got {render_mode!r}")
        if obs_type not in OBS_TYPES:
            raise ValueError(f"obs_type must be one of {list(OBS_TYPES)}, got {obs_type!r}")
        _check_passes(sampling_steps)
        self._world, self._name = load_world(world, device), None
        if not isinstance(world, World):
            self._name = WorldName(_lasting(world), str(device), self.world.fingerprint)
        config = self.world.config
        terms = ["progress", *config.constant_reward, *config.end_reward]
        unknown = set(reward_weights or {}) - set(terms)
        if unknown:
            raise ValueError(f"reward_weights knows the terms {terms}, got {sorted(map(str, unknown))}")
        self.render_mode, self._obs_type, self._compile = render_mode, obs_type, bool(compile)
        self.reward_weights = {name: float((reward_weights or {}).get(name, 1.0)) for name in terms}
        self._prepare(sampling_steps)
        self._fingerprint = self.world.fingerprint
        self._warned: set[str] = set()
        if obs_type == "pixels":
            observations = spaces.Box(0, 255, (*config.image_size, 3), np.uint8)
        else:
            observations = spaces.Box(-np.inf, np.inf, self.world.latent_shape(), np.float32)
        return observations, spaces.Box(-1.0, 1.0, (2,), np.float32)

    @property
    def world(self) -> World:
        """The world; as it was given or loaded."""
        return self._world

    @property
    def obs_type(self) -> str:
        """What observations are; it cannot be changed, because the observation space would be another."""
        return self._obs_type

    @property
    def compile(self) -> bool:
        """Whether the step is compiled where it can be."""
        return self._compile

    @property
    def sampling_steps(self) -> int | None:
        """Passes of the network for one frame; None: the world's own number. It can be set at any time."""
        return self._passes

    @sampling_steps.setter
    def sampling_steps(self, passes: int | None) -> None:
        self._prepare(_check_passes(passes))

    def _prepare(self, passes: int | None) -> None:
        """Makes what steps and decodes, for a number of passes."""
        compiled = compile_step(self.world, passes) if self.compile else None
        pictures = compiled is not None and self.obs_type == "pixels"
        decoder = (compile_decoder(self.world) if pictures else None) or self.world.decode
        self._change(_passes=passes, _compiled=compiled, _decoder=decoder)

    def _change(self, **values: Any) -> None:
        """Sets attributes at once: a signal such as Ctrl-C arrives before this one call into C or after it."""
        vars(self).update(values)

    # -- copies --------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        made = ("_compiled", "_decoder", "_window")
        return {name: value for name, value in vars(self).items() if name not in made} | {
            "_world": self._name or self.world
        }

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        name = self._world
        if isinstance(name, WorldName):
            self._world = load_world(name.world, name.device)
            if self.world.fingerprint != name.fingerprint:
                raise ValueError(
                    f"the environment was copied in world {name.fingerprint}, but {name.world!r} is now "
                    f"{self.world.fingerprint}: make a new environment"
                )
        self._prepare(self._passes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self).__new__(type(self))
        memo |= {id(self): other, id(self.world): self.world}
        other.__setstate__(copy.deepcopy(self.__getstate__() | {"_world": self.world}, memo))
        return other

    # -- steps ---------------------------------------------------------------------------------------------------

    @property
    def rewarding(self) -> bool:
        """Whether the reward depends on how one drives; it does not where the recordings had no rewards."""
        config, weights = self.world.config, self.reward_weights
        others = [*config.constant_reward.items(), *config.end_reward.items()]
        at_the_end = any(weights[name] * value for name, value in others)
        return bool(weights["progress"] * config.reward_scale) or (at_the_end and config.end_threshold < 1)

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents float32 `[B, C, h, w]` of frames uint8 `[B, H, W, 3]`, as `obs_type="latent"` shows them.

        Raises:
            ValueError: The frames have another size or type than this world's, or its encoder looks at several at once.
        """
        config = self.world.config
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*config.image_size, 3):
            wanted = f"uint8 [B, {config.image_size[0]}, {config.image_size[1]}, 3]"
            raise ValueError(f"this world encodes frames {wanted}, got {frames.dtype} {list(frames.shape)}")
        if config.vae.temporal_kernel != 1:
            raise ValueError(f"this world's encoder looks at {config.vae.temporal_kernel} frames at once, not at one")
        return self.world.encode(frames[:, None])[:, 0].float().cpu().numpy()

    def _dream(self, state: WorldState, actions: np.ndarray) -> tuple[WorldState, StepOutput]:
        """The worlds one frame later, under checked actions `[B, 2]`."""
        controls = torch.from_numpy(actions).to(self.world.device)
        if self._compiled is not None:
            return self._compiled(state, controls)
        return self.world.step(state, controls, self.sampling_steps)

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        """Frames uint8 `[B, H, W, 3]` of latents `[B, C, h, w]`."""
        return self._decoder(latents)

    def _observations(self, latents: torch.Tensor) -> np.ndarray:
        """Observations `[B, ...]` of latents `[B, C, h, w]`, the caller's to keep."""
        if self.obs_type == "pixels":
            return self._decode(latents)
        return latents.float().cpu().numpy().copy()

    def _rewards(self, out: StepOutput) -> np.ndarray:
        """Weighted sums of the reward terms, float64 `[B]`."""
        rewards = np.zeros(len(out.ended))
        for name, weight in self.reward_weights.items():
            rewards += weight * out.reward_terms[name].cpu().numpy().astype(np.float64)
        return rewards

    def _infos(self, out: StepOutput) -> dict[str, Any]:
        """Info of all worlds: arrays float64 `[B]`, in dictionaries where info has dictionaries."""
        telemetry = out.telemetry.double().cpu().numpy()
        return {
            "telemetry": {name: telemetry[:, i] for i, name in enumerate(self.world.config.telemetry)},
            "reward_terms": {name: value.double().cpu().numpy() for name, value in out.reward_terms.items()},
            "confidence": out.confidence.double().cpu().numpy(),
        }

    def _enlarge(self, frame: np.ndarray) -> np.ndarray:
        """A frame for people, uint8 [512, 512, 3]."""
        height, width = self.world.config.image_size
        size = (round(RENDER_HEIGHT * width / height), RENDER_HEIGHT)
        return cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)

    def _check_actions(self, actions: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Clean float32 actions inside the box, or ValueError."""
        wanted = "an action is 2 numbers" if len(shape) == 1 else f"actions are an array {list(shape)}, rows of"
        wanted = f"{wanted} [steering, throttle] in [-1, 1]"
        numbers = real_numbers(actions, wanted)
        if numbers.shape != shape or np.isnan(numbers).any():
            got = repr(numbers) if numbers.size <= 8 else f"shape {list(numbers.shape)}"
            nan = " with NaN" if numbers.shape == shape else ""
            raise ValueError(f"{wanted}, got {got}{nan}")
        with np.errstate(over="ignore"):
            actions = numbers.astype(np.float32)
        if np.abs(actions).max() > 1.0:
            self._warn_once("an action lies outside [-1, 1] and is clipped (said once)")
        return np.clip(actions, -1.0, 1.0)

    def _check_state(self, state: EnvState | bytes) -> EnvState:
        """A state of this world, or ValueError."""
        fingerprint = self._world_fingerprint()
        if isinstance(state, bytes):
            state = EnvState.from_bytes(state, fingerprint, self.world.device)
        if not isinstance(state, EnvState):
            raise ValueError(f"a state is what get_state() gives, or its to_bytes(), got {type(state).__name__}")
        if state.fingerprint != fingerprint:
            raise ValueError(f"the state belongs to world {state.fingerprint}, this is {fingerprint}")
        state.check(self.world)
        return state

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            gym.logger.warn(message)

    def _world_fingerprint(self) -> str:
        """The fingerprint of the world; of one made in memory it is computed once, from its weights."""
        if not self._fingerprint:
            self._fingerprint = self.world.digest()
        return self._fingerprint


def _check_passes(passes: int | None) -> int | None:
    """A number of passes of the network, or ValueError."""
    if passes is None:
        return None
    return whole_number(passes, f"sampling_steps must be None or from 1 to {MOST_PASSES}", 1, MOST_PASSES)


def _lasting(world: str | Path) -> str:
    """The name of a world that also holds in another folder."""
    named = isinstance(world, str) and (world in shipped_worlds() or world.startswith(HUB))
    return str(world) if named else str(Path(world).resolve())
