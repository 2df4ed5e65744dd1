"""Planes that a picture may lie on: where a camera sees their points before and after an ego-motion."""

import math

import numpy as np
import pytest
import torch
from helpers.fields import CAMERA, SIZE, field_drive, picture_at

from drivedit.config import CameraConfig
from drivedit.models.bev.planes import Planes
from drivedit.models.conditions.layout import seen_from
from drivedit.utils import advance_pose, motion_between

DEPTHS = [1e5, 20.0, 8.0]
MOTION = torch.tensor([[1.2, 0.1, 0.06], [0.4, -0.2, -0.1]])


@pytest.fixture(scope="module")
def planes() -> Planes:
    return Planes(CAMERA, SIZE, DEPTHS)


def seen_at(pose: torch.Tensor, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Where a camera of a car at a pose sees points, in [-1, 1] to the right and down."""
    depth, right, up = seen_from(CAMERA, pose, x, y, z)
    slope = math.tan(math.radians(CAMERA.fov) / 2)
    return torch.stack([right / depth / slope, -up / depth / slope * SIZE[1] / SIZE[0]], -1)


@pytest.mark.parametrize("row", [0, 1])
def test_a_point_of_a_plane_is_looked_up_where_the_camera_saw_it(planes, row):
    before = torch.tensor([[3.0, -2.0, 0.4]])
    after = advance_pose(before, MOTION[row : row + 1])
    aside = torch.linspace(-4, 4, 9)
    for plane, (ahead, height) in enumerate([(torch.linspace(5, 25, 9), None), (torch.full((9,), 20.0), 2.0),
                                             (torch.full((9,), 8.0), 0.5)]):  # fmt: skip
        ahead = ahead + CAMERA.ahead
        cos, sin = after[0, 2].cos(), after[0, 2].sin()
        x, y = after[0, 0] + ahead * cos + aside * sin, after[0, 1] + ahead * sin - aside * cos
        z = torch.zeros(9) if height is None else torch.full((9,), height)
        pixel, wanted = seen_at(after, x, y, z), seen_at(before, x, y, z)
        places = planes.places(MOTION)[row, 0 if plane == 0 else plane + 1]
        grid = pixel[None, :, None]
        found = torch.nn.functional.grid_sample(places.permute(2, 0, 1)[None], grid, align_corners=False)[0, :, :, 0].T
        inside = (pixel.abs() < 0.95).all(1)
        assert inside.sum() > 3 and torch.allclose(found[inside], wanted[inside], atol=0.02)


def test_standing_still_shows_the_same_and_a_turn_moves_what_is_far_by_its_angle(planes):
    picture = torch.rand(1, 3, *SIZE) * 2 - 1
    seen = planes(picture, planes.places(torch.zeros(1, 3)))
    assert seen.shape == (1, 4, 3, *SIZE) and torch.allclose(seen, picture[:, None].expand_as(seen), atol=1e-4)
    level = Planes(CameraConfig(fov=90.0), (8, 16), [1e6])
    places = level.places(torch.tensor([[0.0, 0.0, 0.2]]))[0, 1, 4, :, 0]
    angle = torch.atan((torch.arange(16) + 0.5) / 8 - 1)
    inside = (angle + 0.2) < 0.7
    assert torch.allclose(torch.atan(places)[inside], (angle + 0.2)[inside], atol=1e-4)


def test_the_ground_is_seen_as_a_camera_sees_it_after_the_motion(planes):
    _, _, poses = field_drive(8, 3)
    before, after = (np.stack([picture_at(pose) for pose in each]) for each in (poses[:-1], poses[1:]))
    motion = motion_between(torch.from_numpy(poses[:-1]), torch.from_numpy(poses[1:])).float()
    old, new = (torch.from_numpy(each).permute(0, 3, 1, 2) / 127.5 - 1 for each in (before, after))
    near = slice(SIZE[0] * 5 // 8, SIZE[0] * 7 // 8)  # below the horizon, and seen before
    found = planes(old.float(), planes.places(motion), "bicubic")[:, 0, :, near, 8:-8]
    true, still = new[:, :, near, 8:-8], old[:, :, near, 8:-8]
    off = (found - true).abs().mean()
    assert off < 0.01 and off < 0.1 * (still - true).abs().mean()
    assert (planes(old.float(), planes.places(-motion), "bicubic")[:, 0, :, near, 8:-8] - true).abs().mean() > 5 * off
