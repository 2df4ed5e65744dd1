"""The library is loaded only as this user made it, of what it is made of now; worlds that it is not for go without."""

import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.worlds import make_world, spec_of

from drivedit.config.domains.carracing import SPEC
from drivedit.config.older import upgraded
from drivedit.inference import compile_decoder, compile_step, library, native, tune
from drivedit.inference.tune import can_pack
from drivedit.models import DiTWorld

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
needs_packing = pytest.mark.skipif(not can_pack(), reason="this torch cannot pack a decoder")

COMPILER = """#!/bin/sh
for last; do :; done
case "$*" in
*--version*) echo "a copier, version $COPIER" ;;
*-shared*) sleep .1; cat {made} > "$last"; echo "$$" >> {log} ;;
*) : > "$last" ;;
esac
"""


class Cache:
    """A cache of its own, and a compiler that is quick: it copies what was made before.

    Attributes:
        folder: Where libraries are kept.
    """

    def __init__(self, work: Path, made: Path) -> None:
        self._log, script = work / "log", work / "compiler"
        script.write_text(COMPILER.format(made=made, log=self._log))
        script.chmod(0o755)
        self.script, self.folder = script, work / "cache" / f"compiled-{os.geteuid()}"

    def compiled(self) -> int:
        """How often the library was compiled."""
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0

    def files(self) -> list[Path]:
        """The libraries that are kept."""
        return sorted(self.folder.glob("*.so"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Cache:
    made = library.library()
    assert made is not None
    cache = Cache(tmp_path, Path(made._name))
    monkeypatch.setenv("CXX", str(cache.script))
    monkeypatch.setenv("DRIVEDIT_CACHE", str(cache.folder.parent))
    anew(monkeypatch)
    return cache


def anew(monkeypatch) -> None:
    """Forgets what this process has loaded, as another process would begin."""
    monkeypatch.setattr(library, "_loaded", {})
    library._version.cache_clear()


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@needs_compiler
def test_a_library_is_made_once_and_kept_for_this_user_alone(cache, monkeypatch, caplog):
    for _ in range(2):
        anew(monkeypatch)
        made = library.library()
        assert made is not None and made is library.library() and made.lanes() in (8, 16)
    assert cache.compiled() == 1 and not warnings(caplog)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o022 for file in cache.folder.iterdir()} == {0}


@needs_compiler
@pytest.mark.parametrize("change", ["version", "options", "processor", "source"])
def test_a_library_carries_what_it_was_made_from(cache, monkeypatch, tmp_path, change):
    library.library()
    anew(monkeypatch)
    if change == "version":
        monkeypatch.setenv("COPIER", "2")
    elif change == "options":
        monkeypatch.setattr(library, "OPTIONS", ("-O1",))
    elif change == "processor":
        monkeypatch.setattr(library, "_processor", lambda: "another")
    else:
        sources = shutil.copytree(library.SOURCES, tmp_path / "cpp")
        (sources / "route.h").write_text("// another route\n")
        monkeypatch.setattr(library, "SOURCES", sources)
    assert library.library() is not None
    assert cache.compiled() == 2 and len(cache.files()) == 2


def _put(file: Path, data: bytes) -> None:
    file.unlink()  # the old one stays as it is where it is loaded
    file.write_bytes(data)


def _cut(file: Path, size: int) -> None:
    _put(file, file.read_bytes()[:size])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda file: _cut(file, 5000),
    "empty": lambda file: _cut(file, 0),
    "another's": lambda file: _put(file, Path("/bin/sh").read_bytes()),
    "writable by others": lambda file: file.chmod(0o666),
    "without a digest": lambda file: file.with_suffix(".sha256").unlink(),
    "with a digest cut short": lambda file: _cut(file.with_suffix(".sha256"), 10),
    "a link": lambda file: (file.rename(file.with_name("other")), file.symlink_to("other")),
}


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_library_that_is_not_as_it_was_made_is_made_anew(cache, monkeypatch, caplog, damage):
    library.library()
    DAMAGES[damage](cache.files()[0])
    anew(monkeypatch)
    again = library.library()
    assert again is not None and again.lanes() in (8, 16)
    assert cache.compiled() == 2 and not warnings(caplog)
    assert library._whole(cache.files()[0])


def _another_users(cache: Cache, patch: Any) -> None:
    patch.setattr(os, "geteuid", lambda: 12345)  # the folder is then this user's, the process another one's
    cache.folder.with_name("compiled-12345").mkdir(0o700, parents=True)


def _writable(cache: Cache, patch: Any) -> None:
    cache.folder.mkdir(parents=True)
    cache.folder.chmod(0o777)


def _linked(cache: Cache, patch: Any) -> None:
    (cache.folder.parent / "other").mkdir(0o700, parents=True)
    cache.folder.symlink_to("other")


def _no_home(cache: Cache, patch: Any) -> None:
    patch.setenv("DRIVEDIT_CACHE", "~nobody-of-this-name/cache")


UNUSABLE: dict[str, Callable[[Cache, Any], Any]] = {
    "another user's": _another_users,
    "writable by others": _writable,
    "a link": _linked,
    "a file": lambda cache, patch: cache.folder.parent.write_text("no folder"),
    "nowhere": lambda cache, patch: patch.setenv("DRIVEDIT_CACHE", "/proc/none/such"),
    "without a home": _no_home,
    "a file in it": lambda cache, patch: (cache.folder.parent.mkdir(), cache.folder.write_text("no folder")),
}


@needs_compiler
@pytest.mark.parametrize("how", UNUSABLE)
def test_a_cache_that_cannot_be_trusted_or_used_is_done_without(cache, monkeypatch, caplog, how):
    UNUSABLE[how](cache, monkeypatch)
    made = library.library()
    assert made is not None and made.lanes() in (8, 16) and made is library.library()
    (warning,) = warnings(caplog)
    assert "for this process alone" in warning and "\n" not in warning
    assert cache.compiled() == 1 and not cache.files()


@needs_compiler
def test_processes_that_compile_at_once_do_not_collide(cache):
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_load) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 3
    assert cache.compiled() == 1 and library._whole(cache.files()[0])


def _load() -> None:
    made = library.library()
    os._exit(0 if made is not None and made.lanes() in (8, 16) else 1)


@needs_compiler
def test_structures_of_another_size_are_never_handed_over(monkeypatch):
    class Longer(native.State):
        _fields_ = (("more", native.c_long),)

    made = library.library()
    assert made is not None
    monkeypatch.setattr(
        native, "STRUCTURES", tuple(Longer if kind is native.State else kind for kind in native.STRUCTURES)
    )
    with pytest.raises(AssertionError, match="differ"):
        native.Parts(made)


UNUSUAL = {
    "student.control_dim": lambda world: setattr(world.dynamics, "control_dim", 9),
    "read telemetry": lambda world: setattr(world.config, "spec", spec_of(telemetry=SPEC.telemetry[1:])),
    "read rewards": lambda world: setattr(world.heads, "rewards", 2),
    "student.latent_dim": lambda world: setattr(world.config.student, "latent_dim", 32),
    "student.tokens_per_frame": lambda world: setattr(world.config.student, "tokens_per_frame", 20),
    "student.route_dim": lambda world: setattr(world.config, "route_offsets", [0.0]),
    "student.map_dim": lambda world: setattr(world.config.student, "map_dim", 9),
    "rows and frames": lambda world: setattr(world.config.student, "d_model", 2**20),
}


@needs_compiler
@pytest.mark.parametrize("name", UNUSUAL)
def test_widths_that_the_library_is_not_made_for_are_not_compiled(name, caplog):
    world = make_world()
    UNUSUAL[name](world)
    assert compile_step(world) is None
    (warning,) = [record.getMessage() for record in caplog.records]
    assert name in warning and "goes on without" in warning and "got" in warning


@needs_compiler
@needs_packing
def test_a_decoder_of_other_colours_is_not_compiled(caplog):
    world = tune(make_world())
    world.config.vae = replace(world.config.vae, in_channels=4)
    assert compile_decoder(world) is None
    assert ["colours" in record.getMessage() for record in caplog.records] == [True]


def test_a_world_that_wants_more_controls_than_there_are_is_refused():
    config = make_world().config
    with pytest.raises(ValueError, match="2 controls tells its student at most 7: .* got student.control_dim 9"):
        DiTWorld(replace(config, student=replace(config.student, control_dim=9)))


@pytest.mark.parametrize("terms", [{"constant_reward": {"left": -1.0}}, {"end_reward": {"progress": 1.0}}])
def test_a_reward_term_has_one_rule(terms):
    """In a spec it cannot have two; in the settings of older worlds it could."""
    older = {
        "image_size": [64, 64], "fps": 10.0, "telemetry": [], "telemetry_scale": [], "constant_reward": {},
        "end_reward": {"left": -1.0}, "reward_scale": 1.0,
    }  # fmt: skip
    assert upgraded(older)["spec"]["rewards"]["left"] == {"kind": "on_end", "value": -1.0}
    with pytest.raises(ValueError, match="one rule"):
        upgraded(older | terms)
