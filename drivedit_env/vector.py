"""`gym.make_vec("DriveDiT-v0", num_envs=N)`: many dreams in one batched forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from drivedit.models import World, WorldState
from drivedit_env.base import DreamSettings
from drivedit_env.starts import Start, check_options, draw_start, enter
from drivedit_env.state import EnvState, restored

Infos = dict[str, Any]


class DriveDiTVectorEnv(DreamSettings, gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N dreams that start, end and are reset independently of each other, stepped together.

    Every row is the single environment `DriveDiT-v0` (see `DriveDiTEnv` for spaces, rewards and info): seeded with s it
    dreams what the single environment dreams when seeded with s, with the same noise bit for bit; frames differ by the
    rounding of batched matrix products.

    Args:
        num_envs: Number of worlds N.
        world: As in `DriveDiTEnv`, like the next five.
        render_mode: None or `"rgb_array"`: `render()` gives a tuple of N enlarged frames.
        obs_type: `"pixels"` or `"latent"`; with latents nothing is decoded.
        sampling_steps: Passes of the network for one frame.
        reward_weights: Weights of the reward terms.
        device: Where the worlds live.
        compile: As in `DriveDiTEnv`.
        max_episode_steps: Steps after which an episode is truncated; None: never. `gym.make_vec` gives 1000.
        autoreset_mode: `"NextStep"` (a step after an ending resets), `"SameStep"` (the ending step resets; the last
            observation and info are `info["final_obs"]`, `info["final_info"]`) or `"Disabled"` (the caller resets
            ended worlds with `options={"reset_mask": ...}` before the next step).

    Raises:
        ValueError: An argument has a value that is not allowed.
    """

    def __init__(
        self,
        num_envs: int = 1,
        world: str | Path | World = "carracing",
        render_mode: str | None = None,
        obs_type: str = "pixels",
        sampling_steps: int | None = None,
        reward_weights: dict[str, float] | None = None,
        device: str = "auto",
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        compile: bool = False,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs must be a whole number of at least 1, got {num_envs!r}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be None or at least 1, got {max_episode_steps}")
        self.num_envs, self.max_episode_steps = int(num_envs), max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.single_observation_space, self.single_action_space = self._configure(
            world, render_mode, obs_type, sampling_steps, reward_weights, device, compile
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        fps = self.world.config.fps
        self.metadata = {
            "render_modes": list(self.render_modes), "render_fps": fps, "autoreset_mode": self.autoreset_mode,
        }  # fmt: skip
        self._state: WorldState | None = None
        self._seen: np.ndarray | None = None  # the last observations, None after a change by hand
        self._rngs: list[np.random.Generator] = []
        self._seeds: list[int] = [-1] * self.num_envs
        self._scenes = np.full(self.num_envs, -1)
        self._elapsed = np.zeros(self.num_envs, int)
        self._done = np.zeros(self.num_envs, bool)

    # -- Gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Infos]:
        """Starts all dreams, or some.

        Args:
            seed: Of the first world, the others count on from it; or one per world; None: their streams go on.
            options: As for the single environment; `scene` may be a list with one entry per world. `reset_mask`, bool
                `[N]`, says which worlds are reset (all unless given).

        Returns:
            Observations of all worlds, and info of those that were reset.

        Raises:
            ValueError: An option or the number of seeds does not fit; nothing has been reset then.
        """
        options = dict(options or {})
        mask = self._check_mask(options.pop("reset_mask", None))
        seeds = self._check_seeds(seed)
        scenes = options.pop("scene", None)
        if not isinstance(scenes, (list, tuple, np.ndarray)):
            scenes = [scenes] * self.num_envs
        if len(scenes) != self.num_envs:
            raise ValueError(f"a list of scenes has one for each of the {self.num_envs} worlds, got {len(scenes)}")
        choices = [check_options({**options, "scene": scene}) for scene in scenes]
        rngs = copy.deepcopy(self._rngs) or [np.random.default_rng() for _ in range(self.num_envs)]
        for row in np.flatnonzero(mask):
            if seeds[row] is not None:
                rngs[row] = np_random(seeds[row])[0]
        starts = {int(row): draw_start(self.world, choices[row], rngs[row]) for row in np.flatnonzero(mask)}
        begun = self._begin(starts)
        self._rngs = rngs
        self._seeds = [s if s is not None else old for s, old in zip(seeds, self._seeds, strict=True)]
        infos = _zeros(begun, self.num_envs)
        _put(infos, mask, begun)
        return self._observe(np.flatnonzero(mask)), _masked(infos, mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Dreams one frame of every world under actions `[N, 2]`.

        Returns:
            Observations, rewards, terminations, truncations, infos.

        Raises:
            ValueError: The actions have another shape, hold NaN, or (autoreset disabled) a world has ended.
        """
        state = self._need_state("step")
        actions = self._check_actions(actions, (self.num_envs, 2))
        if self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            ended = np.flatnonzero(self._done).tolist()
            raise ValueError(f"worlds {ended} have ended; reset them first: reset(options={{'reset_mask': ...}})")
        fresh = self._done.copy() if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._done)
        self._state, out = self._dream(state, actions)
        rewards, terminated = self._rewards(out), out.ended.cpu().numpy() & ~fresh
        infos = {**self._infos(out), "scene": self._scenes.copy()}
        self._elapsed += 1
        limit = np.inf if self.max_episode_steps is None else self.max_episode_steps
        truncated = (self._elapsed >= limit) & ~fresh
        self._done = terminated | truncated
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        over = self._done.copy() if same_step else fresh
        finals = self._finals(infos, over) if same_step and over.any() else {}
        if over.any():
            starts = {int(row): draw_start(self.world, {}, self._rngs[row]) for row in np.flatnonzero(over)}
            _put(infos, over, self._begin(starts))
        rewards[fresh] = 0.0
        everyone = np.ones(self.num_envs, bool)
        return self._observe(), rewards, terminated, truncated, {**_masked(infos, everyone), **finals}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames of this moment, enlarged: N of uint8 [512, 512, 3] in render mode `rgb_array`; else None."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make_vec(..., render_mode='rgb_array')")
            return None
        frames = self._decode(self._need_state("render").latents[:, 0])
        return tuple(self._enlarge(frame) for frame in frames)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random stream of every world, from which resets without a seed draw."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed that every world was last given, -1 for none."""
        return tuple(self._seeds)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def get_state(self, rows: Sequence[int] | None = None) -> EnvState:
        """Everything that the future of some worlds (None: all) depends on, as a copy."""
        rows = self._check_rows(range(self.num_envs) if rows is None else rows)
        state = self._need_state("get_state").select(rows)
        random = [dict(self._rngs[row].bit_generator.state) for row in rows]
        lists = [values[rows].tolist() for values in (self._scenes, self._done, self._elapsed)]
        return EnvState(state, self._world_fingerprint(), random, *lists)

    def set_state(self, state: EnvState | bytes, rows: Sequence[int] | None = None) -> None:
        """Brings some worlds (None: all) to stored states, bit for bit; the others go on undisturbed.

        Raises:
            ValueError: The state belongs to another world, has another number of rows, or the bytes are damaged.
        """
        state = self._check_state(state)
        rows = self._check_rows(range(self.num_envs) if rows is None else rows)
        if len(state) != len(rows):
            raise ValueError(f"{len(rows)} worlds are to be set, but the state holds {len(state)}")
        if rows == list(range(self.num_envs)):
            return self._become(replace(state, world=state.world.clone()))
        self._need_state("set_state with some rows").write(rows, state.world)
        for row, random in zip(rows, state.random, strict=True):
            self._rngs[row] = restored(random)
        self._scenes[rows], self._done[rows], self._elapsed[rows] = state.scene, state.ended, state.elapsed
        self._seen = None

    def fork(self, index: int, n: int, seeds: Sequence[int] | None = None) -> DriveDiTVectorEnv:
        """Opens n worlds that go on from the present moment of one world; it is not disturbed.

        Args:
            index: The world.
            n: Branches.
            seeds: Of the branches' futures; None: all have the world's own future, so that branches with the same
                actions coincide bit for bit, and others differ by their actions alone (common random numbers).
        """
        return fork(self, self.get_state([index]), n, seeds)

    # -- inside --------------------------------------------------------------------------------------------------

    def _become(self, state: EnvState) -> None:
        """Takes over a state of all worlds, which is not copied."""
        self._state, self._rngs = state.world, [restored(random) for random in state.random]
        self._scenes[:], self._done[:], self._elapsed[:] = state.scene, state.ended, state.elapsed
        self._seen = None

    def _begin(self, starts: dict[int, Start]) -> Infos:
        """Puts worlds to their starts; returns their info, in arrays of just these worlds."""
        rows = list(starts)
        entered = [enter(self.world, start) for start in starts.values()]
        states = WorldState.cat([state for state, _ in entered])
        if len(rows) == self.num_envs:
            self._state = states
        else:
            self._need_state("a reset of some worlds").write(rows, states)
        self._scenes[rows] = [start.index for start in starts.values()]
        self._elapsed[rows], self._done[rows] = 0, False
        infos = _cat([self._infos(out) for _, out in entered])
        terms = {name: np.zeros_like(value) for name, value in infos["reward_terms"].items()}
        return {**infos, "reward_terms": terms, "scene": self._scenes[rows]}

    def _finals(self, infos: Infos, over: np.ndarray) -> Infos:
        """`final_obs` and `final_info` of the worlds that are over, as `SyncVectorEnv` gives them."""
        rows = np.flatnonzero(over)
        seen = self._observations(self._need_state("step").latents[rows, 0])
        observations = np.full(self.num_envs, None, dtype=object)
        for row, observation in zip(rows, seen, strict=True):
            observations[row] = observation
        final = _zeros(infos, self.num_envs)
        _put(final, over, _take(infos, over))
        final = _masked(final, over)
        return {"final_obs": observations, "_final_obs": over.copy(), "final_info": final, "_final_info": over.copy()}

    def _observe(self, changed: np.ndarray | None = None) -> np.ndarray:
        """The observations of this moment, of which only those of the `changed` worlds are new; None: all."""
        latents = self._need_state("step").latents[:, 0]
        if changed is None or self._seen is None or len(changed) == self.num_envs:
            self._seen = self._observations(latents)
        else:
            self._seen[changed] = self._observations(latents[torch.from_numpy(changed)])
        return self._seen.copy()

    def _check_mask(self, mask: Any) -> np.ndarray:
        """The mask of worlds to reset, or ValueError."""
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            kind = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ValueError(f"reset_mask must be a bool array [{self.num_envs}] with at least one True, got {kind}")
        if self._state is None and not mask.all():
            raise gym.error.ResetNeeded("reset all worlds before some of them")
        return mask

    def _check_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """One seed (or None) per world."""
        if seed is None or isinstance(seed, (int, np.integer)):
            return [None if seed is None else int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"a list of seeds has one for each of the {self.num_envs} worlds, got {len(seed)}")
        return [None if s is None else int(s) for s in seed]

    def _check_rows(self, rows: Sequence[int]) -> list[int]:
        """Rows as a list of numbers of worlds."""
        known = [int(row) for row in rows]
        if not known or min(known) < 0 or max(known) >= self.num_envs:
            raise ValueError(f"worlds are numbered 0 to {self.num_envs - 1}, got {known}")
        return known

    def _need_state(self, name: str) -> WorldState:
        """The state of this moment, or an error if there is none yet."""
        if self._state is None:
            raise gym.error.ResetNeeded(f"call reset() before {name}()")
        return self._state


def fork(env: DreamSettings, state: EnvState, n: int, seeds: Sequence[int] | None = None) -> DriveDiTVectorEnv:
    """Opens n worlds with the settings of an environment that go on from a state of one world.

    Raises:
        ValueError: There are not n seeds.
    """
    if seeds is not None and len(seeds) != n:
        raise ValueError(f"{n} branches need {n} seeds, got {len(seeds)}")
    render_mode = None if env.render_mode == "human" else env.render_mode  # a window has room for one world
    branches = DriveDiTVectorEnv(
        n, env.world, render_mode, env.obs_type, env.sampling_steps, env.reward_weights,
        max_episode_steps=getattr(env, "max_episode_steps", None),
        autoreset_mode=getattr(env, "autoreset_mode", AutoresetMode.NEXT_STEP), compile=env.compile,
    )  # fmt: skip
    state = state.select([0] * n)
    if seeds is not None:
        state.world.seeds.copy_(torch.tensor([int(seed) for seed in seeds]))
    branches._become(state)
    return branches


def _zeros(infos: Infos, count: int) -> Infos:
    """The same dictionaries with zeros for `count` worlds."""
    return _each(infos, lambda value: np.zeros(count, value.dtype))


def _take(infos: Infos, mask: np.ndarray) -> Infos:
    """The values of the worlds in the mask."""
    return _each(infos, lambda value: value[mask])


def _each(infos: Infos, change: Callable[[np.ndarray], np.ndarray]) -> Infos:
    return {name: _each(value, change) if isinstance(value, dict) else change(value) for name, value in infos.items()}


def _put(infos: Infos, mask: np.ndarray, values: Infos) -> None:
    """Overwrites the values of the worlds in the mask."""
    for name, value in values.items():
        if isinstance(value, dict):
            _put(infos[name], mask, value)
        else:
            infos[name][mask] = value


def _cat(infos: Sequence[Infos]) -> Infos:
    """Infos of several worlds one after another."""
    joined: Infos = {}
    for name, value in infos[0].items():
        parts = [info[name] for info in infos]
        joined[name] = _cat(parts) if isinstance(value, dict) else np.concatenate(parts)
    return joined


def _masked(infos: Infos, mask: np.ndarray) -> Infos:
    """Adds Gymnasium's masks: which worlds each value belongs to."""
    masked: Infos = {}
    for name, value in infos.items():
        masked[name] = _masked(value, mask) if isinstance(value, dict) else value
        masked[f"_{name}"] = mask.copy()
    return masked
