"""The judge: its mathematics against closed-form answers, a perfect world, and one small evaluation from end to end."""

import json
import math
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from drivedit.config import StudentConfig, VAEConfig, WorldConfig
from drivedit.config.domains.carracing import DOMAIN, SPEC
from drivedit.evaluation import __main__ as command
from drivedit.evaluation import twin_drives
from drivedit.evaluation.dreams import Dream
from drivedit.evaluation.metrics.figures import (
    BEST_PSNR,
    auc,
    correlation,
    laplacian_energy,
    life,
    nearest_branch,
    psnr,
    recall_at,
    road_threshold,
    slope,
    spearman,
    squared_error,
    turns,
)
from drivedit.evaluation.reports import pages, report
from drivedit.evaluation.sources import Sources, stack
from drivedit.evaluation.suites import benchmark, closed_loop, control, open_loop
from drivedit.evaluation.twin_drives import CONTEXT, Job
from drivedit.models import DiTWorld
from drivedit.utils import Probes, Route, load_object

PROBES: Probes = load_object(DOMAIN.probes)
ROAD = SPEC.names("telemetry").index(PROBES.road)
OF_OTHERS = ("attributes_", "ahead_", "placed", "others_", "reappears")  # figures of domains with others on the road
DRIVER = """
import numpy as np
class Straight:
    def reset(self): pass
    def __call__(self, frame): return np.array([0.02, 0.1], np.float32)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Sources with a driver of our own, found on the path."""
    folder = tmp_path_factory.mktemp("drivers")
    (folder / "evaluation_test_driver.py").write_text(DRIVER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield Sources(SPEC.domain, driver="evaluation_test_driver:Straight", workers=1)


@pytest.fixture(scope="module")
def clips(here):
    return stack([twin_drives.record_clip(Job(here, index, CONTEXT + 20, good=index % 2 == 0)) for index in range(2)])


@pytest.fixture(scope="module")
def branches(here):
    return stack([twin_drives.record_branches(Job(here, index, 30)) for index in range(2)])


@pytest.fixture(scope="module")
def drives(here):
    return stack([twin_drives.record_drive(Job(here, index, 60)) for index in range(2)])


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory):
    vae = VAEConfig(3, 8, [8, 8, 16, 16], 1, False, 1e-3, temporal_kernel=1)
    student = StudentConfig(32, 32, 1, 2, dropout=0.0, tokens_per_frame=16, window=8, history=2)
    torch.manual_seed(0)
    student = replace(student, control_dim=7, route_dim=317, map_dim=16)
    config = WorldConfig(SPEC, vae, student, view=(61.73, 49.38, 0.5, 0.75))
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    DiTWorld(config).save_pretrained(folder)
    return folder


# -- mathematics -------------------------------------------------------------------------------------------------


def test_psnr_of_a_known_difference():
    first = np.full((2, 8, 8, 3), 100, np.uint8)
    second = first + np.array([51, 0], np.uint8)[:, None, None, None]  # a fifth of the range, and none
    assert psnr(squared_error(first, second)) == pytest.approx([-20 * math.log10(0.2), BEST_PSNR], rel=1e-5)


def test_laplacian_energy_of_a_chequered_and_of_a_sloping_picture():
    chequered = np.indices((8, 8)).sum(0) % 2 * 255
    picture = np.repeat(chequered[..., None], 3, -1).astype(np.uint8)
    assert laplacian_energy(picture) == pytest.approx(16.0)  # every neighbour differs by 1, four of them
    ramp = np.repeat((np.arange(8) * 20)[None, :, None].repeat(8, 0), 3, -1).astype(np.uint8)
    assert laplacian_energy(ramp) == pytest.approx(0.0, abs=1e-10)


def test_correlation_and_slope_of_a_line():
    x = np.arange(10.0)
    assert correlation(x, 3 - 2 * x) == pytest.approx(-1)
    assert slope(x, 3 - 2 * x) == pytest.approx(-2)
    assert math.isnan(correlation(x, np.ones(10))) and math.isnan(slope(np.ones(10), x))
    assert spearman(x, np.exp(x)) == pytest.approx(1)


def test_auc_counts_pairs():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert auc(scores, labels) == pytest.approx(3 / 4)
    assert auc(np.ones(4), labels) == pytest.approx(1 / 2)
    assert math.isnan(auc(scores, np.zeros(4)))


def test_recall_at_a_rate_of_false_alarms():
    negatives = np.arange(100) / 100  # 0 .. 0.99; one of them may alarm, so the threshold lies at 0.98
    positives = np.array([0.5, 0.98, 0.985, 2.0])
    scores, labels = np.concatenate([negatives, positives]), np.arange(104) >= 100
    assert recall_at(scores, labels, 0.01) == pytest.approx(2 / 4)
    assert recall_at(scores, labels, 1.0) == 1
    assert recall_at(np.zeros(10), np.arange(10) < 5, 0.01) == 0  # a constant finds nothing


def test_turns_are_right_positive_and_wrap():
    yaw = np.array([3.1, 3.1 + 0.2 - 2 * np.pi, 3.1])
    assert turns(yaw) == pytest.approx([-0.2, 0.2])


def test_life_ends_with_a_long_spell():
    driving = np.ones(100, bool)
    assert life(driving, 10) == 100
    driving[20:25] = False  # short: it counts for nothing
    assert life(driving, 10) == 100
    driving[40:50] = False
    assert life(driving, 10) == 40
    late = np.arange(100) < 94
    assert life(late, 10) == 94 and life(np.arange(100) < 97, 10) == 100


def test_the_nearest_branch():
    true = np.zeros((1, 3, 4, 4, 3), np.uint8) + np.array([0, 100, 200], np.uint8)[:, None, None, None]
    assert nearest_branch(true[:, [2, 0, 1]], true).tolist() == [[2, 0, 1]]


# -- what is read off pictures -----------------------------------------------------------------------------------


def test_turns_are_read_off_the_pictures(branches):
    """The registration is an instrument: it must agree with the simulator before a dream is measured by it."""
    told = turns(branches["steer_poses"][..., 2]).sum(-1)
    seen = control.picture_headings(branches["steer_frames"], PROBES)
    assert np.abs(told[:, [0, 2]]).min() > 1  # full lock turns the car by more than a radian
    assert seen == pytest.approx(told, abs=0.1)


def test_the_road_is_read_off_the_pictures(clips, drives):
    frames, wheels = clips["frames"], clips["telemetry"][..., ROAD]
    share = PROBES.road_share(frames)
    assert share[wheels == 1].mean() > 0.9
    grass = np.zeros((64, 64, 3), np.uint8) + np.array([102, 204, 102], np.uint8)
    assert PROBES.road_share(grass) == 0 and PROBES.road_share(np.zeros((64, 64, 3), np.uint8)) == 0
    threshold, hits = road_threshold(np.array([0.1, 0.2, 0.7, 0.8]), np.array([False, False, True, True]))
    assert 0.2 < threshold < 0.7 and hits == 1


# -- a perfect world ---------------------------------------------------------------------------------------------


def test_a_perfect_world_has_perfect_pictures(clips):
    frames = clips["frames"][:, CONTEXT + 1 :]
    nothing = np.zeros(frames.shape[:2])
    perfect = Dream(frames, nothing, nothing, nothing, nothing, clips["poses"][:, CONTEXT + 1 :])
    curve = open_loop.curves(clips, perfect, None)
    figures = open_loop.picture_figures(clips, perfect, curve)
    assert figures["psnr_1"] == figures["psnr_10"] == figures["psnr_20"] == BEST_PSNR
    assert figures["sharpness_1"] == 1 and math.isnan(figures["sharpness_50"])
    assert max(curve.copy[1:]) < 40


def test_a_perfect_world_tells_reward_error_and_ending(clips):
    starts = open_loop.short_starts(clips, 2)
    rng = np.random.default_rng(0)
    frames = np.stack([clips["frames"][row, now + 1 : now + 11] for row, now in starts])
    reward = np.stack([clips["reward"][row, now : now + 10] for row, now in starts])
    noisy = frames.copy()
    for row in range(len(noisy)):
        noisy[row] = np.clip(frames[row].astype(int) + rng.integers(-8, 9, frames[row].shape) * row, 0, 255)
    confidence = np.repeat(1 - np.arange(len(starts))[:, None] / 10, 10, 1)
    dreamed = Dream(noisy, 2 * reward + 1, reward, reward, confidence, reward)
    figures = open_loop.short_figures(clips, starts, dreamed)
    assert figures["reward_10"] == pytest.approx(1) and figures["confidence"] == pytest.approx(1)

    ended = np.zeros((3, 10), bool)
    ended[:, -1] = True
    endings = {"ended": np.concatenate([np.zeros((3, CONTEXT), bool), ended], 1)}
    dreamed = Dream(*[np.where(ended, 0.9, 0.1)] * 6)
    figures = open_loop.ending_figures(endings, dreamed, np.full((4, 20), 0.1), 0.5)
    assert figures == {
        "ending_auc": 1.0, "ending_recall": 1.0, "ending_within_2_steps": 1.0, "ending_false_alarms": 0.0
    }  # fmt: skip
    dreamed.ended[:] = 0.1  # it never ends
    assert open_loop.ending_figures(endings, dreamed, np.full((4, 20), 0.1), 0.5)["ending_within_2_steps"] == 0


def test_a_perfect_world_obeys(branches):
    true = control.Branches.true(branches)
    figures = control.steering_figures(true, true, PROBES) | control.speed_figures(true, true, PROBES.top_speed)
    assert figures["steering_correlation"] == pytest.approx(1) and figures["steering_slope"] == pytest.approx(1)
    assert figures["steering_picture_slope"] == pytest.approx(1, abs=0.03)
    assert figures["branch_5"] == figures["branch_15"] == 1 and figures["speed_error"] == 0
    assert figures["heading_true_left"] < -60 < 60 < figures["heading_true_right"]
    swapped = control.Branches(true.steer_frames[:, ::-1], true.steer_poses[:, ::-1], true.speed_after + 10)
    figures = control.steering_figures(true, swapped, PROBES) | control.speed_figures(true, swapped, PROBES.top_speed)
    assert figures["steering_slope"] < -0.5 and figures["branch_15"] == pytest.approx(1 / 3)
    assert figures["speed_error"] == pytest.approx(0.1)


def test_the_simulator_against_itself_drives_alike(drives):
    true = closed_loop.true_drives(drives)
    route = Route.from_points([scene["route"] for scene in twin_drives.scenes(drives)], [True, True])
    twin = closed_loop.driving_figures(true, route, None, 0.5, "twin_")
    same = closed_loop.driving_figures(true, route, None, 0.5)
    assert set(closed_loop.ratios(same | {"bends": 1.0}, twin | {"twin_bends": 1.0}).values()) == {1.0}
    ended = replace(true, ended=np.arange(60)[None].repeat(2, 0) >= 30)
    figures = closed_loop.driving_figures(ended, route, None, 0.5)
    assert figures["on_road"] <= 0.5 and figures["still_driving"] == 0 and figures["median_life"] <= 30


def test_a_car_on_rails_agrees_with_its_route():
    route = Route.from_points([closed_loop.hand_drawn_routes()["ellipse"]], [True])
    steps = np.linspace(0, 2 * np.pi, 401)[:400]
    place = np.stack([130 * np.sin(steps), 80 * (1 - np.cos(steps))], -1)
    yaw = np.arctan2(80 * np.sin(steps), 130 * np.cos(steps))
    poses = np.concatenate([place, yaw[:, None]], -1)[None]
    fill = np.ones((1, 400))
    drive = closed_loop.Drives(np.zeros((1, 400, 2)), poses, fill, fill, fill, fill < 0, fill)
    assert closed_loop.route_agreement(drive, route, None, np.array([400])) > 0.99
    crooked = replace(drive, poses=poses * np.array([1, 1, -1]))
    assert closed_loop.route_agreement(crooked, route, None, np.array([400])) < -0.99


@pytest.mark.parametrize("name", ["ellipse", "hairpins"])
def test_hand_drawn_routes_are_smooth_loops(name):
    route = closed_loop.hand_drawn_routes()[name]
    steps = np.linalg.norm(np.diff(route, axis=0, append=route[:1]), axis=1)
    assert steps.max() < 6 and route[1][0] > route[0][0] and abs(route[1][1]) < 0.2  # it begins along +x
    heading = np.arctan2(*np.diff(route, axis=0, append=route[:1]).T[::-1])
    bends = turns(np.append(heading, heading[0]))
    assert bends.sum() == pytest.approx(-2 * np.pi) and np.abs(bends).max() < 0.3  # once round, to the left


# -- sources -----------------------------------------------------------------------------------------------------


def test_recordings_are_functions_of_their_seed(here, clips):
    again = twin_drives.record_clip(Job(here, 0, CONTEXT + 20))
    assert np.array_equal(again["frames"], clips["frames"][0]) and again["frames"].shape == (29, 64, 64, 3)
    other = twin_drives.record_clip(Job(replace(here, seed=1), 0, CONTEXT + 20))
    assert not np.array_equal(other["frames"], clips["frames"][0])


def test_endings_end_at_their_last_step(here):
    ending = twin_drives.record_ending(Job(here, 0, 18))
    assert ending["ended"].tolist() == [False] * 17 + [True]
    assert np.abs(ending["poses"][-1, :2]).max() > 300


def test_the_driver_is_the_domains_own_unless_another_is_named(here):
    own = Sources().of(SPEC)
    assert (own.domain, own.driver) == (SPEC.domain, PROBES.driver)
    assert type(own.make_driver()) is type(load_object(DOMAIN.policies)[PROBES.driver](0))
    other = Sources(driver=here.driver).of(SPEC).make_driver()
    assert other(np.zeros(1)) == pytest.approx([0.02, 0.1])


@pytest.mark.parametrize("name", ["drivedit.agents", "no_such_module:Driver", "drivedit.config:NoSuchThing"])
def test_wrong_names_are_named(name):
    with pytest.raises(ValueError, match=name.split(":")[0]):
        Sources(SPEC.domain, driver=name).make_driver()


def test_clips_can_come_from_a_held_out_recording(tmp_path, here):
    from drivedit.data import collect_recordings

    collect_recordings(tmp_path / "train", steps=40, workers=1, episode_steps=20, shard_steps=40, progress=False)
    with pytest.raises(ValueError, match="held-out"):
        twin_drives.read_recordings(tmp_path / "train", 2, 12, here)
    with pytest.raises(FileNotFoundError, match="shard"):
        twin_drives.read_recordings(tmp_path, 2, 12, here)
    collect_recordings(
        tmp_path / "held", steps=200, workers=1, episode_steps=20, shard_steps=200, held_out=True, progress=False
    )
    clips = stack(twin_drives.read_recordings(tmp_path / "held", 4, 12, here))
    assert clips["frames"].shape == (4, 13, 64, 64, 3) and clips["good"].sum() == 2
    with pytest.raises(ValueError, match="needed"):
        twin_drives.read_recordings(tmp_path / "held", 100, 12, here)


# -- report ------------------------------------------------------------------------------------------------------


def test_marks_of_the_table():
    goals = PROBES.goals
    assert [report.mark(goals["psnr_1"], v) for v in (30, 33, 36, math.nan, None)] == [
        "below", "pass", "reached", "missing", "missing"
    ]  # fmt: skip
    assert [report.mark(goals["steering_slope"], v) for v in (0.8, 0.92, 1.0, 1.05, 1.2)] == [
        "below", "pass", "reached", "pass", "below"
    ]  # fmt: skip
    assert [report.mark(goals["speed_error"], v) for v in (0.3, 0.1, 0.01)] == ["below", "pass", "reached"]
    assert report.mark(goals.get("psnr_50"), 20.0) == ""


def test_an_evaluation_from_end_to_end(tmp_path, here, world_folder, capsys, monkeypatch):
    monkeypatch.setenv("DRIVEDIT_CACHE", str(tmp_path / "cache"))
    arguments = ["world", "--world", str(world_folder), "--out", str(tmp_path), "--quick", "--workers", "1"]
    assert command.main([*arguments, "--driver", here.driver, "--compile"]) == 0
    text = capsys.readouterr().out
    written = json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "report.txt").read_text().strip() in text
    assert "PSNR after 1 frame" in text and "below" in text
    assert {row.key for row in report.TABLE if not row.key.startswith(OF_OTHERS)} <= set(written["figures"])
    assert written["figures"]["steering_probe_correlation"] > 0.99
    assert written["sizes"]["clips"] == 4 and written["compiled"]
    for name in ("sheet.png", "horizon.png"):
        assert cv2.imread(str(tmp_path / name)) is not None
    film = cv2.VideoCapture(str(tmp_path / "dream.mp4"))
    assert int(film.get(cv2.CAP_PROP_FRAME_COUNT)) == 40


def test_wrong_worlds_give_one_line(tmp_path, capsys):
    assert command.main(["world", "--world", str(tmp_path / "nothing"), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_sheet_has_true_frames_above_dreamed_ones(tmp_path, clips):
    frames = clips["frames"][0, CONTEXT:]
    pages.write_sheet([(frames, 255 - frames[1:])], tmp_path / "sheet.png", 16.7)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    sheet = sheet[pages.HEAD :, pages.SIDE :, ::-1]  # blue, green, red
    assert sheet[:128:2, :128:2] == pytest.approx(frames[0])
    assert sheet[:128:2, 130 : 130 + 128 : 2] == pytest.approx(frames[1])
    assert sheet[130 : 130 + 128 : 2, 130 : 130 + 128 : 2] == pytest.approx(255 - frames[1])


@pytest.mark.parametrize("name", ["world", "ablation"])
def test_every_option_says_its_default(name, capsys):
    with pytest.raises(SystemExit):
        command.main([name, "--help"])
    told = capsys.readouterr().out.partition("options:")[2].split("\n  -")
    assert len(told) >= 7 and [text for text in told[2:] if not re.search("default:|needed", text)] == []


def test_a_name_means_the_world_that_its_environment_plays(world_folder, tmp_path, monkeypatch, here):
    """A folder that happens to be called like a shipped world changes nothing; its path does."""
    (tmp_path / "carracing").symlink_to(world_folder)
    monkeypatch.chdir(tmp_path)
    named, folder = (benchmark.load_world(name, here) for name in ("carracing", "./carracing"))
    assert named is here.make_dream("carracing").world and named.config != folder.config
