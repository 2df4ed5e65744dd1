"""HDF5 files read without trust: sealed, complete, and of nothing but what lies in them.

A seal stands in front of a file, in HDF5's user block: the digest of all that follows, so that damage is found before
anything is parsed. What is told to be elsewhere (external storage, links, virtual datasets) is not followed, and no
declared size is believed.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
from pathlib import Path
from typing import Any

import h5py
import numpy as np

BLOCK = 512  # bytes in front of a sealed file
MOST_BYTES = 8 * 2**30  # of a file, and of the arrays in it
MOST_TEXT = 2**20  # characters of an attribute
MOST_VALUES = 1000  # of an attribute, and attributes of a group

_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP_AT_BEST = 1100  # bytes that a stored byte can stand for
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


def seal(digest: str) -> bytes:
    """The user block that tells the SHA-256 of what follows it."""
    return f"sealed by drivedit, sha256 {digest}\n".encode().ljust(BLOCK, b"\0")


def check_bytes(path: Path) -> None:
    """Raises ValueError if a file is too large, is not what was sealed, or would keep HDF5 busy for ever.

    A file without a seal begins as any HDF5 file does.
    """
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size > MOST_BYTES:
            raise ValueError(f"it has {size} bytes, it can have {MOST_BYTES} at most")
        file.seek(0)
        block = file.read(BLOCK)
        if not block.startswith(_HDF5) and block != seal(hashlib.file_digest(file, "sha256").hexdigest()):
            raise ValueError("its bytes are not those that were sealed")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_heaps(data)


def _check_heaps(data: mmap.mmap) -> None:
    """Raises ValueError if a global heap has an object that leads nowhere: HDF5 2.0 walks over it without an end.

    A heap is "GCOL", version 1, 3 zeros and its size; then objects of index (2 bytes, 0: free), uses (2), zeros (4) and
    size (8), the size of free space with this header and that of others without, in steps of 8 bytes.
    """
    at = data.find(b"GCOL\1\0\0\0")
    while at >= 0:
        end = at + int.from_bytes(data[at + 8 : at + 16], "little")
        place = at + 16
        while place + 16 <= min(end, len(data)):
            size = int.from_bytes(data[place + 8 : place + 16], "little")
            step = size if data[place : place + 2] == b"\0\0" else 16 + (size + 7) // 8 * 8
            if step < 16 or place + step > end:
                raise ValueError("the heap of its texts is damaged")
            place += step
        at = data.find(b"GCOL\1\0\0\0", at + 8)


def attributes(owner: Any) -> dict[str, Any]:
    """The attributes of a file or group: texts, numbers and short arrays of them.

    Raises:
        ValueError: One is something else, or too large.
    """
    if len(owner.attrs) > MOST_VALUES:
        raise ValueError(f"there are {len(owner.attrs)} attributes")
    found: dict[str, Any] = {}
    for name in owner.attrs:
        stored = owner.attrs.get_id(name)
        if math.prod(stored.shape) > MOST_VALUES or stored.dtype.itemsize > MOST_TEXT:
            raise ValueError(f"the attribute {name[:100]!r} is too large")
        value = owner.attrs[name]
        if isinstance(value, str):
            if len(value) > MOST_TEXT:
                raise ValueError(f"the attribute {name[:100]!r} has {len(value)} characters")
        elif not isinstance(value, (np.generic, np.ndarray)) or value.dtype.kind not in "biuf":
            raise ValueError(f"the attribute {name[:100]!r} is neither a text nor numbers")
        found[name] = value
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
