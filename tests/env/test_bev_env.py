"""Environments of a world that keeps the ground around the car: spaces, snapshots, forks, what is told and seen."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers.fields import LINE, box_ahead, make_bev_world

from drivedit.models import BevWorld
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

ACTION = np.array([0.3, 0.5], np.float32)


@pytest.fixture(scope="module")
def world() -> BevWorld:
    return make_bev_world()


def test_gymnasium_finds_nothing_wrong(world, tmp_path):
    check_env(DriveDiTEnv(world, render_mode="rgb_array"), skip_render_check=True)
    world.save_pretrained(tmp_path / "world")
    env = gym.make("drivedit_env:DriveDiT-v0", world=tmp_path / "world")
    assert env.observation_space == gym.spaces.Box(0, 255, (32, 64, 3), np.uint8)
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen) and info["time"] == 0 and "speed" in info["telemetry"]
    assert env.observation_space.contains(env.step(ACTION)[0])
    both = DriveDiTEnv(world, obs_type=["pixels", "latent"]).reset(seed=1)[0]
    assert both["latent"].shape == (48, 8, 16)


def test_snapshots_go_on_bit_for_bit_and_forks_differ_by_their_controls(world):
    env = DriveDiTEnv(world)
    env.reset(seed=3, options={"scene": 0})
    env.step(ACTION)
    state, data = env.get_state(), env.get_state().to_bytes()
    wanted = [env.step(ACTION)[0] for _ in range(5)]
    for begin in (state, data):
        env.set_state(begin)
        assert all(np.array_equal(env.step(ACTION)[0], each) for each in wanted)
    env.set_state(state)
    branches = env.fork(3)
    seen = [branches.step(np.stack([ACTION, ACTION, -ACTION]))[0] for _ in range(5)]
    for each, one in zip(seen, wanted, strict=True):
        assert np.array_equal(each[0], each[1]) and np.abs(each[0].astype(int) - one).max() <= 1
    assert not np.array_equal(seen[-1][2], wanted[-1])


def test_rows_of_a_batch_are_single_environments_with_their_own_road_and_others(world):
    envs, alone = DriveDiTVectorEnv(2, world), DriveDiTEnv(world)
    told = {"scene": 0, "route": LINE, "layout": box_ahead()}
    seen, _ = envs.reset(seed=5, options=told)
    first, info = alone.reset(seed=6, options=told)
    assert np.array_equal(seen[1], first)
    for _ in range(3):
        seen, rewards, _, _, _ = envs.step(np.stack([ACTION] * 2))
        first, reward, _, _, info = alone.step(ACTION)
        assert np.abs(seen[1].astype(int) - first).max() <= 1 and rewards[1] == pytest.approx(reward, abs=1e-4)
    assert info["time"] == pytest.approx(0.3)
