"""Files that are whole or not there, know what they were made from, and are written by one process at a time."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file beside its place, syncs it and moves it there; an older one stays whole until then.

    Args:
        path: The file to be; its folder is made.
        write: Called with the open file.

    Raises:
        OSError: The file could not be written, for instance because the disk is full; an older one is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        fault = error if isinstance(error, OSError) else error.__context__  # torch.save hides it behind one of its own
        if not isinstance(fault, OSError):
            raise
        raise OSError(fault.errno, f"could not write {path}: {fault.strerror or fault}; make room there") from error
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(*parts: Any) -> str:
    """A name for what something was made from, 16 hexadecimal digits.

    Args:
        parts: Bytes, paths of files (their contents count), or what JSON can say; the order counts.

    Raises:
        FileNotFoundError: There is no file of a path.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with open(part, "rb") as file:
                part = hashlib.file_digest(file, "sha256").digest()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def code_fingerprint(*modules: str) -> str:
    """A name for the source text of modules, given by their import names; a package counts with its code and weights.

    Raises:
        ModuleNotFoundError: There is no such module, or it has no source file.
    """
    sources = []
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.has_location or spec.origin is None:
            raise ModuleNotFoundError(f"there is no module {name} with a source file", name=name)
        origin = Path(spec.origin)
        inside = () if spec.submodule_search_locations is None else sorted(origin.parent.rglob("*"))
        sources += [each for each in inside if each.suffix in (".py", ".safetensors")] or [origin]
    return fingerprint(*sources)


def package_of(module: str) -> str:
    """Import name of the package that a module lies in, or its own if it is in none."""
    package = module.rpartition(".")[0]
    spec = importlib.util.find_spec(package) if package else None
    return package if spec is not None and spec.has_location else module


@contextmanager
def work_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder beside `path`, to make there what is then moved to it at once; what stays in it is removed.

    So are those that killed processes left for the same path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.work"):
        if (left / "lock").exists():
            with suppress(RuntimeError), locked(left / "lock", f"making {path}", 0):
                shutil.rmtree(left, ignore_errors=True)
    outer = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".work", dir=path.parent))
    try:
        with locked(outer / "lock", f"making {path}", 0):
            (outer / "made").mkdir()
            yield outer / "made"
    finally:
        shutil.rmtree(outer, ignore_errors=True)


@contextmanager
def locked(path: str | Path, purpose: str, wait_s: float = -1) -> Iterator[None]:
    """Keeps other processes from the same block meanwhile; a process that dies lets go by itself.

    Args:
        path: The lock's file, which is made and stays; its folder is made.
        purpose: What the lock is for, as the error says it: "training in runs/mine".
        wait_s: Seconds to wait for another process; negative: as long as it takes.

    Raises:
        RuntimeError: Another process still holds it.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise RuntimeError(f"another process is {purpose} ({path} is locked); wait for it to end, or end it") from None
    try:
        yield
    finally:
        lock.release()
