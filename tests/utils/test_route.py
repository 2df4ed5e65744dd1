"""Geometry of routes: closed-form answers on circles and straights."""

import math

import numpy as np
import pytest
import torch

from drivedit.utils import Route, advance_pose, motion_between
from drivedit.utils.route import CAPACITY

RADIUS = 80.0


def circle(turns: float = 1.0, points: int = 400) -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi * turns, points, endpoint=turns < 1)
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], -1)


def test_arc_length_and_tangent_on_a_circle():
    route = Route.from_points([circle()[:-1]], [True])
    assert float(route.count[0] * route.spacing[0]) == pytest.approx(2 * math.pi * RADIUS, rel=1e-3)
    quarter = torch.tensor([[0.5 * math.pi * RADIUS]])
    point, tangent = route.at(quarter)
    assert torch.allclose(point[0, 0], torch.tensor([0.0, RADIUS]), atol=0.1)
    assert torch.allclose(tangent[0, 0], torch.tensor([-1.0, 0.0]), atol=0.02)


def test_foot_point_offset_is_positive_to_the_right():
    route = Route.from_points([circle()[:-1]] * 2, [True] * 2)  # counter-clockwise: outside is right
    arc, offset, _ = route.locate(torch.tensor([[0.0, RADIUS + 5], [0.0, RADIUS - 3]]), None)
    assert torch.allclose(offset, torch.tensor([5.0, -3.0]), atol=0.05)
    assert torch.allclose(arc, torch.tensor(0.5 * math.pi * RADIUS), atol=0.2)


def test_foot_point_follows_and_jumps_only_when_clearly_nearer():
    parallel = np.array([[0, 0], [300, 0], [300, 10], [0, 10]], float)  # out, and back 10 m beside
    route = Route.from_points([parallel], [False])
    near_other = route.locate(torch.tensor([[100.0, 6.0]]), torch.tensor([99.0]))[0]
    assert float(near_other) == pytest.approx(100, abs=0.5)
    far_square = np.array([[0, 0], [300, 0], [300, 100], [0, 100]], float)
    route = Route.from_points([far_square], [False])
    jumped = route.locate(torch.tensor([[100.0, 95.0]]), torch.tensor([99.0]))[0]
    assert float(jumped) == pytest.approx(300 + 100 + 200, abs=1)


def test_open_routes_go_straight_on():
    route = Route.from_points([np.array([[0, 0], [20, 0]], float)], [False])
    point, _ = route.at(torch.tensor([[35.0, -5.0]]))
    assert torch.allclose(point, torch.tensor([[[35.0, 0.0], [-5.0, 0.0]]]), atol=1e-4)


def test_motion_between_inverts_advance_pose():
    generator = torch.Generator().manual_seed(1)
    pose, motion = torch.randn(50, 3, generator=generator) * 3, torch.randn(50, 3, generator=generator)
    assert torch.allclose(motion_between(pose, advance_pose(pose, motion)), motion, atol=1e-5)
    ahead = advance_pose(torch.tensor([0.0, 0.0, math.pi / 2]), torch.tensor([2.0, 1.0, 0.1]))
    assert torch.allclose(ahead, torch.tensor([1.0, 2.0, math.pi / 2 - 0.1]), atol=1e-6)


def test_long_routes_keep_their_length():
    line = np.stack([np.linspace(0, 9000, 500), np.zeros(500)], -1)
    route = Route.from_points([line], [False])
    assert int(route.count[0]) <= CAPACITY
    assert torch.allclose(route.at(torch.tensor([[8000.0]]))[0], torch.tensor([8000.0, 0.0]), atol=1)


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.zeros((1, 2)), np.full((4, 2), np.nan), np.zeros((5, 2))])
def test_bad_routes_are_named(bad):
    with pytest.raises(ValueError, match="route must be"):
        Route.from_points([bad], [False])
