"""Agents in the driver's seat: what they drive in the twin is a recording that a world learns from."""

from pathlib import Path

import numpy as np
import pytest

from drivedit.agents.load import load_agent
from drivedit.config.domains.carracing import DOMAIN
from drivedit.data import iter_episodes, read_shard, record_episode, shard_paths
from drivedit.data.__main__ import main
from drivedit.data.agent_drivers import AgentDrivers
from drivedit.data.clips import Drives
from drivedit.data.collect import Recipe, collect_recordings
from drivedit.data.domains.carracing.twin import CarRacingTwin

AGENTS = ("learned", "brisk")
SMALL = {"steps": 80, "episode_steps": 20, "shard_steps": 40, "progress": False}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    collect_recordings(folder, workers=1, policies=AGENTS, **SMALL)
    return folder


def test_the_agent_drives_by_what_it_sees_and_noise_is_drawn_around_it():
    sizes: dict[str, list[float]] = {name: [] for name in AGENTS}
    for seed in range(12):
        episode = record_episode(CarRacingTwin(), np.random.default_rng(seed), 15, make=AgentDrivers(AGENTS, DOMAIN))
        agent = load_agent(episode.driver)
        getattr(agent, "reset", lambda: None)()
        answers = np.stack([np.asarray(agent(frame)) for frame in episode.picture[:-1]])
        sizes[episode.driver].append(float(np.abs(episode.controls - np.clip(answers, -1, 1)).mean()))
    for name, found in sizes.items():
        assert min(found) < 1e-6, f"{name} drives without noise in some episodes: its own answers, bit for bit"
        assert 0.03 < max(found) < 0.4, f"and with noise in others: {found}"


def test_processes_record_the_same_and_a_folder_may_hold_folders(recording, tmp_path):
    collect_recordings(tmp_path / "agents", workers=2, policies=AGENTS, **SMALL)
    assert [p.read_bytes() for p in shard_paths(tmp_path)] == [p.read_bytes() for p in shard_paths(recording)]
    collect_recordings(tmp_path, workers=1, **SMALL)
    names = [path.relative_to(tmp_path).as_posix() for path in shard_paths(tmp_path)]
    assert names == ["agents/shard-00000.h5", "agents/shard-00001.h5", "shard-00000.h5", "shard-00001.h5"]
    drives = Drives.open(tmp_path)
    assert [episode.driver in AGENTS for episode in iter_episodes(tmp_path)] == [True] * 4 + [False] * 4
    assert drives.frames[0].tolist() == next(iter_episodes(recording)).picture[0].tolist()


def test_a_recording_goes_on_only_with_the_agents_that_began_it(recording):
    with pytest.raises(ValueError, match="brisk"):
        collect_recordings(recording, workers=1, policies=["brisk"], **SMALL)
    assert Recipe().policies == ()


def test_the_command_line_records_and_names_an_agent_that_is_not_there(tmp_path, capsys):
    assert main(["collect", "--policies", "nobody", "--out", str(tmp_path / "none"), "--steps", "1"]) == 1
    assert "nobody" in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize("answer", [(np.nan, 0.0), (0.0, 0.0, 0.0), 0.5])
def test_an_answer_that_is_no_action_is_named(answer, monkeypatch):
    monkeypatch.setattr("drivedit.agents.load.load_agent", lambda name, seed: lambda frame: answer)
    with pytest.raises(ValueError, match="'broken' must answer with 2 finite numbers"):
        record_episode(CarRacingTwin(), np.random.default_rng(0), 5, make=AgentDrivers(("broken",), DOMAIN))


def test_folders_with_spaces_are_unpacked_once(tmp_path):
    collect_recordings(tmp_path / "my agents", workers=1, policies=AGENTS, **SMALL)
    unpacked = tmp_path / "unpacked" / Drives.open(tmp_path).fingerprint
    made = unpacked.stat().st_ino
    Drives.open(tmp_path)
    assert unpacked.stat().st_ino == made


def test_shards_say_who_drove(recording):
    drivers = {episode.driver for path in shard_paths(recording) for episode in read_shard(path)}
    assert drivers and drivers <= set(AGENTS)
