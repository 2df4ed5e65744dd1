"""Figures of others on the road: on drawn pictures, where the right answer is known, and by a perfect dream."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.worlds import make_peopled_world, make_world

from drivedit.config.domains.street import DOMAIN
from drivedit.evaluation.dreams import Dream, with_others
from drivedit.evaluation.metrics.others import LATER, count, filled, found_at, others_seen, overlap
from drivedit.evaluation.reports.report import TABLE, mark
from drivedit.evaluation.suites import closed_loop, open_loop, others
from drivedit.evaluation.suites.closed_loop import Drives
from drivedit.evaluation.twin_drives import CONTEXT, ID, PIXELS, scene
from drivedit.evaluation.twin_others import reappearing
from drivedit.utils import OthersProbes, Probes, load_object

PROBES: Probes = load_object(DOMAIN.probes)
SIZE = (16, 32)  # of the drawn pictures
NO_WORLD: Any = None  # where what is dreamed is drawn


def cars(frames: np.ndarray) -> np.ndarray:
    """Red pixels."""
    return (frames[..., 0] > 200).astype(np.float32)


def outlines(boxes: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """A box x metres ahead fills 4 x 4 pixels, x from the left."""
    left = boxes[:, 0] - pose[0]
    return np.stack([left, 0 * left + 6, left + 4, 0 * left + 10], 1)


ASKED = OthersProbes(
    empty=dict, peopled=dict, gap="gap", gap_range=(5.0, 40.0), gaps=lambda now, before: now[:, 0, 0, 1] * 1.0,
    farthest=60.0, speed=3.0, cars=cars, outlines=outlines, shown=lambda twin: {}, size=(4.0, 2.0, 1.5),
    placed=(1.0, 10.0),
)  # fmt: skip


def drawn(*lefts: float) -> np.ndarray:
    """Black pictures with a red square each; NaN: without."""
    frames = np.zeros((len(lefts), *SIZE, 3), np.uint8)
    for frame, left in zip(frames, lefts, strict=True):
        if not math.isnan(left):
            frame[6:10, int(left) : int(left) + 4, 0] = 255
    return frames


def dreamt(frames: np.ndarray, poses: np.ndarray) -> Dream:
    nothing = np.zeros(frames.shape[:2])
    return Dream(frames, nothing, nothing, nothing, nothing, poses)


def context(rows: int, steps: int) -> dict[str, np.ndarray]:
    """Moments on a straight road along x, where the car stands at x = 0."""
    road = np.stack([np.arange(0, 200, 2.0), np.zeros(100)], 1).astype(np.float32)
    return {
        "frames": np.zeros((rows, CONTEXT + 1 + steps, *SIZE, 3), np.uint8),
        "controls": np.zeros((rows, CONTEXT + steps, 2), np.float32),
        "poses": np.zeros((rows, CONTEXT + 1 + steps, 3)), "route": np.tile(road, (rows, 1, 1)),
        "closed": np.zeros(rows, bool), "bounds": np.full((rows, 4), np.inf),
    }  # fmt: skip


# -- what pictures show --------------------------------------------------------------------------------------------


def test_others_are_counted_by_the_patches_that_they_fill():
    pictures = drawn(3, 20, math.nan)
    pictures[0, 6:10, 12:16, 0] = 255
    pictures[2, 0, :3, 0] = 255  # three pixels are nobody
    assert count(cars(pictures)).tolist() == [2, 1, 0]


def test_overlap_of_outlines():
    square = np.array([0.0, 0, 4, 4])
    assert overlap(square, np.array([[0, 0, 4, 4], [2, 0, 6, 4], [5, 5, 6, 6]])) == pytest.approx([1, 1 / 3, 0])
    assert overlap(np.zeros(4), np.zeros(4)) == 0


def test_one_is_found_where_its_outline_is():
    picture = cars(drawn(10))[0]
    assert found_at(picture, np.array([10.0, 6, 14, 10])) == 1
    assert found_at(picture, np.array([12.0, 6, 16, 10])) == pytest.approx(1 / 3)
    assert found_at(np.zeros(SIZE), np.array([10.0, 6, 14, 10])) == 0
    assert filled(picture, np.array([8.0, 6, 12, 10])) == 0.5 and filled(picture, np.zeros(4)) == 0


def test_one_that_is_hidden_and_comes_back_is_noticed():
    rows = np.zeros((30, 2, 9), np.float32)
    rows[..., 3:6], rows[:, 0, ID], rows[:, 1, ID], rows[..., PIXELS] = 4, 3, 7, 50
    assert reappearing(rows, CONTEXT) is None
    rows[11:17, 1, PIXELS] = 0
    assert reappearing(rows, CONTEXT) == (10, 17, 1)
    assert reappearing(rows, 11) is None  # the dream would not have seen it
    gone = rows.copy()
    gone[13, 1] = 0  # it was not behind something, it was not there
    assert reappearing(gone, CONTEXT) is None
    rows[15, 1, PIXELS] = 9  # four frames, and a glimpse
    assert reappearing(rows, CONTEXT) is None


# -- figures -------------------------------------------------------------------------------------------------------


def test_the_gap_ahead_is_read_off_the_dream(monkeypatch):
    ahead = context(2, 0)
    gaps = np.array([[30, 20, 10], [40, 25, 15]])
    seen = np.zeros((2, 3, 2, *SIZE, 3), np.uint8)
    seen[:, :, 1, 0, 0, 1] = gaps
    ahead |= {"ahead_gap": gaps * 1.0, "ahead_seen": seen, "ahead_controls": np.zeros((2, 3, 20, 2), np.float32)}
    ahead["ahead_others"] = np.zeros((2, 3, 20, 4, 9), np.float32)

    def fake(world, scenes, controls, *, others, **_):
        """Told, it is right; free, the one ahead does what it likes."""
        assert controls.shape == (6, 20, 2) and ("route" in scenes[0]) == (others is not None)
        frames = np.zeros((6, 2, *SIZE, 3), np.uint8)
        frames[:, 1, 0, 0, 1] = gaps.ravel() if others is not None else 50 - gaps.ravel()
        return dreamt(frames, np.zeros((6, 2, 3)))

    monkeypatch.setattr(others, "dream", fake)
    figures = others.ahead_figures(NO_WORLD, ahead, ASKED)
    assert figures["ahead_given_correlation"] == figures["ahead_probe_correlation"] == pytest.approx(1)
    assert figures["ahead_correlation"] == pytest.approx(-1)
    assert figures["ahead_probe_error"] == 0 < figures["ahead_error"]


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (2, 0.0), (math.nan, 0.0)])
def test_one_that_is_placed_is_seen_there_or_not(monkeypatch, shift, expected):
    empty = context(3, 10)

    def fake(world, scenes, controls, *, others, repeat, **_):
        assert others.shape == (12, 10, 1, 7) and repeat == 4 and controls.shape[1] == 10
        assert np.allclose(others[..., 3:6], ASKED.size) and (others[..., 0] > 4).all()
        frames = np.stack([drawn(*(row[:, 0, 0].round() + shift)) for row in others])
        return dreamt(frames, np.zeros((12, 10, 3)))

    monkeypatch.setattr(others, "dream", fake)
    assert others.placed_figures(NO_WORLD, empty, ASKED)["placed"] == expected


def test_one_is_placed_ahead_along_the_road():
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([50 * np.cos(angle), 50 * np.sin(angle)], 1)
    poses = np.array([[[50.0, 0, np.pi / 2], [50 * np.cos(0.1), 50 * np.sin(0.1), np.pi / 2 + 0.1]]])
    boxes = others.placed_ahead([circle], np.array([True]), poses, np.array([25 * np.pi]), ASKED.size)
    assert boxes[0, 0, :6] == pytest.approx([0, 50, 0.75, 4, 2, 1.5], abs=0.1)  # a quarter further
    assert np.cos(boxes[0, 0, 6]) == pytest.approx(-1, abs=0.01)
    assert boxes[0, 1, :2] == pytest.approx([-50 * np.sin(0.1), 50 * np.cos(0.1)], abs=0.1)


def test_the_probe_is_tried_on_true_pictures_of_those_that_nobody_hides():
    clips = {"frames": drawn(8)[None], "poses": np.zeros((1, 1, 3)), "others": np.zeros((1, 1, 3, 9), np.float32)}
    clips["others"][0, 0, :, 0], clips["others"][0, 0, :, 3] = 8.0, 4.0  # where it is
    clips["others"][0, 0, 1, 0] = 12.0  # hidden
    clips["others"][0, 0, 2, 3] = 0.0  # nobody
    clips["others"][0, 0, 0, PIXELS] = 16
    assert others.probe_figures(clips, ASKED) == {"placed_probe": 1.0, "placed_probe_count": 1.0}


def test_others_are_looked_for_in_the_steps_that_count():
    frames = drawn(5, 9)
    probes = replace(PROBES, others=ASKED)
    for step in (LATER.start, LATER.stop - 1):
        assert others_seen(probes, frames, step).tolist() == [1.0, 1.0]
    for step in (LATER.start - 1, LATER.stop):
        assert others_seen(probes, frames, step).tolist() == [0.0, 0.0]
    assert others_seen(replace(PROBES, others=None), frames, LATER.start).tolist() == [0.0, 0.0]


def test_others_of_drives_that_go_on_are_compared():
    fill, shown = np.zeros((2, 300)), np.zeros((2, 300), np.float32)
    shown[:, 150:250], shown[1] = 2.0, 9.0
    ended = np.zeros((2, 300), bool)
    ended[1, 100:] = True
    frames = np.zeros((2, 0, 4, 4, 3), np.uint8)
    drives = Drives(np.zeros((2, 300, 2)), np.zeros((2, 300, 3)), fill, fill, fill, ended, frames, others=shown)
    twin = replace(drives, others=shown * 2)
    assert others.count_figures(drives, twin) == {"others_free": 2.0, "others_twin": 4.0, "others_ratio": 0.5}
    assert math.isnan(
        others.count_figures(replace(drives, others=shown[:, :40], ended=ended[:, :40]), twin)["others_ratio"]
    )


def test_one_that_was_hidden_reappears_or_not(monkeypatch):
    hidden = context(3, 0) | {
        "hidden_steps": np.array([7, 0, 9]), "hidden_controls": np.zeros((3, 16, 2), np.float32),
        "hidden_box": np.array([[5.0, 0, 0, 4, 2, 1.5, 0]] * 3), "hidden_pose": np.zeros((3, 3)),
        "hidden_seen": drawn(5, 5, 5),
    }  # fmt: skip

    def fake(world, scenes, controls, **_):
        assert len(scenes) == 2  # the second has no such moment
        return dreamt(
            np.stack([drawn(*[5 if step == 6 else math.nan for step in range(16)])] * 2), np.zeros((2, 16, 3))
        )

    monkeypatch.setattr(others, "dream", fake)
    figures = others.hidden_figures(NO_WORLD, hidden, ASKED)
    assert figures == {"reappears": 0.5, "reappears_probe": 1.0, "reappears_count": 2.0}
    nobody = others.hidden_figures(NO_WORLD, {**hidden, "hidden_steps": np.zeros(3, int)}, ASKED)
    assert math.isnan(nobody["reappears"]) and nobody["reappears_count"] == 0


def test_attributes_are_kept_where_pictures_show_them():
    seen = np.zeros((2, 4, *SIZE, 3), np.uint8)
    seen[0, :, 0, 0, 0] = [1, 1, 1, 0]
    probes = replace(PROBES, attributes=lambda frames: {"time": np.where(frames[:, 0, 0, 0] == 1, "day", "night")})
    true = np.array([["town", "day"], ["town", "night"]])
    assert closed_loop.attributes_kept(probes, ["road", "time"], true, seen) == 7 / 8
    assert math.isnan(closed_loop.attributes_kept(replace(PROBES, attributes=None), ["time"], true, seen))


def test_what_a_free_dream_loses():
    clips = context(1, 12)
    clips["frames"][:] = 100
    given, free = (dreamt(np.full((1, 12, *SIZE, 3), 100 + off, np.uint8), np.zeros((1, 12, 3))) for off in (5, 10))
    figures = open_loop.free_figures(clips, given, free)
    assert figures["free_loss_1"] == figures["free_loss_10"] == pytest.approx(20 * math.log10(2), abs=0.01)
    assert figures["free_psnr_10"] == pytest.approx(20 * math.log10(255 / 10), abs=0.01)
    assert math.isnan(figures["free_loss_20"]) and math.isnan(figures["free_psnr_20"])
    assert math.isnan(figures["free_sharpness_1"])  # flat pictures have no edges
    clips["frames"][..., ::2, :, :] = 90  # or they would have no sharpness
    curve = open_loop.Curves([1, 10, 20], [30.0, 25.0, 20.0], [26.0, 20.0, 18.0], [40.0] * 3)
    figures = open_loop.picture_figures(clips, given, curve)
    assert [figures[f"gain_{frames}"] for frames in (1, 10, 20)] == [4, 5, 2]


# -- what a dream is told ------------------------------------------------------------------------------------------


def test_a_free_scene_tells_of_no_road():
    row = context(1, 0)
    assert scene(row, 0)["route"].shape == (100, 2) and "route" not in scene(row, 0, free=True)


def test_rows_are_told_who_will_be_where_each_on_its_own():
    world = make_peopled_world()
    state = world.start(world.scenes[:1] * 2, [0, 1])
    boxes = np.zeros((2, 2, 9), np.float32)
    boxes[0, 0, :7], boxes[1, :, :7] = (
        [80, 12, 0.8, 4, 2, 1.6, 1.6],
        [[85, 9, 0.8, 4, 2, 1.5, 0], [70, 2, 1, 6, 2, 2, 1]],
    )
    boxes[..., 7:] = 50  # its number, and how many pixels show it
    told = with_others(world, state, boxes)
    assert isinstance(told, world.State)
    here, _ = world.drive_others(told)
    assert torch.allclose(here[..., :7], torch.from_numpy(boxes[..., :7]), atol=1e-3), "at the coming frame, not beyond"
    free = make_world()
    state = free.start(free.scenes[:1], [0])
    assert with_others(free, state, boxes[:1]) is state


def test_every_goal_of_the_street_is_a_line_of_the_table():
    assert set(PROBES.goals) <= {row.key for row in TABLE}
    marks = [mark(PROBES.goals[name], value) for name, value in (
        ("free_loss_1", 0.5), ("free_loss_1", 2.0), ("free_loss_1", 3.0), ("others_ratio", 1.6), ("placed", 0.8),
    )]  # fmt: skip
    assert marks == ["reached", "pass", "below", "below", "pass"]


def test_boxes_are_outlined_as_the_worlds_camera_sees_them():
    """The probes' own projection, against the one that worlds are told by."""
    world = make_peopled_world()
    assert world.layout is not None
    camera = replace(world.layout.camera, fov=75.0, height=1.5, ahead=0.4, pitch=math.degrees(0.05))
    boxes = np.array([[12, 2, 0.8, 4, 2, 1.6, 0.3], [30, -4, 1, 8, 2.5, 3, 2.0], [-9, 0, 0.8, 4, 2, 1.6, 0]])
    pose = np.array([1.0, -0.5, 0.1])
    world.layout.camera = camera
    low, high, _ = world.layout.outlines(torch.from_numpy(boxes).float()[None], torch.from_numpy(pose).float()[None])
    sides = torch.cat([low, high], -1)[0].numpy() * 64 + [64, 32, 64, 32]
    assert PROBES.others is not None
    told = PROBES.others.outlines(boxes, pose)
    assert told[:2] == pytest.approx(sides[:2].clip(0, [128, 64] * 2), abs=0.05) and told[2] == pytest.approx(0)
    assert (told[:2, 2:] > told[:2, :2]).all()
