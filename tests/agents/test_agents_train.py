"""Agents learn, resume exactly, drive as they learned, and are scored by the real simulator."""

import json
import os
import signal
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.steering import Flicker, Steer, Wide
from tqdm import tqdm

pytest.importorskip("stable_baselines3")

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.__main__ import main
from drivedit.agents.drivers.policy import Policy, PolicySpec
from drivedit.agents.drivers.zips import read_zip
from drivedit.agents.judging.scores import Scores, score
from drivedit.agents.learning.train import TrainConfig, _model, export, open_env, train, warmth
from drivedit.agents.learning.wrappers import scaled
from drivedit.agents.load import load_agent

SMALL: dict[str, Any] = {"num_envs": 2, "rollout": 8, "segment": 16, "steps": 32, "horizon": 5, "buffer": 24}


@pytest.fixture(scope="module", autouse=True)
def environments():
    names = {"Steer-v0": Steer, "Flicker-v0": Flicker, "Wide-v0": Wide}
    for name, entry in names.items():
        gym.register(name, entry_point=entry, max_episode_steps=20)
    yield
    for name in names:
        gym.registry.pop(name)


@pytest.fixture(scope="module")
def saved(tiny_world, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("worlds") / "tiny"
    tiny_world.save_pretrained(path)
    return str(path)


def latent_run(**changes: Any) -> TrainConfig:
    return TrainConfig(**{**SMALL, "env": "Steer-v0", "obs_type": "latent", "eval_env": None, **changes})


# -- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ppo", "recurrent_ppo", "sac"])
def test_a_resumed_run_is_the_uninterrupted_one(algorithm, tmp_path, monkeypatch):
    presets = {"sac": {"batch_size": 8, "learning_starts": 6, "policy_kwargs": {"net_arch": [8]}}}
    if algorithm in presets:
        monkeypatch.setitem(train.__globals__["PRESETS"], algorithm, presets[algorithm])
    run = latent_run(algorithm=algorithm, steps=48)
    whole = train(run, tmp_path / "whole", progress=False)
    draw = train.__globals__["_draw"]

    def interrupted(*arguments: Any) -> None:
        draw(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(train.__globals__, "_draw", interrupted)
        train(run, tmp_path / "parts", progress=False)
    np.random.seed(99)
    torch.manual_seed(99)
    parts = train(run, tmp_path / "parts", progress=False)
    assert whole.weights.keys() == parts.weights.keys()
    assert all(torch.equal(value, parts.weights[name]) for name, value in whole.weights.items())
    assert (tmp_path / "whole" / "curve.jsonl").read_text() == (tmp_path / "parts" / "curve.jsonl").read_text()
    other = train(latent_run(algorithm=algorithm, steps=48, seed=1), tmp_path / "other", progress=False)
    assert any(not torch.equal(value, other.weights[name]) for name, value in whole.weights.items())


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_signal_ends_the_rollout_and_keeps_what_was_learned(algorithm, tmp_path, monkeypatch, capsys):
    config = latent_run(algorithm=algorithm, segment=10_000, steps=10_000)
    rollout = config.num_envs * (1 if algorithm == "sac" else config.rollout)
    before, steps = signal.getsignal(signal.SIGTERM), []

    class Sends(tqdm):
        def update(self, n=1):
            steps.append(n)
            if sum(steps) == rollout + config.num_envs:  # within the second rollout, or at its end
                os.kill(os.getpid(), signal.SIGTERM)
            return super().update(n)

    monkeypatch.setattr("drivedit.agents.learning.train.tqdm", Sends)
    with pytest.raises(SystemExit) as ended:
        train(config, tmp_path)
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert sum(steps) == 2 * rollout and f"kept step {2 * rollout} in" in capsys.readouterr().out
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["counts"]["num_timesteps"] == 2 * rollout
    assert (tmp_path / "agent.safetensors").is_file()


def test_the_learning_rate_cools_down(tmp_path):
    shares = [warmth(done, 0.5) for done in (0.0, 0.5, 0.75, 0.9, 1.0, 1.5)]
    assert shares == pytest.approx([1.0, 1.0, 0.5, 0.2, 0.0, 0.0])
    assert [warmth(done, 0.0) for done in (0.0, 0.99, 1.0)] == [1.0, 1.0, 0.0]
    train(latent_run(steps=48, cooldown=1.0, lr=3e-3), tmp_path, progress=False)
    optimizer = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["networks"]["policy.optimizer"]
    assert optimizer["param_groups"][0]["lr"] == 0.0


def test_ppo_learns_to_steer(tmp_path):
    """From a return of at most 10 of 20, which is what steering straight on gets, to above 16."""
    run = latent_run(steps=4096, segment=2048, rollout=32, num_envs=8, lr=2e-3, horizon=20, stack=1, reward_scale=1.0)
    agent = train(run, tmp_path, progress=False)
    assert np.mean(score(gym.make("Steer-v0"), agent, 5, 0, False).returns) > 16.0
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [point["steps"] for point in curve] == [2048, 4096]
    assert curve[-1]["learned_in"] > curve[0]["learned_in"] + 1.0
    assert [f for f in tmp_path.iterdir() if f.name.startswith("events.out")]


def test_controls_of_other_ranges_are_learned_and_the_saved_policy_has_them(tmp_path):
    """A policy in [-1, 1] of the first control, 0 to 10, gets 10 of 20 at most."""
    learned = {"steps": 4096, "segment": 2048, "rollout": 32, "num_envs": 8, "lr": 2e-3, "horizon": 20, "stack": 1}
    train(latent_run(env="Wide-v0", reward_scale=1.0, **learned), tmp_path, progress=False)
    agent = Policy.load(tmp_path / "agent.safetensors")
    assert (agent.spec.low, agent.spec.high) == ([0.0, -2.0], [10.0, 1.0])
    assert np.mean(score(gym.make("Wide-v0"), agent, 5, 0, False).returns) > 16.0


def test_what_has_no_ranges_is_not_learned(tmp_path, monkeypatch):
    for space in (gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Discrete(3)):
        monkeypatch.setattr(Wide, "action_space", space)
        with pytest.raises(ValueError, match="actions in a bounded box"):
            open_env(latent_run(env="Wide-v0"))


def test_curves_of_runs_are_drawn(tmp_path, capsys):
    for seed in (0, 1):
        train(latent_run(seed=seed), tmp_path / str(seed), progress=False)
    folders = [str(tmp_path / str(seed)) for seed in (0, 1)]
    assert main(["curves", *folders, "--out", str(tmp_path / "curves.png")]) == 0
    one = cv2.imread(str(tmp_path / "curves.png"))
    assert one is not None and one.std() > 5
    assert main(["curves", folders[0], "--out", str(tmp_path / "curves.png")]) == 0
    other = cv2.imread(str(tmp_path / "curves.png"))
    assert other is not None and not np.array_equal(one, other), "a line for each run"
    assert main(["curves", str(tmp_path), "--out", str(tmp_path / "none.png")]) == 1
    assert "holds no curve.jsonl" in capsys.readouterr().err and not (tmp_path / "none.png").exists()
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "curve.jsonl").write_text('{"steps": 16}\n')
    assert main(["curves", str(tmp_path / "short"), "--out", str(tmp_path / "none.png")]) == 1
    assert "no episode ended so far in short" in capsys.readouterr().err


def test_a_run_in_the_dream_is_judged_in_the_twin(saved, tmp_path, capsys):
    pytest.importorskip("Box2D")
    command = ["train", "ppo", "--world", saved, "--out", str(tmp_path), "--gray", "--random-look", "--floor", "0.01"]
    small = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    short = "CarRacingTwinShort-v0"
    gym.register(short, entry_point="drivedit.data.domains.carracing.twin:CarRacingTwin", max_episode_steps=4)
    try:
        assert main([*command, *small, "--eval-env", short, "--eval-episodes", "1"]) == 0
    finally:
        gym.registry.pop(short)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert len(curve) == 2 and all(np.isfinite(point["judged"]) for point in curve)
    agent = str(tmp_path / "agent.safetensors")
    film = ["drive", "--agent", agent, "--world", saved, "--steps", "3", "--out", str(tmp_path / "a.mp4")]
    assert main(film) == 0 and (tmp_path / "a.mp4").stat().st_size > 0
    capsys.readouterr()
    assert main([*command, *small, "--lr", "0.1"]) == 1
    assert "another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": "dqn"}, "algorithm must be one of"),
        ({"obs_type": "sound"}, "obs_type must be"),
        ({"gray": True, "obs_type": "latent"}, "need obs_type='pixels'"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
    ],
)
def test_a_wrong_run_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**changes)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(latent_run(steps=16), tmp_path, progress=False)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RuntimeError, match="checkpoint.pt is damaged"):
        train(latent_run(), tmp_path, progress=False)


# -- the policy at the wheel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ppo", "recurrent_ppo", "sac"])
@pytest.mark.parametrize("obs", ["pixels", "latent", "wide"])
def test_the_exported_policy_is_the_models(algorithm, obs, tmp_path):
    """Over two episodes, memory and recurrent state included, within the rounding of one float32 pass."""
    pixels = obs == "pixels"
    settings = {
        "env": {"pixels": "Flicker-v0", "latent": "Steer-v0", "wide": "Wide-v0"}[obs],
        "obs_type": "pixels" if pixels else "latent",
        "gray": pixels,
        "stack": 3,
        "horizon": 4,
    }
    run = TrainConfig(**{**SMALL, "eval_env": None, "algorithm": algorithm, "num_envs": 1, **settings})
    venv = open_env(run)
    model = _model(run, venv)
    export(model, run).save(tmp_path / "agent.safetensors")
    agent = Policy.load(tmp_path / "agent.safetensors")
    single: Any = gym.make(run.env, max_episode_steps=4)
    venv.seed(3)
    seen, (frame, _) = venv.reset(), single.reset(seed=3)
    state, starts, told = None, np.ones(1, bool), []
    for _ in range(8):
        theirs, state = model.predict(seen, state=state, episode_start=starts, deterministic=True)  # type: ignore[arg-type]
        mine = agent(frame)
        np.testing.assert_allclose(
            mine, scaled(theirs[0], single.action_space.low, single.action_space.high), atol=2e-5
        )
        told.append(mine)
        seen, _, starts, _ = venv.step(theirs)
        frame, _, _, truncated, _ = single.step(mine)
        if truncated:
            frame, _ = single.reset()
            agent.reset()
    assert np.ptp(told, axis=0).max() > 1e-4, "the actions answer to what is seen"


def test_a_zip_is_read_without_unpickling(tmp_path):
    run = TrainConfig(**{**SMALL, "env": "Flicker-v0", "eval_env": None, "stack": 2})
    model = _model(run, open_env(run))
    model.save(tmp_path / "model.zip")
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    ours, theirs = export(model, run), read_zip(tmp_path / "model.zip", padding="first")
    assert all(np.array_equal(ours(frame), theirs(frame)) for frame in frames)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    bomb = tmp_path / "bomb"
    # protocol 0: builtins.open(path, "w"), which any unpickling would run
    parts["policy.pth"] = f"cbuiltins\nopen\n(V{bomb}\nVw\ntR.".encode()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="no zip of Stable-Baselines3, or damaged"):
        load_agent(str(tmp_path / "evil.zip"))
    assert not bomb.exists()


def test_wrong_agents_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nobody"):
        load_agent(str(tmp_path / "nobody.safetensors"))
    (tmp_path / "noise.safetensors").write_bytes(b"\x08" * 64)
    with pytest.raises(ValueError, match="damaged"):
        load_agent(str(tmp_path / "noise.safetensors"))
    with pytest.raises(ValueError, match="module:callable"):
        load_agent("somebody")
    keeper = "drivedit.data.domains.carracing.lane_keeper"
    with pytest.raises(ValueError, match="cannot be imported"):
        load_agent(f"{keeper}:Nobody")
    with pytest.raises(ValueError, match="cannot be called"):
        load_agent(f"{keeper}:FRAME")
    for path in (keeper, "drivedit.agents"):
        assert load_agent(f"{path}:LaneKeeper")(np.zeros((64, 64, 3), np.uint8)).shape == (2,)
    policy = Policy(PolicySpec([1, 2, 2], "latent"), {"out.weight": torch.ones(2, 4), "out.bias": torch.zeros(2)})
    assert policy(np.full((1, 2, 2), 0.1, np.float32)) == pytest.approx([0.4, 0.4])
    with pytest.raises(ValueError, match=r"float32 \[1, 2, 2\], got float32"):
        policy(np.zeros((1, 3, 3), np.float32))
    scaled = replace(policy.spec, low=[0.0, -1.0], high=[10.0, 1.0])
    assert Policy(scaled, policy.weights)(np.full((1, 2, 2), 0.1, np.float32)) == pytest.approx([7.0, 0.4])
    with pytest.raises(ValueError, match="no known policy network"):
        Policy(replace(policy.spec, low=[0.0], high=[1.0]), policy.weights)
    with pytest.raises(ValueError, match="low < high"):
        replace(policy.spec, low=[0.0, 1.0], high=[1.0, 1.0])
    with pytest.raises(ValueError, match="no known policy network"):
        Policy(PolicySpec([1, 2, 2], "latent"), {"out.weight": torch.ones(2, 5), "out.bias": torch.zeros(2)})


def test_a_policy_keeps_to_its_decisions():
    run = TrainConfig(**{**SMALL, "env": "Flicker-v0", "eval_env": None, "stack": 2, "repeat": 3})
    policy = export(_model(run, open_env(run)), run)
    every = Policy(replace(policy.spec, repeat=1), policy.weights)
    frames = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    decided = [every(frames[0]), every(frames[3])]
    for _ in range(2):
        policy.reset()
        actions = [policy(frame) for frame in frames]
        assert all(np.array_equal(action, decided[i // 3]) for i, action in enumerate(actions))
    with pytest.raises(ValueError, match="repeat"):
        replace(policy.spec, repeat=0)


# -- scores --------------------------------------------------------------------------------------------------------


def test_scores_are_summed_up():
    scores = Scores([1, 2, 3, 4], [100.0, 300.0, 900.0, 950.0], [10, 10, 10, 30], 900.0)
    told = scores.summary()
    assert (told["mean"], told["median"], told["solved"], told["steps"]) == (562.5, 600.0, 0.5, 15.0)
    assert told["deviation"] == pytest.approx(np.std(scores.returns, ddof=1))
    assert 100 <= told["low"] < 562.5 < told["high"] <= 950 and "562.5" in str(scores)
    assert "share of 900 or more 0.50" in str(scores) and "solved_from" not in scores.to_dict()
    unsaid = replace(scores, solved_from=None)
    assert "solved" not in unsaid.summary() and "share of" not in str(unsaid)
    with pytest.raises(ValueError, match="at least 1"):
        score(gym.make("Steer-v0"), lambda _: np.zeros(2, np.float32), 0, 0)


def test_the_command_scores_whole_episodes(tmp_path, capsys):
    out = tmp_path / "scores.json"
    policy = Policy(
        PolicySpec([1, 2, 2], "latent"), {"out.weight": torch.full((2, 4), 0.125), "out.bias": torch.zeros(2)}
    )
    policy.save(tmp_path / "perfect.safetensors")
    command = ["test", "--agent", str(tmp_path / "perfect.safetensors"), "--env", "Steer-v0", "--seed", "3"]
    assert main([*command, "--episodes", "2", "--out", str(out)]) == 0
    told = json.loads(Path(out).read_text())
    assert told["returns"] == pytest.approx([20.0, 20.0]) and told["seeds"] == [3, 4] and told["steps"] == [20, 20]
    assert "mean return" in capsys.readouterr().out
