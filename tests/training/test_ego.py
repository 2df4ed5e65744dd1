"""Ego-motion: it goes on as it is, is learned from poses and controls of any interval, and says where it is unknown."""

import numpy as np
import pytest
import torch
from helpers.fields import SPEC, field_episode

from drivedit.data.clips import Drives
from drivedit.models.layers.ego import EgoMotion
from drivedit.training.ego import Tracks, apart, fit_ego, go_on, usual_change

UNIT = [1.0, 0.2, 0.05]


@pytest.fixture(scope="module")
def drives() -> Drives:
    return Drives.of([field_episode(40, seed) for seed in range(4)], SPEC)


def test_untrained_it_goes_on_as_it_is(drives):
    ego, paths = EgoMotion(2), Tracks(drives, UNIT).paths(np.array([3, 50]), np.ones((2, 4), int))
    assert torch.equal(go_on(ego, paths), paths.rates[:, :1].expand(-1, 4, -1))


def test_paths_tell_the_motion_of_a_unit_of_time_in_intervals_of_any_length(drives):
    tracks = Tracks(drives, UNIT, (1, 3))
    paths = tracks.paths(np.array([4, 45]), np.array([[1, 3, 2], [2, 2, 1]]))
    assert torch.allclose(paths.dt, torch.tensor([[1.0, 3, 2], [2, 2, 1]]), atol=1e-5)
    assert torch.allclose(paths.controls[0, 1], torch.from_numpy(drives.control[6:9].mean(0)), atol=1e-6)
    one = tracks.paths(np.array([4]), np.ones((1, 4), int))
    ahead = 0.6 + 0.3 * torch.from_numpy(drives.control[4:9, 1])
    assert torch.allclose(one.rates[0, :, 0], ahead, atol=2e-2), "what led to state 4 comes first"
    assert paths.known.all() and 0.3 < paths.rates[0, 2, 0] < 0.9


def test_it_learns_what_controls_do_and_paths_end_where_they_ended(drives):
    tracks, ego = Tracks(drives, UNIT, (1, 2)), EgoMotion(2)
    before = apart(ego, tracks.paths(np.array([130, 140]), np.ones((2, 16), int)), tracks.unit)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ego = EgoMotion(2)
    off = fit_ego(ego, tracks, np.arange(3), np.arange(3, 4), 250, 0)
    assert off < 0.3 * before
    again = EgoMotion(2)
    again.load_state_dict(ego.state_dict())
    assert torch.equal(again.unit, ego.unit) and (ego.unit < 1).all(), "the unit is kept with the weights"


def test_changes_are_counted_where_both_motions_are_known_and_a_jump_hardly_counts(drives):
    paths = Tracks(drives, UNIT).paths(np.arange(3, 23), np.ones((20, 16), int))
    change, unit = paths.rates.diff(dim=1).abs(), usual_change(paths)
    assert torch.allclose(unit[[0, 2]], change.mean((0, 1))[[0, 2]], rtol=0.05)
    assert unit[1] == 1, "these cars do not slide"
    paths.known[:, 3] = 0
    kept = torch.cat([change[:, :2], change[:, 4:]], 1)
    assert torch.allclose(usual_change(paths)[[0, 2]], kept.mean((0, 1))[[0, 2]], rtol=0.05)
    paths.rates[0, 8] = 1e6
    assert torch.allclose(usual_change(paths)[[0, 2]], unit[[0, 2]], rtol=0.1)


def test_paths_begin_where_a_motion_led_to_and_the_pose_is_known(drives, caplog):
    tracks = Tracks(drives, UNIT, (1, 2))
    starts, intervals = tracks.starts(np.array([1]))
    assert intervals == 16 and starts.tolist() == list(range(42, 82 - 32))
    short = Drives.of([field_episode(4, 0), field_episode(40, 1)], SPEC)
    assert Tracks(short, UNIT).starts(np.array([0]))[1] == 3, "paths are as long as the drives that are chosen allow"
    gone = field_episode(40, 0)
    assert gone.poses is not None
    gone.poses[20] = np.nan
    starts, _ = Tracks(Drives.of([gone], SPEC), UNIT).starts(np.array([0]))
    assert 19 in starts and not {20, 21} & set(starts.tolist()), "no path begins at or right after what is not known"
    paths = Tracks(Drives.of([gone], SPEC), UNIT).paths(np.array([10, 22]), np.ones((2, 16), int))
    again = Tracks(Drives.of([gone], SPEC), UNIT).paths(np.array([22]), np.ones((1, 16), int))
    assert apart(EgoMotion(2), paths, np.array(UNIT)) == pytest.approx(apart(EgoMotion(2), again, np.array(UNIT)))
    lost = [field_episode(40, seed) for seed in range(2)]
    for episode in lost:
        assert episode.poses is not None
        episode.poses[:] = np.nan
    unknown, ego = Tracks(Drives.of(lost, SPEC), UNIT), EgoMotion(2)
    assert np.isnan(fit_ego(ego, unknown, np.arange(2), np.arange(2), 5, 0))
    assert "it goes on as it is" in caplog.text and not any(weight.grad is not None for weight in ego.parameters())
