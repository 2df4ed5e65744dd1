"""Copies of environments (`copy.deepcopy`, `pickle`) and forked processes go on exactly as their originals."""

import copy
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from drivedit.models import DiTWorld
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}


def run(env: Any) -> Any:
    """What an environment gives from here on, a reset without a seed included."""
    action = np.full(env.action_space.shape, 0.3, np.float32)
    seen = [env.step(action) for _ in range(3)] + [env.reset(), env.step(action)]
    return plain([seen, env.render()])


def plain(value: Any) -> Any:
    """The value in lists and bytes, which can be compared."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [value.dtype, value.shape, value.tobytes()]
    return [plain(part) for part in value] if isinstance(value, (list, tuple, np.ndarray)) else value


@pytest.fixture(params=["weights", "tuned", "folder"])
def world(request, tiny_world, tmp_path) -> Any:
    if request.param == "folder":
        tiny_world.save_pretrained(tmp_path / "world")
        return tmp_path / "world"
    return tiny_world if request.param == "weights" else request.getfixturevalue("fast_world")


@pytest.mark.threads
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_dream_goes_on_alike(world, way):
    env: Any = gym.make("DriveDiT-v0", world=world, render_mode="rgb_array", device="cpu", max_episode_steps=9)
    other = COPIES[way](env)  # before the first reset
    assert run_from(env) == run_from(other)
    env.step(np.array([0.5, 0.5], np.float32))
    other = COPIES[way](env)
    assert other.spec is not None and other.spec.id == "DriveDiT-v0"
    assert run(env) == run(other)
    if way == "deepcopy" or not isinstance(world, DiTWorld):
        assert env.unwrapped.world is other.unwrapped.world


def run_from(env: Any) -> Any:
    env.reset(seed=4)
    return run(env)


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_many_dreams_goes_on_alike(world, way):
    envs = DriveDiTVectorEnv(2, world, render_mode="rgb_array_list", device="cpu", max_episode_steps=4)
    envs.reset(seed=4)
    envs.step(np.zeros((2, 2)))
    other = COPIES[way](envs)
    assert run(envs) == run(other)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ["CarRacingTwin-v0", "CarRacingReal-v0"])
def test_a_copy_of_the_simulator_goes_on_alike(name, way):
    pytest.importorskip("Box2D")
    env = gym.make(name, render_mode="rgb_array")
    other = COPIES[way](env)
    assert run_from(env) == run_from(other)
    env.step(np.array([0.5, 0.5], np.float32))
    other = COPIES[way](env)
    assert np.array_equal(np.asarray(env.render()), np.asarray(other.render()))
    assert run(env) == run(other)


def test_a_copy_says_that_its_world_is_another_now(tiny_world, tmp_path):
    tiny_world.save_pretrained(tmp_path / "world")
    stored = pickle.dumps(DriveDiTEnv(tmp_path / "world", device="cpu"))
    changed = copy.deepcopy(tiny_world)
    changed.latent_mean += 1
    changed.save_pretrained(tmp_path / "world")
    with pytest.raises(ValueError, match="is now"):
        pickle.loads(stored)


@pytest.mark.threads
def test_forked_environments_step_when_torch_has_threads():
    """With two threads, a forked process used to wait for ever for threads that had not come along."""
    code = """
import gymnasium as gym, numpy as np, torch, drivedit_env
torch.set_num_threads(2)
torch.randn(600, 600) @ torch.randn(600, 600)  # the threads of this process begin
envs = gym.make_vec("DriveDiT-v0", num_envs=2, vectorization_mode="async", render_mode="rgb_array", device="cpu")
envs.reset(seed=0)
print(envs.step(np.zeros((2, 2), np.float32))[0].shape, len(envs.render()))
envs.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "(2, 64, 64, 3) 2", done.stderr
