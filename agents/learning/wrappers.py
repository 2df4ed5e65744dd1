"""Wrappers of vector environments for learning in a dream without believing all of it.

They know nothing of any algorithm. All of them leave resets to the caller (autoreset mode `Disabled`).
Legend: N worlds, H x W the frame, C channels of one observation, K observations that are remembered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorActionWrapper, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from drivedit.agents.domains import on_road_of

NONE_ON_ROAD = 0.125  # share of the car on the road below which all of it is off: half of one wheel of four
Seeds = int | Sequence[int | None] | None


class ResetWith(VectorWrapper):
    """Adds options to every reset, such as `{"route": "random"}`: a new road in every episode.

    Args:
        env: The environment.
        options: What is added; an option that the caller gives goes before.
    """

    def __init__(self, env: VectorEnv, options: dict[str, Any]) -> None:
        super().__init__(env)
        self.options = options

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets with the options."""
        return self.env.reset(seed=seed, options={**self.options, **(options or {})})  # type: ignore[arg-type]


class Pessimism(VectorWrapper):
    """Takes reward away where the world is unsure of itself, and ends the episode where it is lost.

    A policy that learns in a learned world looks for its errors; a pessimistic world has none to offer (MOReL, Kidambi
    et al. 2020; MOPO, Yu et al. 2020).

    Args:
        env: Tells `info["confidence"]` in [0, 1].
        penalty: Reward taken away per step at confidence 0; in proportion above.
        floor: Confidence below which an episode ends.
        cost: Reward taken away when it does.
    """

    def __init__(self, env: VectorEnv, penalty: float = 0.0, floor: float = 0.0, cost: float = 0.0) -> None:
        if penalty < 0 or cost < 0 or not 0 <= floor <= 1:
            raise ValueError(f"penalty and cost are >= 0, floor in [0, 1], got {penalty}, {cost}, {floor}")
        super().__init__(env)
        self.penalty, self.floor, self.cost = penalty, floor, cost

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps, and judges by the confidence.

        Raises:
            ValueError: The environment tells no confidence.
        """
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "confidence" not in infos:
            raise ValueError(f"pessimism needs info['confidence'], which a dream tells; got {sorted(infos)}")
        confidence = np.asarray(infos["confidence"], float)
        lost = confidence < self.floor
        rewards = np.asarray(rewards, float) - self.penalty * (1.0 - confidence) - self.cost * lost
        return observations, rewards, np.asarray(terminated) | lost, truncated, infos


class _Streak(VectorWrapper, ABC):
    """Ends an episode after some bad steps in a row.

    Args:
        env: The environment.
        steps: How many.
    """

    def __init__(self, env: VectorEnv, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        super().__init__(env)
        self.steps = steps
        self._streak = np.zeros(self.num_envs, int)

    @abstractmethod
    def _bad(self, rewards: Any, infos: dict[str, Any]) -> np.ndarray:
        """Which worlds had a bad step, bool `[N]`."""

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets some worlds."""
        self._streak[reset_mask(options, self.num_envs)] = 0
        return self.env.reset(seed=seed, options=None if options is None else dict(options))  # type: ignore[arg-type]

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps, and counts."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._streak = np.where(self._bad(rewards, infos), self._streak + 1, 0)
        return observations, rewards, np.asarray(terminated) | (self._streak >= self.steps), truncated, infos


class Patience(_Streak):
    """Ends an episode that goes nowhere, so that no time is spent on learning how to stand in the grass.

    Args:
        env: The environment.
        steps: Steps in a row without a positive reward after which an episode ends.
    """

    def _bad(self, rewards: Any, infos: dict[str, Any]) -> np.ndarray:
        return np.asarray(rewards) <= 0


class OffRoad(_Streak):
    """Ends an episode when the car has left the road, as a crash would.

    Args:
        env: Tells the share of the car that is on the road, in `info["telemetry"]`; else a step raises ValueError.
        steps: Steps in a row with all wheels off the road after which an episode ends.
        on_road: Name of this telemetry value; None: the domain's, `wheels_on_road` for the default world.
    """

    def __init__(self, env: VectorEnv, steps: int, on_road: str | None = None) -> None:
        super().__init__(env, steps)
        self.on_road = on_road_of(env) if on_road is None else on_road

    def _bad(self, rewards: Any, infos: dict[str, Any]) -> np.ndarray:
        share = infos.get("telemetry", {}).get(self.on_road)
        if share is None:
            raise ValueError(f"leaving the road is told by info['telemetry'][{self.on_road!r}], got {sorted(infos)}")
        return np.asarray(share) < NONE_ON_ROAD


class UnitActions(VectorActionWrapper):
    """Takes every action in [-1, 1], as the algorithms give it, and scales it to the range of its control.

    Args:
        env: Actions in a bounded box [A].

    Raises:
        ValueError: It has other actions.
    """

    def __init__(self, env: VectorEnv) -> None:
        space = env.single_action_space
        if not isinstance(space, gym.spaces.Box) or not space.is_bounded() or len(space.shape) != 1:
            raise ValueError(f"learning needs actions in a bounded box [A], got {space}")
        super().__init__(env)
        self._low, self._high = space.low, space.high
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, space.shape, np.float32)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """The actions `[N, A]` in the ranges of the controls."""
        return scaled(actions, self._low, self._high)


class Repeat(VectorWrapper):
    """Takes every action several times, as agents for fast games do: a decision then shows in what comes of it.

    When the episode of one world ends, the next decision of all worlds comes early.

    Args:
        env: The environment.
        times: How often an action is taken.
    """

    def __init__(self, env: VectorEnv, times: int) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        super().__init__(env)
        self.times = times

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps up to `times` times; rewards are sums."""
        total = np.zeros(self.num_envs)
        for _ in range(self.times):
            observations, rewards, terminated, truncated, infos = self.env.step(actions)
            total += rewards
            if np.any(terminated) or np.any(truncated):
                break
        return observations, total, terminated, truncated, infos


class RandomLook(VectorWrapper):
    """Changes how frames look, so that a policy does not lean on what one renderer happens to draw.

    Every episode has its own brightness, contrast and shift, every frame its own noise.

    Args:
        env: Observations uint8 `[N, H, W, 1 or 3]`.
        brightness: Largest change of the level, as a share of 255, and of the contrast, as a share.
        noise: Standard deviation of the noise, in levels.
        shift: Largest shift up, down, left or right, in pixels; the edge is repeated.
    """

    def __init__(self, env: VectorEnv, brightness: float = 0.15, noise: float = 6.0, shift: int = 2) -> None:
        space = env.single_observation_space
        if not is_frame(space):
            raise ValueError(f"frames are changed, so the observations must be uint8 [H, W, 1 or 3], got {space}")
        if not 0 <= brightness < 1 or noise < 0 or shift < 0:
            raise ValueError(f"brightness is in [0, 1), noise and shift >= 0, got {brightness}, {noise}, {shift}")
        super().__init__(env)
        self.brightness, self.noise, self.shift = brightness, noise, shift
        self._random = np.random.default_rng()
        self._looks = np.zeros((self.num_envs, 4))  # level, contrast, rows down, columns right

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets some worlds and gives them a new look."""
        mask = reset_mask(options, self.num_envs)
        observations, infos = self.env.reset(seed=seed, options=None if options is None else dict(options))  # type: ignore[arg-type]
        first = seed if seed is None or isinstance(seed, (int, np.integer)) else seed[0]
        if first is not None:
            self._random = np.random.default_rng([first, self.num_envs])
        count = int(mask.sum())
        looks = self._random.uniform(-1.0, 1.0, (count, 4))
        self._looks[mask] = looks * [255 * self.brightness, self.brightness, self.shift, self.shift]
        return self._change(observations), infos

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Steps, and changes the frames."""
        observations, *rest = self.env.step(actions)
        return self._change(observations), *rest  # type: ignore[return-value]

    def _change(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 `[N, H, W, C]` with the looks of their worlds."""
        height, width = frames.shape[1:3]
        level, contrast = (self._looks[:, i].astype(np.float32)[:, None, None, None] for i in (0, 1))
        down, right = np.rint(self._looks[:, 2:]).astype(int).T
        rows = np.clip(np.arange(height) - down[:, None], 0, height - 1)  # [N, H]
        columns = np.clip(np.arange(width) - right[:, None], 0, width - 1)  # [N, W]
        moved = frames[np.arange(len(frames))[:, None, None], rows[:, :, None], columns[:, None, :]]
        noise = self._random.standard_normal(moved.shape, np.float32) * self.noise
        changed = (moved - 128.0) * (1.0 + contrast) + 128.0 + level + noise
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


class Memory:
    """The last K observations of N worlds, as a policy sees them: channels first, grey if wished, newest last.

    Training (`Remember`) and driving (`drivedit.agents.drivers.policy.Policy`) see through this one class.

    Args:
        space: Of one observation: frames uint8 `[H, W, 1 or 3]`, or an array `[C, h, w]` such as a latent.
        gray: Whether frames lose their colours.
        stack: K.
        padding: What stands before the first observation of an episode: `first`, copies of it, or `zeros`.
    """

    def __init__(self, space: gym.spaces.Space, gray: bool, stack: int, padding: str = "first") -> None:
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 3:
            raise ValueError(f"a policy sees frames uint8 [H, W, 1 or 3] or latents [C, h, w], got {space}")
        if stack < 1:
            raise ValueError(f"stack must be at least 1, got {stack}")
        self.frames, self.gray, self.stack, self.padding = is_frame(space), gray, stack, padding
        if gray and not self.frames:
            raise ValueError(f"only frames uint8 [H, W, 1 or 3] can be made grey, got {space}")
        height, width, channels = space.shape
        shape = (1 if gray else channels, height, width) if self.frames else space.shape
        self._parts = shape[0]
        low, high = (float(space.low.min()), float(space.high.max()))
        self.space = gym.spaces.Box(low, high, (shape[0] * stack, *shape[1:]), space.dtype.type)  # type: ignore[union-attr, arg-type]
        self._kept = np.zeros((0, *self.space.shape), self.space.dtype)

    def begin(self, observations: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Begins episodes of the worlds in the mask, with a past as `padding` says.

        Returns:
            What the policy sees of all worlds, `[N, K C, H, W]`, the caller's to keep.
        """
        if len(self._kept) != len(observations):
            self._kept = np.zeros((len(observations), *self.space.shape), self.space.dtype)
        first = self._see(observations[mask])
        self._kept[mask] = np.tile(first, (1, self.stack, 1, 1))
        if self.padding == "zeros":
            self._kept[mask, : -self._parts] = 0
        return self._kept.copy()

    def push(self, observations: np.ndarray) -> np.ndarray:
        """Adds the next observations of all worlds; returns what the policy sees, as `begin` does."""
        self._kept = np.concatenate([self._kept[:, self._parts :], self._see(observations)], 1)
        return self._kept.copy()

    def _see(self, observations: np.ndarray) -> np.ndarray:
        """Channels first `[N, C, H, W]`; grey by the weights of ITU-R BT.601, in whole numbers."""
        if not self.frames:
            return observations
        if self.gray and observations.shape[-1] == 3:
            weighted = observations.astype(np.uint16) @ np.array([77, 150, 29], np.uint16)
            return (weighted >> 8).astype(np.uint8)[:, None]
        return observations.transpose(0, 3, 1, 2)


class Remember(VectorWrapper):
    """Shows a policy the last observations, stacked; see `Memory` for the arguments."""

    def __init__(self, env: VectorEnv, gray: bool = False, stack: int = 1) -> None:
        super().__init__(env)
        self._memory = Memory(env.single_observation_space, gray, stack)
        self.single_observation_space = self._memory.space
        self.observation_space = batch_space(self._memory.space, self.num_envs)

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets some worlds; the others keep what they remember."""
        mask = reset_mask(options, self.num_envs)
        observations, infos = self.env.reset(seed=seed, options=None if options is None else dict(options))  # type: ignore[arg-type]
        return self._memory.begin(observations, mask), infos

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Steps, and remembers."""
        observations, *rest = self.env.step(actions)
        return self._memory.push(observations), *rest  # type: ignore[return-value]


def is_frame(space: gym.spaces.Space) -> bool:
    """Whether observations are frames uint8 `[H, W, 1 or 3]`."""
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.shape[2:] in ((1,), (3,))


def scaled(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions `[..., A]` in [-1, 1], in the ranges from `low` to `high` `[A]`; those of [-1, 1] stay to the bit."""
    return np.clip((low + high) / 2 + (high - low) / 2 * actions, low, high).astype(np.float32)


def reset_mask(options: dict[str, Any] | None, count: int) -> np.ndarray:
    """Which worlds a reset speaks of, bool `[count]`, as a copy."""
    return np.array((options or {}).get("reset_mask", np.ones(count, bool)))
