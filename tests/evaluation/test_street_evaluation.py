"""The street judged beside its simulator: what is read off its pictures, true moments, and one small evaluation."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from drivedit.config import CameraConfig, StudentConfig, VAEConfig, WorldConfig
from drivedit.config.domains.street import DOMAIN, SPEC
from drivedit.data.domains.street.reader import read
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.evaluation import twin_drives, twin_others
from drivedit.evaluation.metrics.figures import correlation, slope, turns
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Sources
from drivedit.evaluation.suites.benchmark import evaluate_world
from drivedit.evaluation.twin_drives import CONTEXT, ID, PIXELS, Job
from drivedit.models import DiTWorld
from drivedit.utils import Probes, load_object

PROBES: Probes = load_object(DOMAIN.probes)
SMALL = Sizes(
    clips=2, horizon=10, short_dreams=1, states=1, endings=1, ending_steps=10, drives=1, drive_steps=12, drawn=1,
    drawn_steps=1, rounds=1, ahead=1, empty=1, hidden=1, far=1,
)  # fmt: skip
pytestmark = pytest.mark.xdist_group("street")


@pytest.fixture(scope="module")
def sources():
    return Sources(SPEC.domain, driver=PROBES.driver, workers=1)


@pytest.fixture(scope="module")
def moments():
    """True pictures of held-out roads, the ones before them, the pixels of cars, and what is true."""
    twin, rows = StreetTwin(), []
    for seed in range(16):
        twin.reset(seed=DOMAIN.held_out_from + seed, options={"lateral_offset": seed % 5 - 2.0})
        for _ in range(4):
            before = twin.step(np.array([0.0, 0.3], np.float32))[0]
        rows.append((twin.step(np.array([0.0, 0.3], np.float32))[0], before, twin.see().classes == 7, twin.truth()))
    pictures, before, cars, truths = zip(*rows, strict=True)
    return np.stack(pictures), np.stack(before), np.stack(cars), truths


def test_cars_attributes_and_the_lane_are_read_off_true_pictures(moments):
    pictures, before, cars, truths = moments
    seen = read(pictures, before)
    found = seen.cars > 0.5
    assert (found & cars).sum() / (found | cars).sum() > 0.5
    for name, least in {"time": 0.9, "weather": 0.8, "road": 0.8}.items():
        assert np.mean([told == truth.attributes[name] for told, truth in
                        zip(seen.attributes[name], truths, strict=True)]) >= least  # fmt: skip
    true = np.array([truth.telemetry["lateral_offset"] for truth in truths])
    assert correlation(true, seen.values["lateral_offset"]) > 0.8
    assert PROBES.road_share(pictures[None])[0] == pytest.approx(seen.values["wheels_on_road"].clip(0, 1), abs=0.2)


def test_what_is_held_turns_the_car_and_the_turn_is_read_off_the_pictures(sources):
    branches = [twin_drives.record_branches(Job(sources, index, 12)) for index in range(2)]
    true = np.array([turns(each["steer_poses"][..., 2]).sum(-1) for each in branches])
    seen = np.array([[PROBES.turns(frames).sum() for frames in each["steer_frames"]] for each in branches])
    assert (true[:, 0] < true[:, 1] - 0.1).all() and (true[:, 2] > true[:, 1] + 0.1).all()
    assert correlation(true, seen) > 0.95 and 0.8 < slope(true, seen) < 1.25
    assert all(np.diff(each["speed_after"]).max() < 0 for each in branches)  # gas, rolling, brake


def test_moments_behind_another_differ_by_the_throttle(sources):
    ahead = twin_others.record_ahead(Job(sources, 0, 0))
    assert ahead["ahead_controls"].shape == (3, 20, 2) and (ahead["ahead_controls"][:, :, 1].T == [1, 0, -1]).all()
    gas, _, brake = ahead["ahead_gap"]
    assert gas < brake and ahead["frames"].shape == (CONTEXT + 1, *SPEC.observations["camera"].shape)
    assert ahead["ahead_others"].shape[:2] == (3, 20) and (ahead["ahead_others"][:, :, 0, 3] > 0).all()


def test_clips_tell_who_is_seen_and_what_the_scene_is_like(sources):
    clip = twin_drives.record_clip(Job(sources, 0, CONTEXT + 2))
    assert clip["others"].shape[0] == CONTEXT + 3 and clip["attributes"][0] in SPEC.attributes["road"]
    there = clip["others"][clip["others"][..., 3] > 0]
    seen = there[there[:, PIXELS] > 0]
    assert len(seen) < len(there) and set(seen[:, ID]) <= set(there[:, ID])


def test_an_empty_road_is_empty_and_a_collision_ends_a_drive(sources):
    empty = twin_others.record_empty(Job(sources, 0, CONTEXT + 4))
    assert not empty["others"].any() and len(empty["controls"]) == CONTEXT + 4
    ending = twin_drives.record_ending(Job(sources, 0, 12))
    assert ending["ended"].tolist() == [False] * 11 + [True]
    near = ending["others"][-1, 0]
    assert np.hypot(*(near[:2] - ending["poses"][-1, :2])) < 6


def test_a_world_of_the_street_is_evaluated_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(twin_others, "TRIED", 1)
    spec = replace(SPEC, observations={"camera": SPEC.observations["camera"]}, conditions=["route", "layout"])
    student = StudentConfig(16, 16, 1, 2, dropout=0.0, tokens_per_frame=32, window=4, history=2, control_dim=7)
    vae = VAEConfig(3, 4, [8, 8, 8, 8], 1, False, 0.1, temporal_kernel=1)
    config = WorldConfig(spec, vae, student, camera=CameraConfig(75.0, 1.5, 2.8648), others=4)
    route_dim, map_dim = config.code_widths()
    torch.manual_seed(0)
    world = DiTWorld(replace(config, student=replace(student, route_dim=route_dim, map_dim=map_dim)))
    report = evaluate_world(world, tmp_path, sizes=SMALL, sources=Sources(workers=1), quiet=True)
    assert not set(PROBES.goals) - set(report["figures"])
    assert "hand-drawn" not in (tmp_path / "report.txt").read_text()
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["bounds"]["placed"] == {"at_least": [0.75, None], "reach_for": [0.95, None]}
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None and list(tmp_path.glob("beside-*.webp"))
