"""Shards of strangers and damaged ones: read right, or refused; no other file is opened, no memory is wasted."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_recordings import equal, made_up

from drivedit.data.recordings import Episode, ShardError, read_attrs, read_shard, write_shard
from drivedit.utils import hdf5


def small(steps: int = 3, seed: int = 1, **changes: Any) -> Episode:
    episode = made_up(steps, seed)
    return replace(episode, **{"frames": episode.frames[:, :16, :16].copy(), **changes})


def unsealed(path: Path, episodes: list[Episode]) -> Path:
    """A shard as version 1 began: without a seal, a rate and telemetry names, with texts in a heap."""
    sealed = path.with_suffix(".sealed")
    write_shard(sealed, episodes)
    with h5py.File(sealed) as source, h5py.File(path, "w") as file:
        for name in source:
            source.copy(name, file)
        for before, after in [(source, file), *((source[name], file[name]) for name in source)]:
            for name, value in before.attrs.items():
                if name not in ("fps", "telemetry"):
                    after.attrs[name] = value.decode() if isinstance(value, bytes) else value
    sealed.unlink()
    return path


def seal_again(path: Path) -> None:
    """Seals what somebody has changed in a shard."""
    data = bytearray(path.read_bytes())
    data[: hdf5.BLOCK] = hdf5.seal(hashlib.sha256(data[hdf5.BLOCK :]).hexdigest())
    path.write_bytes(data)


def test_the_first_shards_are_still_read(tmp_path):
    episodes = [small(3, 1), small(4, 2)]
    path = unsealed(tmp_path / "shard-00000.h5", episodes)
    assert all(map(equal, episodes, read_shard(path)))
    assert read_attrs(path)["fps"] == pytest.approx(1 / 0.06) and len(read_attrs(path)["telemetry"]) == 4


@pytest.mark.parametrize("names", [(), ("fuel",), ("speed", "fuel", "gear", "slip", "range", "yaw rate")])
def test_a_recording_knows_its_rate_its_telemetry_and_what_it_only_carries(tmp_path, names):
    told = np.random.default_rng(0).normal(size=(4, len(names))).astype(np.float32)
    extra = {"state": np.arange(9, dtype=np.uint8), "fingerprint": "abc", "passes": 4}
    episode = small(3, telemetry=told, telemetry_names=names, fps=10.0, extra=extra)
    write_shard(tmp_path / "a.h5", [episode], {"env": ""})
    (back,) = read_shard(tmp_path / "a.h5")
    assert all(np.array_equal(getattr(back, f.name), getattr(episode, f.name)) for f in fields(Episode)[:-1])
    assert back.extra["state"].tolist() == list(range(9)) and back.extra["fingerprint"] == "abc"
    assert back.extra["passes"] == 4 and np.isnan(back.told("nobody knows")).all()
    assert all(np.array_equal(back.told(name), told[:, i]) for i, name in enumerate(names))
    write_shard(tmp_path / "b.h5", [back], {"env": ""})
    assert (tmp_path / "b.h5").read_bytes() == (tmp_path / "a.h5").read_bytes(), "nothing is lost when written again"


def test_episodes_that_do_not_go_together_are_not_written(tmp_path):
    for other, message in [
        (small(3, fps=10.0), r"same fps, got 16.6.* and 10.0"),
        (small(3, telemetry_names=("a", "b", "c", "d")), "same telemetry_names"),
        (small(3, telemetry_names=("a",)), r"episode.telemetry must be float32 \[4, 1\]"),
        (small(3, fps=float("nan")), "fps must be positive"),
        (small(3, extra={"frames": 1}), "names of the format itself"),
        (small(3, route=np.zeros((200_000, 2), np.float32)), "100000 points at most"),
        (small(3, frames=np.zeros((4, 0, 16, 3), np.uint8)), "needs a step and pictures"),
        (small(3, start={"note": "x" * 2**16}), "60000 bytes at most"),
        (small(3, extra={"notes": np.array([b"a", b"b"])}), "holds no numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_shard(tmp_path / "a.h5", [small(3), other])
    with pytest.raises(ValueError, match="told by the episodes"):
        write_shard(tmp_path / "a.h5", [small(3)], {"fps": 5.0})
    assert not list(tmp_path.iterdir())


def _external(group: Any, secret: Path) -> None:
    shape = group["frames"].shape
    del group["frames"]
    group.create_dataset("frames", shape, np.uint8, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def _virtual(group: Any, secret: Path) -> None:
    layout = h5py.VirtualLayout(group["frames"].shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(secret), "frames", group["frames"].shape)
    del group["frames"]
    group.create_virtual_dataset("frames", layout)


def _linked(link: Callable[[Path], Any]) -> Callable[[Any, Path], None]:
    def harm(group: Any, secret: Path) -> None:
        del group["frames"]
        group["frames"] = link(secret)

    return harm


def _linked_episode(group: Any, secret: Path) -> None:
    group.file["episode_000001"] = h5py.ExternalLink(str(secret), "/episode_000000")


def _huge_frames(group: Any, secret: Path) -> None:
    del group["frames"]
    group.create_dataset("frames", (4, 100_000, 30_000, 3), np.uint8, compression="gzip", chunks=(1, 100, 100, 3))


def _huge_chunk(group: Any, secret: Path) -> None:
    shape = group["frames"].shape
    del group["frames"]
    group.create_dataset("frames", shape, np.uint8, chunks=(4, 10_000, 20_000, 3), maxshape=(None,) * 4)


def _long_route(group: Any, secret: Path) -> None:
    del group["route"]
    group.create_dataset("route", (1_000_000, 2), np.float32, compression="gzip", data=np.zeros((1_000_000, 2)))


def _many_episodes(group: Any, secret: Path) -> None:
    for number in range(1, 40):
        group.file[f"episode_{number:06d}"] = group


def _long_text(group: Any, secret: Path) -> None:
    group.attrs["start"] = json.dumps({"a": "x" * 2_000_000})  # in a heap


def _deep_text(group: Any, secret: Path) -> None:
    group.attrs["start"] = np.bytes_(b"[" * 50_000)


def _many_texts(group: Any, secret: Path) -> None:
    group.attrs.create("driver", ["a"] * 50, dtype=h5py.string_dtype())


def _many_numbers(group: Any, secret: Path) -> None:
    group.attrs["seed"] = np.zeros(5000)


def _many_attributes(group: Any, secret: Path) -> None:
    for number in range(1200):
        group.attrs[f"a{number}"] = number


def _no_numbers(group: Any, secret: Path) -> None:
    group.create_dataset("more", data=np.array(["a", "b"], h5py.string_dtype()))


def _strange_filter(group: Any, secret: Path) -> None:
    data = group["frames"][()]
    del group["frames"]
    group.create_dataset("frames", data=data, scaleoffset=0)


HARMS: dict[str, tuple[Callable[[Any, Path], None], str]] = {
    "external storage": (_external, "stored in another file"),
    "virtual dataset": (_virtual, "stored in another file"),
    "external link": (_linked(lambda path: h5py.ExternalLink(str(path), "/frames")), "link to somewhere else"),
    "soft link": (_linked(lambda path: h5py.SoftLink("/episode_000000/poses")), "link to somewhere else"),
    "linked episode": (_linked_episode, "link to somewhere else"),
    "36 GB of frames": (_huge_frames, "declares 36000000000 bytes"),
    "a chunk of 2.4 GB": (_huge_chunk, "in chunks of 2400000000"),
    "a million points": (_long_route, "100000 points at most"),
    "one episode a hundred times": (_many_episodes, "the arrays take"),
    "a long text": (_long_text, "neither a text"),
    "brackets": (_deep_text, "recursion"),
    "many texts": (_many_texts, "neither a text"),
    "many numbers": (_many_numbers, "too large"),
    "many attributes": (_many_attributes, "attributes"),
    "texts as an array": (_no_numbers, "holds no numbers"),
    "another filter": (_strange_filter, "filters"),
}


@pytest.mark.parametrize("kind", HARMS)
def test_nothing_outside_is_read_and_no_declared_size_is_believed(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("drivedit.utils.shards.MOST_BYTES", 100_000)
    harm, message = HARMS[kind]
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["frames"] = np.full((4, 16, 16, 3), 7, np.uint8)
    path = tmp_path / "shard-00000.h5"
    write_shard(path, [small(3)])
    with h5py.File(path, "r+") as file:
        harm(file["episode_000000"], secret)
    seal_again(path)
    with pytest.raises(ShardError, match=message):
        read_shard(path)


def test_a_sealed_shard_is_read_right_or_refused_whatever_byte_is_damaged(tmp_path):
    path = tmp_path / "shard-00000.h5"
    write_shard(path, [small(3)])
    data, rng = path.read_bytes(), random.Random(0)
    for _ in range(200):
        harmed = bytearray(data)
        harmed[rng.randrange(len(data)) if rng.random() < 0.7 else rng.randrange(hdf5.BLOCK)] ^= 1 << rng.randrange(8)
        path.write_bytes(harmed)
        with pytest.raises(ShardError, match="not those that were sealed"):
            read_shard(path)
    for length in (0, 5, hdf5.BLOCK, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ShardError):
            read_attrs(path)


def test_a_damaged_shard_without_a_seal_is_refused_where_hdf5_would_not_end(tmp_path, monkeypatch):
    """Found by flipping bytes: HDF5 does not return, or ends the process, or takes gigabytes."""
    path = unsealed(tmp_path / "shard-00000.h5", [small(3)])
    data = path.read_bytes()
    heap, env = data.index(b"GCOL"), data.index(b"env\0\0\0\0\0\x19\1\1")
    length = data.index(b"\x10\0\0\0" + heap.to_bytes(8, "little"), env)
    harms = {(heap + 16, heap + 24): 0, (env + 9,): 0xA8, (length + 3,): 0xFF}
    monkeypatch.setattr(hdf5, "PATIENCE_S", 3)
    for places, value in harms.items():
        harmed = bytearray(data)
        for place in places:
            harmed[place] = value
        path.write_bytes(harmed)
        with pytest.raises(ShardError, match="texts cannot be read"):
            read_shard(path)


def test_what_cannot_be_opened_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "shard-00000.h5"
    write_shard(path, [small(3)])

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("drivedit.utils.shards.check_bytes", refuse)
    with pytest.raises(PermissionError):
        read_shard(path)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_shard(path)
