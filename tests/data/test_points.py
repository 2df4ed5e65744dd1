"""Point files of every kind, whole and damaged."""

import struct

import numpy as np
import pytest

from drivedit.data.exchange.points import read_points

POINTS = np.array([[1.5, -2.0, 0.25], [10.0, 0.0, 0.0], [-3.0, 4.0, -1.75]])


def ply(kind: str, more: str = "", body: bytes | None = None, count: int = 3) -> bytes:
    """A PLY file with a property before and one after x, y, z."""
    lines = [
        "ply", f"format {kind} 1.0", "comment made by hand", f"element vertex {count}", "property uchar ring",
        *[f"property {'double' if name == 'y' else 'float'} {name}" for name in "xyz"], "property float intensity",
        *(more.splitlines()), "end_header", "",
    ]  # fmt: skip
    head = "\n".join(lines).encode()
    if body is not None:
        return head + body
    if kind == "ascii":
        return head + b"".join(f"7 {x} {y} {z} 0.5\n".encode() for x, y, z in POINTS)
    order = "<" if "little" in kind else ">"
    return head + b"".join(struct.pack(f"{order}Bfdff", 7, x, y, z, 0.5) for x, y, z in POINTS)


def kitti(points: np.ndarray) -> bytes:
    return np.column_stack([points, np.full(len(points), 0.5)]).astype("<f4").tobytes()


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_is_read_in_every_form(kind, tmp_path):
    (tmp_path / "it.ply").write_bytes(ply(kind))
    assert np.array_equal(read_points(tmp_path / "it.ply"), POINTS)
    faces = "element face 1\nproperty list uchar int vertex_indices"
    tail = b"3 0 1 2\n" if kind == "ascii" else struct.pack("<Biii", 3, 0, 1, 2)
    (tmp_path / "faces.ply").write_bytes(ply(kind, faces) + tail)
    assert np.array_equal(read_points(tmp_path / "faces.ply"), POINTS)
    (tmp_path / "dos.ply").write_bytes(ply("ascii").replace(b"\n", b"\r\n"))
    assert np.array_equal(read_points(tmp_path / "dos.ply"), POINTS)


def test_kitti_and_numpy_are_read(tmp_path):
    (tmp_path / "it.bin").write_bytes(kitti(POINTS))
    np.save(tmp_path / "it.npy", np.column_stack([POINTS, [1, 2, 3]]).astype(np.float32))
    for name in ("it.bin", "it.npy"):
        assert np.array_equal(read_points(tmp_path / name), POINTS)


DAMAGED = {
    "cut.bin": (kitti(POINTS)[:-3], "a point is 16 bytes and the file 45, 13 too many; is it cut short"),
    "empty.bin": (b"", r"points must be \[N >= 1, 3 or more\], got \[0, 4\]"),
    "nan.bin": (kitti(np.where(POINTS == 4, np.nan, POINTS)), "1 of 3 points are not finite, the first is number 2"),
    "behind.bin": (kitti(POINTS - [20, 0, 0]), "all 3 points lie behind the sensor"),
    "cut.npy": (b"\x93NUMPY\x01\x00v\x00{'descr'", "no array of numpy's, or it is cut short"),
    "none.npy": (b"", "no array of numpy's, or it is cut short"),
    "cut.ply": (ply("binary_little_endian")[:-1], "promises 3 vertices of 21 bytes and has 62 bytes; is it cut short"),
    "text_cut.ply": (ply("ascii", count=4), "promises 4 vertices and has 3; is it cut short"),
    "many.ply": (ply("binary_big_endian", count=10**15), "promises 1000000000000000 vertices"),
    "word.ply": (ply("ascii", body=b"7 1 2 x 0.5\n", count=1), "vertex 0 must be 5 numbers, got b'7 1 2 x 0.5'"),
    "few.ply": (ply("ascii", body=b"7 1 2\n", count=1), "vertex 0 must be 5 numbers"),
    "nan.ply": (ply("ascii", body=b"7 1 2 nan 0.5\n", count=1), "1 of 1 points are not finite"),
    "head.ply": (ply("ascii")[:60], "no PLY file, or its header is cut short"),
    "other.ply": (b"off\nend_header\n", "no PLY file"),
    "format.ply": (ply("binary"), "the format must be one of .* got 'binary'"),
    "line.ply": (ply("ascii", "property colour red"), "a line that PLY does not know: 'property colour red'"),
    "lists.ply": (ply("ascii", "property list uchar int x2"), "no lists, got ring, x, y, z, intensity, x2"),
    "no_x.ply": (ply("ascii").replace(b"float x", b"float w"), "numbers x, y and z and no lists, got ring, w, y"),
    "faces.ply": (ply("ascii").replace(b"element vertex", b"element face 2\nelement vertex"), "be vertex, got face"),
    "no.ply": (ply("ascii").replace(b"element vertex", b"element point"), "first element must be vertex, got point"),
    "it.pcd": (b"", "point files end with .bin, .npy, .ply, got"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_named(name, tmp_path):
    data, match = DAMAGED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=match) as raised:
        read_points(tmp_path / name)
    assert name in str(raised.value)


def test_pickles_are_not_read_and_missing_files_are_named(tmp_path):
    np.save(tmp_path / "it.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no array of numpy's"):
        read_points(tmp_path / "it.npy")
    with pytest.raises(FileNotFoundError, match="there is no point file"):
        read_points(tmp_path / "gone.bin")
