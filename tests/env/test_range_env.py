"""Environments of a world of range images: spaces, snapshots, forks, intervals, and what people see of it."""

import copy
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers.ranges import make_range_world, wall_scene

from drivedit.models import RangeWorld
from drivedit.utils import shown
from drivedit_env.env import DriveDiTEnv
from drivedit_env.intervals import FrameInterval, RandomFrameInterval
from drivedit_env.vector import DriveDiTVectorEnv
from drivedit_env.viewer.session import Session

ACTION = np.array([0.3, 0.5], np.float32)


@pytest.fixture(scope="module")
def world() -> RangeWorld:
    return make_range_world()


def test_gymnasium_finds_nothing_wrong(world, tmp_path):
    check_env(DriveDiTEnv(world, obs_type="range", render_mode="rgb_array"), skip_render_check=True)
    world.save_pretrained(tmp_path / "world")
    env = gym.make("drivedit_env:DriveDiT-v0", world=tmp_path / "world", obs_type="range")
    assert env.observation_space == gym.spaces.Box(0, 85, (8, 32, 2), np.float32)
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen) and info["time"] == 0 and "free_distance" in info["telemetry"]
    assert env.observation_space.contains(env.step(ACTION)[0])
    both = DriveDiTEnv(world, obs_type=["range", "latent"]).reset(seed=1)[0]
    assert both["latent"].shape == (2, 8, 32) and np.allclose(both["range"], seen, atol=2e-2)


def test_a_snapshot_knows_how_long_the_coming_steps_are(world):
    env = DriveDiTEnv(world, obs_type="range")
    env.reset(seed=3, options={"scene": 0, "dt": 0.2})
    state, data = env.get_state(), env.get_state().to_bytes()
    wanted, _, _, _, told = env.step(ACTION)
    for begin in (state, data):
        env.reset(seed=4)
        assert env.dt == 0.1
        env.set_state(begin)
        seen, _, _, _, info = env.step(ACTION)
        assert env.dt == 0.2 and np.array_equal(seen, wanted) and info["time"] == told["time"]
    envs = DriveDiTVectorEnv(2, world, obs_type="range")
    envs.reset(seed=4)
    envs.set_state(state, rows=[1])
    assert envs.dt.tolist() == [0.1, 0.2] and envs.get_state([1]).dt == [0.2]
    assert np.array_equal(envs.step(np.stack([ACTION, ACTION]))[0][1], wanted)
    assert envs.fork(1, 2).dt.tolist() == [0.2, 0.2]
    state.dt = [-1.0]
    with pytest.raises(ValueError, match="above 0"):
        env.set_state(state)


def test_snapshots_copies_and_forks_go_on_bit_for_bit(world):
    env = DriveDiTEnv(world, obs_type="range")
    env.reset(seed=3, options={"scene": 0})
    env.step(ACTION)
    state, data, other = env.get_state(), env.get_state().to_bytes(), copy.deepcopy(env)
    wanted = [env.step(ACTION)[0] for _ in range(5)]
    for begin in (lambda: env.set_state(state), lambda: env.set_state(data)):
        begin()
        assert all(np.array_equal(env.step(ACTION)[0], each) for each in wanted)
    assert all(np.array_equal(other.step(ACTION)[0], each) for each in wanted)
    env.set_state(state)
    branches = env.fork(3)
    steered = np.stack([ACTION, ACTION, -ACTION])
    seen = [branches.step(steered)[0] for _ in range(5)]
    for each, one in zip(seen, wanted, strict=True):
        assert np.array_equal(each[0], one) and np.array_equal(each[1], one)
    assert not np.array_equal(seen[-1][2], wanted[-1]) and len(data) < 3 * state.world.size()


def test_rows_of_a_batch_are_single_environments(world):
    envs, alone = DriveDiTVectorEnv(3, world, obs_type="range"), DriveDiTEnv(world, obs_type="range")
    seen, _ = envs.reset(seed=5)
    first, _ = alone.reset(seed=6)
    assert np.array_equal(seen[1], first)
    for _ in range(3):
        seen, rewards, _, _, infos = envs.step(np.stack([ACTION] * 3))
        first, reward, _, _, info = alone.step(ACTION)
        assert np.array_equal(seen[1], first) and rewards[1] == reward
    assert infos["time"][1] == info["time"] == pytest.approx(0.3)


def test_intervals_are_options_of_a_reset_a_property_and_wrappers(world):
    env = DriveDiTEnv(world, obs_type="range")
    env.reset(seed=0, options={"scene": 0, "dt": 0.2})
    assert env.dt == 0.2 and env.step(ACTION)[4]["time"] == pytest.approx(0.2)
    env.dt = 0.3
    branch = env.fork(1)
    assert env.step(ACTION)[4]["time"] == pytest.approx(0.5) == branch.step(ACTION[None])[4]["time"][0]
    env.reset(seed=0)
    assert env.dt == 0.1 and env.step(ACTION)[4]["time"] == pytest.approx(0.1)
    wrapped = FrameInterval(env, dt=0.25)
    for _ in range(2):
        wrapped.reset(seed=0)
        assert wrapped.step(ACTION)[4]["time"] == pytest.approx(0.25)
    drawn = RandomFrameInterval(env, 0.1, 0.3, seed=4)
    times = []
    for _ in range(2):
        drawn.reset(seed=0)
        times.append([drawn.step(ACTION)[4]["time"] for _ in range(4)])
    passed = np.diff([0, *times[0]])
    assert times[0] == times[1] and len({*passed.round(6)}) == 4 and 0.1 <= passed.min() <= passed.max() <= 0.3


def test_worlds_of_a_batch_have_intervals_of_their_own(world):
    envs = DriveDiTVectorEnv(2, world, obs_type="range")
    envs.reset(seed=0, options={"dt": {1: 0.3}})
    assert envs.step(np.stack([ACTION] * 2))[4]["time"].tolist() == pytest.approx([0.1, 0.3])
    assert np.array_equal(envs.fork(1, 1).dt, [0.3])
    envs.dt = 0.2
    assert envs.step(np.stack([ACTION] * 2))[4]["time"].tolist() == pytest.approx([0.3, 0.5])
    envs.reset(seed=0, options={"reset_mask": np.array([True, False])})
    assert np.array_equal(envs.dt, [0.1, 0.2])


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan"), "soon", True])
def test_intervals_that_are_none_are_refused_and_nothing_changes(world, dt):
    env = DriveDiTEnv(world, obs_type="range")
    env.reset(seed=0)
    before = env.get_state().to_bytes()
    with pytest.raises(ValueError, match="dt"):
        env.reset(options={"dt": dt})
    with pytest.raises(ValueError, match="dt"):
        FrameInterval(env, dt)
    assert env.get_state().to_bytes() == before and env.dt == 0.1


def test_other_worlds_take_no_interval(tiny_world):
    env = DriveDiTEnv(tiny_world)
    with pytest.raises(ValueError, match=r"frames of this world are 0.06 s long, it takes no dt"):
        env.reset(options={"dt": 0.1})
    with pytest.raises(ValueError, match="takes no dt"):
        env.dt = 0.1


def test_a_scan_is_painted_in_one_pass(world):
    with pytest.raises(ValueError, match="paints a scan in 1 pass, got sampling_steps 4"):
        DriveDiTEnv(world, sampling_steps=4)
    env = DriveDiTEnv(world, sampling_steps=1)
    with pytest.raises(ValueError, match="in 1 pass"):
        env.sampling_steps = 2
    assert env.sampling_steps == 1


def test_people_see_colours_and_the_points_from_above(world):
    image = wall_scene().frames[-1]
    picture = shown(image)
    assert picture.dtype == np.uint8 and picture.shape == (8 * 3 + 32, 32, 3)
    lost = (image[..., 1] == 0).repeat(3, 0)
    assert (picture[:24][lost] == 0).all() and (picture[:24][~lost].sum(-1) > 0).all()
    assert (picture[24:].sum(-1) > 0).any() and shown(picture) is picture
    one = np.zeros((8, 32, 2), np.float32)
    one[4, 24] = 20, 1  # to the right
    rows, columns = np.nonzero(shown(one)[24:].sum(-1))
    assert columns.max() > 20 and abs(rows[columns.argmax()] - 16) <= 1
    env = DriveDiTEnv(world, render_mode="rgb_array")
    env.reset(seed=0)
    drawn = env.render()
    assert drawn is not None and drawn.dtype == np.uint8 and drawn.shape[0] == 512


def test_a_person_can_drive_it_go_back_and_record_it(world, tmp_path: Path):
    session = Session(DriveDiTEnv(world), scene=0, folder=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = session.step(ACTION)
    assert first.frame.shape == (8, 32, 2) and session.rewind()
    session.toggle_recording()
    for _ in range(3):
        session.step(ACTION)
    session.toggle_recording()
    assert list(tmp_path.rglob("*.h5"))
    session.close()
