"""Point clouds from files: KITTI's `.bin`, numpy's `.npy`, and `.ply` in text or binary.

Points are x ahead, y left, z up, in metres from the sensor, as in KITTI. Nothing that a file declares is believed
before its size agrees.

Legend: N points.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drivedit.utils.ranges import check_points

NAMES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}
WIDTHS = {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4"}
TYPES = {**NAMES, **WIDTHS, "float64": "f8"}  # of PLY, as numpy calls them
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
POINT = 16  # bytes in a file of KITTI's: x, y, z and reflectance, float32
LONGEST = 65_536  # bytes of a PLY header


@dataclass
class Element:
    """One kind of things in a PLY file.

    Attributes:
        name: What they are.
        count: How many there are.
        types: Type of each property; None: lists, whose length the file says only in its data.
    """

    name: str
    count: int
    types: dict[str, str | None] = field(default_factory=dict)


def read_points(path: str | Path) -> np.ndarray:
    """The points of a file.

    Args:
        path: Ends with `.bin` (float32 x, y, z, reflectance), `.npy` (`[N, 3]` or with more columns) or `.ply`.

    Returns:
        float64 `[N, 3]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another kind, cut short or damaged, holds no points, a point is not finite, or all lie
            behind the sensor.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise ValueError(f"point files end with {', '.join(READERS)}, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no point file {path}")
    try:
        return check_points(READERS[path.suffix](path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _bin(path: Path) -> np.ndarray:
    data = path.read_bytes()
    if len(data) % POINT:
        raise ValueError(
            f"a point is {POINT} bytes and the file {len(data)}, {len(data) % POINT} too many; is it cut short?"
        )
    return np.frombuffer(data, "<f4").reshape(-1, 4)


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"this is no array of numpy's, or it is cut short ({error})") from None


def _ply(path: Path) -> np.ndarray:
    data = path.read_bytes()
    order, elements, at = _header(data)
    first = [element for element in elements if element.count or element.name == "vertex"][:1]
    if not first or first[0].name != "vertex":
        raise ValueError(f"the first element must be vertex, got {first[0].name if first else 'nothing'}")
    vertex, types = first[0], first[0].types
    missing = [name for name in "xyz" if types.get(name) is None]
    if missing or None in types.values():
        raise ValueError(f"vertices must have numbers x, y and z and no lists, got {', '.join(types) or 'nothing'}")
    read = _text if order == "ascii" else _binary
    return read(data[at:], vertex, ORDERS[order])


def _text(data: bytes, vertex: Element, _order: str) -> np.ndarray:
    """x, y, z of the vertices in text."""
    lines = [line for line in data.split(b"\n") if line.strip()][: vertex.count]
    if len(lines) < vertex.count:
        raise ValueError(f"it promises {vertex.count} vertices and has {len(lines)}; is it cut short?")
    where, found = [list(vertex.types).index(name) for name in "xyz"], np.empty((vertex.count, 3))
    for number, line in enumerate(lines):
        words = line.split()
        try:
            if len(words) != len(vertex.types):
                raise ValueError
            found[number] = [float(words[index]) for index in where]
        except ValueError:
            raise ValueError(f"vertex {number} must be {len(vertex.types)} numbers, got {line[:80]!r}") from None
    return found


def _binary(data: bytes, vertex: Element, order: str) -> np.ndarray:
    """x, y, z of the vertices in binary."""
    kind = np.dtype([(name, f"{order}{width}") for name, width in vertex.types.items()])
    if len(data) < vertex.count * kind.itemsize:
        raise ValueError(
            f"it promises {vertex.count} vertices of {kind.itemsize} bytes and has {len(data)} bytes; is it cut short?"
        )
    table = np.frombuffer(data, kind, vertex.count)
    return np.stack([table[name].astype(np.float64) for name in "xyz"], -1)


def _header(data: bytes) -> tuple[str, list[Element], int]:
    """Format, elements, and where the data begin."""
    end = re.search(rb"^end_header\r?\n", data[:LONGEST], re.M)
    lines = data[: end.start()].decode("ascii", "replace").splitlines() if end else []
    if end is None or not lines or lines[0].strip() != "ply":
        raise ValueError("this is no PLY file, or its header is cut short")
    order, elements = "", []
    for line in lines[1:]:
        words = line.split()
        match words:
            case ["format", name, _]:
                order = name
            case ["element", name, count] if count.isdigit():
                elements.append(Element(name, int(count)))
            case ["property", "list", _, _, name] if elements:
                elements[-1].types[name] = None
            case ["property", kind, name] if elements and kind in TYPES and name not in elements[-1].types:
                elements[-1].types[name] = TYPES[kind]
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise ValueError(f"the header has a line that PLY does not know: {line[:80]!r}")
    if order not in ORDERS:
        raise ValueError(f"the format must be one of {', '.join(ORDERS)}, got {order!r}")
    return order, elements, end.end()


READERS: dict[str, Callable[[Path], np.ndarray]] = {".bin": _bin, ".npy": _npy, ".ply": _ply}
