"""Any Gymnasium environment in the place of a simulator: what it shows, how it is driven, and the spec that it has.

Its pictures are its observations, or else the frames that it renders. What it knows of cars, roads and others stays
unknown: a world of it learns from pictures, actions, rewards and endings, as from a film.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from drivedit.config import DomainConfig, Modality, Quantity, RewardTerm, WorldSpec
from drivedit.config.spec import LARGEST
from drivedit.data.agent_drivers import NOISE, noisy
from drivedit.utils import Driver, Truth, load_object

PICTURE, REWARD, END = "camera", "reward", "end"
TILE = 16  # pixels; sides of pictures are multiples of it unless they are asked for
SHORT = 64  # pixels of the shorter side of rendered frames, unless asked for
HOLD = 20  # most steps for which a random driver keeps a direction


class AnyEnv:
    """An environment as the collector drives it.

    Args:
        env_id: As `gymnasium.make` takes it: `"CarRacing-v3"`, or `"module:Name-v0"`, whose module registers it.
        size: Height and width of its pictures, multiples of 8; None: about those that its observations have, or 64 for
            the shorter side of rendered frames, in multiples of 16.
        dt: Seconds of a step; None: 1 / `render_fps` of its metadata.
        settings: More arguments of `gymnasium.make`.

    Attributes:
        env: The environment.
        seen: Its last observation, as it is.
        domain: Spec and name, as those of a domain.

    Raises:
        ValueError: It shows no pictures, is not driven by a bounded row of numbers, or does not say how long a step is;
            or the size or `dt` is none.
        ImportError: Its package is not installed.
        gymnasium.error.Error: There is no such environment, or it cannot be made.
    """

    def __init__(
        self, env_id: str, size: tuple[int, int] | None = None, dt: float | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.env, self._id = _make(env_id, **settings), env_id
        try:
            controls = _controls(env_id, self.env.action_space)
            self._rendered = not _is_picture(self.env.observation_space)
            if self._rendered:
                self.env = _rendering(env_id, self.env, settings)
            self._size: tuple[int, int] | None = None
            self.seen, _ = self.env.reset(seed=0)
            height, width, channels = self._look().shape
            self._size = _check_size(size or _near(height, width, self._rendered))
            spec = WorldSpec(
                domain=env_id.rpartition(":")[2],
                observations={PICTURE: Modality((*self._size, channels))},
                controls=controls,
                rewards={REWARD: RewardTerm("learned")},
                dt=_seconds(env_id, self.env.metadata) if dt is None else dt,
                endings={END: "the environment ended the episode"},
            )
        except BaseException:
            self.env.close()
            raise
        here = f"{__name__}:{type(self).__name__}"
        self.domain = DomainConfig(spec, env_id, here, f"{__name__}:{EnvDrivers.__name__}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; gives the picture."""
        self.seen, _ = self.env.reset(seed=seed, options=options or None)
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes a step; gives the picture, and what the recording is told of reward and ending."""
        self.seen, reward, terminated, truncated, _ = self.env.step(action)
        terms = {REWARD: float(reward), END: float(terminated)}
        return self._look(), float(reward), bool(terminated), bool(truncated), {"reward_terms": terms}

    def truth(self) -> Truth:
        """Nothing is known beside what is seen."""
        return Truth({})

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _look(self) -> np.ndarray:
        """The picture of this moment, uint8 `[H, W, C]`."""
        picture = np.asarray(self.env.render() if self._rendered else self.seen)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):  # what an environment renders, nobody has promised
            raise ValueError(f"{self._id} renders {picture.dtype} {list(picture.shape)}, not pictures uint8 [H, W, 3]")
        picture = picture if picture.ndim == 3 else picture[..., None]
        if self._size is None or picture.shape[:2] == self._size:
            return picture
        height, width = self._size
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)


class EnvDrivers:
    """Draws who drives an episode in an environment.

    Args:
        env: The environment.
        policy: `module:callable`, a function of the observation, or of the observation and the environment; or a class
            of such, which is made anew for every episode. Empty: directions at random, each held for a while.

    Raises:
        ValueError: There is no such thing.
    """

    def __init__(self, env: AnyEnv, policy: str) -> None:
        self._env, self._policy = env, policy
        self._made = load_object(policy) if policy else None
        if policy and not callable(self._made):
            raise ValueError(f"policy {policy!r} must be a callable, got {self._made!r}")

    def __call__(self, rng: np.random.Generator) -> tuple[Driver, dict[str, Any]]:
        """A driver, and no reset options."""
        controls = self._env.domain.spec.controls
        if self._made is None:
            return Wanderer(controls, rng), {}
        act = self._made() if isinstance(self._made, type) else self._made
        return PolicyDriver(self._policy, act, self._env, float(rng.choice(NOISE)), rng), {}


class PolicyDriver:
    """A function of what an environment shows, as the driver of a recorded episode.

    Args:
        name: What is stored with the episode.
        act: The function: of the observation, or of the observation and the environment.
        env: The environment.
        noise: Standard deviation of the noise on the controls, as a share of half their range.
        rng: The only source of chance.
    """

    def __init__(self, name: str, act: Callable[..., Any], env: AnyEnv, noise: float, rng: np.random.Generator) -> None:
        self.name, self._act, self._env, self._noise, self._rng = name, act, env, noise, rng
        self._controls = env.domain.spec.controls
        places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        every = inspect.signature(act).parameters.values()
        needed = [each for each in every if each.default is each.empty and each.kind in places]
        self._with_env = len(needed) > 1

    def act(self, truth: Truth, observation: Any) -> np.ndarray:
        """The function's controls with noise, float32 `[C]` inside their ranges; it sees the observation as it is.

        Raises:
            ValueError: The function answered with anything else than that many finite numbers.
        """
        answer = self._act(self._env.seen, self._env.env) if self._with_env else self._act(self._env.seen)
        return noisy(self.name, answer, self._controls, self._noise, self._rng)


class Wanderer:
    """Goes towards controls that it draws every few steps, now fast, now slowly.

    Args:
        controls: Their ranges.
        rng: The only source of chance.
    """

    name = "wanderer"

    def __init__(self, controls: list[Quantity], rng: np.random.Generator) -> None:
        self._low, self._high = np.array([(each.low, each.high) for each in controls]).T
        self._rng, self._left = rng, 0
        self._now = rng.uniform(self._low, self._high)

    def act(self, truth: Truth, observation: Any) -> np.ndarray:
        """The next controls, float32 `[C]`."""
        if not self._left:
            self._left, self._share = int(self._rng.integers(1, HOLD + 1)), self._rng.uniform(0.1, 1.0)
            self._aim = self._rng.uniform(self._low, self._high)
        self._left -= 1
        self._now = self._now + self._share * (self._aim - self._now)
        return np.clip(self._now, self._low, self._high).astype(np.float32)


def _make(env_id: str, **settings: Any) -> gym.Env[Any, Any]:
    """An environment by its id."""
    try:
        return gym.make(env_id, disable_env_checker=True, **settings)
    except ModuleNotFoundError as error:
        package = (error.name or env_id.partition(":")[0]).partition(".")[0]
        raise ImportError(
            f"{env_id} needs {package}, which is not installed or not on the path: pip install "
            f"{package.replace('_', '-')}",
            name=package,
        ) from error


def _is_picture(space: spaces.Space) -> bool:
    """Whether observations are grey or coloured pictures."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and (
        len(space.shape) == 2 or len(space.shape) == 3 and space.shape[2] in (1, 3)
    )  # fmt: skip


def _rendering(env_id: str, env: gym.Env[Any, Any], settings: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The environment anew, so that it renders frames; ValueError where it cannot."""
    modes = env.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        raise ValueError(
            f"{env_id} shows no pictures: its observations are {env.observation_space}, not uint8 [H, W, 1 or 3], and "
            f"of its render modes {list(modes)} none is rgb_array"
        )
    env.close()
    return _make(env_id, **{**settings, "render_mode": "rgb_array"})


def _controls(env_id: str, space: spaces.Space) -> list[Quantity]:
    """The controls of an environment, with their ranges."""
    box = space if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) else None
    if box is None or len(box.shape) != 1 or not (np.abs([box.low, box.high]) <= LARGEST).all():
        raise ValueError(
            f"actions of {env_id} are {space}; a world is driven by a Box [C] of floating-point numbers with bounds. "
            "Many environments can be made so: register yours in a module, with gymnasium.register(..., kwargs=...), "
            "and give --env module:Name-v0"
        )
    ranges = zip(box.low.tolist(), box.high.tolist(), strict=True)
    return [Quantity(f"action_{place}", low, high) for place, (low, high) in enumerate(ranges)]


def _near(height: int, width: int, rendered: bool) -> tuple[int, int]:
    """The size of pictures unless it is asked for."""
    scale = SHORT / min(height, width) if rendered else 1.0
    rows, columns = (max(1, int(scale * side / TILE + 0.5)) * TILE for side in (height, width))
    return rows, columns


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of pictures that a world can have, or ValueError."""
    height, width = size
    if height % 8 or width % 8 or not 8 <= min(size) <= max(size) <= 4096:
        raise ValueError(f"size is height and width of pictures, multiples of 8 from 8 to 4096, got {height} {width}")
    return height, width


def _seconds(env_id: str, metadata: dict[str, Any]) -> float:
    """Seconds of a step, of what an environment says of itself."""
    fps = metadata.get("render_fps")
    if not fps:
        raise ValueError(f"{env_id} does not say how long a step is (metadata['render_fps']): give dt in seconds")
    return 1 / float(fps)
