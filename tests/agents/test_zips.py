"""Zips of Stable-Baselines3 are read as SB3 reads them, or refused by name."""

import json
import logging
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from fuzz.agents import run
from torch import nn

pytest.importorskip("stable_baselines3")
from sb3_contrib import TQC, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from drivedit.agents.drivers.policy import ACTIVATIONS, Policy
from drivedit.agents.drivers.zips import read_zip
from drivedit.agents.load import load_agent

SMALL = {"features_extractor_kwargs": {"features_dim": 16}}


class Frames(gym.Env):
    """Noise to look at."""

    def __init__(self, channels: int = 3, bounds: tuple[float, float] = (-1.0, 1.0), space: gym.Space | None = None):
        self.observation_space = space or gym.spaces.Box(0, 255, (64, 64, channels), np.uint8)
        self.action_space = gym.spaces.Box(*bounds, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action: Any) -> Any:
        return self._see(), 0.0, False, bool(self.np_random.random() < 0.3), {}

    def _see(self) -> Any:
        space: Any = self.observation_space
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, np.uint8)
        return self.np_random.standard_normal(space.shape).astype(np.float32)


def loud(model: Any) -> Any:
    """Makes every layer's output vary around 0, where activations differ, and the actions fill the box."""

    def standardize(layer: Any, _: Any, out: torch.Tensor) -> torch.Tensor:
        mean, deviation = out.mean(0), out.std(0) + 1e-6
        layer.weight.data /= deviation[:, None]
        layer.bias.data = (layer.bias - mean) / deviation
        return (out - mean) / deviation

    layers = [module for module in model.policy.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(standardize) for layer in layers]
    model.predict(np.stack([model.observation_space.sample() for _ in range(32)]), deterministic=True)
    for hook in hooks:
        hook.remove()
    return model


def same(model: Any, path: Path, venv: Any, frames: Any = lambda seen: seen[..., -3:], **said: Any) -> np.ndarray:
    """Drives both over several episodes; their actions agree to float32's rounding. Returns the actions."""
    model.save(path)
    agent = read_zip(path, **said)
    venv.seed(4)
    seen, state, starts, told = venv.reset(), None, np.ones(1, bool), []
    for _ in range(12):
        theirs, state = model.predict(seen, state=state, episode_start=starts, deterministic=True)
        mine = agent(frames(seen[0]))
        np.testing.assert_allclose(mine, theirs[0], atol=2e-5)
        told.append(mine)
        seen, _, starts, _ = venv.step(theirs)
        if starts[0]:
            agent.reset()
    assert np.ptp(told, axis=0).max() > 1e-2, "the actions answer to what is seen"
    return np.array(told)


def make(algorithm: Any, venv: Any, policy: Any = "CnnPolicy", keywords: Any = None, **settings: Any) -> Any:
    sizes = {"n_steps": 4, "batch_size": 4} if algorithm in (PPO, RecurrentPPO) else {"buffer_size": 4}
    sizes = {} if algorithm is A2C else sizes
    keywords = {**(SMALL if "Cnn" in str(policy) else {}), "net_arch": [8], **(keywords or {})}
    return loud(algorithm(policy, venv, policy_kwargs=keywords, seed=0, **sizes, **settings))


@pytest.fixture
def venv():
    return DummyVecEnv([Frames])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_one_that_was_trained(name, venv, tmp_path):
    same(make(PPO, venv, keywords={"activation_fn": ACTIVATIONS[name]}), tmp_path / "m.zip", venv)
    agent, frames = read_zip(tmp_path / "m.zip"), np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    alike = {"elu": "celu", "celu": "elu", "relu": "relu6", "relu6": "relu"}  # where nothing is above 6
    for other in ACTIVATIONS.keys() - {name, alike.get(name)}:
        wrong = Policy(replace(agent.spec, activation=other), agent.weights)
        assert max(np.abs(wrong(frame) - agent(frame)).max() for frame in frames) > 1e-3, "the comparison can tell"


SDE = {"use_sde": True}
FLAT = {"features_extractor_class": FlattenExtractor, "features_extractor_kwargs": {}}
SHARED = {"share_features_extractor": True, "net_arch": {"pi": [9], "qf": [4]}}
DEEP = {"n_lstm_layers": 2, "shared_lstm": True, "enable_critic_lstm": False, "lstm_kwargs": {"dropout": 0.3}}
CASES: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any]]] = {
    "a2c": (A2C, "CnnPolicy", {}, {}),
    "ddpg": (DDPG, "CnnPolicy", {}, {}),
    "td3, two layers": (TD3, "CnnPolicy", {"net_arch": [8, 6], "activation_fn": nn.GELU}, {}),
    "td3, no layer": (TD3, "CnnPolicy", {"net_arch": []}, {}),
    "sac": (SAC, "CnnPolicy", {}, {}),
    "sac, tanh": (SAC, "CnnPolicy", {"activation_fn": nn.Tanh}, {}),
    "sac, shared features, apart": (SAC, "CnnPolicy", SHARED, {}),
    "sac, flat": (SAC, "MlpPolicy", {}, {}),
    "tqc": (TQC, "CnnPolicy", {"activation_fn": nn.ELU}, {}),
    "ppo, networks apart": (PPO, "CnnPolicy", {"net_arch": {"pi": [9, 5], "vf": [4]}}, {}),
    "ppo, two extractors": (PPO, "CnnPolicy", {"share_features_extractor": False}, {}),
    "ppo, no layer": (PPO, "CnnPolicy", {"net_arch": []}, {}),
    "ppo, frames as they are": (PPO, "CnnPolicy", {"normalize_images": False}, {}),
    "ppo, not orthogonal": (PPO, "CnnPolicy", {"ortho_init": False, "log_std_init": -1.0}, {}),
    "ppo, flat": (PPO, "MlpPolicy", {}, {}),
    "ppo, flat by name": (PPO, "CnnPolicy", FLAT, {}),
    "ppo, eyes by name": (PPO, "MlpPolicy", {"features_extractor_class": NatureCNN, **SMALL}, {}),
    "ppo, gsde": (PPO, "CnnPolicy", {"full_std": False}, SDE),
    "ppo, gsde and squashed": (PPO, "CnnPolicy", {"squash_output": True}, SDE),
    "recurrent": (RecurrentPPO, "CnnLstmPolicy", {"lstm_hidden_size": 8, "activation_fn": nn.SiLU}, {}),
    "recurrent, two deep, shared": (RecurrentPPO, "CnnLstmPolicy", {"lstm_hidden_size": 8, **DEEP}, {}),
    "recurrent, flat": (RecurrentPPO, "MlpLstmPolicy", {"lstm_hidden_size": 8}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_network_acts_as_stable_baselines3_says(case, venv, tmp_path):
    algorithm, policy, keywords, settings = CASES[case]
    same(make(algorithm, venv, policy, keywords, **settings), tmp_path / "m.zip", venv)


def test_a_stack_begins_with_zeros_newest_last(tmp_path, caplog):
    venv = VecFrameStack(DummyVecEnv([Frames]), 4)
    same(make(PPO, venv), tmp_path / "m.zip", venv)
    assert "4 coloured frames, zeros before the first" in caplog.text


def test_what_a_zip_cannot_say_can_be_said(tmp_path, caplog):
    """Grey frames, and a stack that begins with copies: compared with the model by hand."""
    model = make(PPO, DummyVecEnv([lambda: Frames(3)]))
    model.save(tmp_path / "m.zip")
    with caplog.at_level(logging.WARNING):
        read_zip(tmp_path / "m.zip")
    assert not caplog.records, "a colour frame needs no guess"
    agent = read_zip(tmp_path / "m.zip", gray=True, padding="first", repeat=2)
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    gray = (frame.astype(int) @ np.array([77, 150, 29]) // 256).astype(np.uint8)
    theirs, _ = model.predict(np.stack([gray] * 3), deterministic=True)
    first = agent(frame)
    np.testing.assert_allclose(first, theirs, atol=2e-5)
    assert np.array_equal(agent(255 - frame), first), "a decision lasts two steps"


def test_latents_are_read_as_they_are(tmp_path):
    venv = DummyVecEnv([lambda: Frames(space=gym.spaces.Box(-np.inf, np.inf, (2, 3, 3), np.float32))])
    model = make(PPO, venv, "MlpPolicy")
    same(model, tmp_path / "m.zip", venv, frames=lambda seen: seen)
    model.learn(4)
    same(model, tmp_path / "m.zip", venv, frames=lambda seen: seen)


class Own(FlattenExtractor):
    """Somebody's own extractor."""


class OwnPolicy(PPO.policy_aliases["CnnPolicy"]):  # type: ignore[misc]
    """Somebody's own policy."""


def boxed(*bounds: float) -> Any:
    return DummyVecEnv([lambda: Frames(bounds=(bounds[0], bounds[1]))])


def normalized() -> Any:
    box = gym.spaces.Box(-np.inf, np.inf, (2, 3, 3), np.float32)
    return VecNormalize(DummyVecEnv([lambda: Frames(space=box)]))


class Discrete(Frames):
    """Actions without numbers between them."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Discrete(3)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda v: make(PPO, v, keywords={"activation_fn": nn.PReLU}), "activation <class 'torch.*PReLU'>"),
        (lambda v: make(PPO, v, keywords={"activation_fn": lambda: nn.LeakyReLU(0.3)}), "activation <function"),
        (lambda v: make(PPO, v, "MlpPolicy", {"features_extractor_class": Own}), "extractor <class '.*Own'>"),
        (lambda v: make(PPO, v, OwnPolicy), "policies of the class .*test_zips"),
        (lambda v: make(SAC, v, use_sde=True), "gSDE with SAC"),
        (lambda v: make(PPO, boxed(0, 1)), r"actions must lie in \[-1, 1\], here they lie in {'0'} to {'1'}"),
        (lambda v: make(SAC, boxed(-2, 2)), r"actions must lie in \[-1, 1\]"),
        (lambda v: PPO("CnnPolicy", DummyVecEnv([Discrete]), n_steps=4, batch_size=4), "action_space must be a Box"),
        (lambda v: DQN("CnnPolicy", DummyVecEnv([Discrete]), buffer_size=4), "policies of the class .*dqn"),
        (lambda v: make(CrossQ, v, "MlpPolicy"), "policies of the class .*crossq"),
        (lambda v: make(PPO, normalized(), "MlpPolicy").learn(4), "VecNormalize"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(build, said, venv, tmp_path):
    build(venv).save(tmp_path / "m.zip")
    with pytest.raises(ValueError, match=said):
        read_zip(tmp_path / "m.zip")


def edited(source: Path, to: Path, change: Any) -> Path:
    """The zip with its JSON changed."""
    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    change(data)
    parts["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return to


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(policy_kwargs={"new_option": 1}),
        lambda data: data.update(policy_kwargs={"normalize_images": "no"}),
        lambda data: data["observation_space"].update(_shape=[10**9, 64, 64]),
        lambda data: data["observation_space"].update(_shape=[3, 64]),
        lambda data: data["observation_space"].update(high="[[[1 1 1]]]"),
        lambda data: data.pop("observation_space"),
        lambda data: data.pop("policy_class"),
        lambda data: data.update(policy_class="ActorCriticPolicy"),
    ],
)
def test_a_zip_that_says_something_else_is_refused(change, venv, tmp_path):
    make(PPO, venv).save(tmp_path / "m.zip")
    with pytest.raises(ValueError, match="new.zip: "):
        load_agent(str(edited(tmp_path / "m.zip", tmp_path / "new.zip", change)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_are_refused_or_drive_as_before(venv, tmp_path):
    assert run(300, seed=0)[1] == []
    make(PPO, venv).save(tmp_path / "m.zip")
    assert run(100, 1, [tmp_path / "m.zip"])[1] == []
