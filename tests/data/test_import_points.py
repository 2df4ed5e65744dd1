"""Scans with a table of controls become recordings of range images, and what cannot be meant is named."""

import numpy as np
import pytest
from helpers.films import write_table

from drivedit.data import __main__ as data_commands
from drivedit.data.exchange.films import Plan, import_drives
from drivedit.data.recordings import iter_episodes
from drivedit.utils.ranges import RangeView


def write_scans(
    folder, count: int = 21, rows: int = 16, name: str = "{}.bin", times: list[float] | None = None
) -> None:
    """Scan i is a ring of points, 10 + i metres away."""
    folder.mkdir(parents=True)
    view = RangeView(rows, 64)
    for index in range(count):
        image = np.full((rows, 64, 2), 10.0 + index)
        points = np.column_stack([view.unproject(image), np.ones(rows * 64)]).astype("<f4")
        (folder / name.format(index)).write_bytes(points.tobytes())
    if times is not None:
        (folder.parent / "times.txt").write_text("\n".join(map(str, times)))


def test_a_folder_of_scans_is_a_recording_of_range_images(tmp_path, caplog):
    caplog.set_level("INFO")
    write_scans(tmp_path / "it" / "velodyne")
    table = write_table(tmp_path / "it.csv", 2.2, speed=lambda time: 3 + time)
    words = ["--points", f"{tmp_path}/it/velodyne", "--controls", str(table), "--size", "16", "64"]
    assert data_commands.main(["import", *words, "--out", f"{tmp_path}/out"]) == 0
    (episode,) = iter_episodes(tmp_path / "out")
    seen = episode.observations["range"]
    assert seen.shape == (21, 16, 64, 2) and seen.dtype == np.float32 and seen[..., 1].all()
    assert np.allclose(seen[..., 0], 10 + np.arange(21)[:, None, None], atol=1e-4), "scan 9 comes before scan 10"
    assert episode.spec.observations["range"].high == 85 and episode.spec.any_dt and episode.spec.dt == 0.1
    assert np.allclose(episode.seconds(), np.arange(21) / 10) and np.allclose(
        episode.told("speed"), 3 + np.arange(21) / 10
    )
    assert episode.controls[:, 0] == pytest.approx(0.5 * (np.arange(20) + 0.5) / 10 / 2.18, abs=1e-3)
    assert "21 scans at 10 a second for 2.0 s -> 16 x 64 (rows x columns)" in caplog.text


def test_scans_keep_their_own_times_and_are_cut_at_pauses(tmp_path):
    times = [0.1 * k + 0.003 * (k % 3) + (k > 11) for k in range(21)]
    write_scans(tmp_path / "it" / "velodyne", times=[5 + time for time in times])
    table = write_table(tmp_path / "it.csv", 3.3)
    import_drives(tmp_path / "out", points=tmp_path / "it" / "velodyne", controls=[table], progress=False)
    first, second = iter_episodes(tmp_path / "out")
    assert first.picture.shape == (12, 32, 256, 2) and len(second) == 8
    assert np.allclose(first.seconds(), times[:12]) and np.allclose(second.seconds(), np.array(times[12:]) - times[12])
    assert second.start == {"source": "velodyne", "second": pytest.approx(times[12])}
    even = Plan(fps=20, size=(16, 64))
    import_drives(tmp_path / "even", points=tmp_path / "it" / "velodyne", controls=[table], plan=even, progress=False)
    (whole,) = iter_episodes(tmp_path / "even")
    assert len(whole) == 20 and whole.spec.dt == 0.05, "a rate that is told counts more than a file"


def test_what_cannot_be_meant_is_named(tmp_path):
    table = write_table(tmp_path / "it.csv", 2.2)
    short = write_table(tmp_path / "short.csv", 1.0)
    folders = {name: tmp_path / name / "scans" for name in ("it", "one", "times", "fall", "words", "cut", "up")}
    for name, folder in folders.items():
        write_scans(folder, 1 if name == "one" else 21)
    (tmp_path / "times" / "times.txt").write_text("0\n1")
    (tmp_path / "fall" / "scans" / "times.txt").write_text("\n".join(["0", "1", "0.5", *map(str, range(2, 20))]))
    (tmp_path / "words" / "times.txt").write_text("2011-09-26 13:02:25")
    (folders["cut"] / "7.bin").write_bytes(b"123")
    (folders["up"] / "7.bin").write_bytes(np.array([1, 0, 9, 0], "<f4").tobytes())
    for name, controls, match in (
        ("it", [], "a folder of scans and one table, .* got 0 videos, 0 tables, a folder of scans and no folder"),
        ("it", [table, table], "got 0 videos, 2 tables, a folder of scans"),
        ("it", [short], "short.csv covers 0.00 to 0.98 s, but .*scans shows 0.00 to 2.00 s"),
        ("one", [table], "must hold at least 2 files .bin, .npy, .ply, got 1"),
        ("times", [table], "times.txt has 2 times for 21 scans"),
        ("fall", [table], "must rise, scan 2 has 0.5 after 1"),
        ("words", [table], "must hold a line of seconds for each scan, and nothing else"),
        ("cut", [table], "7.bin: a point is 16 bytes and the file 3"),
        ("up", [table], "7.bin: no point lies within 85 m and the beams, 3 to -25 degrees"),
    ):
        with pytest.raises(ValueError, match=match):
            import_drives(tmp_path / "out", points=folders[name], controls=controls, progress=False)
        assert not (tmp_path / "out").exists(), "nothing is left"
    with pytest.raises(FileNotFoundError, match="there is no folder of point files"):
        import_drives(tmp_path / "out", points=tmp_path / "gone", controls=[table], progress=False)
    with pytest.raises(ValueError, match="highest beam above its lowest"):
        import_drives(
            tmp_path / "out", points=folders["it"], controls=[table], plan=Plan(beams=(-25.0, 3.0)), progress=False
        )
