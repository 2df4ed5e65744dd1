"""Shards of strangers and damaged ones: read right, or refused; no other file is opened, no memory is wasted."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fuzz.episodes import EVERYTHING, made_up, same, spec_of, with_everything

from drivedit.config import Modality
from drivedit.config.domains.carracing import SPEC
from drivedit.data.recordings import Agents, Episode, ShardError, read_attrs, read_shard, write_shard
from drivedit.utils import hdf5
from drivedit.utils.episodes import arrays_of

SMALL = spec_of(16, 16)
FIRST = Path(__file__).parents[1] / "data" / "format1"


def small(steps: int = 3, seed: int = 1, **changes: Any) -> Episode:
    return made_up(steps, seed, **{"spec": SMALL, **changes})


def unsealed(path: Path) -> Path:
    """A shard as version 1 began: without a seal, a rate and telemetry names, with texts in a heap."""
    with h5py.File(FIRST / "simulator" / "shard-00000.h5") as source, h5py.File(path, "w") as file:
        for name in source:
            source.copy(name, file)
        for before, after in [(source, file), *((source[name], file[name]) for name in source)]:
            for name, value in before.attrs.items():
                if name not in ("fps", "telemetry"):
                    after.attrs[name] = value.decode() if isinstance(value, bytes) else value
    return path


def seal_again(path: Path) -> None:
    """Seals what somebody has changed in a shard."""
    data = bytearray(path.read_bytes())
    data[: hdf5.BLOCK] = hdf5.seal(hashlib.sha256(data[hdf5.BLOCK :]).hexdigest())
    path.write_bytes(data)


def test_shards_of_version_1_are_read_as_they_were_written(tmp_path):
    path = FIRST / "simulator" / "shard-00000.h5"
    attrs = read_attrs(path)
    assert attrs["version"] == 1 and attrs["held_out"] and attrs["made_from"] == {"recipe": {"seed": 3}}
    assert attrs["spec"] == SPEC and 1 / SPEC.dt == 1 / 0.06
    k = np.arange(4)
    shade = (10 * k[:, None, None, None] + np.arange(3)).astype(np.uint8)
    expected = Episode(
        spec=SPEC,
        observations={"camera": np.broadcast_to(shade, (4, 64, 64, 3))},
        controls=np.stack([0.1 * k[1:], -0.2 * k[1:]], 1).astype(np.float32),
        reward=(0.5 * k[1:] - 0.3).astype(np.float32),
        rewards={"progress": (0.5 * k[1:]).astype(np.float32)},
        terminated=k[1:] == 3,
        telemetry={
            name: (k + first).astype(np.float32)
            for name, first in zip(SPEC.names("telemetry"), (20, 0.5, -0.1, 1), strict=True)
        },
        poses=np.stack([1.5 * k, 0.1 * k, -0.01 * k], 1),
        route=np.stack([np.arange(20), np.zeros(20)], 1).astype(np.float32),
        bounds=np.array([-10, -20, 30, 40], np.float32),
        seed=7,
        driver="clean",
        start={"track_position": 0.25, "speed": 20.0},
    )
    (episode,) = read_shard(path)
    assert same(episode, expected) and np.isnan(episode.rewards["time"]).all(), "what it does not tell is not known"
    old = unsealed(tmp_path / "shard-00000.h5")
    assert same(read_shard(old)[0], expected) and read_attrs(old)["spec"] == SPEC
    write_shard(tmp_path / "now.h5", [episode])
    assert same(read_shard(tmp_path / "now.h5")[0], expected) and read_attrs(tmp_path / "now.h5")["version"] == 2


def test_shards_of_version_1_that_no_domain_knows_say_what_they_know():
    (episode,) = read_shard(FIRST / "viewer" / "shard-00000.h5")
    assert episode.spec.dt == 0.1 and episode.spec.observations == {"camera": Modality((16, 32, 3))}
    assert episode.spec.names("controls") == ["steering", "throttle"] and list(episode.spec.rewards) == ["progress"]
    assert episode.telemetry["battery"].tolist() == [0.5, 0.25, 0.125] and episode.told("speed").tolist() == [3, 4, 5]
    assert np.isnan(episode.rewards["progress"]).all() and not len(episode.route) and not episode.closed
    assert episode.extra["state"].tolist() == list(range(9)) and episode.extra["sampling_steps"] == 4
    assert episode.extra["fingerprint"] == "abc"


def test_a_shard_gives_back_everything_and_is_the_same_when_written_again(tmp_path):
    extra = {"state": np.arange(9, dtype=np.uint8), "fingerprint": "abc", "passes": 4, "none": np.zeros((0, 2))}
    episodes = [with_everything(5, 0), with_everything(1, 1), replace(with_everything(3, 2), agents=None, extra=extra)]
    attrs = {"env": "Plane-v0", "made_from": {"recipe": {"seed": 3}}, "note": "by hand", "held_out": True}
    write_shard(tmp_path / "a.h5", episodes, attrs)
    back, told = read_shard(tmp_path / "a.h5"), read_attrs(tmp_path / "a.h5")
    assert all(map(same, episodes, back)) and all(episode.spec is back[0].spec for episode in back)
    assert told == {**attrs, "version": 2, "spec": EVERYTHING}
    assert all(array.dtype == arrays_of(episodes[0])[name].dtype for name, array in arrays_of(back[0]).items())
    write_shard(tmp_path / "b.h5", back, attrs)
    assert (tmp_path / "b.h5").read_bytes() == (tmp_path / "a.h5").read_bytes(), "nothing is lost"


def test_what_is_left_out_is_not_known(tmp_path):
    seen = {"camera": np.zeros((4, 16, 16, 3), np.uint8)}
    episode = Episode(SMALL, seen, np.zeros((3, 2), np.float32))
    write_shard(tmp_path / "a.h5", [episode])
    (back,) = read_shard(tmp_path / "a.h5")
    assert same(back, episode) and back.agents is None and back.times is None and not back.terminated.any()
    unknown = [back.reward, back.poses, *back.rewards.values(), *back.telemetry.values(), back.told("nobody knows")]
    assert all(np.isnan(array).all() for array in unknown)
    assert np.allclose(back.seconds(), 0.06 * np.arange(4))


def _agents(**changes: Any) -> Agents:
    told: dict[str, Any] = {
        "first": np.array([0, 2, 2, 3, 3]), "ids": np.array([4, 5, 4]), "boxes": np.zeros((3, 7), np.float32),
        "kinds": np.zeros(3, np.int64),
    }  # fmt: skip
    return Agents(**{**told, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": np.zeros((3, 3), np.float32)}, r"controls: the episode has float32 \[3, 3\], its spec float32"),
        ({"telemetry": {"fuel": np.zeros(4, np.float32)}}, "telemetry/fuel: the episode has it, its spec has none"),
        ({"rewards": {"fuel": np.zeros(3, np.float32)}}, "rewards/fuel: the episode has it, its spec has none"),
        ({"observations": {}}, "observations/camera: the episode has none, its spec has it"),
        ({"observations": {"camera": np.zeros((4, 16, 16, 3))}}, r"float64 \[4, 16, 16, 3\], its spec uint8"),
        ({"times": np.zeros(4)}, "finite and increase"),
        ({"times": np.zeros(3)}, r"times: the episode has float64 \[3\]"),
        ({"attributes": {"weather": "fog"}}, r"\{'weather': 'fog'\} of an episode are none of its spec, which"),
        ({"ending": "hit"}, r"'hit' of an episode is none of its spec's, \['left'\]"),
        ({"bounds": np.zeros(3)}, "4 values"),
        ({"agents": _agents(ids=np.array([4, 4, 4]))}, "two agents of one state have the same id"),
        ({"agents": _agents(first=np.array([0, 2, 1, 3, 3]))}, "without falling"),
        ({"agents": _agents(first=np.array([0, 2, 3]))}, r"agents/first: the episode has int64 \[3\]"),
        ({"agents": _agents(kinds=np.ones(3, np.int64))}, r"places in \('car',\), got 1 to 1"),
        ({"agents": _agents(boxes=np.zeros((2, 7), np.float32))}, "3 agents have 2 boxes"),
        ({"route": np.zeros((200_000, 2), np.float32)}, "100000 points at most"),
        ({"start": {"note": "x" * 2**16}}, "60000 bytes at most"),
        ({"extra": {"notes": np.array([b"a", b"b"])}}, "holds no numbers"),
        ({"spec": spec_of(16, 16, dt=0.1)}, r"dt: the first episode of a shard has 0.06, episode 1 has 0.1"),
        ({"spec": spec_of(16, 16, ["a"])}, r"telemetry: .* has \['a'\]"),
        ({"spec": replace(SMALL, domain="other")}, "must have the same spec"),
        ({"spec": replace(SMALL, observations={"a/b": Modality((16, 16, 3))})}, "do not fit"),
    ],
)  # fmt: skip
def test_episodes_that_do_not_fit_their_spec_or_each_other_are_not_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "a.h5", [small(3), small(3, **changes)])
    assert not list(tmp_path.iterdir())


def test_names_and_attributes_that_a_file_cannot_have_are_refused(tmp_path):
    spec = replace(SMALL, observations={"a/b": Modality((16, 16, 3))})
    for episodes, attrs, message in [
        ([small(3, spec=spec)], {}, r"without / and zeros, got \['a/b'\]"),
        ([small(3)], {"spec": "mine"}, "told by its episodes"),
        ([small(0)], {}, "needs a step"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_shard(tmp_path / "a.h5", episodes, attrs)
    assert not list(tmp_path.iterdir())


def _external(group: Any, secret: Path) -> None:
    shape = group["observations/camera"].shape
    del group["observations/camera"]
    group.create_dataset("observations/camera", shape, np.uint8, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def _virtual(group: Any, secret: Path) -> None:
    layout = h5py.VirtualLayout(group["observations/camera"].shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(secret), "frames", group["observations/camera"].shape)
    del group["observations/camera"]
    group.create_virtual_dataset("observations/camera", layout)


def _linked(link: Callable[[Path], Any]) -> Callable[[Any, Path], None]:
    def harm(group: Any, secret: Path) -> None:
        del group["observations/camera"]
        group["observations/camera"] = link(secret)

    return harm


def _linked_episode(group: Any, secret: Path) -> None:
    group.file["episode_000001"] = h5py.ExternalLink(str(secret), "/episode_000000")


def _huge_frames(group: Any, secret: Path) -> None:
    del group["observations/camera"]
    group.create_dataset(
        "observations/camera", (4, 100_000, 30_000, 3), np.uint8, compression="gzip", chunks=(1, 100, 100, 3)
    )


def _huge_chunk(group: Any, secret: Path) -> None:
    shape = group["observations/camera"].shape
    del group["observations/camera"]
    group.create_dataset("observations/camera", shape, np.uint8, chunks=(4, 10_000, 20_000, 3), maxshape=(None,) * 4)


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
    group.create_dataset("extra/more", data=np.array(["a", "b"], h5py.string_dtype()))


def _linked_group(group: Any, secret: Path) -> None:
    del group["observations"]
    group["observations"] = h5py.ExternalLink(str(secret), "/")


def _other_spec(group: Any, secret: Path) -> None:
    group.file.attrs["spec"] = np.bytes_(json.dumps({"colour": "red"}).encode())


def _strange_filter(group: Any, secret: Path) -> None:
    data = group["observations/camera"][()]
    del group["observations/camera"]
    group.create_dataset("observations/camera", data=data, scaleoffset=0)


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
    "a linked group": (_linked_group, "link to somewhere else"),
    "a spec of another kind": (_other_spec, "unknown key colour"),
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
    path = unsealed(tmp_path / "shard-00000.h5")
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
