"""Random calls of environments, sensible ones and nonsense: each is taken and the dream goes on, or it is refused.

Bad is: an error of another kind than `ValueError` (`ResetNeeded` before the first reset), a refused call that changed
something, a sensible call that was refused, and an accepted call after which a step fails or gives numbers that are not
finite.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.models import DiTWorld

NONSENSE = [
    None, True, 0, -1, 3, 10**18, 10**400, 1.5, math.nan, math.inf, -1e38, 1j, "", "random", "0.5", b"", b"\x00" * 40,
    [], [[]], [0.0], [0.0, 0.0], [[0.0], [0.0, 0.0]], ["0", "1"], [None, None], {}, {"frames": 1}, {1: 2}, (), object(),
    len, np.zeros(0), np.zeros((3, 2)), np.zeros(2, complex), np.full((3, 2), np.nan), np.full(2, 1e300),
    np.ones(3, bool), np.array(["a", "b"]), np.array([object(), None]), np.array([1, 2], "datetime64[s]"),
    torch.zeros(2), torch.zeros(2, requires_grad=True), np.float64(0.3), np.int8(-1),
    np.broadcast_to(np.float32(1), (10**9, 2)),
]  # fmt: skip
NUMBERS = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e3, -1e5, 1e8, 1e9, -1e9, 1e20, 3e38, 1e300, math.nan, math.inf, -math.inf]
TURN = 30  # calls
SETTINGS = [
    {}, {"compile": True}, {"obs_type": "latent"}, {"obs_type": "latent", "compile": True, "sampling_steps": 2}
]  # fmt: skip


class Player:
    """Plays with one environment.

    Args:
        env: The environment, without wrappers.
        rng: Where the chance comes from.
    """

    def __init__(self, env: Any, rng: np.random.Generator) -> None:
        self.env, self.rng = env, rng
        self.many = getattr(env, "num_envs", 0)
        self.states: list[Any] = []

    def call(self) -> str:
        """Makes one call; returns its outcome, which is bad if it begins with "BAD"."""
        names = ["step", "reset", "set_state", "get_state", "fork", "render", "passes", "copy", "close"]
        name = self.rng.choice(names, p=[0.3, 0.26, 0.26, 0.03, 0.06, 0.02, 0.03, 0.03, 0.01])
        if name == "set_state" and not self.states and self.env._state is not None:
            name = "get_state"
        call, sensible = getattr(self, f"_{name}")()
        before = self._everything()
        try:
            call()
        except (ValueError, gym.error.ResetNeeded) as error:
            if isinstance(error, gym.error.ResetNeeded) and before["state"] is not None:
                return f"BAD {name}: {error!r} although it was reset"
            if sensible and before["state"] is not None:
                return f"BAD {name}: a sensible call was refused: {error}"
            after = self._everything()
            changed = [part for part in before if before[part] != after[part]]
            return f"BAD {name}: refused ({error}), but changed {changed}" if changed else f"{name} refused"
        except Exception as error:  # whatever comes is what is looked for
            return f"BAD {name}: {type(error).__name__}: {error}"
        try:
            wrong = self._goes_on()
        except Exception as error:
            return f"BAD {name}: afterwards {type(error).__name__}: {error}"
        return f"BAD {name}: afterwards {wrong}" if wrong else f"{name} taken"

    # -- calls: what to do, and whether it must be taken ---------------------------------------------------------

    def _step(self) -> tuple[Callable[[], Any], bool]:
        shape = (self.many, 2) if self.many else (2,)
        action = self.rng.uniform(-1, 1, shape).astype(np.float32)
        if self.rng.random() < 0.4:
            return lambda: self.env.step(action), not self._over()
        wrong = self._spoiled(action)
        return lambda: self.env.step(wrong), False

    def _reset(self) -> tuple[Callable[[], Any], bool]:
        seed = [None, int(self.rng.integers(2**31))][self.rng.integers(2)]
        options = self._options()
        if self.many and self.rng.random() < 0.4:
            mask = self.rng.random(self.many) < 0.5
            mask[0] = True
            options["reset_mask"] = mask
        if self.rng.random() < 0.4:
            return lambda: self.env.reset(seed=seed, options=options), True
        if self.rng.random() < 0.3:
            seed = self._junk()
        elif options and self.rng.random() < 0.9:
            name = sorted(options)[self.rng.integers(len(options))]
            options[name] = self._spoiled(options[name])
        else:
            options = self._junk()
        return lambda: self.env.reset(seed=seed, options=options), False

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        scenes = self.env.world.scenes
        kind = self.rng.integers(4)
        if kind == 0:
            options["scene"] = int(self.rng.integers(len(scenes)))
        elif kind == 1:
            scene = scenes[self.rng.integers(len(scenes))]
            options["scene"] = {name: value for name, value in vars(scene).items() if value is not None}
        if self.rng.random() < 0.4:
            turns = np.cumsum(self.rng.uniform(-0.3, 0.3, 60))
            options["route"] = np.cumsum(3 * np.stack([np.cos(turns), np.sin(turns)], 1), 0)
            options["closed"] = bool(self.rng.random() < 0.3)
        if "layout" in self.env.world.spec.conditions and self.rng.random() < 0.5:
            boxes = self.rng.uniform(-90, 90, (3, 2, 8))
            boxes[..., 3:6] = (4, 2, 1.6)
            options["layout"] = [np.zeros((0, 8)), *boxes]
        return options

    def _set_state(self) -> tuple[Callable[[], Any], bool]:
        if not self.states:
            return lambda: self.env.set_state(self._junk()), False
        state, rows = self.states[self.rng.integers(len(self.states))], None
        if self.many and self.rng.random() < 0.5:
            rows = self.rng.permutation(self.many)[: self.rng.integers(1, self.many + 1)].tolist()
            state = state.select(rows)
        given = state.to_bytes() if self.rng.random() < 0.3 else state
        if self.rng.random() < 0.4:
            return lambda: self._set(given, rows), True
        if rows is not None and self.rng.random() < 0.2:
            wrong_rows = self._spoiled(rows)
            return lambda: self.env.set_state(given, wrong_rows), False
        wrong = self._junk() if self.rng.random() < 0.1 else self._spoiled_state(given)
        return lambda: self._set(wrong, rows), False

    def _set(self, state: Any, rows: Any) -> None:
        return self.env.set_state(state, rows) if self.many else self.env.set_state(state)

    def _get_state(self) -> tuple[Callable[[], Any], bool]:
        if self.many and self.rng.random() < 0.5:
            rows = self._spoiled([0])
            return lambda: self.env.get_state(rows), False

        def keep() -> None:
            self.states = [*self.states[-4:], self.env.get_state()]

        return keep, True

    def _fork(self) -> tuple[Callable[[], Any], bool]:
        sensible = self.rng.random() < 0.5
        n, seeds = (3, [1, 2, 3]) if sensible else (self._junk(), self._junk())
        if not sensible and isinstance(n, int) and n > 9:
            n = 2
        where = [0] if self.many else []

        def fork() -> None:
            branches = self.env.fork(*where, n, seeds)
            branches.step(np.zeros((branches.num_envs, 2), np.float32))

        return fork, sensible and not self._over()

    def _render(self) -> tuple[Callable[[], Any], bool]:
        return self.env.render, True

    def _passes(self) -> tuple[Callable[[], Any], bool]:
        passes = self.rng.integers(1, 3) if self.rng.random() < 0.5 else self._junk()
        passes = 2 if isinstance(passes, int) and passes > 2 else passes  # many passes are slow, and no mistake
        return lambda: setattr(self.env, "sampling_steps", passes), False

    def _copy(self) -> tuple[Callable[[], Any], bool]:
        def change() -> None:
            by_deepcopy = self.rng.random() < 0.7
            self.env = copy.deepcopy(self.env) if by_deepcopy else pickle.loads(pickle.dumps(self.env))

        return change, True

    def _close(self) -> tuple[Callable[[], Any], bool]:
        return self.env.close, True

    # -- nonsense ------------------------------------------------------------------------------------------------

    def _junk(self) -> Any:
        return NONSENSE[self.rng.integers(len(NONSENSE))]

    def _spoiled(self, value: Any) -> Any:
        """A value with something wrong in it, perhaps."""
        if self.rng.random() < 0.3:
            return self._junk()
        if isinstance(value, dict) and value:
            name = list(value)[self.rng.integers(len(value))]
            changed = {**value, name: self._spoiled(value[name])}
            if self.rng.random() < 0.15:
                changed.pop(name)
            return changed
        if isinstance(value, (list, np.ndarray)) and len(value):
            array = np.array(value, object if isinstance(value, list) else value.dtype)
            kind = self.rng.integers(6)
            if kind <= 1:
                array = array.astype(object if array.dtype == object else np.float64)
                array.reshape(-1)[self.rng.integers(array.size)] = NUMBERS[self.rng.integers(len(NUMBERS))]
            elif kind == 2:
                array = array[: self.rng.integers(len(array))]
            elif kind == 3:
                array = array[..., None]
            elif kind == 4 and array.dtype != object:
                with np.errstate(over="ignore", invalid="ignore"):
                    array = array.astype(np.float64) * NUMBERS[self.rng.integers(len(NUMBERS))]
            else:
                array = np.concatenate([array, array])
            return array.tolist() if isinstance(value, list) else array
        return self._junk()

    def _spoiled_state(self, state: Any) -> Any:
        """A state with something wrong in it, perhaps."""
        if isinstance(state, bytes):
            data = bytearray(state)
            data[self.rng.integers(len(data))] ^= 1 << int(self.rng.integers(8))
            return bytes(data[: self.rng.integers(len(data))] if self.rng.random() < 0.3 else data)
        name = ["world"] * 6 + ["fingerprint", "random", "scene", "ended", "elapsed", "dt", "others"]
        part = name[self.rng.integers(len(name))]
        if part != "world":
            return replace(state, **{part: self._spoiled(getattr(state, part))})
        worlds = state.world.clone()
        chosen = fields(worlds)[self.rng.integers(len(fields(worlds)))].name
        tensor = getattr(worlds, chosen)
        kind = self.rng.integers(6)
        if kind <= 2 and tensor.numel():
            with np.errstate(over="ignore"):
                number = float(np.float32(NUMBERS[self.rng.integers(len(NUMBERS))]))
            if not tensor.is_floating_point():
                number = int(self.rng.choice([-1, 0, 1, 2, 767, 768, 2**40, -(2**62)]))
            tensor.view(-1)[self.rng.integers(tensor.numel())] = number
        elif kind == 3:
            setattr(worlds, chosen, tensor[..., : max(tensor.shape[-1] - 1, 0)])
        elif kind == 4:
            setattr(worlds, chosen, tensor.double() if tensor.is_floating_point() else tensor.float())
        else:
            setattr(worlds, chosen, self._junk())
        return replace(state, world=worlds)

    # -- what there is -------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        """Whether a world waits for its reset by hand."""
        return bool(self.many and self.env.autoreset_mode.value == "Disabled" and self.env._done.any())

    def _everything(self) -> dict[str, Any]:
        """All that a call could change."""
        env = self.env
        streams = (env._rngs, env._seeds) if self.many else [env._np_random, env._np_random_seed]
        state = None if env._state is None else env.get_state().to_bytes()
        drawn = [None if r is None else getattr(r, "bit_generator", r) for r in np.ravel(np.array(streams, object))]
        told = [getattr(value, "state", value) for value in drawn]
        return {"state": state, "streams": told, "passes": env.sampling_steps}

    def _goes_on(self) -> str:
        """Two steps and back; what is wrong with them, or nothing."""
        if self.env._state is None:
            return ""
        state = self.env.get_state()
        if self._over():
            over = self.env._done.copy()
            self.env.reset(options={"reset_mask": over})
        seeds = self.env._seeds if self.many else self.env._np_random_seed
        for _ in range(2):
            if self._over():
                break
            told = self.env.step(np.full((self.many, 2) if self.many else 2, 0.2, np.float32))
            if told[0] not in self.env.observation_space:
                return "an observation outside of its space"
            if not _finite(told[1:]):
                return f"numbers that are not finite: {told[1:]}"
        self.env.set_state(state)
        self.env._change(**({"_seeds": seeds} if self.many else {"_np_random_seed": seeds}))
        return ""


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_finite(part) for part in value.values())
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.dtype == object):
        return all(_finite(part) for part in value)
    return value is None or bool(np.isfinite(value).all())


def run(calls: int, seed: int, world: str | DiTWorld = "carracing") -> tuple[Counter[str], list[str]]:
    """Plays with environments.

    Args:
        calls: How many calls, in turns of thirty with each of the environments.
        seed: Decides them all.
        world: Which world.

    Returns:
        How often each outcome came, and a line for each bad one.
    """
    outcomes: Counter[str] = Counter()
    bad = []
    modes = ["NextStep", "SameStep", "Disabled"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(-(-calls // TURN)):
            rng = np.random.default_rng([seed, turn])
            settings: dict[str, Any] = {"world": world, "device": "cpu", "render_mode": "rgb_array"}
            settings |= SETTINGS[turn // 2 % len(SETTINGS)]
            if turn % 2:
                many = {"num_envs": 3, "max_episode_steps": 12, "autoreset_mode": modes[turn // 2 % 3]}
                env = gym.make_vec("DriveDiT-v0", **many, **settings)
            else:
                env = gym.make("DriveDiT-v0", **settings)
            player = Player(env.unwrapped, rng)
            for number in range(min(TURN, calls - TURN * turn)):
                outcome = player.call()
                outcomes["bad" if outcome.startswith("BAD") else outcome] += 1
                if outcome.startswith("BAD"):
                    bad.append(f"call {number} of turn {turn} of seed {seed}: {outcome[4:]}")
    return outcomes, bad
