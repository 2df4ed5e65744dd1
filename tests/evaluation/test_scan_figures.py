"""Figures of range images: what they are of equal scans, of known ones, and the report of a world."""

import json

import numpy as np
import pytest
import torch
from helpers.ranges import SPEC, make_range_world, wall_episode

from drivedit.data.clips import Drives
from drivedit.data.recordings import shard_path
from drivedit.evaluation.metrics import scans as metrics
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.suites.benchmark import evaluate_world
from drivedit.evaluation.suites.scan_benchmark import future_figures, law_figures
from drivedit.evaluation.suites.scans import (
    ScanClips,
    ScanDream,
    dream_scans,
    moments_of,
    moved_cloud,
    scan_figures,
    told_figures,
)
from drivedit.models import RangeWorld
from drivedit.utils.shards import write_shard


@pytest.fixture(scope="module")
def world() -> RangeWorld:
    return make_range_world()


@pytest.fixture(scope="module")
def clips(world) -> ScanClips:
    drives = Drives.of([wall_episode(18, 0), wall_episode(18, 1)], SPEC)
    return ScanClips.of(drives, moments_of(drives, np.arange(2), 4, 10, 4), 4, 10, world.spec)


def perfect(clips: ScanClips) -> ScanDream:
    went = np.diff(clips.poses, axis=1).cumsum(1)
    begin = np.stack([scene.poses_or_start()[-1] for scene in clips.scenes])[:, None]
    return ScanDream(clips.scans[:, 1:], begin + went, {"free_distance": np.zeros((len(clips), 10))})


def test_distances_of_known_clouds():
    line = torch.stack([torch.arange(5.0) * 10, torch.zeros(5), torch.zeros(5)], 1)
    assert metrics.chamfer(line, line) == 0
    assert metrics.chamfer(line, line + torch.tensor([0.0, 2.0, 0.0])) == pytest.approx(2.0)
    assert metrics.chamfer(line, line[:4]) == pytest.approx(1.0)  # one of five is 10 m from the nearest
    assert np.isnan(metrics.chamfer(line, line[:0]))
    many = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    whole = torch.cdist(many, many[:50])
    assert metrics.chamfer(many, many[:50]) == pytest.approx(
        float(whole.amin(1).mean() + whole.amin(0).mean()) / 2, rel=1e-3
    )


def test_errors_of_known_scans():
    true = np.zeros((2, 4, 2), np.float32)
    true[0] = [10, 1]
    found = true.copy()
    found[0, :, 0] += [1, 2, 3, 9]
    assert metrics.range_error(found, true) == pytest.approx(2.5) and metrics.mask_iou(found, true) == 1
    found[0, 0], found[1, 0] = 0, (5, 1)
    assert metrics.mask_iou(found, true) == pytest.approx(3 / 5) and metrics.range_error(found, true) == 3
    assert metrics.mask_iou(0 * true, 0 * true) == 1 and np.isnan(metrics.range_error(0 * true, true))


def test_laws_that_are_one_and_laws_that_are_apart():
    rng = np.random.default_rng(0)
    here, there = metrics.from_above(rng.uniform(-9, 9, (500, 3))), metrics.from_above(rng.uniform(20, 30, (500, 3)))
    assert here.sum() == pytest.approx(1) and metrics.jensen_shannon(here, here) == 0
    assert metrics.jensen_shannon(here, there) == pytest.approx(1) == metrics.jensen_shannon(there, here)
    assert metrics.from_above(np.full((3, 3), 99.0)).sum() == 0
    one, two, other = rng.normal(0, 1, (3, 200, 4))
    assert abs(metrics.mmd(one, two)) < 0.02 < 0.1 < metrics.mmd(one, other + 1)  # 5 standard errors of 0.004
    with pytest.raises(ValueError, match="two vectors of each"):
        metrics.mmd(one[:1], two)


def test_the_score_of_futures_has_its_closed_form():
    truth = np.array([0.0, 3.0])
    assert metrics.crps(np.stack([truth, truth]), truth) == 0
    assert metrics.crps(np.array([[1.0, 3.0], [-1.0, 3.0]]), truth) == pytest.approx((1 - 1) / 2)
    samples = np.random.default_rng(0).normal(size=(4000, 1))
    wanted = 2 / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi)  # of a standard normal at its middle
    assert metrics.crps(samples, np.zeros(1)) == pytest.approx(wanted, abs=0.03)
    with pytest.raises(ValueError, match="two samples"):
        metrics.crps(samples[:1], np.zeros(1))


def test_a_perfect_dream_is_perfect_and_rivals_are_not(world, clips):
    found = scan_figures(world.beams, clips, perfect(clips), every=1)
    for seconds in ("0.5s", "1s"):
        assert found[f"chamfer_{seconds}"] == found[f"standing_{seconds}"] == found[f"range_error_{seconds}"] == 0
        assert found[f"mask_iou_{seconds}"] == 1 and found[f"chamfer_ratio_{seconds}"] == 0
        assert 0 < found[f"chamfer_{seconds}_moved"] < found[f"chamfer_{seconds}_copy"], "the wall stands still"
    assert told_figures(world.beams, clips, perfect(clips))["way_error"] < 1e-5
    laws = law_figures(world, clips, perfect(clips))
    assert laws["jsd_1s"] == 0 and laws["mmd_1s"] <= 1e-9
    assert laws["frechet_own_encoder_1s"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("motion", "there"), [
    ([2.0, 0.0, 0.0], [8.0, 0.0, 1.0]), ([0.0, 3.0, 0.0], [10.0, 3.0, 1.0]), ([0.0, 0.0, np.pi / 2], [0.0, 10.0, 1.0]),
])  # fmt: skip
def test_points_move_as_scans_do(motion, there):
    moved = moved_cloud(torch.tensor([[10.0, 0.0, 1.0]]), torch.tensor(motion))
    assert torch.allclose(moved, torch.tensor([there]), atol=1e-5)


def test_dreams_are_figures_of_a_world(world, clips):
    dreamed = dream_scans(world, clips.scenes, clips.controls)
    assert dreamed.scans.shape == clips.scans[:, 1:].shape and dreamed.poses.shape == (len(clips), 10, 3)
    found = future_figures(world, clips, 1, futures=3)
    assert set(found) == {"crps", "crps_ratio", "spread_ratio"} and found["spread_ratio"] > 0
    slow = dream_scans(world, clips.scenes[:1], clips.controls[:1, :2], 0.2)
    assert slow.scans.shape[1] == 2


def test_a_world_is_judged_by_a_recording_that_was_held_out(world, tmp_path):
    root = tmp_path / "rec"
    root.mkdir()
    write_shard(shard_path(root, 0), [wall_episode(22, number) for number in range(2)], {"held_out": True, "env": ""})
    world.save_pretrained(tmp_path / "world")
    judged = RangeWorld.from_pretrained(tmp_path / "world", device="cpu")
    sizes = Sizes(clips=2, horizon=10, rounds=1)
    report = evaluate_world(judged, tmp_path / "out", name="wall", held_out=root, sizes=sizes, quiet=True)
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["kind"] == "scans" and stored["clips"] == 2 and stored["figures"].keys() == report["figures"].keys()
    assert report["figures"]["steps_per_second_dream"] > 0 and "no simulator" in report["left_out"][0]
    table = (tmp_path / "out" / "report.md").read_text()
    assert "| chamfer_1s |" in table and "moved by true ego-motion" in table and (tmp_path / "out/sheet.png").exists()
    with pytest.raises(ValueError, match="give --held-out"):
        evaluate_world(judged, tmp_path / "out", quiet=True)
