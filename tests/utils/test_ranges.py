"""Range images from points and back; what networks see of them keeps metres."""

import math

import numpy as np
import pytest
import torch

from drivedit.models.sde.ranges import decode_range, encode_range
from drivedit.utils.ranges import RangeView

VIEWS = [RangeView(), RangeView(64, 512), RangeView(16, 128, math.radians(15), math.radians(-15), 40.0)]


def sphere(view: RangeView, radius: float) -> np.ndarray:
    """Points on a sphere, many for each cell."""
    up = np.linspace(view.highest + 0.004, view.elevations[-1] - 0.004, 3 * view.rows)
    right = (np.arange(4 * view.columns) + 0.3) / (4 * view.columns) * 2 * math.pi
    up, right = (grid.ravel() for grid in np.meshgrid(up, right))
    return radius * np.stack([np.cos(up) * np.cos(right), -np.cos(up) * np.sin(right), np.sin(up)], -1)


@pytest.mark.parametrize("view", VIEWS)
def test_a_sphere_fills_every_cell(view):
    image = view.project(sphere(view, 10.0))
    assert image.shape == (view.rows, view.columns, 2) and image.dtype == np.float32
    assert image[..., 1].all() and np.allclose(image[..., 0], 10, atol=1e-5)


@pytest.mark.parametrize("view", VIEWS)
def test_columns_run_clockwise_and_rows_fall(view):
    level = int(np.abs(view.elevations).argmin())
    for point, column in (([10, 0, 0], 1 / 2), ([0, -10, 0], 3 / 4), ([0, 10, 0], 1 / 4), ([-10, 1e-9, 0], 0)):
        cells = np.argwhere(view.project(np.array([point, [1.0, 0, 5.0]]))[..., 1])  # the other one is above the view
        assert cells.tolist() == [[level, int(column * view.columns)]]
    low = view.project(np.array([[10, 0, 10 * math.tan(view.elevations[-1])]]))
    assert low[-1, view.columns // 2, 0] > 10 and low[..., 1].sum() == 1


@pytest.mark.parametrize("view", VIEWS)
def test_pictures_come_back_as_they_were_and_points_within_a_cell(view):
    rng = np.random.default_rng(0)
    mask = rng.random((view.rows, view.columns)) < 0.7
    image = np.stack([np.where(mask, rng.uniform(1, 0.99 * view.reach, mask.shape), 0), mask], -1).astype(np.float32)
    assert np.allclose(view.project(view.unproject(image)), image, atol=1e-4)
    points = sphere(view, 20.0)
    points, back = points[:: len(points) // 500], view.unproject(view.project(points))
    near = np.linalg.norm(points[:, None] - back[None], axis=2).min(1)
    cell = 20 * max(2 * math.pi / view.columns, float(view.elevations[0] - view.elevations[1]))
    assert near.max() <= cell


def test_the_nearest_return_stays_and_what_is_out_of_view_does_not():
    view = RangeView()
    image = view.project(
        np.array([[30.0, 0, 0], [12, 0, 0], [50, 0, 0], [90, 0, -9], [5, 0, 4], [5, 0, -5], [0, 0, 0]])
    )
    assert image[..., 1].sum() == 1 and image[..., 0].max() == 12


def test_it_looks_as_the_street_does():
    """What the street's LiDAR sees of its road lies on a plane 1.9 m below it, and comes back as the same picture."""
    pytest.importorskip("numba")
    import gymnasium as gym

    env = gym.make("drivedit_env:StreetTwin-v0", obs_type="range")
    image, _ = env.reset(seed=3)
    env.close()
    view = RangeView(*image.shape[:2])
    assert np.allclose(view.project(view.unproject(image)), image, atol=1e-4)
    below = np.stack(
        [image[..., 0], image[..., 1] * (view.elevations < -0.35)[:, None]], -1
    )  # beams that fall near the car
    height = view.unproject(below)[:, 2]
    assert len(height) > 500 and np.mean(np.abs(height + 1.9) < 0.02) > 0.9


def test_networks_see_metres_on_a_fixed_scale():
    image = torch.tensor([[[0.0, 0], [0.5, 1], [85, 1], [20, 1]]])
    shown = encode_range(image)
    assert shown.shape == (2, 1, 4) and shown.min() >= -1 and shown.max() <= 1
    assert shown[0, 0, 2] == 1 and shown[:, 0, 0].tolist() == [-1, -1]
    assert torch.allclose(decode_range(shown), image, atol=1e-4)
    assert torch.equal(encode_range(image.flip(1)), shown.flip(2)), "no cell depends on another one"
    wild = decode_range(3 * torch.randn(5, 2, 4, 6))
    assert wild.shape == (5, 4, 6, 2) and wild[..., 0].min() >= 0 and wild[..., 0].max() <= 85.001
    assert not wild[..., 0][wild[..., 1] == 0].any()


def test_what_is_no_view_no_points_and_no_picture_is_named():
    view = RangeView()
    for wrong, match in (
        (lambda: RangeView(0, 4), "a view has rows, columns"),
        (lambda: RangeView(highest=-1.0), "its highest beam above its lowest"),
        (lambda: view.project(np.zeros((0, 3))), r"points must be \[N >= 1, 3 or more\], got \[0, 3\]"),
        (lambda: view.project(np.zeros((4, 2))), r"got \[4, 2\]"),
        (lambda: view.project(np.array([[1, 2, np.nan]])), "1 of 1 points are not finite, the first is number 0"),
        (lambda: view.project(np.array([[-1.0, 2, 3], [-2, 0, 0]])), "all 2 points lie behind the sensor"),
        (lambda: view.unproject(np.zeros((32, 256))), r"must be \[32, 256, 2\], got \[32, 256\]"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()
