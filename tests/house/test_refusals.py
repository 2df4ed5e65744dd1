"""What is no action, state, seed or option is refused with a ValueError, and a refused call has changed nothing."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from drivedit_env.env import DriveDiTEnv
from drivedit_env.state import EnvState
from drivedit_env.vector import DriveDiTVectorEnv

NO_ACTIONS = [
    10**400, [10**400, 0], "left", ["0.1", "0.2"], None, [None, None], object(), [object(), 0], 1j, [1j, 0], {}, b"00",
    [[0.0], [0.0, 0.0]], [0.0, math.nan], np.array([0, 1], "datetime64[s]"), torch.zeros(2, requires_grad=True),
]  # fmt: skip
NO_STATES = [None, [], 3, "state", {}, object(), b"", bytearray(8)]
CIRCLE = 30 * np.stack([np.cos(np.arange(40) / 6), np.sin(np.arange(40) / 6)], 1)


def everything(env: Any) -> list[Any]:
    """All that a call could change."""
    seeds = (env._np_random, env._np_random_seed) if isinstance(env, DriveDiTEnv) else (env._rngs, env._seeds)
    return [env.get_state().to_bytes(), repr(seeds)]


@pytest.fixture
def env(fast_world) -> Any:
    env = DriveDiTEnv(fast_world, obs_type="latent")
    env.reset(seed=1)
    return env


@pytest.fixture
def envs(fast_world) -> Any:
    envs = DriveDiTVectorEnv(3, fast_world, obs_type="latent")
    envs.reset(seed=1)
    return envs


def test_what_is_no_action(env, envs):
    before = [everything(env), everything(envs)]
    for action in NO_ACTIONS:
        with pytest.raises(ValueError, match="2 numbers"):
            env.step(action)
        with pytest.raises(ValueError, match=r"array \[3, 2\]"):
            envs.step([action] * 3)
    assert before == [everything(env), everything(envs)]


def broken_states(state: EnvState) -> list[EnvState]:
    """The state with one thing wrong, in many ways."""
    states = []
    for name, value in [
        ("pose", math.nan), ("motion", math.inf), ("latents", math.nan), ("pose", 1e38), ("points", math.nan),
        ("clock", -(10**7)), ("count", 2**40), ("spacing", math.nan),
    ]:  # fmt: skip
        world = state.world.clone()
        getattr(world, name).view(-1)[-1] = value
        states.append(replace(state, world=world))
    states += [replace(state, world=replace(state.world, v=state.world.v[..., :1])), replace(state, world=None)]
    random = copy.deepcopy(state.random)
    random[-1]["state"]["inc"] = 4.5
    for wrong in (
        {"random": random}, {"random": [None] * len(state)}, {"random": state.random[:-1]}, {"random": None},
        {"scene": [99] * len(state)}, {"scene": ["0"] * len(state)}, {"ended": [2] * len(state)}, {"elapsed": 3},
        {"elapsed": [-1] * len(state)}, {"fingerprint": None},
    ):  # fmt: skip
        states.append(replace(state, **wrong))
    return states


def test_what_is_no_state(env, envs):
    some = envs.get_state([0, 2])
    env.step([0.1, 0.1])
    envs.step(np.zeros((3, 2)))
    before = [everything(env), everything(envs)]
    for wrong in [*NO_STATES, *broken_states(env.get_state())]:
        with pytest.raises(ValueError):
            env.set_state(wrong)
    for wrong in [*NO_STATES, *broken_states(some)]:
        with pytest.raises(ValueError):
            envs.set_state(wrong, rows=[1, 2])
    for rows in ([1, 1], [0], [0, 3], [0, 1.5], [True, 2], [], "01", 1, [None, 0]):
        with pytest.raises(ValueError):
            envs.set_state(some, rows=rows)
    assert before == [everything(env), everything(envs)]


def broken_scenes(scene: dict[str, Any]) -> list[Any]:
    jump = scene["poses"].copy()
    jump[-1, 0] += 1e6
    million = np.broadcast_to(np.zeros((), np.uint8), (10**9, 64, 64, 3))
    changes: list[dict[Any, Any]] = [
        {"poses": jump}, {"poses": scene["poses"] * 1e30}, {"poses": scene["poses"] * np.nan}, {"poses": "here"},
        {"route": CIRCLE * 1e38}, {"route": [[0, 0], [10**400, 0]]}, {"route": [["a", "b"], ["c", "d"]]},
        {"route": np.broadcast_to(np.float32(1), (10**8, 2))}, {"closed": "yes"}, {"bounds": [1, 2, 3]},
        {"bounds": [0, 0, math.nan, 1]}, {"bounds": "all"}, {"controls": scene["controls"] * 99},
        {"controls": [[None, 0.0]] * 5}, {"frames": million}, {"frames": "film"}, {"frames": None}, {3: 4},
    ]  # fmt: skip
    return [{**scene, **change} for change in changes]


def test_what_is_no_start(fast_world, env, envs):
    names = ("frames", "controls", "route", "closed", "poses")
    scene = {name: getattr(fast_world.scenes[0], name) for name in names}
    options = [{"scene": wrong} for wrong in broken_scenes(scene)]
    options += [{"scene": wrong} for wrong in (9, -1, 1.0, "first", object(), [], 10**400, math.nan)]
    options += [
        {"route": wrong}
        for wrong in (
            CIRCLE * 1e38, CIRCLE * np.nan, "round", 3, [[0, 0], [1j, 9]], [[0, 0], [9]], [["0", "0"], ["99", "0"]],
            np.broadcast_to(np.float32(7), (10**8, 2)), CIRCLE.repeat(3000, 0), object(),
        )
    ]  # fmt: skip
    options += [{"route": CIRCLE, "closed": wrong} for wrong in ("no", 2, CIRCLE)]
    options += [3, "scene", [1], {7: 1}]
    before = [everything(env), everything(envs)]
    for wrong in options:
        for one in (env, envs):
            for seed in (None, 5):
                with pytest.raises(ValueError):
                    one.reset(seed=seed, options=wrong)
    for seed in (-1, 1.5, "1", [1, 2], True, object(), 10**400, math.nan):
        for one in (env, envs):
            with pytest.raises(ValueError):
                one.reset(seed=seed)
    assert before == [everything(env), everything(envs)]


def test_what_is_no_fork(env, envs):
    for n in (0, -1, 1.5, "2", None, True):
        with pytest.raises(ValueError):
            env.fork(n)
    for seeds in ([1], 7, "ab", [1, -2], [1, 2.5], [1, 10**400], [None, 1]):
        with pytest.raises(ValueError):
            envs.fork(1, 2, seeds)


def test_a_change_of_sampling_steps_counts_at_once(fast_world):
    env: Any = DriveDiTEnv(fast_world, compile=True)
    twice: Any = DriveDiTEnv(fast_world, sampling_steps=2, compile=True)
    env.reset(seed=0)
    twice.reset(seed=0)
    env.sampling_steps = 2
    assert np.array_equal(env.step([0.1, 0.2])[0], twice.step([0.1, 0.2])[0]) and env.sampling_steps == 2
    for wrong in (0, 1.5, "2", 10**9, True):
        with pytest.raises(ValueError, match="sampling_steps"):
            env.sampling_steps = wrong
    assert env.sampling_steps == 2
    for name in ("world", "obs_type", "compile"):
        with pytest.raises(AttributeError):
            setattr(env, name, None)


@pytest.mark.parametrize("compile", [False, True])
def test_a_state_made_in_inference_mode_is_stepped_outside(fast_world, compile):
    env: Any = DriveDiTEnv(fast_world, compile=compile)
    envs: Any = DriveDiTVectorEnv(2, fast_world, compile=compile)
    runs = []
    for mode in (False, True):
        with torch.inference_mode(mode):
            env.reset(seed=1)
            envs.reset(seed=1)
            env.step([0.1, 0.2])
            state, states, branches = env.get_state(), envs.get_state(), env.fork(2)
        env.set_state(state)
        envs.set_state(states.select([1]), rows=[0])
        rest = envs.reset(seed=3, options={"reset_mask": np.array([False, True])})[0]
        seen = [one.step(np.zeros(one.action_space.shape))[0] for one in (env, envs, branches)]
        runs.append([rest, *seen, fast_world.step(state.world, torch.zeros(1, 2))[0].latents.numpy()])
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
