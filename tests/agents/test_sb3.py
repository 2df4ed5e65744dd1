"""The adapter to Stable-Baselines3 gives, step for step, what SB3's DummyVecEnv gives over single environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.learning.sb3 import SB3VecEnv, ScaledReward, open_vector, split_infos


class Counter(gym.Env):
    """Counts its steps up from a drawn start; a large action ends the episode, ten steps truncate it."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.start, self.steps, self.colour = 0.0, 0, "red"

    def _see(self) -> np.ndarray:
        return np.array([self.start, self.steps], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.start, self.steps = float((options or {}).get("start", self.np_random.random())), 0
        return self._see(), {"start": self.start}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        info = {"terms": {"gas": float(action[1])}, "steps": self.steps} | ({"odd": True} if self.steps % 2 else {})
        return self._see(), float(action[0]), bool(action[0] > 0.9), False, info

    def add(self, number: int) -> int:
        return self.steps + number


@pytest.fixture(scope="module", autouse=True)
def counter():
    gym.register("Counter-v0", entry_point=lambda **settings: Counter(**settings), max_episode_steps=10)
    yield
    gym.registry.pop("Counter-v0")


def same_infos(first: list[dict], second: list[dict], rounding: float) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, dict):
                same_infos([value], [other[name]], rounding)
            elif isinstance(value, (np.ndarray, float)):
                np.testing.assert_allclose(np.asarray(value, float), np.asarray(other[name], float), atol=rounding)
            else:
                assert value == other[name], name


def compare(ours: SB3VecEnv, theirs: DummyVecEnv, steps: int, rounding: float) -> tuple[int, int]:
    """Drives both with the same actions; returns the numbers of terminations and truncations that were compared."""
    rng, ended, truncated = np.random.default_rng(0), 0, 0
    for venv in (ours, theirs):
        venv.seed(5)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), atol=rounding)  # type: ignore[arg-type]
    same_infos(ours.reset_infos, theirs.reset_infos, rounding)
    for _ in range(steps):
        actions = rng.uniform(-1, 1, (ours.num_envs, 2)).astype(np.float32)
        mine, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(mine[0], other[0], atol=rounding)  # type: ignore[arg-type]
        np.testing.assert_allclose(mine[1], other[1], atol=max(rounding / 100, 1e-6))
        assert mine[1].dtype == other[1].dtype and (mine[2] == other[2]).all()
        same_infos(mine[3], other[3], rounding)
        same_infos(ours.reset_infos, theirs.reset_infos, rounding)
        late = [info["TimeLimit.truncated"] for info in mine[3]]
        truncated += sum(late)
        ended += int(mine[2].sum()) - sum(late)
    return ended, truncated


def open_processes(env_id: str, num_envs: int) -> VectorEnv:
    makers = [lambda: gym.make(env_id)] * num_envs
    return AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED, context="fork")


@pytest.mark.parametrize("open_envs", [open_vector, open_processes])
def test_it_is_dummy_vec_env_over_single_environments(open_envs):
    ours, theirs = SB3VecEnv(open_envs("Counter-v0", 3)), DummyVecEnv([lambda: gym.make("Counter-v0")] * 3)
    ended, truncated = compare(ours, theirs, 60, 1e-7)
    assert ended > 3 and truncated > 3
    assert ours.get_attr("colour", [0, 2]) == theirs.get_attr("colour", [0, 2])
    assert ours.env_method("add", 4) == theirs.env_method("add", 4)
    ours.set_attr("colour", "blue")
    assert ours.get_attr("colour") == ["blue"] * 3
    ours.close()


@pytest.mark.parametrize("obs_type", ["pixels", "latent"])
def test_the_native_vector_environment_is_dummy_vec_env_too(tiny_world, obs_type):
    settings = {"world": tiny_world, "obs_type": obs_type, "max_episode_steps": 4}
    ours = SB3VecEnv(open_vector("DriveDiT-v0", 2, 4, world=tiny_world, obs_type=obs_type))
    theirs = DummyVecEnv([lambda: gym.make("DriveDiT-v0", **settings)] * 2)
    # one grey level, or its like in a latent: the rounding of batched matrix products
    _, truncated = compare(ours, theirs, 10, 1.0 if obs_type == "pixels" else 1e-3)
    assert truncated >= 4


def test_the_terminal_observation_is_of_the_old_episode():
    venv = SB3VecEnv(open_vector("Counter-v0", 2))
    venv.reset()
    observations: Any
    observations, _, dones, infos = venv.step(np.array([[1.0, 0.0], [0.0, 0.0]], np.float32))
    assert dones.tolist() == [True, False] and "terminal_observation" not in infos[1]
    assert infos[0]["terminal_observation"][1] == 1.0 and observations[:, 1].tolist() == [0.0, 1.0]  # pyright: ignore
    assert infos[0]["TimeLimit.truncated"] is False
    for _ in range(9):
        observations, _, dones, infos = venv.step(np.zeros((2, 2), np.float32))
    assert dones.tolist() == [False, True] and infos[1]["TimeLimit.truncated"] is True


def test_an_ending_at_the_time_limit_is_no_truncation():
    venv = SB3VecEnv(open_vector("Counter-v0", 1))
    venv.reset()
    for step in range(10):
        _, _, dones, infos = venv.step(np.array([[1.0 if step == 9 else 0.0, 0.0]], np.float32))
    assert dones[0] and infos[0]["TimeLimit.truncated"] is False


def test_seeds_and_options_are_used_once():
    venv = SB3VecEnv(open_vector("Counter-v0", 3))
    venv.seed(7)
    first = venv.reset()
    later = venv.reset()
    venv.seed(7)
    assert np.array_equal(venv.reset(), first) and not np.array_equal(later, first)
    venv.set_options({"start": 3.0})
    assert venv.reset()[:, 0].tolist() == [3.0] * 3 and 3.0 not in venv.reset()[:, 0]
    venv.set_options([{"start": 1.0}, {"start": 2.0}, {}])
    with pytest.raises(ValueError, match="same reset options"):
        venv.reset()


def test_single_environments_can_be_looked_into():
    venv = SB3VecEnv(open_vector("Counter-v0", 3))
    venv.reset()
    venv.step(np.zeros((3, 2), np.float32))
    assert venv.env_method("add", 4, indices=[0, 2]) == [5, 5] and venv.get_attr("steps", 1) == [1]
    venv.set_attr("mark", "blue", indices=[1])
    assert venv.has_attr("colour") and not venv.has_attr("flavour")
    assert [hasattr(env, "mark") for env in venv.env.envs] == [False, True, False]  # type: ignore[attr-defined]
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit) == [True] * 3


def test_native_worlds_can_be_looked_into(tiny_world):
    venv = SB3VecEnv(open_vector("DriveDiT-v0", 3, world=tiny_world))
    first = venv.reset()
    states = venv.env_method("get_state", indices=[0, 2])
    assert [len(state) for state in states] == [1, 1]
    venv.step(np.ones((3, 2), np.float32))
    for row, state in zip((0, 2), states, strict=True):
        venv.env_method("set_state", state, indices=row)
    again = venv.env_method("get_state", indices=[0, 2])
    assert [a.to_bytes() for a in again] == [s.to_bytes() for s in states]
    assert [len(branch.get_state()) for branch in venv.env_method("fork", 2, indices=[1])] == [2]
    venv.set_attr("sampling_steps", 2)
    assert venv.get_attr("sampling_steps") == [2] * 3 and first.shape == (3, 64, 64, 3)
    with pytest.raises(ValueError, match="all 3 worlds"):
        venv.set_attr("sampling_steps", 1, indices=[0])
    with pytest.raises(AttributeError, match="sampling_stepz"):
        venv.set_attr("sampling_stepz", 1)
    with pytest.raises(ValueError, match="call it on .env"):
        venv.env_method("render")


def test_environments_that_reset_by_themselves_are_refused():
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        with pytest.raises(ValueError, match="Disabled"):
            SB3VecEnv(SyncVectorEnv([Counter], autoreset_mode=mode))


def test_the_algorithm_sees_scaled_rewards_and_the_monitor_true_ones():
    venv = ScaledReward(VecMonitor(SB3VecEnv(open_vector("Counter-v0", 1))), 0.1)
    venv.reset()
    rewards = [venv.step(np.array([[0.5, 0.0]], np.float32)) for _ in range(10)]
    assert rewards[0][1][0] == pytest.approx(0.05) and rewards[-1][3][0]["episode"]["r"] == pytest.approx(5.0)


def test_infos_are_split_by_their_masks():
    infos = {
        "a": np.array([1.5, 0.0]),
        "_a": np.array([True, False]),
        "b": {"c": np.array([0, 2]), "_c": np.array([0, 1], bool)},
    }
    assert split_infos(infos, 2) == [{"a": 1.5, "b": {}}, {"b": {"c": 2}}]
