"""Training survives trouble: bad gradients, signals, other options, two at once, a full disk, old latents."""

import json
import logging
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import Line, line_batch, make_episode
from helpers.worlds import make_world
from torch import nn

from drivedit.config import DataConfig, LoopConfig, StudentStageConfig, VAEStageConfig
from drivedit.data.clips import Drives
from drivedit.data.recordings import write_shard
from drivedit.training.latents import encode_drives
from drivedit.training.loop import train
from drivedit.training.runs import run_folder
from drivedit.training.stages import student, vae


def loop(**options) -> LoopConfig:
    return LoopConfig(**{"lr": 0.05, "warmup": 2, "cooldown": 0.0, "bf16": False, "log_every": 1, "steps": 8} | options)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True)["stage"]


class Steep(Line):
    """A finite loss whose gradient is infinite at some steps of the run."""

    def __init__(self, bad: set[int], steps: int) -> None:
        super().__init__()
        self.bad = {step / steps for step in bad}

    def loss(self, batch, progress, rng):
        loss, logs = super().loss(batch, progress, rng)
        return (loss + (0 * self.weight.sum()).sqrt() if progress.share in self.bad else loss), logs


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "drivedit"):
        train(Steep({3, 5}, 8), line_batch, loop(), tmp_path / "bad")
    assert all(value.isfinite().all() for value in weights(tmp_path / "bad").values())
    assert "step 3 is left out: the loss is" in caplog.text and "step 5 is left out" in caplog.text
    assert [row["step"] for row in rows(tmp_path / "bad") if "skipped" in row] == [4, 6]
    train(Line(), line_batch, loop(steps=8), tmp_path / "good")
    assert rows(tmp_path / "bad")[2]["loss"] == rows(tmp_path / "good")[2]["loss"]


def test_many_bad_steps_end_the_run_and_leave_a_checkpoint_to_go_on_from(tmp_path):
    train(Steep(set(), 20), line_batch, loop(steps=4), tmp_path)
    with pytest.raises(FloatingPointError, match=r"lower train.lr, then the same command goes on from .*last.pt"):
        train(Steep(set(range(6, 20)), 20), line_batch, loop(steps=20), tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4
    train(Steep(set(), 20), line_batch, loop(steps=20, lr=0.01), tmp_path)
    assert weights(tmp_path)["weight"].isfinite().all()


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    train(Line(), line_batch, loop(steps=2), tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(FloatingPointError, match="not finite"):
        train(Line(), line_batch, loop(steps=4, lr=3e38, weight_decay=0.0), tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_write_a_checkpoint_and_a_resumed_run_is_the_same(tmp_path, number, ends):
    sent = []

    def batch(rng):
        if len(sent) == 3:
            os.kill(os.getpid(), number)
        sent.append(0)
        return line_batch(rng)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ends) as ended:
        train(Line(), batch, loop(), tmp_path / "parts")
    assert ends is KeyboardInterrupt or ended.value.code == 143
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["step"] in (4, 5)
    (tmp_path / "parts" / "curve.jsonl").open("a").write('{"step": 7, "loss": 1.0}\n{"st')  # of a run that was killed
    train(Line(), line_batch, loop(), tmp_path / "parts")
    train(Line(), line_batch, loop(), tmp_path / "whole")
    assert torch.equal(weights(tmp_path / "parts")["weight"], weights(tmp_path / "whole")["weight"])
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_signal_in_the_last_validation_ends_the_run_after_it(tmp_path):
    def figures(_stage):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"error": 1.0}

    with pytest.raises(SystemExit, match="143"):
        train(Line(), line_batch, loop(), tmp_path, validate=figures)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 8
    assert train(Line(), line_batch, loop(), tmp_path, validate=lambda _: {"error": 1.0}) is not None


class Dropped(Line):
    """Dropout in the way; it notes what is left of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def loss(self, batch, progress, rng):
        self.kept.append(nn.functional.dropout(torch.ones(64), 0.5))
        loss, logs = super().loss(batch, progress, rng)
        return loss * self.kept[-1].mean(), logs


def test_dropout_is_the_same_after_a_resume_and_other_in_every_part(tmp_path):
    whole, first, rest = Dropped(), Dropped(), Dropped()
    torch.manual_seed(5)
    train(whole, line_batch, loop(steps=6, accumulate=2), tmp_path / "whole")
    train(first, line_batch, loop(steps=3, accumulate=2), tmp_path / "parts")
    torch.rand(7)
    train(rest, line_batch, loop(steps=6, accumulate=2), tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.kept, first.kept + rest.kept, strict=True))
    assert len({tuple(kept.tolist()) for kept in whole.kept}) == 12  # of two parts in each of six steps
    assert torch.equal(weights(tmp_path / "parts")["weight"], weights(tmp_path / "whole")["weight"])


def test_changed_options_are_refused_or_noted(tmp_path, caplog):
    about = {"loss": {"rollout": 8, "boxes": [(1, 2)]}, "data": {"fingerprint": "abc", "validation_fraction": 0.1}}
    train(Line(), line_batch, loop(steps=2), tmp_path, about=about)
    other = {**about, "loss": {"rollout": 4, "boxes": [(1, 2)]}}
    with pytest.raises(ValueError, match=r"loss.rollout was 8, now it is 4.*train.seed was 0, now it is 7"):
        train(Line(), line_batch, loop(steps=4, seed=7), tmp_path, about=other)
    with pytest.raises(ValueError, match=r"accumulate \* processes was 1, now it is 2"):
        train(Line(), line_batch, loop(steps=4, accumulate=2), tmp_path, about=about)
    learned = {**about, "data": {"fingerprint": "xyz", "validation_fraction": 0.1}}  # more recordings
    with caplog.at_level(logging.INFO, "drivedit"):
        train(Line(), line_batch, loop(steps=4, lr=0.01), tmp_path, about=learned)
    assert "from step 2 on train.lr is 0.01, before 0.05" in caplog.text
    notes = json.loads((tmp_path / "loop.json").read_text())
    assert {"step": 2, "option": "data.fingerprint", "before": "abc", "now": "xyz"} in notes["changes"]
    assert notes["train"]["lr"] == 0.01 and {c["option"] for c in notes["changes"]} == {
        "train.lr", "train.steps", "data.fingerprint",
    }  # fmt: skip


def test_two_trainings_in_one_folder_are_refused_and_leftovers_go(tmp_path):
    left = tmp_path / "student" / ".last.pt.17.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    write_shard(tmp_path / "recordings" / "shard-00000.h5", [make_episode(12, seed) for seed in range(2)])
    with run_folder(tmp_path, "cpu"):
        assert not left.exists()
        config = make_world().config
        with pytest.raises(RuntimeError, match="another process is training in"):
            data = DataConfig(str(tmp_path / "recordings"))
            vae(config, loop(), data, VAEStageConfig(), str(tmp_path), "cpu")
    with run_folder(tmp_path, "cpu"):
        pass


@pytest.fixture
def recordings(tmp_path) -> Path:
    folder = tmp_path / "recordings"
    write_shard(folder / "shard-00000.h5", [make_episode(12, seed) for seed in range(3)])
    return folder


def test_latents_are_made_anew_when_encoder_or_recordings_differ(recordings, tmp_path, caplog, monkeypatch):
    world, drives = make_world(), Drives.open(recordings)
    first = np.array(encode_drives(world, drives, tmp_path))
    monkeypatch.setattr(type(world), "encode", None)  # what fits is not made again
    assert np.array_equal(encode_drives(world, drives, tmp_path), first)
    monkeypatch.undo()
    world.vae.to_moments.get_parameter("bias").data += 0.1
    with caplog.at_level(logging.INFO, "drivedit"):
        second = np.array(encode_drives(world, drives, tmp_path))
        write_shard(recordings / "shard-00000.h5", [make_episode(12, seed) for seed in range(7, 10)])
        third = encode_drives(world, Drives.open(recordings), tmp_path)
    assert not np.allclose(second, first) and "was made from other encoder: encoding anew" in caplog.text
    assert third.shape == second.shape and not np.allclose(third, second)
    assert "was made from other recordings: encoding anew" in caplog.text and len(list(tmp_path.glob("*.npy"))) == 1


def test_a_full_disk_while_encoding_is_an_error_that_says_so(recordings, tmp_path):
    world, drives = make_world(), Drives.open(recordings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(OSError, match="could not write .*make room there"):
            encode_drives(world, drives, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_what_would_be_refused_at_the_end_is_said_before_the_first_step(tmp_path):
    """No drive that is only looked at is on the road."""
    episodes = [make_episode(20, seed) for seed in range(3)]
    episodes[-1].telemetry["wheels_on_road"][:] = 0
    write_shard(tmp_path / "recordings" / "shard-00000.h5", episodes)
    config, data = make_world().config, DataConfig(str(tmp_path / "recordings"), validation_fraction=0.34)
    vae(config, loop(steps=1, batch_size=4), data, VAEStageConfig(), str(tmp_path), "cpu")
    loss = StudentStageConfig(clip_frames=4, rollout=1)
    with pytest.raises(ValueError, match="steady states"):
        student(config, loop(steps=1, batch_size=2), data, loss, str(tmp_path), "cpu")
    assert not (tmp_path / "student").exists()
    (tmp_path / "vae" / "world" / "notes.txt").write_text("of weeks")
    with pytest.raises(FileExistsError, match="notes.txt"):
        vae(config, loop(steps=2, batch_size=4), data, VAEStageConfig(), str(tmp_path), "cpu")
    assert torch.load(tmp_path / "vae" / "last.pt", weights_only=True)["step"] == 1
