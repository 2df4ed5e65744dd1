"""What a person drove is kept: shards that training reads, that replay bit for bit, and that survive any end."""

import multiprocessing
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from drivedit.data import iter_episodes, read_shard, write_shard
from drivedit.data.clips import Drives
from drivedit.models import DiTWorld
from drivedit.training.latents import route_codes
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.session import Session

GAS = np.array([0.0, 0.4], np.float32)


@pytest.fixture
def session(tiny_world: DiTWorld, tmp_path: Path) -> Session:
    return Session(DriveDiTEnv(tiny_world), scene=0, folder=tmp_path / "drives")


@pytest.fixture(autouse=True)
def small_films(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivedit_env.viewer.recorder.FILM_HEIGHT", 128)


def replays(path: Path, world: DiTWorld) -> bool:
    """Whether a shard's actions, driven from its state, give its frames and rewards, bit for bit."""
    env = DriveDiTEnv(world)
    env.reset(seed=99)
    (episode,) = read_shard(path)
    assert episode.extra["fingerprint"] == env.get_state().fingerprint
    env.sampling_steps = int(episode.extra["sampling_steps"])
    env.set_state(episode.extra["state"].tobytes())
    driven = [env.step(control)[:2] for control in episode.controls]
    return np.array_equal(np.stack([d[0] for d in driven]), episode.picture[1:]) and np.array_equal(
        np.array([d[1] for d in driven], np.float32), episode.reward
    )


def test_a_recording_is_read_for_training_and_replays_bit_for_bit(session: Session, tiny_world: DiTWorld):
    session.step(GAS)
    session.toggle_recording()
    assert session.recording is not None
    film = session.recording.film
    steering = np.linspace(-0.5, 0.5, 20, dtype=np.float32)
    driven = [session.step(np.array([s, 0.3], np.float32)) for s in steering]
    for _ in range(5):
        session.rewind()
    driven += [session.step(GAS) for _ in range(4)]
    session.change_passes(1)
    session.hand_over()
    driven += [session.step(GAS) for _ in range(3)]
    session.toggle_recording()
    session.step(GAS)
    assert "1.6 s" in session.note[1]  # 27 steps of 0.06 s

    episodes = list(iter_episodes(session.folder))
    assert [(len(e), e.driver) for e in episodes] == [(20, "person"), (4, "person"), (3, "lane_keeper")]
    assert np.array_equal(np.concatenate([e.picture[1:] for e in episodes]), [m.frame for m in driven])
    assert np.array_equal(np.concatenate([e.controls for e in episodes]), [m.action for m in driven])
    assert np.concatenate([e.reward for e in episodes]) == pytest.approx([m.reward for m in driven])
    assert np.array_equal(episodes[1].picture[0], driven[14].frame)
    assert [values[-1] for values in episodes[0].telemetry.values()] == pytest.approx(
        list(driven[19].info["telemetry"].values())
    )
    assert [e.rewards["progress"][0] for e in episodes] == pytest.approx(
        [driven[i].info["reward_terms"]["progress"] for i in (0, 20, 24)]
    )
    shards = sorted(session.folder.glob("shard-*.h5"))
    assert len(shards) == 3 and all(replays(path, tiny_world) for path in shards)
    with av.open(str(film)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == 27 and shown[0].shape == (128, 128, 3)
    assert abs(shown[5].mean() - driven[5].frame.mean()) < 4

    drives = Drives.open(session.folder)
    assert len(drives) == 3 and np.isfinite(route_codes(drives, tiny_world.config).astype(np.float32)).all()
    assert np.abs(drives.motion()[1:21]).max() > 0, "the pose moved, so the route is told from the right place"


def test_a_replay_with_other_actions_is_noticed(session: Session, tiny_world: DiTWorld):
    """The comparison itself can fail: a shard with a changed action does not replay."""
    session.toggle_recording()
    for _ in range(4):
        session.step(GAS)
    session.close()
    (path,) = session.folder.glob("shard-*.h5")
    assert replays(path, tiny_world)
    (episode,) = read_shard(path)
    episode.controls[0] = -1.0
    write_shard(path, [episode])
    assert not replays(path, tiny_world)


def test_long_recordings_are_cut_into_pieces_that_join(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("drivedit_env.viewer.recorder.PIECE", 5)
    session.toggle_recording()
    driven = [session.step(GAS) for _ in range(12)]
    session.close()
    episodes = list(iter_episodes(session.folder))
    assert [len(e) for e in episodes] == [5, 5, 2]
    assert np.array_equal(episodes[0].picture[-1], episodes[1].picture[0])
    assert np.array_equal(np.concatenate([e.picture[1:] for e in episodes]), [m.frame for m in driven])


def test_nothing_is_lost_when_the_process_is_killed(session: Session, tiny_world: DiTWorld):
    def drive_for_ever(told: Any) -> None:
        session.toggle_recording()
        while True:
            told.send(session.step(GAS).steps)

    fork = multiprocessing.get_context("fork")
    hears, tells = fork.Pipe(duplex=False)
    process = fork.Process(target=drive_for_ever, args=(tells,))
    process.start()
    while (steps := hears.recv()) < 60:
        pass
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    while hears.poll():
        steps = hears.recv()
    assert steps - 17 <= sum(len(e) for e in iter_episodes(session.folder)) <= steps + 1
    assert all(replays(path, tiny_world) for path in session.folder.glob("shard-*.h5"))
    (film,) = session.folder.glob("*.mp4")
    with av.open(str(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= steps - 36


def test_a_full_disk_ends_the_recording_with_one_message(session: Session):
    """A limit on the size of files stands for the full disk: the operating system refuses to write on."""
    session.toggle_recording()
    for _ in range(20):
        session.step(GAS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        for _ in range(20):
            session.step(GAS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert session.recording is None and session.note[1].startswith("The recording has stopped: ")
    assert "too large" in session.note[1].lower()
    steps = session.now.steps
    session.step(GAS)
    assert session.now.steps == steps + 1
    assert sum(len(e) for e in iter_episodes(session.folder)) >= 15, "what was written stays"
    assert list(session.folder.glob(".*")) == []


def test_without_pyav_one_message_says_so(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "drivedit.utils.video", raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    session.toggle_recording()
    session.step(GAS)
    assert session.recording is None and "pip install av" in session.note[1]
    assert [len(e) for e in iter_episodes(session.folder)] == [1]
