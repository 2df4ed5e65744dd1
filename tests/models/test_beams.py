"""Range images as points: moved by an ego-motion, hidden by what is nearer, and what they leave free ahead."""

import math

import numpy as np
import pytest
import torch
from helpers.ranges import VIEW, scan_at

from drivedit.models.sde.beams import LONGEST, Beams, time_to_collision
from drivedit.models.sde.ranges import decode_range, encode_range

FINE = VIEW.__class__(32, 256)


@pytest.fixture(scope="module")
def beams() -> Beams:
    return Beams(FINE, 1.73, 1.0)


def shown(points: np.ndarray) -> torch.Tensor:
    return encode_range(torch.from_numpy(FINE.project(points)))[None]


def test_points_are_those_of_the_view():
    beams, image = Beams(VIEW, 1.73, 1.0), scan_at(np.zeros(3))
    points = beams.points(torch.from_numpy(image[None, ..., 0]))[:, 0].permute(1, 2, 0)
    assert np.allclose(points.numpy()[image[..., 1] > 0], VIEW.unproject(image), atol=1e-4)


def test_without_motion_a_scan_stays(beams):
    rng = np.random.default_rng(0)
    image = np.stack([rng.uniform(2, 80, (32, 256)), np.ones((32, 256))], -1)
    image[rng.random((32, 256)) < 0.2] = 0
    scan = encode_range(torch.from_numpy(image).float())[None]
    assert torch.allclose(beams.moved(scan, torch.zeros(1, 3)), scan, atol=1e-4)


@pytest.mark.parametrize(("motion", "there"), [
    ((2.0, 0.0, 0.0), (8.0, 0.0)), ((0.0, 3.0, 0.0), (10.0, 3.0)), ((0.0, 0.0, math.pi / 2), (0.0, 10.0)),
    ((10.0, -5.0, 0.0), (0.0, -5.0)),
])  # fmt: skip
def test_what_stands_still_moves_against_the_car(beams, motion, there):
    moved = decode_range(beams.moved(shown(np.array([[10.0, 0.0, 0.0]])), torch.tensor([motion])))[0]
    (point,) = FINE.unproject(moved.numpy())
    assert np.allclose(point[:2], there, atol=0.15)


def test_the_nearer_one_hides_the_farther_one_and_rows_move_alone(beams):
    two = shown(np.array([[20.0, 0.0, 0.0], [10.0, -10.0, 0.0]]))
    moved = decode_range(beams.moved(two.repeat(2, 1, 1, 1), torch.tensor([[0.0, 10.0, 0.0], [0.0, 0.0, 0.0]])))
    assert moved[0, ..., 1].sum() == 2 and moved[1, ..., 1].sum() == 2
    behind = beams.moved(shown(np.array([[20.0, 0.0, 0.0], [10.0, 5.0, 0.0]])), torch.tensor([[0.0, -10.0, 0.0]]))
    hit = decode_range(behind)[0]
    assert hit[..., 1].sum() == 1 and abs(hit[..., 0].max() - 125**0.5) < 0.1


def test_flat_ground_is_as_far_as_it_lies_below_the_beam(beams):
    metres = (beams.ground[:, 0] + 1) / 2 * math.log1p(85)
    wanted = np.minimum(1.73 / np.sin(np.maximum(-FINE.elevations, 1e-6)), 85)
    assert beams.ground.shape == (32, 1) and np.allclose(np.expm1(metres.numpy()), wanted, rtol=1e-4)


def test_free_distance_is_that_to_what_stands_in_the_way(beams):
    road = np.array([[8.0, 0.0, -1.7], [30.0, 0.4, -1.0], [12.0, 2.5, -1.0], [9.0, 0.0, 0.4], [-4.0, 0.0, -1.0],
                     [30.2, -0.4, -1.0], [20.0, 0.0, -1.0]])  # fmt: skip
    free = beams.free_distance(torch.cat([shown(road), shown(road[:1])]))
    assert torch.allclose(free, torch.tensor([30.0, 85.0]), atol=0.3)


def test_time_to_collision_is_told_by_what_comes_nearer():
    before, now = torch.tensor([20.0, 20.0, 85.0, 20.0]), torch.tensor([19.0, 20.0, 10.0, 21.0])
    told = time_to_collision(before, now, torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.full((4,), 0.1))
    assert torch.allclose(told, torch.tensor([1.9, LONGEST, 1.0, LONGEST]))
