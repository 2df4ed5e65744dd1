"""Recordings read as a stream: every sample once in an epoch, the same as unpacked, and again from any place."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import make_episode
from helpers.worlds import make_world

import drivedit.data.stream as stream_module
from drivedit.config import DataConfig, LoopConfig, StudentStageConfig, VAEStageConfig
from drivedit.data.clips import Drives, fit_config
from drivedit.data.recordings import write_shard
from drivedit.data.stream import Order, Shards
from drivedit.training.latents import Clips
from drivedit.training.sources import Streamed, Unpacked, open_source
from drivedit.training.stages import decoder, student, vae

COUNTS = [5, 3, 8, 1, 4, 6, 2]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(5):
        write_shard(folder / f"shard-{number:05d}.h5", [make_episode(12 + number, 2 * number + n) for n in range(2)])
    return folder


def walk(order: Order, place: int, count: int) -> list[tuple[int, int]]:
    """Shard and sample in it of places that follow one another."""
    found = []
    for number, piece in order.pieces(place, count):
        shards = order.group(number)
        samples = [(shard, sample) for shard in shards for sample in range(COUNTS[shard])]
        found += [samples[at] for at in order.permutation(number, len(samples))[piece]]
    return found


def test_an_epoch_has_every_sample_once_and_streams_share_no_shard():
    every = Counter((shard, sample) for shard, count in enumerate(COUNTS) for sample in range(count))
    alone = walk(Order(COUNTS, 0, 0, 1, 2), 0, 2 * sum(COUNTS))
    first, second = alone[: sum(COUNTS)], alone[sum(COUNTS) :]
    assert Counter(first) == Counter(second) == every and first != second and first != sorted(first)
    seen = []
    for stream in range(3):
        order = Order(COUNTS, 0, stream, 3, 2)
        own = [shard for number in range(order.groups) for shard in order.group(number)]
        seen += walk(order, 0, sum(COUNTS[shard] for shard in own))
    assert Counter(seen) == every


def test_any_place_is_reached_at_once():
    whole = walk(Order(COUNTS, 3, 1, 2, 2), 0, 60)
    assert walk(Order(COUNTS, 3, 1, 2, 2), 23, 20) == whole[23:43]
    assert walk(Order(COUNTS, 4, 1, 2, 2), 0, 60) != whole
    with pytest.raises(ValueError, match="needs a shard"):
        Order(COUNTS, 0, 0, 8, 2)


def test_a_shard_is_looked_through_once(recordings, monkeypatch, tmp_path):
    drives, looked = Drives.open(recordings), []
    facts = Shards.open(recordings).facts
    for name, value in vars(drives.facts()).items():
        found = getattr(facts, name)
        assert found == (pytest.approx(value, nan_ok=True) if name in ("squares", "paid", "moved") else value), name
    assert fit_config(make_world().config, facts, 40) == fit_config(make_world().config, drives, 40)
    read = stream_module.read_shard
    monkeypatch.setattr(stream_module, "read_shard", lambda path, kinds: looked.append(path.name) or read(path, kinds))
    before = Shards.open(recordings).fingerprint
    assert not looked
    for path in recordings.glob("shard-*.h5"):
        (tmp_path / path.name).hardlink_to(path)
    (tmp_path / "stream.json").write_bytes((recordings / "stream.json").read_bytes())
    write_shard(tmp_path / "more" / "shard-00000.h5", [make_episode(9, 99)])
    grown = Shards.open(tmp_path)
    assert looked == ["shard-00000.h5"] and grown.facts.drives == 11 and grown.fingerprint != before
    write_shard(tmp_path / "more" / "shard-00000.h5", [make_episode(9, 99)], {"held_out": True})
    with pytest.raises(ValueError, match="kept for judging"):
        Shards.open(tmp_path)


def test_clips_are_those_of_unpacked_recordings(recordings, tmp_path):
    world, data = make_world(), DataConfig(str(recordings), validation_fraction=0.2)
    plain = open_source(data, torch.device("cpu"), None)
    assert isinstance(plain, Unpacked)
    source = Streamed(Shards.open(recordings), data, torch.device("cpu"), None)
    assert source.recorded == plain.recorded._replace(fingerprint=source.recorded.fingerprint, looked_at=2)
    first = plain.drives.first
    every = np.concatenate([np.arange(first[drive] + 2, first[drive + 1] - 3) for drive in range(8)])
    stream, held = source.clips(world, 4, LoopConfig(batch_size=len(every)), tmp_path)
    batch, (_, looked_at) = stream.at(0, 0, 1), plain.clips(world, 4, LoopConfig(), tmp_path)
    wanted = Clips(plain.drives, plain.latents(world, tmp_path), world.config, 4).batch(every)
    match = (batch["control"][:, None] - wanted["control"][None]).abs().sum((2, 3)).argmin(1)
    assert sorted(match.tolist()) == list(range(len(every)))
    for name, value in batch.items():
        assert torch.allclose(value, wanted[name][match], atol=2e-3), name
    for name, value in held.items():
        assert torch.allclose(value, looked_at[name], atol=2e-3), name


def test_stages_learn_from_a_stream_and_go_on_at_the_sample(recordings, tmp_path):
    data = DataConfig(str(recordings), validation_fraction=0.2, stream=True, buffer=2)
    config = make_world().config
    loss = StudentStageConfig(clip_frames=4, rollout=1, few_step_from=0.5)

    def loop(**options) -> LoopConfig:
        return LoopConfig(steps=4, batch_size=9, accumulate=2, warmup=1, log_every=1, bf16=False, **options)

    for run, stops in (("whole", []), ("stopped", [1e-9, 1e-9])):
        out = str(tmp_path / run)
        for minutes in [*stops, None]:
            vae(config, loop(minutes=minutes), data, VAEStageConfig(), out, "cpu")
        for minutes in [*stops, None]:
            student(config, loop(minutes=minutes), data, loss, out, "cpu")
    for stage in ("vae", "student"):
        one, two = (torch.load(tmp_path / run / stage / "last.pt", weights_only=True) for run in ("whole", "stopped"))
        assert all(torch.equal(value, two["stage"][name]) for name, value in one["stage"].items())
        notes = json.loads((tmp_path / "whole" / stage / "loop.json").read_text())
        assert notes["about"]["data"]["drives"] == 10
    with pytest.raises(ValueError, match="leave out data.stream"):
        decoder(f"{out}/student/world", inner=[8, 8, 8, 8], train_=loop(), data=data, loss=VAEStageConfig(), out=out)
