"""A world of range images beside the street: clips at any interval, and branches under held controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.ranges import DERIVED

from drivedit.config import PainterConfig, RangeWorldConfig
from drivedit.config.domains.street import SPEC
from drivedit.evaluation.sources import Sources
from drivedit.evaluation.suites.scan_benchmark import drift_figures, interval_figures
from drivedit.evaluation.suites.scan_twin import branch, branch_figures, drive_clips
from drivedit.models import RangeWorld

pytest.importorskip("numba")


@pytest.fixture(scope="module")
def world() -> RangeWorld:
    spec = SPEC.only(["range"])
    config = RangeWorldConfig(
        spec=replace(spec, telemetry=[*spec.telemetry, *DERIVED]), model_channels=1, head=8, seconds=(0.1, 0.3),
        painter=PainterConfig(width=8, blocks=1), end_threshold=2.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return RangeWorld(config).eval()


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(workers=1).of(SPEC)


def test_clips_are_of_one_road_at_any_interval(world, sources):
    even, slow = (drive_clips(sources, world, 1, steps, dt) for steps, dt in ((6, 0.1), (3, 0.2)))
    for clips, dt in ((even, 0.1), (slow, 0.2)):
        (scene,) = clips.scenes
        assert (
            scene.times is not None
            and np.allclose(np.diff(scene.times), dt)
            and np.array_equal(scene.frames[-1], clips.scans[0, 0])
        )
        went = np.linalg.norm(np.diff(clips.poses[0, :, :2], axis=0), axis=1)
        assert np.allclose(went / dt, clips.telemetry["speed"][0, 1:], atol=1.0)
    assert scene.attributes == even.scenes[0].attributes and slow.scans.shape == (1, 4, 32, 256, 2)


def test_branches_tell_what_controls_do(world, sources):
    true = branch(sources, world, 1)
    left, straight, right = true.turned[0]
    gas, _, brake = true.speeds[0]
    assert left < straight < right and gas > brake
    found = branch_figures(world, true, sources)
    assert set(found) == {"steering_correlation", "steering_slope", "speed_error", "speed_error_worst_throttle"}
    assert np.isnan(found["steering_correlation"]) or abs(found["steering_correlation"]) <= 1
    assert found["speed_error"] > 0.3, "an untrained world knows no speed"


def test_untrained_intervals_are_compared_with_the_trained_one(world, sources):
    with pytest.warns(UserWarning, match="beyond the intervals"):
        found = interval_figures(world, sources, 1)
    times = [name for name in found if name.startswith("chamfer_after_steps_of_")]
    assert [name[23:] for name in times] == ["0.1s", "0.06s", "0.14s", "0.26s"]
    assert found["untrained_interval_ratio"] == max(found[n] for n in times) / found["chamfer_after_steps_of_0.1s"] >= 1


def test_drift_is_told_early_and_late(world, sources):
    found = drift_figures(world, sources, 2, 60)
    early, late = (found[f"frechet_own_encoder_{after}_steps"] for after in (30, 60))
    assert early > found["frechet_own_encoder_true"] > 0, "untrained dreams are farther from true scans than these"
    assert late > 0 and found["drift_ratio"] == late / early
