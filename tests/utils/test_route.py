"""Geometry of routes: closed-form answers on circles and straights."""

import math

import numpy as np
import pytest
import torch

from drivedit.config import StudentConfig, WorldConfig
from drivedit.config.domains.carracing import SPEC
from drivedit.utils import Route, RouteCoder, advance_pose, route_code
from drivedit.utils.route import CAPACITY, bounds_code, motion_between

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


def test_code_does_not_depend_on_where_the_world_lies_and_flips_for_backwards_cars():
    offsets = torch.tensor([-8.0, 0.0, 10.0, 30.0])
    line = circle(0.5)
    turn = 0.7
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    route = Route.from_points([line, line @ rotation.T + [40, -9]], [False] * 2)
    pose = torch.tensor([[60.0, 50.0, 2.0]])
    xy = pose[0, :2].numpy() @ rotation.T + [40, -9]
    poses = torch.cat([pose, torch.tensor([[xy[0], xy[1], 2.0 + turn]], dtype=torch.float32)])
    arc = route.locate(poses[:, :2], None)[0]
    code = route_code(route, poses, arc, offsets, 20.0)
    assert torch.allclose(code[0], code[1], atol=0.01)

    straight = Route.from_points([np.array([[0, -100], [0, 100]], float)] * 2, [False] * 2)
    both = torch.tensor([[0.0, 0.0, math.pi / 2], [0.0, 0.0, -math.pi / 2]])
    code = route_code(straight, both, straight.locate(both[:, :2], None)[0], offsets, 20.0)
    assert torch.allclose(code[0], code[1], atol=1e-4)


def test_rows_without_a_route_get_zeros():
    route = Route.from_points([None, circle(0.5)], [False, False])
    pose = torch.tensor([[3.0, 4.0, 1.0], [RADIUS, 0.0, 1.5]])
    code = route_code(route, pose, route.locate(pose[:, :2], None)[0], torch.tensor([0.0, 9.0]), 20.0)
    assert code[0].abs().max() == 0 and code[1, -1] == 1 and torch.isfinite(code).all()


def test_the_playfield_is_told_by_its_nearest_edge():
    bounds = torch.tensor([[-100.0, -100.0, 100.0, 100.0]]).repeat(5, 1)
    bounds[4] = torch.tensor([-math.inf, -math.inf, math.inf, math.inf])
    pose = torch.tensor([[0, 0, 0.3], [80, 0, 0], [80, 0, math.pi / 2], [0, -96, math.pi / 2], [80, 0, 0]]).float()
    expected = torch.tensor([
        [0, 0, 0, 0],  # out of reach
        [0, 0.5, 0.5, 0],  # 20 m straight ahead: half of the reach
        [0.5, 0, 0.5, 0],  # the same edge, on the right
        [0, -0.9, 0.9, 0.2],  # 4 m behind
        [0, 0, 0, 0],  # no bounds
    ])  # fmt: skip
    assert torch.allclose(bounds_code(bounds, pose, 40.0), expected, atol=1e-6)
    beyond = bounds_code(bounds[:1], torch.tensor([[104.0, 0.0, 0.0]]), 40.0)[0]
    assert beyond[2] > 1 and beyond[3] > 1 and beyond[1] > 1


def picture_of_the_map(pose: list[float]) -> np.ndarray:
    """The map part of the code of a straight road along +y, put together as a picture of 16 x 16 cells."""
    config = WorldConfig(SPEC, student=StudentConfig(tokens_per_frame=16), view=(61.73, 49.38, 0.5, 0.75))
    coder = RouteCoder(config)
    route = Route.from_points([np.array([[0, -100], [0, 200]], float)], [False])
    at = torch.tensor([pose])
    code = coder(route, at, route.locate(at[:, :2], None)[0])
    total, per_token = config.code_widths()
    assert code.shape == (1, total) and per_token == 16
    return code[0, -256:].reshape(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(16, 16).numpy()


def test_the_map_shows_the_road_where_the_picture_would():
    ahead = picture_of_the_map([0.0, 0.0, math.pi / 2])
    width = 61.73 / 16
    columns = (np.arange(16) + 0.5 - 8) * width  # metres to the right of the car
    expected = np.minimum(np.abs(columns) / 6.67 - 1, 2)
    assert np.allclose(ahead, expected[None].repeat(16, 0), atol=0.06)  # the same in every row
    moved = picture_of_the_map([2 * width, 0.0, math.pi / 2])  # two cells to the right: the road is two cells left
    assert np.allclose(moved[:, :-2], ahead[:, 2:], atol=0.06)
    left = picture_of_the_map([0.0, 0.0, math.pi])  # turned to the left: the road lies across, through the car's row
    assert set(left.argmin(0)) <= {11, 12} and np.ptp(left[9]) < 0.1


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
