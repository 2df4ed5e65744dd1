"""Worlds on disk: a whole one in its place whatever happens, nothing else ever lost, and damage always seen."""

import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.worlds import run, small_world
from helpers.agents import make_reader

from drivedit.config import Modality, RewardTerm, StudentConfig, VAEConfig, WorldConfig, WorldSpec
from drivedit.models import DiTWorld, World, find_world, finding, shipped_worlds
from drivedit.models.finding import AGENTS, FILES
from drivedit.models.sets.agents import AgentsReader
from drivedit.utils import fingerprint, folders
from drivedit_env.env import DriveDiTEnv


@pytest.fixture(scope="module")
def older() -> DiTWorld:
    return small_world(0)


@pytest.fixture(scope="module")
def newer() -> DiTWorld:
    return small_world(1)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- what is never lost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["recordings", "a folder inside", "another's model", "a file", "a link", "a lost link"]
)
def test_what_is_no_world_is_refused_and_stays(older, tmp_path, kind):
    place = tmp_path / "d"
    (tmp_path / "elsewhere").mkdir()
    if kind == "recordings":
        older.save_pretrained(place)
        (place / "shard-00000.h5").write_bytes(b"a day of driving")
    elif kind == "a folder inside":
        (place / "CARD.md").mkdir(parents=True)
    elif kind == "another's model":
        place.mkdir()
        (place / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (place / "model.safetensors").write_bytes(b"weights")
    elif kind == "a file":
        place.write_text("a letter")
    else:
        place.symlink_to(tmp_path / ("elsewhere" if kind == "a link" else "nowhere"))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError) as told:
        older.save_pretrained(place)
    assert str(place) in str(told.value)
    if kind == "recordings":
        assert "shard-00000.h5" in str(told.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert names(tmp_path) == {"d", "elsewhere"} and place.is_symlink() == ("link" in kind)


def test_an_empty_folder_and_an_older_world_are_replaced(older, newer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for world in (older, newer):
        world.save_pretrained("d")
        loaded = DiTWorld.from_pretrained("d", device="cpu")
        assert torch.equal(loaded.dynamics.embed.weight, world.dynamics.embed.weight.half().float())
    assert names(tmp_path) == {"d"} and names(tmp_path / "d") == set(FILES)


def test_a_world_that_could_not_be_loaded_is_not_saved(tmp_path):
    for break_it, message in (
        (lambda world: world.dynamics.embed.weight.data[0].fill_(1e6), "dynamics.embed.weight.* finite"),
        (lambda world: setattr(world.config.student, "d_model", 16), "shape"),
        (lambda world: world.scenes.append(replace(world.scenes[0], controls=np.full((2, 2), 9.0))), "controls"),
    ):
        world = small_world(0)
        break_it(world)
        with pytest.raises(ValueError, match=message):
            world.save_pretrained(tmp_path / "d")
    assert names(tmp_path) == set()


# -- processes that die, disks that are full -----------------------------------------------------------------------


def die_at(step: int, act: Callable[[], object]) -> bool:
    """Lets a child do something, and kills it before its system call number `step`; whether it came to its end."""
    child = os.fork()
    if child == 0:
        calls = 0

        def count(event: str, _args: object) -> None:
            nonlocal calls
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir"):
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("exchange", [True, False], ids=["in one move", "in two renames"])
def test_killed_at_any_moment_a_whole_world_is_in_its_place(older, newer, tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    elif sys.platform != "linux":
        pytest.skip("only Linux exchanges two folders in one move")
    place = tmp_path / "d"
    older.save_pretrained(place)
    files = [older._files(), newer._files()]  # made once: what is tried is the writing
    monkeypatch.setattr(DiTWorld, "_files", lambda world: files[world is newer])
    prints, gaps = set(), 0
    for step in range(1, 100):
        older.save_pretrained(place)
        ended = die_at(step, lambda: newer.save_pretrained(place))
        gaps += not place.is_dir()
        found = DiTWorld.from_pretrained(place, device="cpu")  # raises unless it is whole
        prints.add(found.fingerprint)
        newer.save_pretrained(place)
        assert names(tmp_path) == {"d"} and names(place) == set(FILES), f"what the dead left at {step} is cleaned"
        if ended:
            break
    assert ended and step > 10 and len(prints) == 2 and gaps == (not exchange)


def test_a_full_disk_is_an_error_and_nothing_is_left(older, newer, tmp_path):
    """A limit of the file size says no to a write as a full disk does."""
    place = tmp_path / "d"
    older.save_pretrained(place)
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    limit = min(len(data) for name, data in before.items() if name.endswith("safetensors")) // 2
    told, child_told = os.pipe()
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            newer.save_pretrained(place)
        except OSError as error:
            os.write(child_told, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(child_told)
    assert "untouched" in os.read(told, 10_000).decode()
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before and names(tmp_path) == {"d"}


def test_a_world_replaced_while_it_is_read_is_read_again(older, newer, tmp_path, monkeypatch):
    place = tmp_path / "d"
    older.save_pretrained(place)
    check, times = DiTWorld._built.__func__, []

    def built(cls, path, told):
        if not times:
            times.append(1)
            newer.save_pretrained(place)
        return check(cls, path, told)

    monkeypatch.setattr(DiTWorld, "_built", classmethod(built))
    found = DiTWorld.from_pretrained(place, device="cpu")
    assert torch.equal(found.dynamics.embed.weight, newer.dynamics.embed.weight.half().float())


# -- digests and sizes ---------------------------------------------------------------------------------------------


def test_the_fingerprint_names_settings_weights_and_scenes(tmp_path):
    """Another of each is another world, on disk and in memory; states of one are none of the other."""
    prints, digests = set(), set()
    for number, change in enumerate((
        lambda world: None,
        lambda world: setattr(world.config, "temperature", 0.5),
        lambda world: world.heads.squeeze.bias.data.add_(0.5),
        lambda world: world.scenes.pop(),
    )):  # fmt: skip
        world = small_world(0)
        change(world)
        world.save_pretrained(tmp_path / str(number))
        prints.add(DiTWorld.from_pretrained(tmp_path / str(number), device="cpu").fingerprint)
        digests.add(world.digest())
    assert len(prints) == 4 and len(digests) == 4


def test_states_of_a_world_with_other_settings_are_refused(tiny_world, tmp_path):
    tiny_world.save_pretrained(tmp_path / "one")
    other = DiTWorld(replace(tiny_world.config, temperature=0.3), tiny_world.scenes)
    other.load_state_dict(tiny_world.state_dict())
    other.save_pretrained(tmp_path / "other")
    one, two = (DriveDiTEnv(tmp_path / name, device="cpu") for name in ("one", "other"))
    one.reset(seed=0)
    two.reset(seed=0)
    with pytest.raises(ValueError, match="belongs to world"):
        two.set_state(one.get_state().to_bytes())


def test_a_world_of_format_2_is_loaded_as_it_was(tmp_path):
    """The shipped world, as it was before its spec stood together."""
    shipped = shutil.copytree(shipped_worlds()["carracing"], tmp_path / "d")
    shutil.copy(Path(__file__).parents[1] / "data" / "world_format_2.json", shipped / "config.json")
    found, now = (DiTWorld.from_pretrained(path, device="cpu") for path in (shipped, "carracing"))
    assert found.fingerprint == json.loads((shipped / "config.json").read_text())["digest"]
    spec, names = found.spec, ("observations", "controls", "telemetry", "learned", "conditions", "dt")
    spec.check_same(now.spec, "the old one", "the shipped one", names)
    assert spec.rewards == now.spec.rewards and [v.scale for v in spec.telemetry] == [20.0, 10.0, 1.0, 0.5]
    assert {**found.config.to_dict(), "spec": 0} == {**now.config.to_dict(), "spec": 0}
    found.save_pretrained(shipped)
    assert json.loads((shipped / "config.json").read_text())["format"] == 3


def test_a_world_of_format_1_is_loaded_with_a_word(tmp_path):
    shipped = shutil.copytree(shipped_worlds()["carracing"], tmp_path / "d")
    stored = json.loads((Path(__file__).parents[1] / "data" / "world_format_2.json").read_text())
    wanted = stored.pop("digest")
    (shipped / "config.json").write_text(json.dumps(stored | {"format": 1}))
    with pytest.warns(UserWarning, match="save it anew"):
        assert DiTWorld.from_pretrained(shipped, device="cpu").fingerprint == wanted


def test_a_world_of_another_kind_is_told_from_one_that_was_asked_for(older, tmp_path):
    older.save_pretrained(tmp_path / "d")
    assert type(World.from_pretrained(tmp_path / "d", device="cpu")) is DiTWorld
    file = tmp_path / "d" / "config.json"
    stored = json.loads(file.read_text()) | {"kind": "dreamt"}
    digest = fingerprint({name: stored[name] for name in ("kind", "world", "sha256")})
    file.write_text(json.dumps(stored | {"digest": digest}))
    with pytest.raises(ValueError, match=r"of kind 'dreamt', this package knows \['bev', 'dit', 'sde'\]"):
        World.from_pretrained(tmp_path / "d", device="cpu")


REST: dict[type, dict[str, Any]] = {RewardTerm: {"kind": "learned"}}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (StudentConfig, {"n_layers": 10**18}),
        (StudentConfig, {"d_model": 10**9}),
        (StudentConfig, {"window": 10**6}),
        (VAEConfig, {"hidden_dims": [1, 2, 3, 10**9]}),
        (WorldConfig, {"map_arcs": (0.0, 1e5, 1e-9)}),
        (WorldSpec, {"dt": float("nan")}),
        (Modality, {"shape": (64, 10**8, 3)}),
        (WorldConfig, {"motion_scale": [1.0]}),
        (RewardTerm, {"value": float("inf")}),
    ],
)
def test_sizes_beyond_reason_are_refused_by_name(kind, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        kind(**REST.get(kind, {}), **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        kind.from_dict(REST.get(kind, {}) | change)


def test_damaged_worlds_are_refused_or_the_same():
    """A short run of the fuzzer; `run(5000, seed)` is one in earnest."""
    outcomes, bad = run(60, 0)
    assert bad == [] and outcomes["refused"] > 40


def test_loading_draws_nothing(older, tmp_path):
    older.save_pretrained(tmp_path / "d")
    before = torch.get_rng_state()
    DiTWorld.from_pretrained(tmp_path / "d", device="cpu")
    assert torch.equal(before, torch.get_rng_state())


# -- finding -------------------------------------------------------------------------------------------------------


def test_a_shipped_name_goes_before_a_folder_and_says_so(older, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = shipped_worlds()["carracing"]
    assert find_world("carracing") == shipped
    older.save_pretrained("carracing")
    with pytest.warns(UserWarning, match=r"'\./carracing'"):
        assert find_world("carracing") == shipped
    assert find_world("./carracing") == Path("carracing") == find_world(Path("carracing"))
    older.save_pretrained("mine")
    assert find_world("mine") == Path("mine")


def test_what_was_looked_for_and_what_is_near_is_said(older, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def ask(*_args, **_options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", ask)
    older.save_pretrained("runs/mine/student/world")
    older.save_pretrained("runs/yours")
    for wrong, told in (
        ("caracing", "'carracing'"),
        ("runs/your", "'runs/yours'"),
        ("runs/carracing", str(tmp_path / "runs" / "carracing")),
        ("someone/world", "hub:NAME/WORLD"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            DiTWorld.from_pretrained(wrong)
        assert told in str(error.value) and "carracing" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"lacks config.json; it holds the worlds runs/mine/student/world"):
        DiTWorld.from_pretrained("runs/mine")
    Path("letter").write_text("dear")
    with pytest.raises(FileNotFoundError, match="a file"):
        find_world("letter")


def test_a_silent_hub_is_waited_for_a_short_time_only(tmp_path, monkeypatch):
    """A server that accepts and never answers; the time limit is what is shipped, but shorter here."""
    from huggingface_hub import constants

    assert finding.HUB_SECONDS <= 10
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(finding, "HUB_SECONDS", 0.3)
        began = time.monotonic()
        with pytest.raises(FileNotFoundError, match=r"hub:someone/world.*did not answer"):
            find_world("hub:someone/world")
        assert time.monotonic() - began < 5
    with pytest.raises(FileNotFoundError, match="hub:not a name"):
        find_world("hub:not a name")


def test_the_hub_is_asked_on_purpose_only(older, tmp_path, monkeypatch):
    """What the hub answers is taken, were it a refusal; what it has already given is taken while it is silent."""
    older.save_pretrained(tmp_path / "d")
    asked = []

    def download(name, **options):
        asked.append((name, options["local_files_only"]))
        return str(tmp_path / "d")

    def refuse(address, timeout):
        raise urllib.error.HTTPError(address, 401, "who are you", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_world("hub:someone/world") == tmp_path / "d"  # the tests are offline
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert find_world("hub:someone/world") == tmp_path / "d"
    assert asked == [("someone/world", True), ("someone/world", False)]


def test_shipping_refuses_what_is_no_world(older, tmp_path):
    from drivedit.training.ship import ship

    older.save_pretrained(tmp_path / "made")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.txt").write_text("PSNR 30 dB\n")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "notes.txt").write_text("a year of notes")
    ask = [str(tmp_path / name) for name in ("made", "report", "to")]
    with pytest.raises(FileExistsError, match="notes.txt"):
        ship(*ask[:2], to=ask[2])
    assert names(tmp_path / "to") == {"notes.txt"}
    (tmp_path / "to" / "notes.txt").unlink()
    ship(*ask[:2], to=ask[2])
    assert "PSNR 30 dB" in DiTWorld.from_pretrained(tmp_path / "to", device="cpu").card


def test_the_reader_beside_a_world_is_shipped_with_it(older, tmp_path):
    from drivedit.training.ship import ship

    older.save_pretrained(tmp_path / "made")
    reader = make_reader()
    reader.save(tmp_path / "made" / AGENTS)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.txt").write_text("PSNR 30 dB\n")
    ship(str(tmp_path / "made"), str(tmp_path / "report"), to=str(tmp_path / "to"))
    shipped = AgentsReader.load(tmp_path / "to" / AGENTS).state_dict()
    assert all(torch.equal(value.half().float(), shipped[name]) for name, value in reader.state_dict().items())
