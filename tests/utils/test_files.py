"""What the files' helpers promise: names that follow contents, and locks that die with their process."""

import errno
import resource
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from drivedit.models import DiTTeacher
from drivedit.utils import (
    code_fingerprint,
    fingerprint,
    load_checkpoint,
    locked,
    package_of,
    read_archive,
    read_tensors,
    save_checkpoint,
    write_atomically,
    write_tensors,
)

MANY = {"weight": torch.zeros(100_000)}


def test_a_fingerprint_follows_contents_and_order(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    other.write_bytes(b"abc")
    assert fingerprint(one) == fingerprint(other) == fingerprint(one)
    assert len({fingerprint(one), fingerprint(one, {"a": 1}), fingerprint({"a": 1}, one), fingerprint("abc")}) == 4
    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    before = fingerprint(one)
    one.write_bytes(b"abd")
    assert fingerprint(one) != before


def test_code_is_named_by_its_text(tmp_path, monkeypatch):
    (tmp_path / "some_code.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_fingerprint("some_code")
    assert code_fingerprint("some_code") == before
    (tmp_path / "some_code.py").write_text("A = 2\n")
    assert code_fingerprint("some_code") != before
    inner = tmp_path / "some_package" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").touch()
    before = code_fingerprint("some_package")
    (inner / "deep.py").write_text("A = 1\n")
    assert code_fingerprint("some_package") != before, "a package counts with all that is in it"
    assert package_of("some_package.inner.deep") == "some_package.inner" and package_of("some_code") == "some_code"
    assert package_of("drivedit.agents") == "drivedit.agents", "drivedit itself is a name only"
    with pytest.raises(ModuleNotFoundError, match="no_such_code"):
        code_fingerprint("no_such_code")


def test_one_process_at_a_time_and_the_dead_hold_nothing(tmp_path):
    held = textwrap.dedent(f"""
        import time
        from drivedit.utils import locked
        with locked({str(tmp_path / "lock")!r}, "at work"):
            print("held", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match="another process is training here"):
            with locked(tmp_path / "lock", "training here", wait_s=0):
                pass
        other.kill()
        other.wait()
        with locked(tmp_path / "lock", "training here", wait_s=5):
            pass


@pytest.mark.parametrize("size", [1000, 300_000])
@pytest.mark.parametrize("write", [lambda file: file.write(bytes(400_000)), lambda file: torch.save(MANY, file)])
def test_a_full_disk_is_an_error_that_says_so_and_the_older_file_stays(tmp_path, size, write):
    """A limit on the size of files stands for the full disk: the operating system refuses to write on."""
    path = tmp_path / "file"
    path.write_bytes(b"older")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(OSError, match="could not write .*file: File too large; make room there") as told:
            write_atomically(path, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG and path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]


def test_what_is_wrong_with_the_content_is_not_called_a_full_disk(tmp_path):
    def write(_file):
        raise RuntimeError("no such tensor")

    with pytest.raises(RuntimeError, match="no such tensor"):
        write_atomically(tmp_path / "file", write)
    assert not list(tmp_path.iterdir())


def test_tensors_that_were_changed_are_refused(tmp_path):
    """One flipped bit of a value, of the specification or of a name; an older file without a digest."""
    path, tensors = tmp_path / "t.safetensors", {"weight": torch.arange(4.0), "kind": torch.tensor(True)}
    write_tensors(path, tensors, "kind-1", {"width": 4})
    read, spec = read_tensors(path, "kind-1")
    assert spec == {"width": 4} and all(torch.equal(read[name], value) for name, value in tensors.items())
    whole = path.read_bytes()
    for place in (len(whole) - 1, whole.index(b"width") + 1, whole.index(b'"weight"') + 1, whole.index(b"F32") + 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            read_tensors(path, "kind-1")
    save_file(tensors, path, {"format": "kind-1", "spec": "{}"})
    with pytest.raises(ValueError, match="no digest"):
        read_tensors(path, "kind-1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "float8"),
    ],
)
def test_numbers_that_no_network_has_are_refused(tmp_path, value, message):
    write_tensors(tmp_path / "file", {"a": value}, "some-1", {})
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "file", "some-1")


def test_a_teacher_of_other_sizes_than_its_weights_is_refused_before_it_is_made(tmp_path):
    net = DiTTeacher(6, 16, 1, 2)
    for change, message in (
        ({"d_model": 65_536}, "shape"),
        ({"n_layers": 2}, "there is none"),
        ({"d_model": "wide"}, "d_model"),
        ({"fog": 1}, "unknown key fog"),
        ({"route_dim": 1, "map_dim": 9}, "describes no network"),
    ):
        write_tensors(tmp_path / "t", net.state_dict(), "drivedit-teacher-1", net.config.to_dict() | change)
        with pytest.raises(ValueError, match=message):
            DiTTeacher.load(tmp_path / "t")
    net.save(tmp_path / "t")
    before = torch.get_rng_state()
    assert DiTTeacher.load(tmp_path / "t").config == net.config and torch.equal(before, torch.get_rng_state())


def test_checkpoints_come_back_whole_or_not_at_all(tmp_path):
    """Torch looks at no checksum: of 1,500 damaged ones 34 were other numbers, and 102 failed in unexpected words."""
    model, path, bad = torch.nn.Linear(4, 4), tmp_path / "good.pt", tmp_path / "bad.pt"
    save_checkpoint(model, None, 3, 0.5, path, note="x", moments={"a": torch.randn(50), "b": [1, 2.5, None, True]})
    good, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(good), size=300):
        data = bytearray(good)
        data[place : place + 3] = rng.bytes(3)
        bad.write_bytes(data[: rng.integers(len(data))] if place % 5 == 0 else data)
        again = torch.nn.Linear(4, 4)
        try:
            found = load_checkpoint(bad, again)
        except (KeyError, RuntimeError):
            refused += 1
            continue
        assert (found["epoch"], found["loss"], found["note"]) == (3, 0.5, "x") and torch.equal(
            again.weight, model.weight
        )
    assert refused > 150


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(RuntimeError, match=r"bomb.pt is damaged \(archive/data.pkl"):
        read_archive(tmp_path / "bomb.pt")
