"""Any Gymnasium environment is recorded by the collector, and a world of it is trained and driven."""

import logging
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from helpers import dots

from drivedit.data import __main__ as data
from drivedit.data import iter_episodes, shard_paths
from drivedit.data.any_env import AnyEnv
from drivedit.data.collect import collect_recordings
from drivedit.models import World
from drivedit.training import __main__ as training

FEW = {"steps": 80, "episode_steps": 20, "shard_steps": 40, "workers": 1, "progress": False}
DOT = "helpers.dots:Dot-v0"


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dots")
    collect_recordings(folder, env=DOT, policy="helpers.dots:to_the_middle", **FEW)
    return folder


def test_it_is_recorded_as_it_is(recording):
    episodes = list(iter_episodes(recording))
    spec = episodes[0].spec
    assert (spec.domain, spec.names("controls"), spec.dt) == ("Dot-v0", ["action_0", "action_1"], 0.2)
    assert [(each.low, each.high) for each in spec.controls] == [(-1, 1), (0, 3)]
    assert spec.picture == "camera" and spec.observations["camera"].shape == (64, 112, 3), "96 x 160 are rendered"
    assert (spec.conditions, spec.telemetry, spec.attributes, list(spec.endings)) == ([], [], {}, ["end"])
    assert {name: term.kind for name, term in spec.rewards.items()} == {"reward": "learned"}
    assert all(episode.seed < 1_000_000 and episode.driver == "helpers.dots:to_the_middle" for episode in episodes)
    for episode in episodes[:2]:
        env = gym.make(DOT, render_mode="rgb_array")
        env.reset(seed=episode.seed)
        for step, control in enumerate(episode.controls):
            seen, reward, terminated, _, _ = env.step(control)
            assert reward == pytest.approx(episode.reward[step]) == pytest.approx(episode.rewards["reward"][step])
            assert terminated == episode.terminated[step]
            place = np.unravel_index(episode.picture[step + 1, ..., 0].argmax(), (64, 112))
            assert np.allclose(place, [64 / 24 * (12.5 + seen[1]), 112 / 40 * (20.5 + 2 * seen[0])], atol=3)


def test_endings_are_those_that_the_environment_makes_and_not_its_cuts(tmp_path):
    collect_recordings(tmp_path, env=DOT, **{**FEW, "steps": 400})
    episodes = list(iter_episodes(tmp_path))
    ended = [episode for episode in episodes if episode.terminated.any()]
    assert ended and all(episode.ending == "end" and episode.terminated[-1] for episode in ended)
    cut = [episode for episode in episodes if not episode.terminated.any()]
    assert cut and {episode.ending for episode in cut} == {""} and max(map(len, cut)) == 12, "cut by the environment"
    driven = np.concatenate([episode.controls for episode in episodes])
    assert {episode.driver for episode in episodes} == {"wanderer"}
    assert np.allclose(driven.min(0), [-1, 0], atol=0.3) and np.allclose(driven.max(0), [1, 3], atol=0.3)
    steps = np.concatenate([np.diff(episode.controls[:, 0]) for episode in episodes])
    assert np.median(np.abs(steps)) < 0.2 < np.abs(steps).max(), "it holds a direction for a while"


def test_workers_and_a_second_run_make_the_same_shards(recording, tmp_path):
    words = [
        "collect",
        "--env",
        DOT,
        "--policy",
        "helpers.dots:to_the_middle",
        "--steps",
        "80",
        "--episode-steps",
        "20",
    ]
    words += ["--shard-steps", "40", "--out", str(tmp_path), "--no-progress"]
    assert data.main([*words, "--workers", "2"]) == 0
    assert [path.read_bytes() for path in shard_paths(tmp_path)] == [
        path.read_bytes() for path in shard_paths(recording)
    ]
    assert data.main([*words, "--size", "48", "80"]) == 1, "it was recorded with other settings"


@pytest.mark.parametrize(("env", "size", "shape"), [
    (DOT, None, (64, 112, 3)), (DOT, (24, 40), (24, 40, 3)), ("helpers.dots:SeenDot-v0", None, (32, 48, 1)),
    ("helpers.dots:SeenDot-v0", (24, 40), (24, 40, 1)),
])  # fmt: skip
def test_pictures_are_observations_or_frames(env, size, shape):
    recorded = AnyEnv(env, size)
    seen, _ = recorded.reset(seed=0)
    assert recorded.domain.spec.observations["camera"].shape == seen.shape == shape and seen.dtype == np.uint8
    inside = recorded.env.unwrapped
    assert isinstance(inside, dots.Dot)
    where = np.array(np.unravel_index(seen[..., 0].argmax(), shape[:2])) / shape[:2]
    there = np.array(np.unravel_index(inside.draw()[..., 0].argmax(), (24, 40))) / (24, 40)
    assert np.allclose(where, there, atol=0.06)


@pytest.mark.parametrize("policy", ["with_the_env", "Patient"])
def test_policies_see_what_there_is_and_get_noise(policy, tmp_path):
    collect_recordings(tmp_path, env=DOT, policy=f"helpers.dots:{policy}", **{**FEW, "steps": 120})
    gone, waited = [], []
    for episode in iter_episodes(tmp_path):
        env = gym.make(DOT)
        observation, _ = env.reset(seed=episode.seed)
        act = dots.Patient() if policy == "Patient" else dots.to_the_middle
        waited.append(np.allclose(episode.controls[0], [0.0, 1.5]))
        for control in episode.controls:
            gone.append(control - act(observation))
            observation = env.step(control)[0]
    noise = np.abs(gone).max(1)
    assert (noise < 1e-5).any() and (noise > 0.05).any(), "some episodes are driven with noise, some without"
    assert any(waited) == (policy == "Patient")


@pytest.mark.parametrize(("settings", "what"), [
    ({"env": "helpers.dots:UnseenDot-v0"}, r"shows no pictures: .*\(2,\).* of its render modes \['human'\] none"),
    ({"env": "helpers.dots:DiscreteDot-v0"}, r"actions of .* are Discrete\(3\).*Box \[C\].*module:Name-v0"),
    ({"env": "helpers.dots:EndlessDot-v0"}, "with bounds"), ({"env": "helpers.dots:SquareDot-v0"}, r"Box \[C\]"),
    ({"env": "helpers.dots:TimelessDot-v0"}, "how long a step is.*give dt"), ({"env": DOT, "dt": -1.0}, "dt"),
    ({"env": DOT, "size": (50, 64)}, "multiples of 8 from 8 to 4096, got 50 64"),
    ({"env": DOT, "policy": "helpers.dots:wrong"}, r"must answer with 2 finite numbers, got \[0.0\]"),
    ({"env": DOT, "policy": "helpers.dots:NOTHING"}, "must be a callable, got 3"),
    ({"env": DOT, "policy": "helpers.dots:nobody"}, "cannot find"), ({"env": DOT, "policies": ["a"]}, "in domains"),
    ({"policy": "helpers.dots:wrong"}, "give env"), ({"size": (64, 64)}, "give env"), ({"dt": 0.1}, "give env"),
])  # fmt: skip
def test_what_cannot_be_recorded_is_said_before_the_work(settings, what, tmp_path):
    with pytest.raises(ValueError, match=what):
        collect_recordings(tmp_path / "new", **{**FEW, **settings})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("env", "what"), [
    ("Nowhere-v7", "Nowhere"), ("helpers.dots:Nowhere-v7", "Nowhere"),
    ("no_such_package:Racing-v0", "needs no_such_package, which is not installed.*: pip install no-such-package"),
])  # fmt: skip
def test_what_is_not_there_is_a_line(env, what, tmp_path, capsys):
    assert data.main(["collect", "--env", env, "--out", str(tmp_path / "new"), "--no-progress"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and re.search(what, error), error
    assert not (tmp_path / "new").exists()


def test_where_nothing_is_drawn_a_warning_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dots.Dot, "draw", lambda self: np.zeros((24, 40, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        collect_recordings(tmp_path, env=DOT, **{**FEW, "steps": 40})
    assert "pictures of one colour" in caplog.text


def test_a_world_of_it_is_trained_and_driven(tmp_path):
    collect_recordings(tmp_path / "rec", env="helpers.dots:SeenDot-v0", **{**FEW, "steps": 600, "shard_steps": 200})
    common = [
        "--config", "video.yaml", "--world.vae.hidden_dims=[8,8,16,16]", "--world.vae.decoder_dims=null",
        "--world.vae.latent_dim", "8", "--world.end_threshold", "1.0", "--train.bf16", "false",
        "--data.validation_fraction", "0.2", "--data.root", f"{tmp_path}/rec", "--out", f"{tmp_path}/run",
    ]  # fmt: skip
    assert training.main(["vae", *common, "--train.steps", "20", "--train.batch_size", "8"]) == 0
    tiny = ["--world.student.d_model", "32", "--world.student.n_layers", "1", "--loss.clip_frames", "4"]
    assert training.main(["student", *common, *tiny, "--loss.rollout", "1", "--train.steps", "10"]) == 0
    world = World.from_pretrained(tmp_path / "run" / "student" / "world", device="cpu")
    assert world.spec.domain == "SeenDot-v0" and world.spec.rewards["reward"].value > 0 and world.scenes
    env = gym.make("drivedit_env:DriveDiT-v0", world=world)
    env.reset(seed=0)
    seen, reward, _, _, info = env.step(np.array([0.5, 2.0], np.float32))
    assert seen.shape == (32, 48, 1) and np.isfinite(float(reward)) and set(info["reward_terms"]) == {"reward"}
    assert info["given"] == {}, "all is dreamed"
