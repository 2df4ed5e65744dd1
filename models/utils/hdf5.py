"""HDF5 files read without trust: sealed, complete, and of nothing but what lies in them.

A seal stands in front of a file, in HDF5's user block: the digest of all that follows, so that damage is found before
anything is parsed. What is told to be elsewhere (external storage, links, virtual datasets) is not followed, and no
declared size is believed.
"""

from __future__ import annotations

import hashlib
import io
import math
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

BLOCK = 512  # bytes in front of a sealed file
MOST_BYTES = 8 * 2**30  # of a file, and of the arrays in it
MOST_TEXT = 60_000  # bytes of an attribute
MOST_VALUES = 1000  # of an attribute, and attributes of a group

MEMORY = 4 * 2**30  # bytes, and
PATIENCE_S = 60  # seconds for the texts of a file without a seal

_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP_AT_BEST = 1100  # bytes that a stored byte can stand for
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


def seal(digest: str) -> bytes:
    """The user block that tells the SHA-256 of what follows it."""
    return f"sealed by drivedit, sha256 {digest}\n".encode().ljust(BLOCK, b"\0")


def check_bytes(path: Path) -> bool:
    """Whether a file is sealed; one without a seal begins as any HDF5 file does.

    Raises:
        ValueError: It is too large, or not what was sealed.
    """
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size > MOST_BYTES:
            raise ValueError(f"it has {size} bytes, it can have {MOST_BYTES} at most")
        file.seek(0)
        block = file.read(BLOCK)
        if block.startswith(_HDF5):
            return False
        if block != seal(hashlib.file_digest(file, "sha256").hexdigest()):
            raise ValueError("its bytes are not those that were sealed")
        return True


def seal_of(path: Path) -> bytes | None:
    """The block in front of a file, which a seal is; None: it has none. Whether it fits is not asked."""
    with open(path, "rb") as file:
        block = file.read(BLOCK)
    return None if block.startswith(_HDF5) else block


def check_texts(path: Path) -> None:
    """Reads the attributes of a file without a seal, in another process.

    Texts of any length lie in a heap, and where that is damaged HDF5 goes on for ever, takes all memory, or ends the
    process.

    Raises:
        ValueError: They cannot be read.
    """
    now = path.stat()
    _check_texts(path, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _check_texts(path: Path, size: int, changed: int) -> None:
    """The same, once for a file that stays as it is."""
    command = [sys.executable, "-P", __file__, str(path)]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"its texts cannot be read in {PATIENCE_S} s") from None
    if done.returncode:
        reason = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise ValueError(f"its texts cannot be read: {reason}")


def text(value: str) -> np.ndarray:
    """A text as an attribute that declares its length, and lies in no heap."""
    data = value.encode()
    if len(data) > MOST_TEXT:
        raise ValueError(f"a text can have {MOST_TEXT} bytes at most, got {len(data)}: {value[:60]}...")
    return np.array(data, f"S{max(1, len(data))}")


def attributes(owner: Any, is_sealed: bool) -> dict[str, Any]:
    """The attributes of a file or group: texts, numbers and short arrays of numbers.

    Args:
        owner: The file or group.
        is_sealed: Whether its texts must be such as `text` makes; others are only read where `check_texts` did so.

    Raises:
        ValueError: One is something else, or too large.
    """
    if len(owner.attrs) > MOST_VALUES:
        raise ValueError(f"there are {len(owner.attrs)} attributes")
    found: dict[str, Any] = {}
    for name in owner.attrs:
        stored = owner.attrs.get_id(name)
        kind = h5py.check_string_dtype(stored.dtype)
        is_text = kind is not None and stored.shape == () and (kind.length is not None or not is_sealed)
        if not is_text and stored.dtype.kind not in "biuf":
            raise ValueError(f"the attribute {name[:100]!r} is neither a text nor numbers")
        if math.prod(stored.shape) > MOST_VALUES or stored.dtype.itemsize > MOST_TEXT:
            raise ValueError(f"the attribute {name[:100]!r} is too large")
        value = owner.attrs[name]
        found[name] = value.decode() if isinstance(value, bytes) else value
    return found


def member(group: Any, name: str, kind: type) -> Any:
    """A member of a group that lies in the file itself.

    Raises:
        ValueError: There is none, it is of another kind, or it lies elsewhere.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise ValueError(f"it lacks {name!r}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name!r} is a link to somewhere else, which is not followed")
    found = group[name]
    if not isinstance(found, kind):
        raise ValueError(f"{name!r} is a {type(found).__name__}, not a {kind.__name__}")
    return found


def dataset(group: Any, name: str) -> h5py.Dataset:
    """An array that is not read yet: of numbers, all there, and in this file.

    Raises:
        ValueError: There is none, or it is something else.
    """
    data = member(group, name, h5py.Dataset)
    made = data.id.get_create_plist()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"{name!r} is stored in another file, which is not read")
    filters = [made.get_filter(index)[0] for index in range(made.get_nfilters())]
    if not set(filters) <= _FILTERS:
        raise ValueError(f"{name!r} is packed with the filters {filters}, which are not those of a shard")
    if data.shape is None or data.dtype.kind not in "biuf":
        raise ValueError(f"{name!r} holds no numbers")
    size = data.dtype.itemsize * math.prod(data.shape)
    chunk = data.dtype.itemsize * math.prod(data.chunks or ())
    if size > data.id.get_storage_size() * _GZIP_AT_BEST or chunk > max(size, MOST_TEXT):
        raise ValueError(f"{name!r} declares {size} bytes in chunks of {chunk}, which are not there")
    return data


def _read_texts(path: str) -> None:
    """What `check_texts` does in its process, which may take little memory."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with h5py.File(path, "r") as file:
        for owner in (file, *(member(file, str(name), h5py.Group) for name in file)):
            attributes(owner, is_sealed=False)


if __name__ == "__main__":
    _read_texts(sys.argv[1])
