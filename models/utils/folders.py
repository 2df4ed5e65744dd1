"""A folder that is replaced in one move, so that at every moment a whole one stands in its place.

Where the system can (Linux), two folders change names in one call. Elsewhere there is a moment between two renames;
whoever finds that a process died in it puts the old folder back.
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from drivedit.utils.files import locked

AT_CWD, EXCHANGE = -100, 2  # of Linux' renameat2
CANNOT_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def find_files(folder: str | Path, pattern: str) -> list[Path]:
    """The files in a folder and in the folders in it whose names match a pattern, in order.

    Hidden folders, where others may be at work, are not entered; one that vanishes meanwhile is no error.
    """
    found = []
    for place, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".")]
        found += [Path(place, name) for name in fnmatch.filter(names, pattern)]
    return sorted(found)


@contextmanager
def replaced_folder(path: str | Path, names: Collection[str]) -> Iterator[Path]:
    """Gives an empty folder to write files into; when the block ends well it stands at `path`, and the old one is gone.

    What killed processes left beside it is removed. Hidden names beside it are used meanwhile: `.NAME.new`,
    `.NAME.old` and `.NAME.lock`.

    Args:
        path: Where it shall be; the folder that it is in is made.
        names: Files that such a folder may hold; no other file is ever deleted.

    Raises:
        FileExistsError: What is there is no such folder.
        OSError: It could not be written; what was there before stays as it was.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        _settle(path, names)
        check_replaceable(path, names)
        new = _beside(path, "new")
        new.mkdir()
        try:
            yield new
            _sync(new)
            _put(new, path)
            _sync(path.parent)
        finally:
            _settle(path, names)


def restore_folder(path: str | Path, names: Collection[str]) -> None:
    """Puts the old folder back where a process died while it replaced it.

    Raises:
        OSError: It cannot be moved.
    """
    path = Path(os.path.abspath(path))
    if not path.exists() and _beside(path, "old").exists():
        with _alone(path):
            _settle(path, names)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; nothing is left of the lock."""
    lock = _beside(path, "lock")
    with locked(lock, f"writing {path}"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is held: who waits for it sees that, and makes a new one


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def check_replaceable(path: Path, names: Collection[str]) -> None:
    """Refuses what `replaced_folder` must not replace.

    Raises:
        FileExistsError: There is a file, a link, or a folder with files of other names.
    """
    if path.is_symlink():
        raise FileExistsError(errno.EEXIST, f"it is a symbolic link to {os.readlink(path)}; name its target", str(path))
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, "it is a file; choose another name", str(path))
    with os.scandir(path) as entries:
        others = sorted(entry.name for entry in entries if entry.name not in names or entry.is_dir())
    if others:
        told = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise FileExistsError(
            errno.EEXIST, f"it holds what would be lost ({told}); choose another folder, or take that away", str(path)
        )


def _settle(path: Path, names: Collection[str]) -> None:
    """Puts back an old folder whose place is empty, and removes what else stands beside the place."""
    old = _beside(path, "old")
    if old.exists() and not path.exists():
        os.rename(old, path)
    for left in (old, _beside(path, "new")):
        if left.exists():
            for name in names:
                (left / name).unlink(missing_ok=True)
            left.rmdir()


def _put(new: Path, path: Path) -> None:
    """Moves a folder to its place; the one that was there goes to the place of the new or old one."""
    if not path.exists():
        os.rename(new, path)
    elif not _exchange(new, path):
        os.rename(path, _beside(path, "old"))
        os.rename(new, path)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change names in one move; False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(AT_CWD, os.fsencode(one), AT_CWD, os.fsencode(other), EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sync(folder: Path) -> None:
    """Waits until the names in a folder are on disk, where folders can be opened."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
