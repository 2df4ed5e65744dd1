"""Agents learn, resume exactly, drive as they learned, and are scored by the real simulator; pessimism and masks."""

import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

pytest.importorskip("stable_baselines3")

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.agents.__main__ import main
from drivedit.agents.load import load_agent
from drivedit.agents.policy import Policy, PolicySpec
from drivedit.agents.sb3 import open_vector
from drivedit.agents.scores import Scores, score
from drivedit.agents.train import TrainConfig, _model, export, open_env, train
from drivedit.agents.wrappers import Memory, Patience, Pessimism, RandomLook, Remember, ResetWith

SMALL: dict[str, Any] = {"num_envs": 2, "rollout": 8, "segment": 16, "steps": 32, "horizon": 5, "buffer": 24}


class Steer(gym.Env):
    """One latent tells which way to steer; the reward is how well it was done."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1, 2, 2), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    metadata = {"render_modes": []}

    def __init__(self, obs_type: str = "latent") -> None:
        self._way = 0.0

    def _see(self) -> np.ndarray:
        self._way = float(self.np_random.choice([-1.0, 1.0]))
        return np.full((1, 2, 2), self._way, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action: np.ndarray) -> Any:
        reward = 1.0 - abs(0.5 * self._way - float(action[0]))
        return self._see(), reward, False, False, {"confidence": 0.5 + 0.5 * float(action[1])}


class Flicker(Steer):
    """The same, seen as coloured noise."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self) -> None:
        super().__init__()

    def _see(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def environments():
    names = {"Steer-v0": Steer, "Flicker-v0": Flicker}
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
    return TrainConfig(**{**SMALL, "env": "Steer-v0", "obs": "latent", "eval_env": None, **changes})


def vector(kind: type[gym.Env], count: int = 2) -> SyncVectorEnv:
    return SyncVectorEnv([kind] * count, autoreset_mode=AutoresetMode.DISABLED)


# -- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ppo", "recurrent_ppo", "sac"])
def test_a_resumed_run_is_the_uninterrupted_one(algorithm, tmp_path, monkeypatch):
    presets = {"sac": {"batch_size": 8, "learning_starts": 6, "policy_kwargs": {"net_arch": [8]}}}
    if algorithm in presets:
        monkeypatch.setitem(train.__globals__["PRESETS"], algorithm, presets[algorithm])
    run = latent_run(algorithm=algorithm, steps=48)
    whole = train(run, tmp_path / "whole", progress=False)
    train(latent_run(algorithm=algorithm, steps=16), tmp_path / "parts", progress=False)
    np.random.seed(99)
    torch.manual_seed(99)
    parts = train(run, tmp_path / "parts", progress=False)
    assert whole.weights.keys() == parts.weights.keys()
    assert all(torch.equal(value, parts.weights[name]) for name, value in whole.weights.items())
    assert (tmp_path / "whole" / "curve.jsonl").read_text() == (tmp_path / "parts" / "curve.jsonl").read_text()
    other = train(latent_run(algorithm=algorithm, steps=48, seed=1), tmp_path / "other", progress=False)
    assert any(not torch.equal(value, other.weights[name]) for name, value in whole.weights.items())


def test_ppo_learns_to_steer(tmp_path):
    """From a return of at most 10 of 20, which is what steering straight on gets, to above 16."""
    run = latent_run(steps=4096, segment=2048, rollout=32, num_envs=8, lr=2e-3, horizon=20, stack=1, reward_scale=1.0)
    agent = train(run, tmp_path, progress=False)
    assert np.mean(score(gym.make("Steer-v0"), agent, 5, 0, False).returns) > 16.0
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [point["steps"] for point in curve] == [2048, 4096]
    assert curve[-1]["learned_in"] > curve[0]["learned_in"] + 1.0
    assert [f for f in tmp_path.iterdir() if f.name.startswith("events.out")]


def test_a_run_in_the_dream_is_judged_in_the_twin(saved, tmp_path, capsys):
    pytest.importorskip("Box2D")
    command = ["train", "ppo", "--world", saved, "--out", str(tmp_path), "--gray", "--random-look", "--floor", "0.01"]
    small = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    short = "CarRacingTwinShort-v0"
    gym.register(short, entry_point="drivedit.data.carracing:CarRacingTwin", max_episode_steps=4)
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
        ({"obs": "sound"}, "obs must be"),
        ({"gray": True, "obs": "latent"}, "need obs='pixels'"),
        ({"obs": "latent", "eval_env": "drivedit_env:CarRacingTwin-v0"}, "can be judged in"),
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
@pytest.mark.parametrize("obs", ["pixels", "latent"])
def test_the_exported_policy_is_the_models(algorithm, obs, tmp_path):
    """Over two episodes, memory and recurrent state included, within the rounding of one float32 pass."""
    pixels = obs == "pixels"
    settings = {"env": "Flicker-v0" if pixels else "Steer-v0", "obs": obs, "gray": pixels, "stack": 3, "horizon": 4}
    run = TrainConfig(**{**SMALL, "eval_env": None, "algorithm": algorithm, "num_envs": 1, **settings})
    venv = open_env(run)
    model = _model(run, venv)
    export(model, run).save(tmp_path / "agent.safetensors")
    agent, single = Policy.load(tmp_path / "agent.safetensors"), gym.make(run.env, max_episode_steps=4)
    venv.seed(3)
    seen, (frame, _) = venv.reset(), single.reset(seed=3)
    state, starts, told = None, np.ones(1, bool), []
    for _ in range(8):
        theirs, state = model.predict(seen, state=state, episode_start=starts, deterministic=True)  # type: ignore[arg-type]
        mine = agent(frame)
        np.testing.assert_allclose(mine, theirs[0], atol=2e-5)
        told.append(mine)
        seen, _, starts, _ = venv.step(theirs)
        frame, _, _, truncated, _ = single.step(theirs[0])
        if truncated:
            frame, _ = single.reset()
            agent.reset()
    assert np.ptp(told, axis=0).max() > 1e-4, "the actions answer to what is seen"


def test_a_zip_is_read_without_unpickling(tmp_path):
    run = TrainConfig(**{**SMALL, "env": "Flicker-v0", "eval_env": None, "stack": 2})
    model = _model(run, open_env(run))
    model.save(tmp_path / "model.zip")
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    ours, theirs = export(model, run), load_agent(str(tmp_path / "model.zip"))
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
    with pytest.raises(ValueError, match="cannot be imported"):
        load_agent("drivedit.agents.lane_keeper:Nobody")
    with pytest.raises(ValueError, match="cannot be called"):
        load_agent("drivedit.agents.lane_keeper:FRAME")
    assert load_agent("drivedit.agents.lane_keeper:LaneKeeper")(np.zeros((64, 64, 3), np.uint8)).shape == (2,)
    policy = Policy(PolicySpec([1, 2, 2]), {"out.weight": torch.ones(2, 4), "out.bias": torch.zeros(2)})
    assert policy(np.full((1, 2, 2), 0.1, np.float32)) == pytest.approx([0.4, 0.4])
    with pytest.raises(ValueError, match=r"float32 \[1, 2, 2\], got uint8"):
        policy(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="no known policy network"):
        Policy(PolicySpec([1, 2, 2]), {"out.weight": torch.ones(2, 5), "out.bias": torch.zeros(2)})


# -- wrappers ------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="made grey"):
        Remember(vector(Steer), gray=True)


# -- scores --------------------------------------------------------------------------------------------------------


def test_scores_are_summed_up():
    scores = Scores([1, 2, 3, 4], [100.0, 300.0, 900.0, 950.0], [10, 10, 10, 30])
    told = scores.summary()
    assert (told["mean"], told["median"], told["solved"], told["steps"]) == (562.5, 600.0, 0.5, 15.0)
    assert told["deviation"] == pytest.approx(np.std(scores.returns, ddof=1))
    assert 100 <= told["low"] < 562.5 < told["high"] <= 950 and "562.5" in str(scores)
    with pytest.raises(ValueError, match="at least 1"):
        score(gym.make("Steer-v0"), lambda _: np.zeros(2, np.float32), 0, 0)


def test_the_command_scores_whole_episodes(tmp_path, capsys):
    out = tmp_path / "scores.json"
    policy = Policy(PolicySpec([1, 2, 2]), {"out.weight": torch.full((2, 4), 0.125), "out.bias": torch.zeros(2)})
    policy.save(tmp_path / "perfect.safetensors")
    command = ["test", "--agent", str(tmp_path / "perfect.safetensors"), "--env", "Steer-v0", "--seed", "3"]
    assert main([*command, "--episodes", "2", "--out", str(out)]) == 0
    told = json.loads(Path(out).read_text())
    assert told["returns"] == pytest.approx([20.0, 20.0]) and told["seeds"] == [3, 4] and told["steps"] == [20, 20]
    assert "mean return" in capsys.readouterr().out
