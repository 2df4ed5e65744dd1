"""The C++ library behind `compile_step` and `compile_decoder`: how it is compiled, and where it is kept.

What is loaded runs as the user does. So it is kept in a folder that is the user's alone, its digest beside it, under a
name that says what it was made from; one that is damaged is made anew, and where none can be kept it is made for this
process alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import IO

from drivedit.utils import fingerprint, locked, write_atomically

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "cpp"
OPTIONS = ("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-march=native", "-std=c++17", "-fPIC", "-fopenmp")
WAIT = 600.0  # seconds for another process that compiles
_loaded: dict[str, ctypes.CDLL] = {}


def library(*more: str) -> ctypes.CDLL | None:
    """The library for this processor, compiled unless it is there; None, after a warning, if that cannot be done.

    Args:
        more: Options of the compiler beside `OPTIONS`.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), "g++")
    options, sources = (*OPTIONS, *more), sorted(SOURCES.iterdir())
    try:
        recipe = fingerprint(_version(compiler), options, _processor(), [file.name for file in sources], *sources)
        if recipe not in _loaded:
            _loaded.setdefault(recipe, _open(f"native-{recipe}", compiler, options))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().split("\n")[0]
        logger.warning("no step was compiled, the world goes on without: the compiler %s: %s", compiler, reason)
        return None
    return _loaded[recipe]


def _open(name: str, compiler: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Loads what is kept under a name, or makes it."""
    try:
        file = _own_folder() / f"{name}.so"
        if not _whole(file):
            with locked(file.with_suffix(".lock"), "compiling the step", WAIT):
                if not _whole(file):  # else another process has made it meanwhile
                    _make(file, compiler, options)
        return ctypes.CDLL(str(file))
    except (OSError, RuntimeError) as error:
        logger.warning("the compiled step is made for this process alone and not kept: %s", error)
    with tempfile.TemporaryDirectory() as private:
        file = Path(private, f"{name}.so")
        _make(file, compiler, options)
        return ctypes.CDLL(str(file))


def _own_folder() -> Path:
    """The folder of the cache that is this user's alone; it is made.

    Raises:
        OSError: It cannot be made, or others may write there.
        RuntimeError: The user has no home.
    """
    cache = Path(os.environ.get("DRIVEDIT_CACHE") or "~/.cache/drivedit").expanduser()
    folder = cache / f"compiled-{os.geteuid() if os.name == 'posix' else 'here'}"
    cache.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _own(folder):
        raise PermissionError(f"{folder} belongs to another user, or others may write there; remove it")
    return folder


def _own(path: Path) -> bool:
    """Whether nobody but this user can have put it there."""
    seen = path.lstat()
    return os.name != "posix" or (seen.st_uid == os.geteuid() and not seen.st_mode & 0o022)


def _whole(file: Path) -> bool:
    """Whether a library is there, this user's, and as it was made."""
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return _own(file) and file.with_suffix(".sha256").read_bytes() == digest.encode()
    except FileNotFoundError:
        return False


def _make(file: Path, compiler: str, options: tuple[str, ...]) -> None:
    """Compiles the library, and puts it and its digest to their places."""
    with tempfile.TemporaryDirectory() as work:
        parts = [(str(source), f"{work}/{source.stem}.o") for source in sorted(SOURCES.glob("*.cpp"))]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda part: _call(compiler, *options, "-c", part[0], "-o", part[1]), parts))
        _call(compiler, *options, "-shared", *(made for _, made in parts), "-o", f"{work}/made")
        data = Path(work, "made").read_bytes()

    def write(to: IO[bytes], content: bytes) -> None:
        os.chmod(to.name, 0o600)
        to.write(content)

    write_atomically(file, lambda to: write(to, data))
    write_atomically(file.with_suffix(".sha256"), lambda to: write(to, hashlib.sha256(data).hexdigest().encode()))


@lru_cache
def _version(compiler: str) -> str:
    return _call(compiler, "--version")


def _call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout


def _processor() -> str:
    """What the machine's code depends on: the abilities of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.machine() + platform.processor()
    lines = cpuinfo.read_text().splitlines()
    return repr(sorted({line for line in lines if line.lower().startswith(("flags", "features"))}))
