"""What the single and the vector environment have in common: settings, observations, rewards, info, checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from drivedit.inference import compile_decoder, compile_step
from drivedit.models import World, WorldState
from drivedit.models.world import StepOutput
from drivedit_env.shipped import load_world
from drivedit_env.state import EnvState

OBS_TYPES = ("pixels", "latent")
RENDER_HEIGHT = 512  # px


class DreamSettings:
    """Settings of a dream, and what follows from them.

    Attributes:
        render_modes: The render modes that there are, beside None.
    """

    render_modes: tuple[str, ...] = ("rgb_array",)

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
        if sampling_steps is not None and sampling_steps < 1:
            raise ValueError(f"sampling_steps must be None or at least 1, got {sampling_steps}")
        self.world = load_world(world, device)
        config = self.world.config
        terms = ["progress", *config.constant_reward, *config.end_reward]
        unknown = set(reward_weights or {}) - set(terms)
        if unknown:
            raise ValueError(f"reward_weights knows the terms {terms}, got {sorted(map(str, unknown))}")
        self.render_mode, self.obs_type, self.sampling_steps = render_mode, obs_type, sampling_steps
        self.reward_weights = {name: float((reward_weights or {}).get(name, 1.0)) for name in terms}
        self.compile = compile
        self._compiled = compile_step(self.world, sampling_steps) if compile else None
        pictures = self._compiled is not None and obs_type == "pixels"
        self._decoder = (compile_decoder(self.world) if pictures else None) or self.world.decode
        self._fingerprint = self.world.fingerprint
        self._warned: set[str] = set()
        if obs_type == "pixels":
            observations = spaces.Box(0, 255, (*config.image_size, 3), np.uint8)
        else:
            observations = spaces.Box(-np.inf, np.inf, self.world.latent_shape(), np.float32)
        return observations, spaces.Box(-1.0, 1.0, (2,), np.float32)

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
        """Info of all worlds: arrays `[B]`, in dictionaries where info has dictionaries."""
        telemetry = out.telemetry.cpu().numpy()
        return {
            "telemetry": {name: telemetry[:, i] for i, name in enumerate(self.world.config.telemetry)},
            "reward_terms": {name: value.cpu().numpy() for name, value in out.reward_terms.items()},
            "confidence": out.confidence.cpu().numpy(),
        }

    def _enlarge(self, frame: np.ndarray) -> np.ndarray:
        """A frame for people, uint8 [512, 512, 3]."""
        height, width = self.world.config.image_size
        size = (round(RENDER_HEIGHT * width / height), RENDER_HEIGHT)
        return cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)

    def _check_actions(self, actions: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Clean float32 actions inside the box, or ValueError."""
        actions = np.asarray(actions, dtype=np.float32)
        largest = np.abs(actions).max() if actions.shape == shape else np.nan
        if np.isnan(largest):
            wanted = "an action is 2 numbers" if len(shape) == 1 else f"actions are an array {list(shape)}, rows of"
            got = repr(actions) if actions.size <= 8 else f"shape {list(actions.shape)}, NaN {np.isnan(actions).any()}"
            raise ValueError(f"{wanted} [steering, throttle] in [-1, 1], got {got}")
        if largest > 1.0:
            self._warn_once("an action lies outside [-1, 1] and is clipped (said once)")
        return np.clip(actions, -1.0, 1.0)

    def _check_state(self, state: EnvState | bytes) -> EnvState:
        """A state of this world, or ValueError."""
        fingerprint = self._world_fingerprint()
        if isinstance(state, bytes):
            state = EnvState.from_bytes(state, fingerprint, self.world.device)
        if state.fingerprint != fingerprint:
            raise ValueError(f"the state belongs to world {state.fingerprint}, this is {fingerprint}")
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
