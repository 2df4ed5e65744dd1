"""Ctrl-C at any line of a call leaves an environment wholly before the call or wholly after it."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import drivedit.data
import drivedit.models
import drivedit_env
from drivedit.data.domains.carracing.twin import CarRacingTwin
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

TURN = np.array([0.4, 0.3], np.float32)


OURS = tuple(str(Path(module.__file__ or "").parent) for module in (drivedit.models, drivedit.data, drivedit_env))


def interrupted(call: Callable[[], Any], at: int) -> int | None:
    """Raises KeyboardInterrupt at the `at`-th of our lines that a call runs; or returns how many they are."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            lines += 1
            if lines == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return None
    finally:
        sys.settrace(before)
    return lines


def future(env: Any) -> bytes:
    """What an environment gives from here on: a step, and all that resets draw from and go by."""
    action = np.tile(TURN, (env.num_envs, 1)) if hasattr(env, "num_envs") else TURN
    seen, state = env.step(action), env.get_state()
    if isinstance(env, CarRacingTwin):
        return pickle.dumps([seen, state["random"], len(state["actions"]), env.np_random_seed])
    return pickle.dumps([seen, state.random, state.scene, state.ended, state.elapsed, env.np_random_seed])


def check(env: Any, call: Callable[[], Any]) -> None:
    """Breaks a call off at a dozen of our lines, and at each of the last twenty, where the change is."""
    state = env.get_state()
    call()  # what is computed once is kept
    env.set_state(state)
    before = future(env)
    env.set_state(state)
    lines = interrupted(call, sys.maxsize)
    after = future(env)
    assert lines and before != after
    found = set()
    for at in {*range(1, lines, max(lines // 12, 1)), *range(max(lines - 19, 1), lines + 1)}:
        env.set_state(state)
        assert interrupted(call, at) is None
        found.add(future(env))
        assert found <= {before, after}, f"broken off at line {at} of {lines}"
    assert before in found


CALLS = {
    "step": lambda env: env.step(TURN),
    "reset": lambda env: env.reset(seed=9, options={"scene": 1}),
    "another route": lambda env: env.reset(options={"scene": 2, "route": [[0, 0], [300, 10]]}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_broken_off_call_of_a_dream(fast_world, name):
    env = DriveDiTEnv(fast_world, obs_type="latent" if name == "step" else "pixels")
    env.reset(seed=1)
    for _ in range(6):  # the ring of four frames is full
        env.step(TURN)
    check(env, lambda: CALLS[name](env))


VECTOR_CALLS = {
    "step": lambda env: env.step(np.tile(TURN, (3, 1))),
    "masked reset": lambda env: env.reset(seed=5, options={"reset_mask": np.array([True, False, True])}),
}


@pytest.mark.parametrize("name", VECTOR_CALLS)
def test_a_broken_off_call_of_many_dreams(fast_world, name):
    envs = DriveDiTVectorEnv(3, fast_world, obs_type="latent", max_episode_steps=8, autoreset_mode="SameStep")
    envs.reset(seed=1)
    for _ in range(6):  # the call above is the seventh step, and the next resets
        envs.step(np.tile(TURN, (3, 1)))
    check(envs, lambda: VECTOR_CALLS[name](envs))


def test_a_broken_off_step_of_the_compiled_world(fast_world):
    env = DriveDiTEnv(fast_world, obs_type="latent", compile=True)
    if env._compiled is None:
        pytest.skip("no compiler here")
    env.reset(seed=1)
    for _ in range(6):
        env.step(TURN)
    check(env, lambda: env.step(TURN))


@pytest.mark.parametrize("name", ["step", "reset"])
def test_a_broken_off_call_of_the_twin(name):
    twin = CarRacingTwin()
    twin.reset(seed=1)
    for _ in range(3):
        twin.step(TURN)
    check(twin, lambda: twin.step(TURN) if name == "step" else twin.reset(options={"speed": 20.0}))
