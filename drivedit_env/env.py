"""`DriveDiT-v0`: a learned driving world as a Gymnasium environment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from drivedit.models import Scene, World, WorldState, check_scene
from drivedit.models.world import StepOutput
from drivedit_env.routes import draw_route
from drivedit_env.shipped import load_world
from drivedit_env.state import EnvState

OBS_TYPES = ("pixels", "latent")
OPTIONS = ("scene", "route", "closed")
RENDER_HEIGHT = 512  # px


class DriveDiTEnv(gym.Env[np.ndarray, np.ndarray]):
    """A driving world that is a neural network, learned from recordings and stepped one generated frame at a time.

    ## Description
    The default world `carracing` is learned from recordings of Gymnasium's `CarRacing-v3`: a car on a track, seen from
    above, one step every 0.06 s. What the car does and what is seen - the picture, the dynamics, the reward, the ending
    - is dreamed by the network. The centre line of the road is not: a scene carries the route of a recorded track (or a
    hand-drawn one), and the network is told the part of it around the car, which it draws and drives on. The agent
    neither sees nor sets the route. `CarRacingTwin-v0` is the simulator itself behind the same spaces.

    ## Action Space
    `Box(-1, 1, (2,), float32)`

    | Num | Action   | Min             | Max            |
    |-----|----------|-----------------|----------------|
    | 0   | steering | -1 (full left)  | 1 (full right) |
    | 1   | throttle | -1 (full brake) | 1 (full gas)   |

    An action of another shape, or with NaN, raises `ValueError`; values outside the box are clipped, with one warning.

    ## Observation Space
    `obs_type="pixels"`: `Box(0, 255, (64, 64, 3), uint8)`, the generated frame (the size is the world's).
    `obs_type="latent"`: `Box(-inf, inf, (C, h, w), float32)`, the frame's latent, about unit variance; nothing is
    decoded, so stepping is faster. The first observation is the last frame of the start scene, as the world encodes it.

    ## Rewards
    The sum of these terms times `reward_weights` (all 1.0 unless given); `info["reward_terms"]` holds the terms. The
    names and values are the world's; those of `carracing`:

    | Term     | Value                                                                              |
    |----------|------------------------------------------------------------------------------------|
    | progress | what the network expects of 1000 / N for every newly touched tile of the N tiles   |
    | time     | -0.3 per step                                                                      |
    | left     | -100 when the network says that the car has left the playfield                     |

    ## Starting State
    A start scene of the world: some recorded frames with the controls between them, drawn at random unless
    `options` name one (see Reset Arguments).

    ## Episode End
    Terminated when the network's ending head says so (`carracing`: the car leaves the playfield). The registered
    environment is truncated after 1000 steps.

    ## Information
    - `telemetry`: what the network reads off its own dream; for `carracing` `speed` (signed forward speed, m/s),
      `lateral_offset` (m, positive right of the centre line), `heading_error` (rad, positive when the car points right
      of the route), `wheels_on_road` (share of the wheels).
    - `reward_terms`: the terms of the reward.
    - `confidence`: in [0, 1]; 1 where the world expects to be as right as it ever is.
    - `scene`: index of the start scene, -1 for one that was handed over.

    After `reset`, telemetry and confidence are those of the first frame to come if the last control were held.

    ## Arguments
    - `world`: name of a shipped world, a folder, a hub id `name/world`, or a `drivedit.models.World`. Environments of
      the same world and device share its weights.
    - `render_mode`: `None` or `"rgb_array"` (the frame enlarged to a height of 512 pixels).
    - `obs_type`: `"pixels"` or `"latent"`.
    - `sampling_steps`: passes of the network for one frame; `None` is the world's own number.
    - `reward_weights`: a dictionary with some of the names of the reward terms.
    - `device`: `"auto"`, `"cpu"`, `"cuda"`, ...; a `World` object stays where it is.

    ## Reset Arguments
    `seed` decides which scene is drawn and how the dream goes on: the same seed, options and actions give the same
    frames.

    | Option   | Value                                                                                           |
    |----------|-------------------------------------------------------------------------------------------------|
    | `scene`  | an index; `"random"` (default); or a scene of your own (`drivedit.models.Scene` or a dictionary |
    |          | of its fields): `frames` uint8 [n+1, 64, 64, 3] and `controls` [n, 2], `controls[i]` led from   |
    |          | `frames[i]` to `frames[i+1]`, n >= 1; if known `route`, `closed`, `poses` and `bounds`          |
    | `route`  | a hand-drawn route: [M, 2] points in metres, a few metres apart, in driving direction. Its      |
    |          | place does not matter: it goes on where the road ends that the start picture shows (45 m ahead) |
    | `closed` | whether the hand-drawn route is a loop (default False)                                          |

    ## Version History
    - v0: first version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / 0.06}

    def __init__(
        self,
        world: str | Path | World = "carracing",
        render_mode: str | None = None,
        obs_type: str = "pixels",
        sampling_steps: int | None = None,
        reward_weights: dict[str, float] | None = None,
        device: str = "auto",
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
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
        self.metadata = {**type(self).metadata, "render_fps": config.fps}
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space: spaces.Box
        if obs_type == "pixels":
            self.observation_space = spaces.Box(0, 255, (*config.image_size, 3), np.uint8)
        else:
            self.observation_space = spaces.Box(-np.inf, np.inf, self.world.latent_shape(), np.float32)
        self._state: WorldState | None = None
        self._frame: np.ndarray | None = None  # the picture of this moment, once somebody has asked for it
        self._scene, self._ended = -1, False
        self._warned: set[str] = set()
        self._fingerprint = self.world.fingerprint

    # -- Gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a dream; see the class for `seed` and `options`.

        Returns:
            The first observation and info.

        Raises:
            ValueError: An option is unknown or has a value that does not fit the world.
        """
        options = _check_options(options)
        super().reset(seed=seed)
        future = int(self.np_random.integers(2**31))
        index, scene = self._find_scene(options.get("scene", "random"))
        arc = None
        if "route" in options:
            scene, arc = draw_route(scene, options["route"], bool(options.get("closed", False)))
        state = self.world.start([scene], [future])
        if arc is not None:  # a drawing may pass the car several times: this is where it is
            state.arc = state.route.locate(state.pose[:, :2], torch.full_like(state.arc, arc))[0]
        self._scene, self._ended = index, False
        self._show(state)
        _, expected = self.world.step(state.clone(), state.control, self.sampling_steps)
        info = self._info(expected)
        info["reward_terms"] = dict.fromkeys(self.reward_weights, 0.0)
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Dreams one frame under an action [steering, throttle].

        Returns:
            Observation, reward, terminated, truncated (always False), info.

        Raises:
            ValueError: The action has another shape than [2], or holds NaN.
        """
        state = self._need_state("step")
        if self._ended:
            self._warn_once("step() was called although the episode has ended; call reset() (said once)")
        action = self._check_action(action)
        controls = torch.from_numpy(action)[None].to(self.world.device)
        state, out = self.world.step(state, controls, self.sampling_steps)
        self._ended = bool(out.ended)
        self._show(state)
        info = self._info(out)
        reward = sum(self.reward_weights[name] * value for name, value in info["reward_terms"].items())
        return self._observe(), float(reward), self._ended, False, info

    def render(self) -> np.ndarray | None:
        """The frame of this moment, enlarged: uint8 [512, 512, 3] in render mode `rgb_array`; else None."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make(..., render_mode='rgb_array')")
            return None
        self._need_state("render")
        height, width = self.world.config.image_size
        size = (round(RENDER_HEIGHT * width / height), RENDER_HEIGHT)
        return cv2.resize(self._picture(), size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def get_state(self) -> EnvState:
        """Everything that the future depends on, as a copy; `to_bytes()` of it can be stored.

        What wrappers know, such as the number of steps so far, is not part of it.
        """
        state = self._need_state("get_state").clone()
        random = dict(self.np_random.bit_generator.state)
        return EnvState(state, self._world_fingerprint(), random, self._scene, self._ended)

    def set_state(self, state: EnvState | bytes) -> None:
        """Goes back to a state of `get_state`, bit for bit; the state given stays as it is.

        Raises:
            ValueError: The state belongs to another world, or the bytes are damaged.
        """
        fingerprint = self._world_fingerprint()
        if isinstance(state, bytes):
            state = EnvState.from_bytes(state, fingerprint, self.world.device)
        if state.fingerprint != fingerprint:
            raise ValueError(f"the state belongs to world {state.fingerprint}, this is {fingerprint}")
        self.np_random.bit_generator.state = state.random
        self._scene, self._ended = state.scene, state.ended
        self._show(state.world.clone())

    # -- inside --------------------------------------------------------------------------------------------------

    def _find_scene(self, wanted: Any) -> tuple[int, Scene]:
        """Index (-1: handed over) and scene for the option `scene`."""
        known = self.world.scenes
        if isinstance(wanted, (Scene, Mapping)):
            return -1, check_scene(wanted, self.world.config.image_size)
        if isinstance(wanted, str) and wanted == "random":
            if not known:
                raise ValueError("this world has no start scenes: hand one over, reset(options={'scene': {...}})")
            wanted = int(self.np_random.integers(len(known)))
        if isinstance(wanted, bool) or not isinstance(wanted, Integral) or not 0 <= int(wanted) < len(known):
            kinds = f"an index from 0 to {len(known) - 1}, 'random', a Scene or a dictionary of its fields"
            raise ValueError(f"option scene is {kinds}, got {wanted!r}")
        return int(wanted), known[int(wanted)]

    def _show(self, state: WorldState) -> None:
        """Makes a state the present one."""
        self._state, self._frame = state, None

    def _picture(self) -> np.ndarray:
        """The frame of this moment, uint8 [H, W, 3], decoded when first asked for."""
        frame = self._frame
        if frame is None:
            with torch.no_grad():
                frame = self._frame = self.world.decode(self._need_state("render").latents[:, 0])[0]
        return frame

    def _observe(self) -> np.ndarray:
        """The observation of this moment, the caller's to keep."""
        if self.obs_type == "pixels":
            return self._picture().copy()
        return self._need_state("step").latents[0, 0].float().cpu().numpy().copy()

    def _info(self, out: StepOutput) -> dict[str, Any]:
        """The info of a step."""
        telemetry = out.telemetry[0].tolist()
        return {
            "telemetry": dict(zip(self.world.config.telemetry, telemetry, strict=True)),
            "reward_terms": {name: value[0].item() for name, value in out.reward_terms.items()},
            "confidence": out.confidence[0].item(),
            "scene": self._scene,
        }

    def _check_action(self, action: Any) -> np.ndarray:
        """A clean float32 action [2] inside the box, or ValueError."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (2,) or np.isnan(action).any():
            raise ValueError(f"an action is 2 numbers [steering, throttle] in [-1, 1], got {action!r}")
        if np.abs(action).max() > 1.0:
            self._warn_once("an action lies outside [-1, 1] and is clipped (said once)")
        return np.clip(action, -1.0, 1.0)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            gym.logger.warn(message)

    def _need_state(self, name: str) -> WorldState:
        """The state of this moment, or an error if there is no episode yet."""
        if self._state is None:
            raise gym.error.ResetNeeded(f"call reset() before {name}()")
        return self._state

    def _world_fingerprint(self) -> str:
        """The fingerprint of the world; of one made in memory it is computed once, from its weights."""
        if not self._fingerprint:
            digest = hashlib.sha256(self.world.config.to_json().encode())
            for value in self.world.state_dict().values():
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint


def _check_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """The options that were given, or ValueError for an unknown one."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    unknown = set(options or {}) - set(OPTIONS)
    if unknown:
        raise ValueError(f"reset options are {list(OPTIONS)}, got {sorted(map(str, unknown))}")
    if "closed" in given and "route" not in given:
        raise ValueError("option closed speaks of a hand-drawn route: give option route as well")
    return given
