"""Agents that learned on latents drive everywhere: their world encodes frames. Worlds without rewards are named."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.__main__ import main
from drivedit.agents.dreams import open_for
from drivedit.agents.drivers.policy import Policy, PolicySpec
from drivedit.agents.judging import trials
from drivedit.agents.judging.starts import JudgeSetup, find_starts
from drivedit.agents.judging.trials import Drives
from drivedit.agents.load import load_agent
from drivedit.agents.planning.planner import Planner, Search
from drivedit.config import RewardTerm, find_domain
from drivedit.data.agent_drivers import AgentDriver
from drivedit.models import DiTWorld
from drivedit.utils import Truth

DREAM, TWIN = "drivedit_env:DriveDiT-v0", "drivedit_env:CarRacingTwin-v0"


@pytest.fixture(scope="module")
def world(tiny_world, tmp_path_factory) -> Path:
    """A world whose encoder looks at one frame at a time, as those of the presets do."""
    config = replace(tiny_world.config, vae=replace(tiny_world.config.vae, temporal_kernel=1))
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    DiTWorld(config, tiny_world.scenes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def agent(world, tmp_path_factory) -> str:
    """A file of a policy that answers to every number of the world's latents."""
    loaded = DiTWorld.from_pretrained(world)
    shape, generator = loaded.latent_shape(), torch.Generator().manual_seed(0)
    weights = {"out.weight": torch.randn(2, int(np.prod(shape)), generator=generator) / 20, "out.bias": torch.zeros(2)}
    spec = PolicySpec(list(shape), "latent", fingerprint=loaded.fingerprint, world=str(world))
    path = tmp_path_factory.mktemp("agents") / "latent.safetensors"
    Policy(spec, weights).save(path)
    return str(path)


def test_a_frame_is_seen_as_the_world_encodes_it(world, agent):
    policy, env = load_agent(agent), gym.make(DREAM, world=str(world))
    inside = gym.make(DREAM, world=str(world), obs_type="latent").unwrapped
    frame, _ = env.reset(seed=0)
    latent = inside.encode(frame[None])[0]  # type: ignore[attr-defined]
    assert latent.dtype == np.float32 and latent.shape == inside.observation_space.shape
    assert np.array_equal(policy(frame), policy(latent))
    first = inside.world.scenes[1].frames[-1]  # type: ignore[attr-defined]
    seen, _ = inside.reset(options={"scene": 1})
    np.testing.assert_allclose(inside.encode(first[None])[0], seen, atol=1e-5)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"frames uint8 \[B, 64, 64, 3\], got uint8 \[1, 32, 32, 3\]"):
        policy(np.zeros((32, 32, 3), np.uint8))


def test_its_own_dream_shows_it_latents_and_all_else_frames(world, agent, tiny_world, tmp_path):
    policy = load_agent(agent)
    assert open_for(policy, DREAM, world=str(world)).observation_space.dtype == np.float32
    tiny_world.save_pretrained(tmp_path / "other")
    assert open_for(policy, DREAM, world=str(tmp_path / "other")).observation_space.dtype == np.uint8
    assert open_for(policy, TWIN).observation_space.dtype == np.uint8
    assert open_for(load_agent("learned"), DREAM, world=str(world)).observation_space.dtype == np.uint8


def test_a_world_that_has_moved_is_named_and_can_be_said(world, agent, tmp_path):
    frame, told = np.zeros((64, 64, 3), np.uint8), load_agent(agent)
    moved = Path(shutil.copytree(world, tmp_path / "moved"))
    gone = Policy(replace(told.spec, world=str(tmp_path / "gone")), told.weights)
    with pytest.raises(ValueError, match=rf"latents of the world {told.spec.fingerprint}.*--world.*gone"):
        gone(frame)
    found = Policy(gone.spec, gone.weights, world=str(moved))
    assert np.array_equal(found(frame), told(frame))
    nameless = Policy(replace(told.spec, fingerprint="", world=None), told.weights)
    with pytest.raises(ValueError, match="does not say of which world"):
        nameless(frame)


def test_the_commands_take_it(world, agent, tmp_path, capsys):
    film = ["drive", "--agent", agent, "--steps", "3", "--out", str(tmp_path / "a.mp4")]
    assert main([*film, "--world", str(world)]) == 0 and main([*film, "--env", TWIN]) == 0
    gym.register("TwinShort-v0", entry_point="drivedit.data.domains.carracing.twin:CarRacingTwin", max_episode_steps=3)
    try:
        out = tmp_path / "scores.json"
        command = ["test", "--agent", agent, "--env", "TwinShort-v0", "--episodes", "1"]
        assert main([*command, "--world", str(world), "--out", str(out)]) == 0
    finally:
        gym.registry.pop("TwinShort-v0")
    assert json.loads(out.read_text())["steps"] == [3]
    assert main(["plan", "--world", str(world), "--steps", "2", "--futures", "7", "--act", "2"]) == 0


def test_the_judge_shows_latents_in_the_dream_and_encodes_reality(world, agent):
    contest = JudgeSetup(DREAM, TWIN, str(world), starts=2, horizon=4, run_up=3)
    starts, names = find_starts(contest), [agent, "lane_keeper"]
    assert trials.latent_policies(contest, [*names, "nobody"]) == [agent]
    together = dict(outcome for _, outcome in trials.drive_together(contest, names, starts) if outcome)
    apart = dict(outcome for _, outcome in trials.drive_apart(contest, "dream", names, starts, 1) if outcome)
    real = dict(outcome for _, outcome in trials.drive_apart(contest, "real", names, starts, 1) if outcome)
    for name in names:
        one, other, there = together[name], apart[name], real[name]
        assert isinstance(one, Drives) and isinstance(other, Drives) and isinstance(there, Drives)
        assert one.rewards == pytest.approx(other.rewards, abs=1e-3) and one.steps.tolist() == there.steps.tolist()
    env = gym.make(DREAM, world=str(world), obs_type="latent")
    policy, seen = load_agent(agent), trials.place(env, starts[0], "dream")
    expected = []
    for _ in range(4):
        seen, reward, *_ = env.step(policy(seen))
        expected.append(float(reward))
    assert together[agent].rewards[0] == pytest.approx(expected, abs=1e-3)  # type: ignore[union-attr]


def test_it_drives_for_recordings(agent):
    env = gym.make(TWIN)
    frame, _ = env.reset(seed=0)
    driver = AgentDriver(agent, find_domain("carracing"), 0.0, np.random.default_rng(0))
    action = driver.act(Truth({}), frame)
    assert np.array_equal(action, load_agent(agent)(frame))


def test_what_learned_on_latents_is_judged_in_the_twin(world, tmp_path):
    pytest.importorskip("stable_baselines3")
    small = ["--num-envs=2", "--rollout=8", "--segment=16", "--steps=16", "--horizon=5", "--eval-episodes=1"]
    gym.register("TwinShort-v0", entry_point="drivedit.data.domains.carracing.twin:CarRacingTwin", max_episode_steps=3)
    try:
        command = ["train", "ppo", "--world", str(world), "--obs-type", "latent", "--eval-env", "TwinShort-v0", *small]
        assert main([*command, "--out", str(tmp_path)]) == 0
    finally:
        gym.registry.pop("TwinShort-v0")
    assert np.isfinite(json.loads((tmp_path / "curve.jsonl").read_text())["judged"])
    policy = load_agent(str(tmp_path / "agent.safetensors"))
    assert policy.spec.fingerprint == DiTWorld.from_pretrained(world).fingerprint  # type: ignore[attr-defined]
    assert policy.spec.world == str(world.resolve())  # type: ignore[attr-defined]


# -- rewards -------------------------------------------------------------------------------------------------------


@pytest.fixture
def unrewarded(tiny_world) -> DiTWorld:
    """As a world of a film without rewards is."""
    spec = replace(tiny_world.spec, rewards={"progress": RewardTerm("learned")})
    config = replace(tiny_world.config, spec=spec, end_threshold=1.0)
    return DiTWorld(config, tiny_world.scenes)


@pytest.mark.filterwarnings("error")
def test_a_world_without_rewards_is_named_before_anything_learns_or_plans(unrewarded, tiny_world):
    pytest.importorskip("stable_baselines3")
    from drivedit.agents.learning.sb3 import open_vector

    with pytest.warns(UserWarning, match="every reward of this world is the same"):
        open_vector(DREAM, 2, world=unrewarded)
    env = gym.make(DREAM, world=unrewarded, disable_env_checker=True)
    with pytest.warns(UserWarning, match="every reward of this world is the same"):
        Planner.in_dream(env, Search(futures=6))
    with pytest.warns(UserWarning, match="every reward of this world is the same"):
        Planner.in_reality(gym.make(TWIN), env)
    open_vector(DREAM, 2, world=tiny_world)
    Planner.in_dream(gym.make(DREAM, world=tiny_world, disable_env_checker=True))


LEARNED, TIME, LEFT = RewardTerm("learned", 2.0), RewardTerm("constant", -0.3), RewardTerm("on_end", -9.0)


@pytest.mark.parametrize(
    ("rewards", "threshold", "weights", "rewarding"),
    [
        ({"progress": LEARNED}, 1.0, None, True),
        ({"progress": LEARNED}, 1.0, {"progress": 0.0}, False),
        ({"speed": RewardTerm("telemetry", 1.0)}, 1.0, None, True),
        ({"time": TIME}, 1.0, None, False),
        ({"time": TIME}, 0.5, None, True),
        ({"left": LEFT}, 1.0, None, False),
        ({"left": LEFT}, 0.5, None, True),
        ({"left": LEFT}, 0.5, {"left": 0.0}, False),
    ],
)
def test_rewards_tell_something_if_driving_changes_them(unrewarded, rewards, threshold, weights, rewarding):
    spec = replace(unrewarded.spec, rewards=rewards)
    unrewarded.config = replace(unrewarded.config, spec=spec, end_threshold=threshold)
    env = gym.make(DREAM, world=unrewarded, reward_weights=weights, disable_env_checker=True)
    assert env.unwrapped.rewarding is rewarding  # type: ignore[attr-defined]


# -- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["drive", "train", "curves", "test", "plan", "judge"])
def test_every_option_has_a_sentence_and_its_default(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    listed = capsys.readouterr().out.partition("\noptions:\n")[2]
    options = re.split(r"\n  (?=-)", "\n" + listed)[1:]
    for option in options:
        name, text = option.split()[0], " ".join(option.split())
        assert name == "-h," or re.search(r"[a-z]{3,}.*\(default: .+\)$", text), text


def test_the_field_that_differs_is_named(world, tmp_path, capsys):
    pytest.importorskip("stable_baselines3")
    command = ["train", "ppo", "--world", str(world), "--obs-type=latent", "--eval-env=none", "--out", str(tmp_path)]
    small = ["--num-envs=2", "--rollout=4", "--segment=8", "--steps=8"]
    assert main([*command, *small]) == 0
    assert main([*command, *small, "--lr=0.1", "--gray"]) == 1
    assert "need obs_type='pixels'" in capsys.readouterr().err
    assert main([*command, *small, "--lr=0.1", "--stack=3"]) == 1
    said = capsys.readouterr().err
    assert "stack 2 there, 3 here; lr 0.0003 there, 0.1 here" in said and "horizon" not in said
