"""Recordings survive: exact, atomic, resumable, refused with a reason when damaged, and exchanged without loss."""

import builtins
import errno
import logging
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzz.episodes import made_up, same, with_everything

from drivedit.data import __main__ as command_line
from drivedit.data import collect as collect_module
from drivedit.data.collect import collect_recordings
from drivedit.data.domains.carracing.twin import CarRacingTwin
from drivedit.data.recordings import (
    ShardError,
    iter_episodes,
    read_attrs,
    read_shard,
    shard_paths,
    write_shard,
)
from drivedit.data.sheet import write_sheet
from drivedit.utils import locked

SMALL = {"steps": 120, "episode_steps": 25, "shard_steps": 60, "progress": False}


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    collect_recordings(folder, workers=1, **SMALL)
    return folder


def test_a_shard_gives_back_what_was_written(tmp_path):
    episodes = [made_up(20, 1), made_up(3, 2)]
    write_shard(tmp_path / "new" / "shard-00000.h5", episodes)
    assert all(map(same, episodes, read_shard(tmp_path / "new" / "shard-00000.h5")))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["shard-00000.h5"]


def test_a_recording_replays_in_the_twin(recording):
    env = CarRacingTwin()
    for episode in list(iter_episodes(recording))[:2]:
        frame, info = env.reset(seed=episode.seed, options=episode.start)
        assert np.array_equal(frame, episode.picture[0])
        for step, control in enumerate(episode.controls):
            frame, reward, terminated, _, info = env.step(control)
            assert np.array_equal(frame, episode.picture[step + 1])
            assert np.float32(reward) == episode.reward[step] and terminated == episode.terminated[step]
            assert all(
                np.float32(info["reward_terms"][name]) == values[step] for name, values in episode.rewards.items()
            )
            assert all(np.float32(info["telemetry"][name]) == v[step + 1] for name, v in episode.telemetry.items())
        assert episode.ending == ("left" if terminated else "")
        assert np.array_equal(env.route, episode.route)


def test_a_stopped_run_goes_on_to_the_same_end_with_any_number_of_workers(recording, tmp_path, monkeypatch):
    real, calls = collect_module.collect_shard, []

    def stop_after_one(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        real(*arguments)

    monkeypatch.setattr(collect_module, "collect_shard", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        collect_recordings(tmp_path, workers=1, **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == [collect_module.LOCK, "shard-00000.h5"]
    monkeypatch.undo()
    left = tmp_path / ".shard-00001.h5.123.tmp"
    left.write_bytes(b"a process was killed while it wrote")
    with (
        locked(tmp_path / collect_module.LOCK, "testing"),
        pytest.raises(RuntimeError, match="collecting into"),
    ):
        collect_recordings(tmp_path, workers=2, **SMALL)
    kept = (tmp_path / "shard-00000.h5").stat().st_mtime_ns
    collect_recordings(tmp_path, workers=2, **SMALL)
    assert (tmp_path / "shard-00000.h5").stat().st_mtime_ns == kept and not left.exists(), "what was whole is kept"
    assert [p.read_bytes() for p in shard_paths(tmp_path)] == [p.read_bytes() for p in shard_paths(recording)]


@pytest.mark.parametrize("harm", ["cut", "flip", "garbage", "empty"])
def test_a_damaged_shard_is_named_and_refilled(recording, tmp_path, harm):
    for path in shard_paths(recording):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "shard-00001.h5"
    data = bytearray(victim.read_bytes())
    with h5py.File(victim, "r") as file:
        name = sorted(file)[0]
        place = file[f"{name}/observations/camera"].id.get_chunk_info(0).byte_offset + 300
    data[place] ^= 0x10
    victim.write_bytes({"cut": data[: len(data) // 2], "flip": data, "garbage": b"no" * 900, "empty": b""}[harm])
    with pytest.raises(ShardError, match="shard-00001.h5.*run collect again"):
        list(iter_episodes(tmp_path))
    collect_recordings(tmp_path, workers=1, **SMALL)
    assert victim.read_bytes() == (recording / victim.name).read_bytes()


def test_a_full_disk_is_named_and_costs_nothing(tmp_path, monkeypatch):
    path = tmp_path / "shard-00000.h5"
    write_shard(path, [made_up(5, 1)])
    before = path.read_bytes()
    real = builtins.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(bytes(data[:1000]))
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builtins, "open", lambda file, mode: Full(real(file, mode)))
    with pytest.raises(OSError, match="shard-00000.h5.*No space left.*make room") as caught:
        write_shard(path, [made_up(5, 2)])
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


def test_wrong_shapes_are_refused_before_anything_is_written(tmp_path):
    episode = made_up()
    episode.poses = episode.poses[:-1]
    with pytest.raises(ValueError, match=r"poses: the episode has float64 \[20, 3\], its spec float64 \[21, 3\]"):
        write_shard(tmp_path / "shard-00000.h5", [episode])
    with pytest.raises(ValueError, match="at least one"):
        write_shard(tmp_path / "shard-00000.h5", [])
    assert not list(tmp_path.iterdir())


def test_held_out_tracks_are_apart(recording, tmp_path):
    collect_recordings(tmp_path, workers=1, held_out=True, steps=20, episode_steps=10, progress=False, shard_steps=20)
    assert all(episode.seed >= 1_000_000 for episode in iter_episodes(tmp_path, held_out=True))
    assert all(episode.seed < 1_000_000 for episode in iter_episodes(recording))
    with pytest.raises(ValueError, match="kept for judging"):
        list(iter_episodes(tmp_path))
    with pytest.raises(ValueError, match="is for training"):
        list(iter_episodes(recording, held_out=True))


def test_another_recipe_in_the_same_folder_is_refused(recording):
    with pytest.raises(ValueError, match="another folder"):
        collect_recordings(recording, workers=1, **{**SMALL, "seed": 4})
    with pytest.raises(ValueError, match="workers=0"):
        collect_recordings(recording, workers=0, **SMALL)


def test_folders_and_files_that_are_no_recordings_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="collect --out"):
        list(iter_episodes(tmp_path))
    with pytest.raises(FileNotFoundError, match="shard-00009"):
        read_shard(tmp_path / "shard-00009.h5")
    with h5py.File(tmp_path / "shard-00000.h5", "w") as file:
        file.attrs["format"] = "other"
    with pytest.raises(ShardError, match="not a drivedit-recording"):
        read_attrs(tmp_path / "shard-00000.h5")


@pytest.mark.filterwarnings("ignore:.*eval_env. is set to None:UserWarning", "ignore:env_spec is None:UserWarning")
def test_minari_carries_all_that_an_episode_knows(tmp_path, monkeypatch, caplog):
    minari = pytest.importorskip("minari")
    from drivedit.data.exchange.minari import export_minari, import_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    carried = {"state": np.arange(300_000, dtype=np.uint8), "grid": np.zeros((0, 2)), "mask": np.array([[True, False]]),
               "fingerprint": "{ä}", "passes": 4, "heat": 0.5}  # fmt: skip
    episodes = [replace(with_everything(5, 0), extra=carried), with_everything(3, 1)]
    episodes.append(replace(with_everything(4, 2), agents=None, times=None))
    assert (
        episodes[0].agents is not None
        and len(episodes[0].agents.ids)
        and episodes[0].controls.shape == (5, 3)
        and len(episodes[0].observations) == 2
    )
    attrs = {"held_out": True, "env": "Plane-v0", "made_from": {"code": "abc", "recipe": {"seed": 3}}}
    write_shard(tmp_path / "all" / "shard-00000.h5", episodes, attrs)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", ".(author|author_email|code_permalink). is set to None", UserWarning
        )  # minari's advice on authors is not for people who export
        export_minari(tmp_path / "all", "drivedit/all-v0")
    (first, *_) = minari.load_dataset("drivedit/all-v0").iterate_episodes()
    assert np.array_equal(first.observations["range"], episodes[0].observations["range"])
    with caplog.at_level(logging.INFO):
        (path,) = import_minari("drivedit/all-v0", tmp_path / "back")
    assert f"3 episodes of the Minari dataset drivedit/all-v0 are in {tmp_path / 'back'}" in caplog.text
    found = read_shard(path)
    assert all(map(same, episodes, found)), "times, agents, attributes and what is only carried included"
    assert [found[0].extra[name].dtype.name for name in ("state", "grid", "mask")] == ["uint8", "float64", "bool"]
    back = read_attrs(path)
    assert {name: back[name] for name in attrs} == attrs and back["spec"] == episodes[0].spec


@pytest.mark.filterwarnings("ignore:.*eval_env. is set to None:UserWarning")
def test_minari_reads_the_export_and_the_import_gives_it_back(recording, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    from drivedit.data.exchange.minari import export_minari, import_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("drivedit.data.exchange.minari.EPISODES_AT_ONCE", 4)
    originals = list(iter_episodes(recording))
    export_minari(recording, "drivedit/test-v0")
    dataset = minari.load_dataset("drivedit/test-v0")
    assert dataset.total_episodes == len(originals) and dataset.total_steps == 120
    assert isinstance(dataset.recover_environment().unwrapped, CarRacingTwin)
    for data, episode in zip(dataset.iterate_episodes(), originals, strict=True):
        assert np.array_equal(data.observations, episode.picture), "lossless"
        assert np.array_equal(data.actions, episode.controls) and np.array_equal(data.rewards, episode.reward)
        assert np.array_equal(data.infos["telemetry"], np.stack(list(episode.telemetry.values()), 1))
        assert data.terminations[-1] != data.truncations[-1]
    with pytest.raises(ValueError, match="exists already"):
        export_minari(recording, "drivedit/test-v0")
    import_minari("drivedit/test-v0", tmp_path / "back")
    assert all(map(same, originals, iter_episodes(tmp_path / "back")))
    with pytest.raises(ValueError, match="empty folder"):
        import_minari("drivedit/test-v0", recording)


def test_recordings_of_version_1_are_written_in_the_format_of_today(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    first, mixed, out = Path(__file__).parents[1] / "data" / "format1", tmp_path / "mixed", tmp_path / "out"
    for name in ("simulator", "viewer"):
        (mixed / name).mkdir(parents=True)
        (mixed / name / "shard-00000.h5").write_bytes((first / name / "shard-00000.h5").read_bytes())
    write_shard(mixed / "shard-00000.h5", [with_everything()], {"note": "new already"})
    assert command_line.main(["upgrade", "--from", str(mixed), "--to", str(out)]) == 0
    assert "2 shards written in version 2, 1 copied" in caplog.text
    assert [p.relative_to(out) for p in shard_paths(out)] == [p.relative_to(mixed) for p in shard_paths(mixed)]
    assert (out / "shard-00000.h5").read_bytes() == (mixed / "shard-00000.h5").read_bytes()
    for name in ("simulator", "viewer"):
        before, after = (folder / name / "shard-00000.h5" for folder in (mixed, out))
        assert all(map(same, read_shard(before), read_shard(after)))
        assert read_attrs(after) == {**read_attrs(before), "version": 2}
    assert command_line.main(["upgrade", "--from", str(mixed), "--to", str(out)]) == 1
    assert "holds something already" in capsys.readouterr().err
    assert command_line.main(["upgrade", "--from", str(mixed), "--to", str(mixed / "new")]) == 1
    assert "whose shards it would double" in capsys.readouterr().err
    (mixed / "viewer" / "shard-00000.h5").write_bytes(b"no")
    assert command_line.main(["upgrade", "--from", str(mixed), "--to", str(tmp_path / "none")]) == 1
    assert "truncated or corrupt" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixed", "out"], "nothing half-made is left"


def test_the_command_line(recording, tmp_path, capsys):
    assert command_line.main(["sheet", str(recording), "--out", str(tmp_path / "a.png"), "--rows", "3"]) == 0
    assert (tmp_path / "a.png").stat().st_size > 5_000
    assert command_line.main(["sheet", str(tmp_path), "--out", str(tmp_path / "b.png")]) == 1
    assert "no shard-*.h5" in capsys.readouterr().err
    arguments = ["collect", "--out", str(tmp_path / "r"), "--steps", "10", "--episode-steps", "5", "--workers", "1"]
    assert command_line.main([*arguments, "--shard-steps", "10"]) == 0
    assert sum(len(episode) for episode in iter_episodes(tmp_path / "r")) == 10
    with pytest.raises(OSError, match="could not write"):
        write_sheet(recording, tmp_path / "none" / "a.png", rows=1)


def test_the_package_is_read_without_box2d_or_minari():
    code = (
        "import sys; sys.modules.update({'Box2D': None, 'minari': None})\n"
        "from drivedit.data import read_shard, iter_episodes\n"
        "for name in ('CarRacingTwin', 'export_minari'):\n"
        "    try: getattr(__import__('drivedit.data', fromlist=['x']), name)\n"
        "    except ImportError as error: assert '.[data]' in str(error), error\n"
        "    else: raise SystemExit('no error for ' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
