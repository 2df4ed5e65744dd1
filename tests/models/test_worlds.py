"""Whatever is done to some worlds of a batch, the others do not notice; and a learner trains on the batch."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivedit_env.state import EnvState
from drivedit_env.vector import DriveDiTVectorEnv

ROWS = 3


row = st.integers(0, ROWS - 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 99)),
    st.tuples(st.just("keep"), row),
    st.tuples(st.just("restore"), row),
    st.tuples(st.just("reset"), row, st.integers(0, 9)),
    st.tuples(st.just("copy"), row, row),
)


@pytest.fixture(scope="module")
def batches(fast_world) -> tuple[list[DriveDiTVectorEnv], EnvState]:
    """A batch, one for each of its rows in which nothing else is done, and the state that all of them begin with."""
    every = [DriveDiTVectorEnv(ROWS, fast_world, obs_type="latent", autoreset_mode="Disabled") for _ in range(ROWS + 1)]
    for envs in every:
        envs.reset(seed=0)
    return every, every[0].get_state()


@settings(max_examples=200, deadline=None)
@given(st.lists(OPERATIONS, min_size=3, max_size=9))
def test_any_order_of_operations_keeps_worlds_apart(batches, operations):
    """Row r always equals, bit for bit, row r of a batch in which nothing was done to the other rows."""
    (envs, *shadows), start = batches
    for each in (envs, *shadows):
        each.set_state(start)
    kept = {r: envs.get_state([r]) for r in range(ROWS)}
    kept_shadows = {r: shadows[r].get_state([r]) for r in range(ROWS)}
    for name, *args in [*operations, ("step", 7)]:
        r = args[0]
        if name == "step":
            actions = np.random.default_rng(r).uniform(-1, 1, (ROWS, 2)).astype(np.float32)
            seen, rewards, *_ = envs.step(actions)
            for index, shadow in enumerate(shadows):
                expected, reward, *_ = shadow.step(actions)
                assert np.array_equal(seen[index], expected[index]) and rewards[index] == reward[index]
        elif name == "keep":
            kept[r], kept_shadows[r] = envs.get_state([r]), shadows[r].get_state([r])
        elif name == "restore":
            envs.set_state(kept[r], rows=[r])
            shadows[r].set_state(kept_shadows[r], rows=[r])
        elif name == "reset":
            for one in (envs, shadows[r]):
                one.reset(seed=[args[1]] * ROWS, options={"reset_mask": np.arange(ROWS) == r})
        else:
            envs.set_state(envs.get_state([r]), rows=[args[1]])
            shadows[args[1]].set_state(shadows[r].get_state([r]), rows=[args[1]])


@pytest.mark.parametrize(("compiled", "steps"), [(False, 200), (True, 1000)])
def test_long_after_a_restore_no_bit_differs(fast_world, compiled, steps):
    envs = DriveDiTVectorEnv(2, fast_world, obs_type="latent", max_episode_steps=150, compile=compiled)
    envs.reset(seed=0)
    state, runs = envs.get_state(), []
    for _ in range(2):
        rng = np.random.default_rng(1)
        run = []
        for _ in range(steps):
            seen, rewards, _, _, infos = envs.step(rng.uniform(-1, 1, (2, 2)).astype(np.float32))
            run.append(np.concatenate([seen.ravel()[::7], rewards, infos["telemetry"]["speed"], infos["confidence"]]))
        runs.append(np.array(run))
        envs.set_state(state)
    assert np.isfinite(runs[0]).all() and np.array_equal(runs[0], runs[1])


def test_ppo_of_stable_baselines_trains_on_it(tiny_world):
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv

    class Adapter(VecEnv):
        """Just enough of Stable-Baselines3's interface; the real adapter belongs to the agents."""

        def __init__(self, envs: DriveDiTVectorEnv) -> None:
            super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
            self.envs = envs

        def reset(self):
            return self.envs.reset(seed=0)[0]

        def step_async(self, actions):
            self.actions = actions

        def step_wait(self):
            seen, rewards, ended, truncated, infos = self.envs.step(self.actions)
            rows = [{} for _ in range(self.num_envs)]
            for index in np.flatnonzero(ended | truncated):
                cut = bool(truncated[index] and not ended[index])
                rows[index] = {"terminal_observation": infos["final_obs"][index], "TimeLimit.truncated": cut}
            return seen, rewards, ended | truncated, rows

        def get_attr(self, attr_name, indices=None):
            return [getattr(self.envs, attr_name, None)] * self.num_envs

        def set_attr(self, *args, **kwargs): ...
        def env_method(self, *args, **kwargs): ...
        def close(self): ...
        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * self.num_envs

    envs = gym.make_vec(
        "DriveDiT-v0", num_envs=4, world=tiny_world, obs_type="latent", max_episode_steps=9, autoreset_mode="SameStep"
    )
    assert isinstance(envs, DriveDiTVectorEnv)
    learner = PPO("MlpPolicy", Adapter(envs), n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().clone() for p in learner.policy.parameters()]
    learner.learn(128)
    assert learner.num_timesteps == 128
    assert any((a != b).any() for a, b in zip(before, learner.policy.parameters(), strict=True))
