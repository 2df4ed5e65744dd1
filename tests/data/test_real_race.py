"""The standard race behind the dream's spaces: episodes of CarRacing-v3, and scenes for dreams that go on from them."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("Box2D")

import drivedit_env  # noqa: F401  (registers the environments)


def test_the_real_episode_is_carracings_own():
    env, stock = gym.make("CarRacingReal-v0"), gym.make("CarRacing-v3")
    frame, _ = env.reset(seed=5)
    stock.reset(seed=5)
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
    rng, mine, theirs = np.random.default_rng(0), [], []
    for _ in range(12):
        steering, throttle = np.clip(rng.normal([0.0, 0.8], [0.2, 0.4]), -1, 1).astype(np.float32)
        mine.append(env.step(np.array([steering, throttle]))[1])
        controls = np.array([steering, max(throttle, 0), max(-throttle, 0)], np.float32)
        theirs.append(sum(float(stock.step(controls)[1]) for _ in range(3)))
    assert mine == pytest.approx(theirs) and max(mine) > 2.0


def test_a_real_episode_has_a_thousand_ticks_and_the_twins_picture():
    env, twin = gym.make("CarRacingReal-v0"), gym.make("CarRacingTwin-v0")
    assert np.array_equal(env.reset(seed=8)[0], twin.reset(seed=8)[0]), "no opening zoom"
    rest, returned, steps, truncated = np.zeros(2, np.float32), 0.0, 0, False
    while not truncated:
        _, reward, terminated, truncated, info = env.step(rest)
        returned, steps = returned + float(reward), steps + 1
        assert not terminated
    tiles = len(env.unwrapped._simulator.track)  # type: ignore[attr-defined]
    assert (steps, info["ticks"]) == (334, 1000)
    assert returned == pytest.approx(-100.0 + 1000.0 / tiles * round((returned + 100.0) * tiles / 1000.0), abs=1e-6)
    with pytest.raises(ValueError, match="no reset options"):
        env.reset(options={"scene": 1})


def test_a_dream_can_begin_in_a_real_episode(tiny_world):
    env, twin = gym.make("CarRacingReal-v0"), gym.make("CarRacingTwin-v0")
    for one in (env, twin):
        one.reset(seed=3)
        with pytest.raises(RuntimeError, match="at least one control"):
            one.unwrapped.scene()  # type: ignore[attr-defined]
        for action in ([0.1, 0.9], [0.0, 0.5], [-0.2, -0.1]):
            frame = one.step(np.array(action, np.float32))[0]
        scene: dict[str, Any] = one.unwrapped.scene(2)  # type: ignore[attr-defined]
        assert np.array_equal(scene["frames"][-1], frame) and len(scene["poses"]) == 3
        assert scene["controls"] == pytest.approx(np.array([[0.0, 0.5], [-0.2, -0.1]], np.float32))
    dream = gym.make("DriveDiT-v0", world=tiny_world)
    _, info = dream.reset(seed=0, options={"scene": scene})
    assert info["scene"] == -1
