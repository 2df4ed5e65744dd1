"""`DriveDiT-v0`: determinism, snapshots, spaces, rewards, scenes, routes, and clear words about bad input."""

import importlib
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import drivedit_env
from drivedit.inference import tune
from drivedit.models import DiTState, DiTWorld
from drivedit_env.env import DriveDiTEnv
from drivedit_env.state import EnvState

AHEAD = np.array([0.0, 0.3], np.float32)


@pytest.fixture
def env(tiny_world: DiTWorld) -> DriveDiTEnv:
    return DriveDiTEnv(tiny_world)


def actions(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)


def drive(env: gym.Env, controls: np.ndarray) -> list[tuple]:
    return [env.step(control) for control in controls]


def same(first: list[tuple], second: list[tuple]) -> bool:
    """Whether two drives agree bit for bit, info included."""
    return all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(first, second, strict=True))


def test_the_import_registers_and_is_light():
    code = "import sys, drivedit_env, gymnasium; print(sorted(drivedit_env.environments()), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['CarRacingReal-v0', 'CarRacingTwin-v0', 'DriveDiT-v0', 'StreetTwin-v0'] False"
    before = {name: gym.spec(name) for name in drivedit_env.environments()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # registering twice would warn
        importlib.reload(drivedit_env)
    assert {name: gym.spec(name) for name in drivedit_env.environments()} == before


@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_nothing_to_say(tiny_world):
    check_env(gym.make("DriveDiT-v0", world=tiny_world).unwrapped)
    check_env(gym.make("DriveDiT-v0", world=tiny_world, render_mode="rgb_array").unwrapped)


def test_gymnasium_says_only_that_latents_have_no_bounds(tiny_world):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(gym.make("DriveDiT-v0", world=tiny_world, obs_type="latent").unwrapped)
    assert [m for w in said if "infinity" not in (m := str(w.message))] == []


@pytest.mark.filterwarnings("error")
def test_stable_baselines_finds_nothing_to_say(tiny_world):
    check_env_sb3(DriveDiTEnv(tiny_world))
    check_env_sb3(DriveDiTEnv(tiny_world, render_mode="rgb_array"))


def test_stable_baselines_says_only_that_latents_are_no_pictures(tiny_world):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env_sb3(DriveDiTEnv(tiny_world, obs_type="latent"))
    assert [m for w in said if "image" not in (m := str(w.message))] == []


@pytest.mark.threads
def test_the_seed_decides_everything(tiny_world):
    first, second = DriveDiTEnv(tiny_world), DriveDiTEnv(tiny_world)
    start = first.reset(seed=7)
    again = second.reset(seed=7)
    assert np.array_equal(start[0], again[0]) and start[1] == again[1]
    assert same(drive(first, actions(0, 12)), drive(second, actions(0, 12)))
    assert np.array_equal(first.reset()[0], second.reset()[0]), "resets without a seed follow from the first seed"
    assert same(drive(first, actions(1, 3)), drive(second, actions(1, 3)))


def test_another_seed_or_action_gives_another_future(env):
    def future(seed: int, controls: np.ndarray) -> list[tuple]:
        env.reset(seed=seed, options={"scene": 0})
        return drive(env, controls)

    straight = np.tile(AHEAD, (3, 1))
    assert not same(future(0, straight), future(1, straight))
    assert not same(future(0, straight), future(0, -straight))


@pytest.mark.threads
def test_a_snapshot_brings_back_every_bit(env):
    env.reset(seed=1)
    drive(env, actions(0, 7))
    state = env.get_state()
    stored = state.to_bytes()
    first = drive(env, actions(1, 6))
    env.set_state(state)
    assert same(first, drive(env, actions(1, 6)))
    env.set_state(stored)
    assert same(first, drive(env, actions(1, 6)))
    after = env.reset()
    env.set_state(state)
    drive(env, actions(2, 3))
    env.set_state(state)  # a state can be used again and again
    again = env.reset()
    assert np.array_equal(after[0], again[0]) and after[1] == again[1]


def test_a_snapshot_travels_to_another_environment(tiny_world, env):
    env.reset(seed=1)
    drive(env, actions(0, 3))
    other = DriveDiTEnv(tiny_world, render_mode="rgb_array")
    other.set_state(env.get_state().to_bytes())
    expected = DriveDiTEnv(tiny_world, render_mode="rgb_array")
    expected.set_state(env.get_state())
    assert np.array_equal(np.asarray(other.render()), np.asarray(expected.render()))
    assert same(drive(env, actions(1, 3)), drive(other, actions(1, 3)))


def test_a_wrong_snapshot_is_refused(env):
    env.reset(seed=1)
    state = env.get_state()
    data = state.to_bytes()
    for broken in (b"", b"nonsense", data[:40], data[: len(data) // 2]):
        with pytest.raises(ValueError, match="bytes are no state"):
            env.set_state(broken)
    with pytest.raises(ValueError, match="belongs to world other"):
        env.set_state(replace(state, fingerprint="other"))
    with pytest.raises(ValueError, match="belongs to world"):
        EnvState.from_bytes(data, DiTState, "other")


def test_latents_are_what_pixels_are_decoded_from(tiny_world, env):
    latent = DriveDiTEnv(tiny_world, obs_type="latent")
    pixels, z = env.reset(seed=5)[0], latent.reset(seed=5)[0]
    for control in actions(0, 4):
        with torch.no_grad():
            assert np.array_equal(tiny_world.decode(torch.from_numpy(z)[None])[0], pixels)
        assert z in latent.observation_space and pixels in env.observation_space
        pixels, z = env.step(control)[0], latent.step(control)[0]


def test_the_first_observation_is_the_last_frame_of_the_scene(tiny_world, env):
    observation, info = env.reset(seed=0, options={"scene": 2})
    with torch.no_grad():
        decoded = tiny_world.decode(tiny_world.encode(tiny_world.scenes[2].frames[None, -1:])[:, 0])[0]
    assert np.array_equal(observation, decoded)
    assert info["scene"] == 2
    assert set(info["telemetry"]) == {"speed", "lateral_offset", "heading_error", "wheels_on_road"}


def test_the_clock_counts_from_the_start_and_goes_back_with_a_snapshot(env):
    assert env.reset(seed=0)[1]["time"] == 0.0
    env.step(AHEAD)
    state = env.get_state()
    assert env.step(AHEAD)[4]["time"] == pytest.approx(0.12)
    env.set_state(state)
    assert env.step(AHEAD)[4]["time"] == pytest.approx(0.12)
    assert env.reset()[1]["time"] == 0.0


def test_every_scene_is_drawn_by_chance(env):
    drawn = {env.reset(seed=seed)[1]["scene"] for seed in range(40)}
    assert drawn == {0, 1, 2}  # missed by chance once in 4 million


@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_scene_can_be_handed_over(tiny_world, env, n):
    own = tiny_world.scenes[0]
    given = {"frames": own.frames[-n - 1 :], "controls": own.controls[-n:]}
    observation, info = env.reset(seed=0, options={"scene": given})
    assert info["scene"] == -1 and observation in env.observation_space
    env.step(AHEAD)


def test_rendering(tiny_world):
    pictures = []
    for kind in ("pixels", "latent"):
        env = DriveDiTEnv(tiny_world, render_mode="rgb_array", obs_type=kind)
        env.reset(seed=0)
        env.step(AHEAD)
        pictures.append(np.asarray(env.render()))
        assert env.metadata["render_fps"] == pytest.approx(1 / 0.06)
    assert pictures[0].shape == (512, 512, 3) and pictures[0].dtype == np.uint8
    assert np.array_equal(*pictures)
    listed = gym.make("DriveDiT-v0", world=tiny_world, render_mode="rgb_array_list")
    listed.reset(seed=0)
    listed.step(AHEAD)
    assert len(listed.render()) == 2  # type: ignore[arg-type]


def test_the_reward_is_the_weighted_sum_of_its_terms(tiny_world):
    weights = {"progress": 2.0, "time": 0.5, "left": 0.0}
    env, plain = DriveDiTEnv(tiny_world, reward_weights=weights), DriveDiTEnv(tiny_world)
    env.reset(seed=0)
    plain.reset(seed=0)
    for control in actions(0, 3):
        _, reward, _, _, info = env.step(control)
        terms = info["reward_terms"]
        assert reward == pytest.approx(2 * terms["progress"] + 0.5 * terms["time"])
        assert plain.step(control)[1] == pytest.approx(sum(terms.values()))
    with pytest.raises(ValueError, match=r"progress.*time.*left.*bonus"):
        DriveDiTEnv(tiny_world, reward_weights={"bonus": 1.0})


def test_more_sampling_steps_give_another_frame(tiny_world, env):
    twice = DriveDiTEnv(tiny_world, sampling_steps=2)
    env.reset(seed=0)
    twice.reset(seed=0)
    assert not np.array_equal(env.step(AHEAD)[0], twice.step(AHEAD)[0])


@pytest.mark.parametrize("action", [[0.0], [0.0, 0.0, 0.0], [[0.0, 0.0]], [np.nan, 0.0], 0.0])
def test_an_invalid_action_is_refused(env, action):
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action is 2 numbers"):
        env.step(np.array(action, np.float32))


def test_an_action_outside_the_box_is_clipped_and_said_once(env):
    env.reset(seed=0)
    state = env.get_state()
    with pytest.warns(UserWarning, match="clipped") as said:
        first = drive(env, np.array([[3.0, -2.0], [-1.5, 0.0], [np.inf, 0.0]], np.float32))
    assert len(said) == 1
    env.set_state(state)
    assert same(first, drive(env, np.array([[1.0, -1.0], [-1.0, 0.0], [1.0, 0.0]], np.float32)))


def test_an_ending_terminates(tiny_world):
    threshold = tiny_world.config.end_threshold
    env = DriveDiTEnv(tiny_world)
    env.reset(seed=0)
    tiny_world.config.end_threshold = 0.0
    try:
        _, reward, terminated, truncated, info = env.step(AHEAD)
    finally:
        tiny_world.config.end_threshold = threshold
    assert terminated and not truncated and info["reward_terms"]["left"] == -100.0 and reward < -90
    with pytest.warns(UserWarning, match="call reset"):
        env.step(AHEAD)
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not env.step(AHEAD)[2]


def test_an_episode_is_truncated_after_1000_steps(tiny_world):
    env = gym.make("DriveDiT-v0", world=tiny_world, obs_type="latent")
    env.reset(seed=0)
    ends = [env.step(AHEAD)[2:4] for _ in range(1000)]
    assert ends[-1] == (False, True) and set(ends[:-1]) == {(False, False)}


def test_reset_comes_first(tiny_world, env):
    for call in (lambda: env.step(AHEAD), env.get_state, DriveDiTEnv(tiny_world, render_mode="rgb_array").render):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": 1}, "scene.*route.*closed"),
        ({"scene": 3}, "from 0 to 2"),
        ({"scene": -1}, "from 0 to 2"),
        ({"scene": True}, "from 0 to 2"),
        ({"scene": "first"}, "'random'"),
        ({"scene": {"frames": np.zeros((2, 64, 64, 3), np.uint8)}}, "missing.*controls"),
        ({"scene": {"frames": np.zeros((2, 32, 32, 3), np.uint8), "controls": np.zeros((1, 2))}}, "uint8"),
        ({"closed": True}, "route"),
        ({"route": [[0.0, 0.0]]}, "M >= 2"),
        ({"route": [[0.0, 0.0], [1.0, np.nan]]}, "finite"),
        ({"route": [[0.0, 0.0], [1.0, 0.0]]}, "10 m"),
    ],
)
def test_a_wrong_option_is_refused_and_the_dream_goes_on(env, options, message):
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    env.step(AHEAD)


def test_wrong_arguments_are_refused(tiny_world):
    with pytest.raises(ValueError, match="render_mode"):
        DriveDiTEnv(tiny_world, render_mode="film")
    with pytest.raises(ValueError, match="obs_type"):
        DriveDiTEnv(tiny_world, obs_type="sound")
    with pytest.raises(ValueError, match="sampling_steps"):
        DriveDiTEnv(tiny_world, sampling_steps=0)


def test_environments_of_one_folder_share_their_world(tiny_world, tmp_path):
    tiny_world.save_pretrained(tmp_path / "world")
    first, second = (DriveDiTEnv(tmp_path / "world", device="cpu") for _ in range(2))
    assert first.world is second.world
    first.reset(seed=0)
    second.reset(seed=1)
    alone = DriveDiTEnv(tune(DiTWorld.from_pretrained(tmp_path / "world", device="cpu")))
    alone.reset(seed=0)
    for control in actions(0, 4):  # steps of the two in turn do not disturb each other
        second.step(-control)
        assert np.array_equal(first.step(control)[0], alone.step(control)[0])


def test_an_unknown_or_damaged_world_is_named(tiny_world, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'moon'.*carracing"):
        DriveDiTEnv("moon")
    tiny_world.save_pretrained(tmp_path / "world")
    weights = tmp_path / "world" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        DriveDiTEnv(tmp_path / "world")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
        DriveDiTEnv(tmp_path / "world")


def test_the_shipped_world_drives():
    env = gym.make("drivedit_env:DriveDiT-v0", device="cpu")
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    for _ in range(5):
        observation, _, terminated, _, info = env.step(np.array([0.0, 0.1], np.float32))
        assert not terminated and 0.0 <= info["confidence"] <= 1.0
    assert info["telemetry"]["wheels_on_road"] > 0.5
    world = env.unwrapped.world  # type: ignore[attr-defined]
    assert world.scenes and world.card
    folder = Path(drivedit_env.__file__).parent / "worlds" / "carracing"
    assert json.loads((folder / "config.json").read_text())["format"] == 3


def test_the_shipped_world_goes_on_where_reality_stands():
    twin = gym.make("drivedit_env:CarRacingTwin-v0").unwrapped
    twin.reset(seed=0, options={"track_position": 0.3, "speed": 25.0})
    for _ in range(8):
        frame, *_ = twin.step(AHEAD)
    env = gym.make("DriveDiT-v0", device="cpu")
    observation, info = env.reset(seed=0, options={"scene": twin.scene()})  # type: ignore[attr-defined]
    error = np.abs(observation.astype(float) - frame).mean()
    assert error < 10.0, "the first observation is the twin's frame, encoded and decoded"
    assert info["scene"] == -1
