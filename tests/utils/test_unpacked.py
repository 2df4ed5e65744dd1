"""What training opens: any rate and telemetry, one process at a time, nothing left by a full disk or a kill."""

import multiprocessing
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.episodes import EVERYTHING, made_up, same, spec_of, with_everything

from drivedit.config import Quantity, StudentConfig, VAEConfig, WorldConfig
from drivedit.data import clips, unpacked
from drivedit.data.clips import Drives, fit_config
from drivedit.data.recordings import iter_episodes, shard_paths, write_shard
from drivedit.training.latents import Clips
from drivedit.training.scenes import _shares, pick_scenes, scene_at
from drivedit.utils.episodes import check_agents
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.session import Session


@pytest.fixture
def other_world(tiny_world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny world at 10 frames per second, with six telemetry values."""
    import copy

    import torch

    from drivedit.models import DiTWorld

    names = ["speed", "fuel", "gear", "slip", "range", "yaw_rate"]
    scales = dict(zip(names, [20.0, 1.0, 6.0, 1.0, 100.0, 1.0], strict=True))
    told = [Quantity(name, -1e9, 1e9, scale) for name, scale in scales.items()]
    config = replace(tiny_world.config, spec=replace(tiny_world.spec, telemetry=told, dt=0.1))
    world = DiTWorld(config, copy.deepcopy(tiny_world.scenes)).eval()
    for weight in world.parameters():
        weight.data = torch.randn(weight.shape) * 0.2 / max(weight[0].numel(), 1) ** 0.5
    return world


@pytest.fixture
def driven(other_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two drives of it, as the viewer records them."""
    monkeypatch.setattr("drivedit_env.viewer.recorder.FILM_HEIGHT", 64)
    session = Session(DriveDiTEnv(other_world), scene=0, folder=tmp_path / "drives")
    for _ in range(2):
        session.toggle_recording()
        for _ in range(14):
            session.step(np.array([0.1, 0.4], np.float32))
        session.toggle_recording()
    return tmp_path / "drives"


def test_a_drive_of_another_world_trains_such_a_world(driven, other_world):
    drives = Drives.open(driven)
    assert drives.fps == 10 and list(drives.telemetry) == other_world.spec.names("telemetry")
    told = fit_config(other_world.config, drives)
    assert told.spec == replace(other_world.spec, endings={}) and told.image_size == (64, 64)
    free = fit_config(WorldConfig(), drives).spec
    assert free == replace(told.spec, conditions=[]), "without a spec of its own a world takes that of the drives"
    latents = np.zeros((len(drives.frames), 8, 8, 8), np.float16)
    batch = Clips(drives, latents, told, 4).batch(np.array([5]))
    scale = np.array([value.scale for value in told.spec.telemetry], np.float32)
    recorded = np.stack([values[5:9] for values in drives.telemetry.values()], 1)
    assert np.allclose(batch["telemetry"][0].numpy() * scale, recorded, atol=1e-5)
    assert len(pick_scenes(drives, np.arange(2), told, 4)) == 4


@pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning", "ignore:env_spec is None:UserWarning")
def test_the_same_through_minari(driven, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    from drivedit.data.exchange.minari import export_minari, import_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    export_minari(driven, "drivedit/other-v0")
    import_minari("drivedit/other-v0", tmp_path / "back")
    for before, after in zip(iter_episodes(driven), iter_episodes(tmp_path / "back"), strict=True):
        assert after.spec.dt == 0.1 and same(before, after) and after.extra["state"].size
    nothing = made_up(5, spec=spec_of(64, 64, [], dt=0.25))
    write_shard(tmp_path / "none" / "shard-00000.h5", [nothing])
    export_minari(tmp_path / "none", "drivedit/none-v0")
    import_minari("drivedit/none-v0", tmp_path / "none back")
    (episode,) = iter_episodes(tmp_path / "none back")
    assert episode.spec.dt == 0.25 and episode.telemetry == {}
    write_shard(tmp_path / "none" / "shard-00001.h5", [made_up(5, spec=spec_of(64, 64, [], dt=0.2))])
    with pytest.raises(ValueError, match=r"dt: .*shard-00000.h5 has 0.25, .*shard-00001.h5 has 0.2"):
        export_minari(tmp_path / "none", "drivedit/mixed-v0")


def test_values_that_a_drive_does_not_have_are_not_known(tmp_path):
    one = made_up(5, spec=spec_of(64, 64, ["fuel"]), telemetry={"fuel": np.ones(6, np.float32)})
    write_shard(tmp_path / "shard-00000.h5", [one])
    write_shard(tmp_path / "shard-00001.h5", [made_up(4)])
    drives = Drives.open(tmp_path)
    assert list(drives.telemetry) == ["fuel", "speed", "lateral_offset", "heading_error", "wheels_on_road"]
    assert all(np.isnan(values[:6]).all() for name, values in drives.telemetry.items() if name != "fuel")
    assert np.isnan(drives.telemetry["fuel"][6:]).all() and (drives.telemetry["fuel"][:6] == 1).all()
    assert np.isfinite(drives.told("speed")[6:]).all() and np.isnan(drives.told("nobody knows")).all()


def test_drives_carry_whatever_the_spec_names(tmp_path):
    episodes = [with_everything(5, 0), replace(with_everything(3, 1), times=None)]
    write_shard(tmp_path / "shard-00000.h5", episodes)
    drives = Drives.open(tmp_path)
    assert drives.spec == EVERYTHING and drives.fps == 10 and drives.control.shape == (10, 3)
    for number, episode in enumerate(episodes):
        states = drives.states(number)
        assert all(
            np.array_equal(drives.observations[name][states], seen) for name, seen in episode.observations.items()
        )
        assert all(np.array_equal(drives.earned(name)[states][1:], values) for name, values in episode.rewards.items())
        assert all(np.array_equal(drives.told(name)[states], values) for name, values in episode.telemetry.items())
        assert np.array_equal(drives.times[states], episode.seconds())
    assert drives.frames is drives.observations["picture"] and np.allclose(drives.times[-4:], [0, 0.1, 0.2, 0.3])


def test_drives_carry_agents_and_attributes_into_scenes(tmp_path):
    """Of three drives one knows nothing of agents; the kinds of another stand in another order."""
    first, second, third = (with_everything(5, seed) for seed in range(3))
    assert second.agents is not None
    second.agents = replace(second.agents, kinds=1 - second.agents.kinds, names=("bicycle", "car"))
    second.poses[:, :2] += 5_000_000
    second.agents.boxes[:, :2] += 5_000_000
    third = replace(third, agents=None, attributes={"weather": "clear"})
    episodes = [replace(episode, controls=np.abs(episode.controls)) for episode in (first, second, third)]
    write_shard(tmp_path / "shard-00000.h5", episodes)
    drives = Drives.open(tmp_path)
    assert drives.agents_known.tolist() == [True, True, False] and drives.agents.names == ("car", "bicycle")
    assert drives.attributes == [episode.attributes for episode in episodes]
    for number in (0, 1):
        agents, found = episodes[number].agents, drives.agents.during(drives.states(number))
        assert agents is not None
        check_agents(found, 6)
        assert [agents.names[kind] for kind in agents.kinds] == [found.names[kind] for kind in found.kinds]
        assert np.array_equal(found.ids, agents.ids) and np.array_equal(found.first, agents.first)
        far = np.array([5_000_000, 5_000_000, 0, 0, 0, 0, 0]) * number
        assert np.array_equal(found.boxes, (agents.boxes - far).astype(np.float32)) and np.abs(found.boxes).max() < 2000
    picture = EVERYTHING.observations["picture"]
    spec = replace(EVERYTHING, observations={"picture": picture}, attributes={"weather": ["clear", "fog"]})
    world = WorldConfig(spec, VAEConfig(in_channels=1), StudentConfig(window=2, route_dim=0))
    scene = scene_at(drives, 1, int(drives.first[2]) - 1, world)
    assert list(scene.observations) == ["picture"] and scene.attributes == {"weather": "fog"}
    assert list(drives.moments(1, slice(8, 12), EVERYTHING)["observations"]) == ["picture", "range"]
    assert scene.agents is not None and scene.agents.names == ("car", "bicycle") and scene.times is not None
    last = second.agents.ids[second.agents.first[3] :]
    assert np.array_equal(scene.agents.ids, last) and np.array_equal(scene.times, second.seconds()[3:])
    unknown = scene_at(drives, 2, int(drives.first[3]) - 1, world)
    assert unknown.agents is None and unknown.attributes == {"weather": "clear"}
    assert len(pick_scenes(drives, np.arange(3), world, 3)) == 3
    few = pick_scenes(drives, np.arange(3), world, 2)
    assert {scene.attributes["weather"] for scene in few} == {"fog", "clear"}, "spread over what the drives are like"


def _open(root: Path, told: Any) -> None:
    count = len(Drives.open(root).frames)
    told.send(count)


def test_processes_that_open_at_once_wait_for_each_other(tmp_path):
    write_shard(tmp_path / "shard-00000.h5", [made_up(30, seed) for seed in range(4)])
    fork = multiprocessing.get_context("fork")
    for seed in range(2):
        write_shard(tmp_path / "shard-00001.h5", [made_up(10 + seed, seed)])
        pipes = [fork.Pipe(duplex=False) for _ in range(4)]
        several = [fork.Process(target=_open, args=(tmp_path, tells)) for _, tells in pipes]
        for process in several:
            process.start()
        for process in several:
            process.join()
        assert [hears.recv() if hears.poll() else None for hears, _ in pipes] == [4 * 31 + 11 + seed] * 4
    assert len(list((tmp_path / "unpacked").iterdir())) == 2, "the arrays of the last shards, and the lock"


def test_shards_in_hidden_folders_are_not_looked_at(tmp_path):
    """Others work there, and take them away at any moment."""
    for folder in ("", "more", ".work", "unpacked/.1.work"):
        write_shard(tmp_path / folder / "shard-00000.h5", [made_up(3, 0)])
    assert shard_paths(tmp_path) == [tmp_path / "more" / "shard-00000.h5", tmp_path / "shard-00000.h5"]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the full disk: the operating system refuses to write on."""
    write_shard(tmp_path / "shard-00000.h5", [made_up(20, seed) for seed in range(3)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"could not unpack .*File too large.*12.5 kB of disk per frame"):
            Drives.open(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["lock"]
    assert len(Drives.open(tmp_path).frames) == 63


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    write_shard(tmp_path / "shard-00000.h5", [made_up(20, seed) for seed in range(3)])
    monkeypatch.setattr(unpacked, "read_shard", lambda *_: signal.raise_signal(signal.SIGKILL))
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_open, args=(tmp_path, None))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "unpacked").iterdir())) == 2, "the lock, and what was begun"
    monkeypatch.undo()
    drives = clips.Drives.open(tmp_path)
    assert {path.name for path in (tmp_path / "unpacked").iterdir()} == {"lock", drives.fingerprint}


def test_a_recording_that_is_unpacked_is_opened_where_nothing_can_be_written(tmp_path, monkeypatch):
    write_shard(tmp_path / "shard-00000.h5", [made_up(20)])
    Drives.open(tmp_path)

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(unpacked, "locked", refuse)
    assert len(Drives.open(tmp_path).frames) == 21
    index = next((tmp_path / "unpacked").glob("*/index.npz"))
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged.*delete it"):
        Drives.open(tmp_path)


def test_few_scenes_of_many_kinds_show_every_attribute():
    kinds = [{"road": road, "time": time} for road in ("town", "rural", "highway") for time in ("day", "night")]
    assert _shares(kinds, [9] * 6, 3) == [1, 0, 0, 1, 1, 0]
    assert _shares(kinds, [9] * 6, 12) == [2] * 6
    assert _shares(kinds, [1, 0, 2, 0, 0, 0], 9) == [1, 0, 2, 0, 0, 0], "no more than there are"
    assert _shares([{}], [5], 3) == [3]
