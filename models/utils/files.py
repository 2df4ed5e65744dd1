"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: str | Path, data: bytes | memoryview) -> None:
    """Writes a file in one move: it is written under another name, synced and renamed; its folder is made.

    Args:
        path: The file; an older one is replaced.
        data: What it is to hold.

    Raises:
        OSError: It could not be written, for instance because the disk is full; an older file is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except OSError as error:
        size = memoryview(data).nbytes / 1e6
        raise OSError(
            error.errno, f"could not write {path} ({size:.1f} MB): {error.strerror or error}; make room there"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
