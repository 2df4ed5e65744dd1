"""What becomes of a film: its rate and aspect, its holes and those of its table, rewards and endings."""

import re

import numpy as np
import pytest
from helpers.films import shade, write_table, write_video

from drivedit.data import __main__ as data_commands
from drivedit.data.exchange.control_table import ControlTable
from drivedit.data.exchange.films import Plan, import_drives
from drivedit.data.exchange.pictures import fitted
from drivedit.data.exchange.video import Video
from drivedit.data.recordings import iter_episodes, read_attrs, shard_paths


def test_the_films_rate_and_aspect_are_kept_and_what_is_done_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    video = write_video(tmp_path / "wide.mp4", range(31), (90, 160), fps=30)
    table = write_table(tmp_path / "wide.csv", 1.1)
    out = tmp_path / "mine"
    assert data_commands.main(["import", "--video", str(video), "--controls", str(table), "--out", str(out)]) == 0
    (episode,) = iter_episodes(out)
    assert episode.picture.shape == (31, 64, 112, 3) and read_attrs(shard_paths(out)[0])["spec"].dt == 1 / 30
    assert np.abs(episode.picture.mean((1, 2, 3)) - [shade(k) for k in range(31)]).max() < 3
    assert "90 x 160 (height x width) at 30 frames/s for 1.0 s -> 64 x 112, every frame" in caplog.text
    assert "crop keeps 100% of the height, 98% of the width" in caplog.text
    caplog.clear()
    import_drives(tmp_path / "slow", [video], [table], plan=Plan(15, (96, 160), "letterbox"), progress=False)
    (episode,) = iter_episodes(tmp_path / "slow")
    assert episode.picture.shape == (16, 96, 160, 3), "larger than the film when asked for"
    assert not episode.picture[0, :2].any() and episode.picture[0, 4:-4].min() > 10, "bars above and below"
    assert "15 frames/s (of 30)" in caplog.text and "black bars of 6%" in caplog.text
    sizes = {(720, 16 / 9): (64, 112), (1080, 4 / 3): (64, 80), (1280, 9 / 16): (112, 64), (48, 2.0): (48, 96)}
    assert {film: Plan().size_of(*film) for film in sizes} == sizes
    with pytest.raises(ValueError, match="16 pixels high and wide at least, got 8 x 32"):
        Plan().size_of(8, 4.0)


def test_pixels_that_are_not_square_and_the_slowest_of_several_films(film, tmp_path):
    video = write_video(tmp_path / "wide.mp4", range(16), (96, 64), fps=10, pixel=3)
    assert Video(video).aspect == 2 and Video(video).size == (96, 64)
    tables = [film[1], write_table(tmp_path / "wide.csv", 1.6)]
    paths = import_drives(tmp_path / "mine", [film[0], video], tables, progress=False)
    first, second = iter_episodes(tmp_path / "mine")
    assert read_attrs(paths[0])["spec"].dt == 0.1 and (len(first), len(second)) == (45, 15)
    assert first.picture.shape[1:] == second.picture.shape[1:] == (64, 64, 3)


def test_times_that_are_not_quite_equal_are_no_holes(tmp_path):
    """Milliseconds of a Matroska file, a frame that comes late, and one that is lost."""
    path = write_video(tmp_path / "drive.mkv", [k for k in range(61) if k != 40], fps=30)
    assert Video(path).rate == 30, "33 and 34 ms; the file names the rate"
    assert Video(path).left_out(30) == pytest.approx(1 / 15, abs=1e-3) and not Video(path).left_out(10)
    assert [number for number, _, _ in Video(path).frames(30, (16, 16))] == [*range(40), *range(41, 61)]
    assert [number for number, _, _ in Video(path).frames(10, (16, 16))] == [*range(21)]
    twice = write_video(tmp_path / "twice.mkv", range(20), fps=10, same=11)
    assert [round(10 * second) for _, second, _ in Video(twice).frames(10, (16, 16))] == [*range(11), *range(12, 20)]
    late = write_video(tmp_path / "late.mp4", [*range(0, 80, 4), 82, *range(84, 120, 4)], fps=60)
    film = Video(late)
    assert film.rate == 15 and [n for n, _, _ in film.frames(15, (16, 16))] == [*range(30)]


def test_pictures_are_cropped_boxed_or_stretched():
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 200  # the middle third is bright
    assert (fitted(picture, (16, 16), "crop") == 200).all()
    stretched = fitted(picture, (20, 30), "stretch")
    assert (stretched[:, 10:20] == 200).all() and not stretched[:, :10].any()
    boxed = fitted(picture, (60, 60), "letterbox")
    assert np.array_equal(boxed[20:40], picture) and not boxed[:20].any() and not boxed[40:].any()
    tall = fitted(picture.transpose(1, 0, 2), (60, 60), "letterbox", aspect=1 / 3)
    assert np.array_equal(tall, boxed.transpose(1, 0, 2))
    assert (fitted(picture, (16, 32), "crop", aspect=6.0)[:, 1:-1] == 200).all(), "pixels twice as wide as high"


def test_rewards_and_endings_of_a_table(tmp_path):
    """Each line's reward was earned since the line before: sums over the frames' intervals lose none of it."""
    video = write_video(tmp_path / "drive.mp4", range(21), fps=10)
    time = np.round(np.arange(43) / 20, 3)
    ended = (time == 1.0) | (time == 1.7)
    lines = [f"{t},0,0,{k},{int(e)}" for k, (t, e) in enumerate(zip(time, ended, strict=True))]
    table = tmp_path / "drive.csv"
    table.write_text("\n".join(["time,steering,throttle,reward,terminated", *lines]) + "\n")
    import_drives(tmp_path / "mine", [video], [table], progress=False)
    first, second, third = iter_episodes(tmp_path / "mine")
    assert [len(e) for e in (first, second, third)] == [10, 6, 2]
    assert np.allclose(first.reward, [(2 * k + 1) + (2 * k + 2) for k in range(10)])
    assert np.array_equal(first.reward, first.rewards["progress"])
    assert second.start["second"] == pytest.approx(1.1) and np.allclose(second.reward[0], 23 + 24)
    assert first.terminated.nonzero()[0].tolist() == [9] and second.terminated.nonzero()[0].tolist() == [5]
    assert not third.terminated.any(), "the film ends, the drive does not"
    coarse = tmp_path / "coarse.csv"
    coarse.write_text("time,steering,throttle,reward\n0,0,0,7\n1,0,0,10\n2.5,0,0,-3\n")
    earned = ControlTable(coarse).reward(np.array([0.0, 0.25, 1.0, 2.0, 2.5]))
    assert np.allclose(earned, [2.5, 7.5, -2, -1]), "evenly between the lines; before the first one nothing is known"


def test_further_columns_are_telemetry_or_controls(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    video = write_video(tmp_path / "drive.mp4", range(21), fps=10)
    time = np.round(np.arange(43) / 20, 3)
    lines = [f"{t},0,0,{10 * t},{np.sin(t)},{t / 4}" for t in time]
    table = tmp_path / "drive.csv"
    table.write_text("\n".join(["time,steering,throttle,Speed,battery,lamp", *lines]) + "\n")
    arguments = ["import", "--video", str(video), "--controls", str(table), "--control", "lamp"]
    assert data_commands.main([*arguments, "--out", str(tmp_path / "mine")]) == 0
    assert f"{table}: telemetry speed, battery" in caplog.text, "a name that is none of the known ones is seen"
    (episode,) = iter_episodes(tmp_path / "mine")
    spec = episode.spec
    assert spec.names("controls") == ["steering", "throttle", "lamp"] and spec.names("telemetry") == [
        "speed",
        "battery",
    ]
    assert [quantity.scale for quantity in spec.telemetry] == pytest.approx(
        [20, np.sqrt(np.square(np.sin(time)).mean())]
    )
    assert np.allclose(episode.controls[:, 2], (np.arange(20) + 0.5) / 40), "means over the frames' intervals"
    assert np.allclose(episode.telemetry["battery"], np.sin(np.arange(21) / 10), atol=1e-3)
    assert np.allclose(episode.telemetry["speed"], np.arange(21)) and np.allclose(episode.seconds(), np.arange(21) / 10)
    assert data_commands.main([*arguments, "horn", "--out", str(tmp_path / "none")]) == 1
    assert "must have the columns time, steering, throttle, lamp, horn" in capsys.readouterr().err
    table.write_text("time,steering,throttle,lamp\n0,0,0,0\n9,0,0,3\n")
    assert data_commands.main([*arguments, "--out", str(tmp_path / "none")]) == 1
    assert "lamp in" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_holes_of_a_table_cut_the_drive_and_are_counted(film, tmp_path, caplog):
    path = write_table(tmp_path / "drive.csv", x=lambda t: 10 * t, y=lambda t: 0 * t)
    head, *lines = path.read_text().splitlines()
    kept = [line for line in lines if not 1.0 < float(line.split(",")[0]) < 2.5]
    path.write_text("\n".join([head, *kept]) + "\n")
    import_drives(tmp_path / "mine", [film[0]], [path], progress=False)
    before, after = iter_episodes(tmp_path / "mine")
    assert (len(before), len(after)) == (20, 40), "20 frames/s, to second 1 and from second 2.5"
    assert after.start["second"] == 2.5 and f"{path} has no lines for 1.50 s in all" in caplog.text
    assert before.route[:, 0].max() <= 10 and after.route[:, 0].min() >= 25, "no route leads across a hole"
    caplog.clear()
    kept = [line for line in lines if not 1.0 < float(line.split(",")[0]) < 1.05]
    path.write_text("\n".join([head, *kept]) + "\n")
    import_drives(tmp_path / "whole", [film[0]], [path], progress=False)
    assert [len(e) for e in iter_episodes(tmp_path / "whole")] == [90] and "no lines" not in caplog.text


@pytest.mark.parametrize("command", ["collect", "import", "sheet", "upgrade", "export-minari", "import-minari"])
def test_every_option_says_what_it_does_and_its_default(command, capsys):
    with pytest.raises(SystemExit):
        data_commands.main([command, "--help"])
    told = re.split(r"\n  (?=-|[a-z])", capsys.readouterr().out.partition("show this help message and exit")[2])[1:]
    assert told and [text for text in told if not re.search(r"default:|\(needed\)", " ".join(text.split()))] == []
