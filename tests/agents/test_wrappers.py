"""What is wrapped around many dreams while an agent learns in them."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.steering import Flicker, Steer, vector

pytest.importorskip("stable_baselines3")

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.learning.sb3 import open_vector
from drivedit.agents.learning.wrappers import (
    Memory,
    OffRoad,
    Patience,
    Pessimism,
    RandomLook,
    Remember,
    Repeat,
    ResetWith,
)


def test_a_new_road_in_every_episode(tiny_world):
    env: Any = ResetWith(open_vector("DriveDiT-v0", 2, world=tiny_world), {"route": "random"})
    env.reset(seed=1)
    first = env.unwrapped.get_state().world.route.points.clone()
    env.reset(options={"reset_mask": np.array([True, False])})
    second = env.unwrapped.get_state().world.route.points
    rows = [torch.equal(a[: len(b)], b[: len(a)]) for a, b in zip(first, second, strict=True)]
    assert rows == [False, True]


def test_patience_ends_episodes_that_go_nowhere():
    env = Patience(vector(Steer), 3)
    plain = vector(Steer)
    env.reset(seed=0)
    plain.reset(seed=0)
    without, ended = np.zeros(2, int), 0
    for turn in range(40):
        actions = np.full((2, 2), 0.9 if turn % 7 else 0.0, np.float32)  # reward -0.4 or 0.6, as the way is
        _, rewards, terminated, _, _ = env.step(actions)
        assert plain.step(actions)[1] == pytest.approx(rewards)
        without = np.where(rewards > 0, 0, without + 1)
        assert terminated.tolist() == (without >= 3).tolist()
        ended += int(terminated.sum())
        without[terminated] = 0
        for one in (env, plain):
            if terminated.any():
                one.reset(options={"reset_mask": terminated})
    assert ended > 2
    with pytest.raises(ValueError, match="at least 1"):
        Patience(plain, 0)


def test_leaving_the_road_ends_episodes():
    class Verge(Steer):
        def step(self, action: np.ndarray) -> Any:
            telemetry = {"wheels_on_road": float(action[1])}
            return self._see(), 1.0, False, False, {"telemetry": telemetry} if action[0] > 0 else {}

    env = OffRoad(vector(Verge, 3), steps=2)
    env.reset(seed=0)
    on, half, off = [1.0, 1.0], [1.0, 0.5], [1.0, 0.0]
    for wheels, ended in (
        ((off, off, off), (False, False, False)),
        ((off, half, off), (True, False, True)),
        ((on, off, off), (False, False, True)),
    ):
        _, rewards, terminated, _, _ = env.step(np.array(wheels, np.float32))
        assert rewards == pytest.approx([1.0] * 3) and terminated.tolist() == list(ended)
    env.reset(options={"reset_mask": np.array([False, True, True])})
    assert env.step(np.array([off, off, on], np.float32))[2].tolist() == [False, False, False]
    with pytest.raises(ValueError, match="wheels_on_road"):
        env.step(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="at least 1"):
        OffRoad(vector(Verge), 0)


def test_pessimism_takes_from_the_unsure_and_ends_the_lost():
    env, plain = Pessimism(vector(Steer), penalty=2.0, floor=0.3, cost=7.0), vector(Steer)
    env.reset(seed=0)
    plain.reset(seed=0)
    actions = np.array([[0.0, 0.0], [0.0, -0.8]], np.float32)  # confidence 0.5 and 0.1
    _, rewards, terminated, _, infos = env.step(actions)
    expected = plain.step(actions)[1] - 2.0 * (1.0 - infos["confidence"]) - [0.0, 7.0]
    assert rewards == pytest.approx(expected) and terminated.tolist() == [False, True]
    with pytest.raises(ValueError, match="floor in"):
        Pessimism(vector(Steer), floor=1.5)


def test_pessimism_needs_a_world_that_tells_confidence(monkeypatch):
    monkeypatch.setattr(Steer, "step", lambda self, action: (self._see(), 0.0, False, False, {}))
    env = Pessimism(vector(Steer), penalty=1.0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="confidence"):
        env.step(np.zeros((2, 2), np.float32))


def test_a_decision_lasts_until_an_episode_ends():
    env, plain = Repeat(Patience(vector(Steer), 5), 3), vector(Steer)
    env.reset(seed=0)
    plain.reset(seed=0)
    actions = np.array([[9.0, 0.0], [0.0, 0.0]], np.float32)  # the first world never gets a positive reward
    for steps, ended in ((3, [False, False]), (2, [True, False])):
        told = [plain.step(actions) for _ in range(steps)]
        seen, rewards, terminated, _, _ = env.step(actions)
        assert np.array_equal(seen, told[-1][0]) and terminated.tolist() == ended
        assert rewards == pytest.approx(np.sum([one[1] for one in told], axis=0))
    with pytest.raises(ValueError, match="at least 1"):
        Repeat(plain, 0)


def test_a_random_look_shifts_and_brightens_whole_episodes():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[30:34, 20:24] = 200

    class Still(Flicker):
        def _see(self) -> np.ndarray:
            return picture

    class Two(Still):
        def __init__(self) -> None:
            super().__init__()

    env = RandomLook(vector(Two, 40), brightness=0.0, noise=0.0, shift=3)
    first, _ = env.reset(seed=1)
    centres = np.array([np.argwhere(f[..., 0]).mean(0) - [31.5, 21.5] for f in first])
    assert np.array_equal(np.unique(centres), np.arange(-3, 4)), "whole pixels, both ways, up to 3"
    later, *_ = env.step(np.zeros((40, 2), np.float32))
    assert np.array_equal(first, later)
    again, _ = env.reset(seed=1)
    assert np.array_equal(first, again) and not np.array_equal(first, env.reset()[0])
    mask = np.arange(40) < 20
    begun, _ = env.reset(options={"reset_mask": mask})
    assert np.array_equal(begun[20:], env.step(np.zeros((40, 2), np.float32))[0][20:])

    bright = RandomLook(vector(Two, 40), brightness=0.2, noise=0.0, shift=0).reset(seed=1)[0]
    black = bright[:, 0, 0, 0].astype(float)
    assert black.max() > 30 and (black <= 0.2 * 255 + 0.2 * 128 + 1).all()
    noisy = RandomLook(vector(Two, 4), brightness=0.0, noise=5.0, shift=0)
    noisy.reset(seed=1)
    errors = noisy.step(np.zeros((4, 2), np.float32))[0][:, 30:34, 20:24].astype(float) - 200.0
    assert 3.5 < errors.std() < 6.5  # 192 draws: 5 +- 1.5 is six standard errors
    with pytest.raises(ValueError, match="must be uint8"):
        RandomLook(vector(Steer))


def test_memory_begins_with_the_first_frame_and_forgets_by_rows():
    space = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)
    frames = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 3), np.uint8)
    memory = Memory(space, gray=False, stack=2)
    first = [f.transpose(0, 3, 1, 2) for f in frames]
    assert memory.space.shape == (6, 4, 4)
    everyone, second = np.ones(2, bool), np.array([False, True])
    assert np.array_equal(memory.begin(frames[0], everyone), np.concatenate([first[0], first[0]], 1))
    assert np.array_equal(memory.push(frames[1]), np.concatenate([first[0], first[1]], 1))
    seen = memory.begin(frames[2], second)
    assert np.array_equal(seen[0], np.concatenate([first[0][0], first[1][0]]))
    assert np.array_equal(seen[1], np.concatenate([first[2][1], first[2][1]]))
    gray = Memory(space, gray=True, stack=1).begin(frames[0], everyone)
    assert np.abs(gray[:, 0] - frames[0] @ [0.299, 0.587, 0.114]).max() <= 2.0
    white = np.full((1, 4, 4, 3), 255, np.uint8)
    assert (Memory(space, True, 1).begin(white, np.ones(1, bool)) == 255).all()
    light = Memory(gym.spaces.Box(0, 255, (4, 4, 1), np.uint8), True, 1)  # grey already
    assert np.array_equal(light.begin(frames[0][..., :1], everyone), first[0][:, :1])
    with pytest.raises(ValueError, match="made grey"):
        Remember(vector(Steer), gray=True)
