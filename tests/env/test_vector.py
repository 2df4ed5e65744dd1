"""Many dreams at once: rows are single environments, leave each other alone, and branches share their noise."""

import copy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from drivedit.models import DiTWorld
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

MODES = list(AutoresetMode)


@pytest.fixture(scope="module")
def ending_world(tiny_world: DiTWorld) -> DiTWorld:
    """A world about half of whose dreams end by themselves within ten steps."""
    world = copy.deepcopy(tiny_world)
    with torch.no_grad():
        for weight in (p for p in world.heads.parameters() if p.ndim == 2):
            weight.mul_(12)
    state = world.start([world.scenes[row % len(world.scenes)] for row in range(16)], range(16))
    most = torch.zeros(16)
    for actions in plan(16, 9, seed=1):
        state, out = world.step(state, torch.from_numpy(actions))
        most = torch.maximum(most, out.ended_probability)
    world.config.end_threshold = most.median().item()
    return world


def plan(rows: int, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, rows, 2)).astype(np.float32)


def close(first, second) -> bool:
    """Whether two results say the same: the same keys, flags and integers, and numbers up to rounding."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(close(first[k], second[k]) for k in first)
    if isinstance(first, (tuple, list)):
        return all(close(a, b) for a, b in zip(first, second, strict=True))
    if first is None or second is None:
        return first is second
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype != second.dtype:
        return False
    if first.dtype == object:
        return all(close(a, b) for a, b in zip(first, second, strict=True))
    if first.dtype == np.uint8:
        return first.shape == second.shape and np.abs(first.astype(int) - second).max() <= 1
    return first.shape == second.shape and np.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_single_environment_many_times(ending_world, mode):
    """Against Gymnasium's own vectoriser over single environments: observations, rewards, endings, info and masks."""
    settings = {"world": ending_world, "render_mode": "rgb_array_list"}
    single: Any = SyncVectorEnv(
        [lambda: gym.make("DriveDiT-v0", max_episode_steps=10, **settings) for _ in range(4)],
        autoreset_mode=mode,
    )
    dreams: Any = gym.make_vec("DriveDiT-v0", num_envs=4, max_episode_steps=10, autoreset_mode=mode, **settings)
    assert isinstance(dreams.unwrapped, DriveDiTVectorEnv) and dreams.metadata["autoreset_mode"] is mode
    assert close(single.reset(seed=3), dreams.reset(seed=3))
    ended = np.zeros((2, 4), int)
    for actions in plan(4, 45):
        expected, got = single.step(actions), dreams.step(actions)
        for name, a, b in zip(("observations", "rewards", "ended", "truncated", "infos"), expected, got, strict=True):
            assert close(a, b), name
        ended += np.array(got[2:4])
        over = got[2] | got[3]
        if mode is AutoresetMode.DISABLED and over.any():
            with pytest.raises(ValueError, match="have ended"):
                dreams.step(actions)
            assert close(*(envs.reset(options={"reset_mask": over.copy()}) for envs in (single, dreams)))
    assert (ended[0] > 0).any() and (ended[1] > 0).any(), "some dreams ended by themselves, some by the limit"
    assert single.np_random_seed == dreams.np_random_seed
    films = single.render(), dreams.render()
    assert [len(film) for film in films[0]] == [len(film) for film in films[1]] and close(*films)
    assert [len(film) for film in dreams.render()] == [0] * 4
    masked = np.array([True, False, False, True])
    for envs in (single, dreams):
        envs.reset(seed=[7, 8, None, None], options={"reset_mask": masked.copy()})
    assert single.np_random_seed == dreams.np_random_seed
    single.close()


def test_a_row_does_not_notice_the_resets_of_the_others(tiny_world):
    first, second = (DriveDiTVectorEnv(3, tiny_world, obs_type="latent", autoreset_mode="Disabled") for _ in range(2))
    first.reset(seed=1)
    second.reset(seed=1)
    for step, actions in enumerate(plan(3, 9)):
        if step == 4:
            first.reset(seed=[None, 77, None], options={"reset_mask": np.array([False, True, False]), "scene": 2})
        seen, other = first.step(actions)[0], second.step(actions)[0]
        assert np.array_equal(seen[[0, 2]], other[[0, 2]]) and np.array_equal(seen[1], other[1]) == (step < 4)
    assert first.np_random_seed == (1, 77, 3)


def test_seeds_and_scenes_of_every_row(fast_world):
    envs = DriveDiTVectorEnv(3, fast_world, obs_type="latent")
    observations, infos = envs.reset(seed=[5, 6, 5], options={"scene": [2, "random", 2]})
    alone = DriveDiTEnv(fast_world, obs_type="latent")
    seen, info = alone.reset(seed=6)
    assert infos["scene"][[0, 2]].tolist() == [2, 2] and infos["scene"][1] == info["scene"]
    assert close(observations[1], seen) and np.array_equal(observations[0], observations[2])
    actions = np.tile([[0.3, 0.5]], (3, 1)).astype(np.float32)
    observations, *_ = envs.step(actions)
    assert np.array_equal(observations[0], observations[2]) and close(observations[1], alone.step(actions[1])[0])


@pytest.mark.threads
def test_branches_differ_by_their_actions_alone(fast_world):
    """Common random numbers: equal actions give equal bits, and the noise is the same under different ones."""
    envs = DriveDiTVectorEnv(2, fast_world, obs_type="latent")
    envs.reset(seed=0)
    for actions in plan(2, 5):
        envs.step(actions)
    before = envs.get_state().to_bytes()
    branches = envs.fork(1, 4)
    futures = plan(4, 6, seed=1)
    futures[:, 1] = futures[:, 0]
    futures[0, 2] = futures[0, 0]  # the same first action, then another
    for step, actions in enumerate(futures):
        seen, *_ = branches.step(actions)
        assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2]) == (step == 0)
        assert not np.array_equal(seen[0], seen[3])
    assert envs.get_state().to_bytes() == before, "the parent is not disturbed"
    same, other = envs.fork(1, 2), envs.fork(1, 2, seeds=[8, 9])
    for actions in plan(1, 3, seed=2):
        pair = np.repeat(actions, 2, 0)
        a, b = same.step(pair)[0], other.step(pair)[0]
    assert np.array_equal(a[0], a[1]) and not np.array_equal(b[0], b[1]) and not np.array_equal(a[0], b[0])


def test_a_single_environment_forks_into_the_same_future(tiny_world):
    env = DriveDiTEnv(tiny_world)
    env.reset(seed=4)
    for (action,) in plan(1, 4):
        env.step(action)
    branches = env.fork(3)
    for (action,) in plan(1, 4, seed=5):
        expected = env.step(action)
        frames, rewards, *_ = branches.step(np.repeat(action[None], 3, 0))
        assert close(frames, np.repeat(expected[0][None], 3, 0)) and np.allclose(rewards, expected[1], atol=1e-3)


@pytest.mark.parametrize("stored", [False, True])
def test_snapshots_bring_worlds_back_bit_for_bit(ending_world, stored):
    envs = DriveDiTVectorEnv(3, ending_world, max_episode_steps=10, autoreset_mode="SameStep")
    envs.reset(seed=2)
    for actions in plan(3, 7):
        envs.step(actions)
    state = envs.get_state()
    runs = []
    for _ in range(2):
        runs.append([envs.step(actions)[:4] for actions in plan(3, 20, seed=9)])
        envs.set_state(state.to_bytes() if stored else state)
    for first, second in zip(*runs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array([r[2] | r[3] for r in runs[0]]).any(), "resets happened on the way, and were the same"


@pytest.mark.threads
def test_some_rows_can_be_set_and_the_others_go_on(tiny_world):
    envs, other = (DriveDiTVectorEnv(3, tiny_world, obs_type="latent") for _ in range(2))
    envs.reset(seed=0)
    other.reset(seed=0)
    kept = envs.get_state([2])
    for actions in plan(3, 3):
        envs.step(actions)
        other.step(actions)
    envs.set_state(kept, rows=[0])
    actions = plan(3, 1, seed=1)[0]
    seen, expected = envs.step(actions)[0], other.step(actions)[0]
    assert np.array_equal(seen[1:], expected[1:]) and not np.array_equal(seen[0], expected[0])
    single = DriveDiTEnv(tiny_world, obs_type="latent")
    single.reset(seed=9)
    single.set_state(kept)  # the same kind of state fits both
    assert close(single.step(actions[0])[0], seen[0])


def test_latents_are_never_decoded(tiny_world, monkeypatch):
    envs = DriveDiTVectorEnv(2, tiny_world, obs_type="latent")
    monkeypatch.setattr(DiTWorld, "decode", lambda *args: pytest.fail("decoded"))
    observations, _ = envs.reset(seed=0)
    assert observations.shape == (2, 8, 8, 8) and envs.observation_space.contains(observations)
    observations, *_ = envs.step(plan(2, 1)[0])
    assert envs.observation_space.contains(observations)


def test_gymnasium_wrappers_take_it(tiny_world, tmp_path, monkeypatch):
    films = []

    class Film:  # in place of moviepy, which RecordVideo hands its frames to
        def __init__(self, frames, fps):
            films.append((np.asarray(frames), fps))

        def write_videofile(self, path, **options):
            Path(path).touch()

    modules = {name: ModuleType(name) for name in ("moviepy.video.io.ImageSequenceClip", "moviepy.video.io")}
    modules |= {name: ModuleType(name) for name in ("moviepy", "moviepy.video")}
    modules["moviepy.video.io.ImageSequenceClip"].ImageSequenceClip = Film  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    envs = gym.make_vec("DriveDiT-v0", num_envs=2, world=tiny_world, render_mode="rgb_array", max_episode_steps=10)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    envs = gym.wrappers.vector.RecordVideo(envs, str(tmp_path), video_length=5, disable_logger=True)
    envs.reset(seed=0)
    lengths = []
    for actions in plan(2, 30):
        *_, infos = envs.step(actions)
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    shown = envs.render()
    envs.close()
    assert lengths and max(lengths) <= 10 and min(lengths) > 0
    frames, fps = films[0]
    assert len(frames) >= 5 and frames.shape[1:] == (512, 1024, 3) and frames.dtype == np.uint8  # two side by side
    assert fps == pytest.approx(1 / 0.06)
    assert shown is not None and [np.asarray(frame).shape for frame in shown] == [(512, 512, 3)] * 2


def test_bad_input_gets_a_clear_error_and_changes_nothing(tiny_world):
    for count in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="num_envs must be"):
            DriveDiTVectorEnv(count, tiny_world)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="max_episode_steps"):
        DriveDiTVectorEnv(1, tiny_world, max_episode_steps=0)
    envs = DriveDiTVectorEnv(3, tiny_world, obs_type="latent")
    for call in (lambda: envs.step(plan(3, 1)[0]), envs.get_state, lambda: envs.fork(0, 2)):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            call()
    with pytest.raises(gym.error.ResetNeeded, match="all worlds"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.reset(seed=0)
    before = envs.get_state().to_bytes()
    nan = np.zeros((3, 2), np.float32)
    nan[1, 0] = np.nan
    state = envs.get_state()
    foreign = copy.copy(state)
    foreign.fingerprint = "other"
    bad = [
        (lambda: envs.step(np.zeros((2, 2))), r"\[3, 2\]"),
        (lambda: envs.step(nan), "nan"),
        (lambda: envs.reset(seed=[1, 2]), "seeds"),
        (lambda: envs.reset(options={"scene": [0, 1]}), "scenes"),
        (lambda: envs.reset(options={"scene": [0, 1, 99]}), "index from 0"),
        (lambda: envs.reset(options={"reset_mask": np.ones(2, bool)}), "reset_mask"),
        (lambda: envs.reset(options={"reset_mask": [True, False, True]}), "reset_mask"),
        (lambda: envs.reset(options={"reset_mask": np.zeros(3, bool)}), "at least one True"),
        (lambda: envs.reset(options={"speed": 3}), "reset options"),
        (lambda: envs.set_state(foreign), "belongs to world other"),
        (lambda: envs.set_state(state.to_bytes()[:-50]), "bytes are no state"),
        (lambda: envs.set_state(state.select([0, 1])), "3 worlds are to be set"),
        (lambda: envs.get_state([3]), "numbered 0 to 2"),
        (lambda: envs.fork(0, 3, seeds=[1]), "3 seeds"),
        (lambda: envs.fork(7, 2), "numbered 0 to 2"),
    ]
    for call, words in bad:
        with pytest.raises(ValueError, match=words):
            call()
    assert envs.get_state().to_bytes() == before
    envs.step(np.zeros((3, 2), np.float32))
