"""A Gymnasium vector environment as a Stable-Baselines3 `VecEnv`, without copying worlds into processes.

Gymnasium returns terminated and truncated apart and info as a dictionary of arrays; SB3 wants one `done`, a list of
infos with `terminal_observation` and `TimeLimit.truncated`, and the first observation of the next episode at once. The
vector environment must not reset by itself (autoreset mode `Disabled`), so wrappers may end episodes of their own.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from drivedit.agents.dreams import warn_without_rewards
from drivedit.utils import extra

with extra("agents", "training agents"):
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


def open_vector(env_id: str, num_envs: int, max_episode_steps: int | None = None, **settings: Any) -> VectorEnv:
    """Opens a vector environment whose episodes the caller resets; warns of a dream without rewards.

    Args:
        env_id: Id of the environment; one with a vector form of its own is opened in that form.
        num_envs: How many.
        max_episode_steps: Steps after which an episode is truncated; None: as registered.
        settings: Of the environment.

    Raises:
        ValueError: An environment that is no dream was to be compiled.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)  # it registers the environment
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    if gym.spec(name).vector_entry_point is not None:
        env = gym.make_vec(env_id, num_envs, autoreset_mode="Disabled", **limit, **settings)
        warn_without_rewards(env)
        return env
    if settings.get("compile"):
        raise ValueError(f"only a dream can be compiled, {env_id} is none")
    makers = [lambda: gym.make(env_id, **limit, **settings)] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)


class SB3VecEnv(VecEnv):
    """Lets Stable-Baselines3 train in a Gymnasium vector environment, the native one of `DriveDiT-v0` included.

    It behaves as SB3's `DummyVecEnv` over the same single environments, with one call for all of them.

    Args:
        env: Opened with autoreset mode `Disabled` (`open_vector` does), with array observations.

    Raises:
        ValueError: The environment resets by itself, or its observations are no arrays.
    """

    def __init__(self, env: VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(f"open the vector environment with autoreset_mode='Disabled', got {mode!r}")
        if isinstance(env.single_observation_space, (gym.spaces.Dict, gym.spaces.Tuple)):
            raise ValueError(f"the observations must be arrays, got {env.single_observation_space}")
        self.env, self._actions = env, np.zeros(0)
        self.metadata = env.metadata
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    # -- stepping ------------------------------------------------------------------------------------------------

    def reset(self) -> np.ndarray:
        """Resets all worlds, with the seeds and options that were set before; both are used once."""
        if any(options != self._options[0] for options in self._options):
            raise ValueError(f"a vector environment has the same reset options for all worlds, got {self._options}")
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observations, infos = self.env.reset(seed=seeds, options=dict(self._options[0]) or None)  # type: ignore[arg-type]
        self.reset_infos = split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return np.array(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps all worlds and resets those that have ended.

        Returns:
            Observations `[N, ...]`, rewards float32 `[N]`, dones bool `[N]`, and one info per world.
        """
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        observations = np.array(observations)
        rows, dones = split_infos(infos, self.num_envs), np.logical_or(terminated, truncated)
        for row, info in enumerate(rows):
            info["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        if dones.any():
            fresh, begun = self.env.reset(options={"reset_mask": dones.copy()})
            begun = split_infos(begun, self.num_envs)
            for row in np.flatnonzero(dones):
                rows[row]["terminal_observation"] = observations[row].copy()
                self.reset_infos[row] = begun[row]
            observations[dones] = np.asarray(fresh)[dones]
        return observations, np.asarray(rewards, np.float32), dones, rows

    def close(self) -> None:
        """Closes the vector environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture of every world."""
        images: Any = self.env.render()
        return [None] * self.num_envs if images is None else list(images)

    # -- looking inside ------------------------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """An attribute of some worlds; one of a native vector environment is the same for all of them."""
        rows, base = list(self._get_indices(indices)), self.env.unwrapped
        if isinstance(base, AsyncVectorEnv):
            values = base.get_attr(attr_name)
            return [values[row] for row in rows]
        if isinstance(base, SyncVectorEnv):
            return [base.envs[row].get_wrapper_attr(attr_name) for row in rows]
        return [getattr(base, attr_name)] * len(rows)

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Sets an attribute of some worlds; of a native vector environment, one that exists, for all worlds."""
        rows, base = list(self._get_indices(indices)), self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            for row in rows:
                setattr(base.envs[row], attr_name, value)
            return
        self._need_all(rows, f"attribute {attr_name!r}")
        if isinstance(base, AsyncVectorEnv):
            base.set_attr(attr_name, [value] * self.num_envs)
            return
        getattr(base, attr_name)  # a typing error is an AttributeError, not a new attribute
        setattr(base, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method for each of some worlds.

        A native vector environment is asked once per world, with `rows=[world]` or `index=world`, whichever its
        method takes.
        """
        rows, base = list(self._get_indices(indices)), self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            methods = [base.envs[row].get_wrapper_attr(method_name) for row in rows]
            return [method(*method_args, **method_kwargs) for method in methods]
        if isinstance(base, AsyncVectorEnv):
            self._need_all(rows, f"method {method_name!r}")
            return list(base.call(method_name, *method_args, **method_kwargs))
        method = getattr(base, method_name)
        known = inspect.signature(method).parameters
        if "rows" in known:
            return [method(*method_args, rows=[row], **method_kwargs) for row in rows]
        if "index" in known:
            return [method(row, *method_args, **method_kwargs) for row in rows]
        raise ValueError(f"method {method_name!r} of {type(base).__name__} speaks of all worlds; call it on .env")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: int | Iterable[int] | None = None
    ) -> list[bool]:
        """Whether the single environments are wrapped; a native vector environment has none."""
        rows, base = list(self._get_indices(indices)), self.env.unwrapped
        if not isinstance(base, SyncVectorEnv):
            return [False] * len(rows)
        from stable_baselines3.common.env_util import is_wrapped

        return [is_wrapped(base.envs[row], wrapper_class) for row in rows]

    def _need_all(self, rows: list[int], what: str) -> None:
        if rows != list(range(self.num_envs)):
            raise ValueError(f"{what} belongs to all {self.num_envs} worlds together, got indices {rows}")


class ScaledReward(VecEnvWrapper):
    """Multiplies the rewards that the algorithm learns from; monitors inside of it see the unscaled ones.

    Args:
        venv: The environment.
        scale: The factor.
    """

    def __init__(self, venv: VecEnv, scale: float) -> None:
        super().__init__(venv)
        self.scale = scale

    def reset(self) -> Any:
        """Resets all worlds."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Steps all worlds."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards * self.scale, dones, infos


def split_infos(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Turns Gymnasium's dictionary of arrays into one info per world, in Python's own numbers.

    Args:
        infos: Arrays `[count]`, or dictionaries of them, each with a mask `_name` of the worlds that it speaks of.
        count: Number of worlds.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, value in infos.items():
        if name.startswith("_"):
            continue
        parts = split_infos(value, count) if isinstance(value, dict) else value
        for row in np.flatnonzero(infos.get(f"_{name}", np.ones(count, bool))):
            part = parts[row]
            rows[row][name] = part.item() if isinstance(part, np.generic) else part
    return rows
