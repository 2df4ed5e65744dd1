"""`gym.make_vec("DriveDiT-v0", num_envs=N)`: many dreams in one batched forward pass."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from drivedit.config import DEFAULT_WORLD
from drivedit.inference.layouts import Source, with_functions
from drivedit.inference.starts import Start, draw_start, enter, follow, naming, options_of_rows
from drivedit.models import RowState, World
from drivedit.utils import check_seed, restored, stream, whole_number
from drivedit.utils.pictures import enlarged
from drivedit_env.base import PIXELS, RENDER_HEIGHT, DreamSettings, Observations, copied, rows_of
from drivedit_env.infos import Infos, cat, masked, put, take, zeros
from drivedit_env.readout import make_readout, read_rows
from drivedit_env.state import EnvState


class DriveDiTVectorEnv(DreamSettings, gym.vector.VectorEnv[Observations, np.ndarray, np.ndarray]):
    """N dreams that start, end and are reset independently of each other, stepped together.

    Every row is the single environment `DriveDiT-v0` (see `DriveDiTEnv` for spaces, rewards and info): seeded with s it
    dreams what the single environment dreams when seeded with s, with the same noise bit for bit; frames differ by the
    rounding of batched matrix products.

    Args:
        num_envs: Number of worlds N.
        world: As in `DriveDiTEnv`, like the next five.
        render_mode: None or `"rgb_array"`: `render()` gives a tuple of N enlarged frames. `"rgb_array_list"`: a tuple
            of N lists, the frames of each world's episode since the last `render()`.
        obs_type: As in `DriveDiTEnv`; with latents alone nothing is decoded.
        sampling_steps: Passes of the network for one frame.
        reward_weights: Weights of the reward terms.
        device: Where the worlds live.
        compile: As in `DriveDiTEnv`.
        max_episode_steps: Steps after which an episode is truncated; None: never. `gym.make_vec` gives 1000.
        autoreset_mode: `"NextStep"` (a step after an ending resets), `"SameStep"` (the ending step resets; the last
            observation and info are `info["final_obs"]`, `info["final_info"]`) or `"Disabled"` (the caller resets
            ended worlds with `options={"reset_mask": ...}` before the next step).
        guidance: As in `DriveDiTEnv`.
        adapter: As in `DriveDiTEnv`.
        readout: As in `DriveDiTEnv`; `info["_agents"]` says whose pictures were read. What `final_info` has was not.
        readout_every: As in `DriveDiTEnv`, counted in each world from its start.

    Raises:
        ValueError: An argument has a value that is not allowed.
    """

    render_modes = ("rgb_array", "rgb_array_list")

    def __init__(
        self,
        num_envs: int = 1,
        world: str | Path | World = DEFAULT_WORLD,
        render_mode: str | None = None,
        obs_type: str | Sequence[str] = "pixels",
        sampling_steps: int | None = None,
        reward_weights: dict[str, float] | None = None,
        device: str = "auto",
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        compile: bool = False,
        guidance: float = 1.0,
        adapter: str | Path | None = None,
        readout: Any = False,
        readout_every: int = 1,
    ) -> None:
        self.num_envs = whole_number(num_envs, "num_envs must be a whole number of at least 1", 1, sys.maxsize)
        if max_episode_steps is not None:
            whole_number(max_episode_steps, "max_episode_steps must be None or at least 1", 1, sys.maxsize)
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.single_observation_space, self.single_action_space = self._configure(
            world, render_mode, obs_type, sampling_steps, reward_weights, device, compile, guidance, adapter
        )
        self._read_by(make_readout(readout, readout_every, world, device))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {"render_modes": list(self.render_modes), "render_fps": self.world.spec.fps}
        self.metadata["autoreset_mode"] = self.autoreset_mode
        self._state: RowState | None = None
        self._seen: Observations = None  # the last observations, None after a change by hand
        streams = [stream(None, None, None) for _ in range(self.num_envs)]
        self._rngs, self._seeds = (list(parts) for parts in zip(*streams, strict=True))
        self._films: list[list[np.ndarray]] = [[] for _ in range(self.num_envs)]  # of mode rgb_array_list
        self._scenes = np.full(self.num_envs, -1)
        self._elapsed = np.zeros(self.num_envs, int)
        self._done = np.zeros(self.num_envs, bool)
        self._others: list[Source] = [None] * self.num_envs

    # -- Gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Starts all dreams, or some.

        Args:
            seed: Of the first world, the others count on from it; or one per world; None: their streams go on.
            options: As for the single environment, each for all worlds or a dictionary by number of the world:
                `{"layout": {0: boxes, 3: log}}` tells worlds 0 and 3 who is there, and the others dream them. `scene`
                may also be a list with one entry per world. `reset_mask`, bool `[N]`, says which worlds are reset (all
                unless given). Resets of their own take no options.

        Returns:
            Observations of all worlds, and info of those that were reset.

        Raises:
            ValueError: An option, whose world is named, or the number of seeds does not fit; nothing has been reset
                then.
        """
        if not isinstance(options, (Mapping, type(None))):
            raise ValueError(f"reset options are a dictionary, got {options!r}")
        options = dict(options or {})
        mask = self._check_mask(options.pop("reset_mask", None))
        seeds = self._check_seeds(seed)
        rows = np.flatnonzero(mask)
        choices = options_of_rows(options, rows.tolist(), self.num_envs)
        rngs, numbers = list(self._rngs), list(self._seeds)
        starts: dict[int, Start] = {}
        for row, choice in choices.items():
            rngs[row], numbers[row] = stream(seeds[row], rngs[row], numbers[row])
            with naming(row, self.num_envs):
                starts[row] = draw_start(self.world, choice, rngs[row])
        dt = self._chosen_intervals(choices)
        states, begun = self._enter(starts)
        state = states if mask.all() else _with_rows(self._need_state("a reset of some worlds"), rows, states)
        infos = zeros(begun, self.num_envs)
        put(infos, mask, begun)
        scenes, elapsed, done = (values.copy() for values in (self._scenes, self._elapsed, self._done))
        scenes[mask], elapsed[mask], done[mask] = begun["scene"], 0, False
        others = [starts[row].others if row in starts else each for row, each in enumerate(self._others)]
        seen = self._look(state, states, rows)
        self._change(
            _state=state, _seen=seen, _rngs=rngs, _seeds=numbers, _scenes=scenes, _elapsed=elapsed, _done=done,
            _others=others, _films=self._filmed(state, seen, mask, mask), _dt=dt,
        )  # fmt: skip
        return copied(seen), {**masked(infos, mask), **self._agents(state, seen, None, elapsed, scenes, mask, mask)}

    def step(self, actions: np.ndarray) -> tuple[Observations, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Dreams one frame of every world under actions `[N, A]`.

        Returns:
            Observations, rewards, terminations, truncations, infos.

        Raises:
            ValueError: The actions have another shape, hold NaN, or (autoreset disabled) a world has ended.
        """
        state = self._need_state("step")
        actions = self._check_actions(actions, self.num_envs)
        if self.autoreset_mode is AutoresetMode.DISABLED and self._done.any():
            ended = np.flatnonzero(self._done).tolist()
            raise ValueError(f"worlds {ended} have ended; reset them first: reset(options={{'reset_mask': ...}})")
        before = self._shown(state, self._seen) if self._reads(self._elapsed + 1) else None
        fresh = self._done.copy() if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._done)
        state, out = self._dream(state, actions)
        elapsed, rngs, everyone = self._elapsed + 1, self._rngs, np.ones(self.num_envs, bool)
        others = [None if begins else source for begins, source in zip(fresh, self._others, strict=True)]
        state = follow(self.world, state, others, elapsed.tolist())
        infos = {**self._infos(out, state, elapsed), "scene": self._scenes.copy()}
        rewards, terminated = self._reward(infos), out.ended.cpu().numpy() & ~fresh
        limit = np.inf if self.max_episode_steps is None else self.max_episode_steps
        truncated = (elapsed >= limit) & ~fresh
        done = terminated | truncated
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        over = done.copy() if same_step else fresh
        finals = self._finals(state, infos, over) if same_step and over.any() else {}
        if over.any():
            rngs, rows = list(rngs), np.flatnonzero(over)
            for row in rows:
                rngs[row] = copy.deepcopy(rngs[row])
            states, begun = self._enter({int(row): draw_start(self.world, {}, rngs[row]) for row in rows})
            state = states if over.all() else _with_rows(state, rows, states)
            put(infos, over, begun)
            elapsed[over], done[over] = 0, False
            others = [None if begins else source for begins, source in zip(over, others, strict=True)]
        rewards[fresh] = 0.0
        seen = self._look(state)
        self._change(
            _state=state, _seen=seen, _rngs=rngs, _scenes=infos["scene"].copy(), _elapsed=elapsed, _done=done,
            _others=others, _films=self._filmed(state, seen, everyone, over),
        )  # fmt: skip
        read = self._agents(state, seen, before, elapsed, infos["scene"], everyone, over)
        return copied(seen), rewards, terminated, truncated, {**masked(infos, everyone), **finals, **read}

    def render(self) -> tuple[np.ndarray | list[np.ndarray], ...] | None:
        """The frames of this moment, enlarged: N of uint8 [512, 512, 3], or N lists of them (see `render_mode`)."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make_vec(..., render_mode='rgb_array')")
            return None
        if self.render_mode == "rgb_array_list":
            films, self._films = self._films, [[] for _ in range(self.num_envs)]
            return tuple([enlarged(frame, RENDER_HEIGHT) for frame in film] for film in films)
        return tuple(enlarged(frame, RENDER_HEIGHT) for frame in self._pictures(self._need_state("render")))

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random stream of every world, from which resets without a seed draw."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of every world's random stream; -1 where a stored state has brought the stream."""
        return tuple(self._seeds)

    @property
    def poses(self) -> np.ndarray:
        """Where the cars are, float64 `[N, 3]`; see `DriveDiTEnv.pose`."""
        return self.world.poses(self._need_state("poses")).double().cpu().numpy()

    # -- snapshots -----------------------------------------------------------------------------------------------

    def get_state(self, rows: Sequence[int] | None = None) -> EnvState:
        """Everything that the future of some worlds (None: all) depends on, as a copy."""
        rows = self._check_rows(range(self.num_envs) if rows is None else rows)
        state = self._need_state("get_state").select(rows)
        random = [dict(self._rngs[row].bit_generator.state) for row in rows]
        lists = [values[rows].tolist() for values in (self._scenes, self._done, self._elapsed, self.dt)]
        return EnvState(state, self._world_fingerprint(), random, *lists, others=[self._others[row] for row in rows])

    def set_state(self, state: EnvState | bytes, rows: Sequence[int] | None = None) -> None:
        """Brings some worlds (None: all) to stored states, bit for bit; the others go on undisturbed.

        Raises:
            ValueError: It is no state, belongs to another world, has another number of rows, is damaged, or a row is
                named twice; nothing has changed then.
        """
        state = self._check_state(state)
        rows = self._check_rows(range(self.num_envs) if rows is None else rows)
        if len(state) != len(rows):
            raise ValueError(f"{len(rows)} worlds are to be set, but the state holds {len(state)}")
        if len(set(rows)) != len(rows):
            raise ValueError(f"a world can be set to one state only, got the worlds {rows}")
        if rows == list(range(self.num_envs)):
            return self._become(state, state.world.clone())
        worlds = _with_rows(self._need_state("set_state with some rows"), rows, state.world)
        self._become(state, worlds, rows)

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

    def _become(self, state: EnvState, worlds: RowState, rows: Sequence[int] | None = None) -> None:
        """Takes over worlds, which are not copied, and what else is stored of those in `rows` (None: of all)."""
        rows = list(range(self.num_envs)) if rows is None else rows
        rngs, seeds, films, others = list(self._rngs), list(self._seeds), list(self._films), list(self._others)
        sources = with_functions(state.others, [others[row] for row in rows])
        for row, random, source in zip(rows, state.random, sources, strict=True):
            rngs[row], seeds[row], films[row], others[row] = restored(random), -1, [], source
        scenes, elapsed, done = (values.copy() for values in (self._scenes, self._elapsed, self._done))
        scenes[rows], elapsed[rows], done[rows] = state.scene, state.elapsed, state.ended
        seconds = self.dt
        seconds[rows] = state.dt
        self._change(
            _state=worlds, _seen=None, _rngs=rngs, _seeds=seeds, _films=films, _scenes=scenes, _elapsed=elapsed,
            _done=done, _others=others, _dt=self._intervals(seconds, self.num_envs),
        )  # fmt: skip

    def _enter(self, starts: dict[int, Start]) -> tuple[RowState, Infos]:
        """States of worlds at their starts and their info, in rows of just these worlds."""
        entered = [enter(self.world, start) for start in starts.values()]
        infos = cat([self._infos(out, state, np.zeros(1, int)) for state, out in entered])
        terms = {name: np.zeros_like(value) for name, value in infos["reward_terms"].items()}
        scenes = np.array([start.index for start in starts.values()])
        return self.world.State.cat([state for state, _ in entered]), {**infos, "reward_terms": terms, "scene": scenes}

    def _finals(self, state: RowState, infos: Infos, over: np.ndarray) -> Infos:
        """`final_obs` and `final_info` of the worlds that are over, as `SyncVectorEnv` gives them."""
        rows = np.flatnonzero(over)
        seen = self._observations(state.select(rows.tolist()))
        observations = np.full(self.num_envs, None, dtype=object)
        for index, row in enumerate(rows):
            observations[row] = rows_of(seen, index)
        final = zeros(infos, self.num_envs)
        put(final, over, take(infos, over))
        final = masked(final, over)
        return {"final_obs": observations, "_final_obs": over.copy(), "final_info": final, "_final_info": over.copy()}

    def _look(self, state: RowState, new: RowState | None = None, rows: np.ndarray | None = None) -> Observations:
        """The observations of a state; of which only `rows`, that `new` is the state of, are not known; None: all."""
        if new is None or rows is None or self._seen is None or len(rows) == self.num_envs:
            return self._observations(state)
        seen, changed = copied(self._seen), self._observations(new)
        for whole, part in zip(_arrays(seen), _arrays(changed), strict=True):
            whole[rows] = part
        return seen

    def _shown(self, state: RowState, seen: Observations) -> np.ndarray:
        """The pictures of a state, of whose observations they may be."""
        return seen if self.obs_type == PIXELS and seen is not None else self._pictures(state)

    def _agents(
        self, state: RowState, seen: Observations, before: np.ndarray | None, elapsed: np.ndarray, scenes: np.ndarray,
        moved: np.ndarray, begun: np.ndarray,
    ) -> Infos:  # fmt: skip
        """What info tells of agents in the `moved` worlds, some of which have `begun`."""
        if self._readout is None or not self._reads(elapsed[moved]):
            return {}
        return read_rows(self._readout, self._shown(state, seen), before, elapsed, scenes, moved, begun)

    def _filmed(
        self, state: RowState, seen: Observations, moved: np.ndarray, begun: np.ndarray
    ) -> list[list[np.ndarray]]:
        """The films with the frames of the `moved` worlds, of those that have `begun` from now on."""
        if self.render_mode != "rgb_array_list":
            return self._films
        frames = seen if self.obs_type == PIXELS else self._pictures(state)
        films = [[] if fresh else film for film, fresh in zip(self._films, begun, strict=True)]
        return [[*film, frame] if new else film for film, frame, new in zip(films, frames, moved, strict=True)]

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
        if not isinstance(seed, (Sequence, np.ndarray)) or isinstance(seed, (str, bytes)):
            first = check_seed(seed)
            return [None if first is None else first + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"a list of seeds has one for each of the {self.num_envs} worlds, got {len(seed)}")
        return [check_seed(s) for s in seed]

    def _check_rows(self, rows: Sequence[int]) -> list[int]:
        """Rows as a list of numbers of worlds."""
        expected = f"worlds are numbered 0 to {self.num_envs - 1}, and rows is a list with at least one of them"
        if not isinstance(rows, (Sequence, np.ndarray)) or len(rows) == 0:
            raise ValueError(f"{expected}, got {rows!r}")
        return [whole_number(row, expected, 0, self.num_envs - 1) for row in rows]

    def _need_state(self, name: str) -> RowState:
        """The state of this moment, or an error if there is none yet."""
        if self._state is None:
            raise gym.error.ResetNeeded(f"call reset() before {name}()")
        return self._state


def fork(env: DreamSettings, state: EnvState, n: int, seeds: Sequence[int] | None = None) -> DriveDiTVectorEnv:
    """Opens n worlds with the settings of an environment that go on from a state of one world.

    Raises:
        ValueError: There are not n seeds, or one is no seed.
    """
    n = whole_number(n, "a fork has a whole number of branches, at least 1", 1, sys.maxsize)
    if seeds is not None and (not isinstance(seeds, (Sequence, np.ndarray)) or len(seeds) != n):
        raise ValueError(f"{n} branches need {n} seeds, got {seeds!r}")
    futures = [
        whole_number(seed, "seeds of futures are whole numbers below 2^63", 0, 2**63 - 1)
        for seed in (() if seeds is None else seeds)
    ]
    render_mode = None if env.render_mode == "human" else env.render_mode  # a window has room for one world
    branches = DriveDiTVectorEnv(
        n, env.world, render_mode, env.obs_type, env.sampling_steps, env.reward_weights,
        max_episode_steps=getattr(env, "max_episode_steps", None),
        autoreset_mode=getattr(env, "autoreset_mode", AutoresetMode.NEXT_STEP), compile=env.compile,
        guidance=env.guidance, readout=env._readout,
    )  # fmt: skip
    state = state.select([0] * n)
    if futures:
        state.world = env.world.reseed(state.world, futures)
    branches._become(state, state.world)
    return branches


def _arrays(seen: Observations) -> list[np.ndarray]:
    """The arrays of observations."""
    return list(seen.values()) if isinstance(seen, dict) else [seen]


def _with_rows(state: RowState, rows: Sequence[int] | np.ndarray, others: RowState) -> RowState:
    """A new state in which rows are those of another; the old one is left alone."""
    changed = state.clone()
    changed.write(list(rows), others)
    return changed
