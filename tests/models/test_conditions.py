"""What a network is told of the place: closed-form answers on circles, straights and boxes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.worlds import BOXES, make_peopled_world, spec_of

from drivedit.config import CameraConfig, StudentConfig, WorldConfig
from drivedit.config.domains.carracing import SPEC
from drivedit.models.conditions.layout import LayoutCoder, drive_on, join, layout_part, seen_from
from drivedit.models.conditions.route import RouteCoder, bounds_code, ground_below, route_code
from drivedit.utils import Route

RADIUS = 80.0


def circle(turns: float = 1.0, points: int = 400) -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi * turns, points, endpoint=turns < 1)
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], -1)


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


CAMERA = CameraConfig(fov=75.0, height=1.5, pitch=2.0, ahead=0.4)
SEEN = WorldConfig(spec_of(64, 128), student=StudentConfig(tokens_per_frame=32), camera=CAMERA, others=3)
FACING_NORTH = [0.0, 0.0, math.pi / 2]


def as_picture(told: torch.Tensor, numbers: int) -> np.ndarray:
    """Cells of the tokens `[1, 32, 16 * numbers]` put together as a picture `[16, 32, numbers]`."""
    return told[0].reshape(4, 8, 4, 4, numbers).permute(0, 2, 1, 3, 4).reshape(16, 32, numbers).numpy()


def test_what_a_camera_sees_of_the_ground_is_seen_where_it_lies():
    x, y = torch.linspace(-0.9, 0.9, 7), torch.linspace(0.1, 0.5, 5)[:, None]
    right, forward = ground_below(CAMERA, x, y).unbind(-1)
    depth, across, up = seen_from(CAMERA, torch.tensor(FACING_NORTH), right, forward, torch.zeros_like(right))
    slope = math.tan(math.radians(CAMERA.fov) / 2)
    assert torch.allclose(across / depth / slope, x.expand(5, 7), atol=1e-4)
    assert torch.allclose(-up / depth / slope, y.expand(5, 7), atol=1e-4)


def test_the_camera_shows_the_road_below_the_horizon_and_none_in_the_sky():
    coder = RouteCoder(SEEN)
    route = Route.from_points([np.array([[0, -100], [0, 200]], float)], [False])
    pose = torch.tensor([FACING_NORTH])
    code = coder(route, pose, route.foot(pose[:, :2], None))
    assert code.shape[1] == 4 * len(SEEN.route_offsets) + 1 + 32 * 16
    road = as_picture(code[:, -512:].unflatten(1, (32, 16)), 1)[..., 0]
    assert (road[:7] == 2).all()
    assert (road[9:, 15:17] < -0.8).all() and np.allclose(road, road[:, ::-1], atol=1e-4)
    widths = (road[9:] < 0).sum(1)
    assert (np.diff(widths) >= 0).all() and widths[0] < widths[-1]


def box(x: float, y: float, yaw: float = math.pi / 2, speed: float = 0.0) -> list[float]:
    return [x, y, 0.8, 4.0, 2.0, 1.6, yaw, speed]


NOBODY = [0.0] * 8


def test_a_box_is_told_where_it_stands_how_near_and_how_turned():
    coder = LayoutCoder(SEEN)
    boxes = torch.tensor([[box(0, 20.4), NOBODY, NOBODY]])
    low, high, depth = coder.outlines(boxes, torch.tensor([FACING_NORTH]))
    slope = math.tan(math.radians(75) / 2)
    level = seen_from(CameraConfig(pitch=0.0, ahead=0.4), torch.tensor(FACING_NORTH), *boxes[0, 0, :3])
    assert float(level[0]) == pytest.approx(20.0) and float(depth[0, 0]) == pytest.approx(20.0, abs=0.05)
    assert high[0, 0, 0] == pytest.approx(1 / (18 * slope), rel=0.01) and float(
        low[0, 0, 0] + high[0, 0, 0]
    ) == pytest.approx(0, abs=1e-5)
    told = as_picture(coder(boxes, torch.tensor([FACING_NORTH])), 3)
    there = np.argwhere(told[..., 0] > 0)
    assert set(there[:, 1]) == {14, 15, 16, 17} and set(there[:, 0]) <= {7, 8, 9}
    assert told[..., 0].max() == pytest.approx(1 / 3, abs=0.01)  # 20 m: two thirds less
    assert np.allclose(told[..., 1], told[..., 0], atol=1e-5) and np.abs(told[..., 2]).max() < 1e-5


def test_the_nearer_box_hides_the_farther_and_what_is_behind_is_not_seen():
    coder, pose = LayoutCoder(SEEN), torch.tensor([FACING_NORTH])
    near, far, behind = box(0, 10), box(0, 40, -math.pi / 2), box(0, -10)
    alone = coder(torch.tensor([[near, NOBODY, NOBODY]]), pose)
    both = coder(torch.tensor([[far, near, behind]]), pose)
    covered = alone[..., 0] > 0.3
    assert torch.equal(both[..., 0][covered], alone[..., 0][covered]) and covered.any()
    assert coder(torch.tensor([[behind, NOBODY, NOBODY]]), pose).abs().max() == 0
    oncoming = as_picture(coder(torch.tensor([[far, NOBODY, NOBODY]]), pose), 3)
    assert np.allclose(oncoming[..., 1], -oncoming[..., 0], atol=1e-5)
    crossing = as_picture(coder(torch.tensor([[box(0, 15, 0.0), NOBODY, NOBODY]]), pose), 3)
    assert np.allclose(crossing[..., 2], crossing[..., 0], atol=1e-5) and crossing.max() > 0.3


def test_nobody_and_not_known_are_told_apart():
    coder, route = LayoutCoder(SEEN), RouteCoder(SEEN)
    pose, line = torch.tensor([FACING_NORTH] * 2), Route.from_points([None, None], [False, False])
    code = route(line, pose, torch.zeros(2))
    boxes = torch.tensor([[box(0, 12), NOBODY, NOBODY]] * 2)
    told = torch.tensor([True, False])
    joined = join(code, told, coder(boxes, pose) * told[:, None, None])
    assert joined.shape[1] == SEEN.code_widths()[0] and SEEN.code_widths()[1] == 64
    place = 4 * len(SEEN.route_offsets) + 1
    assert joined[:, place].tolist() == [1.0, 0.0]
    assert joined[0].abs().max() > 0.3 and joined[1].abs().max() == 0


def test_others_drive_on_along_the_road_in_their_own_lane():
    route = Route.from_points([circle()[:-1], None], [True, False])
    own = [RADIUS - 3, 0.0, 0.8, 4.0, 2.0, 1.6, math.pi / 2, 10.0]  # with the route, inside
    other = [RADIUS + 3, 0.0, 0.8, 4.0, 2.0, 1.6, -math.pi / 2, 10.0]
    crossing = [RADIUS + 9, 0.0, 0.8, 4.0, 2.0, 1.6, math.pi, 10.0]
    boxes = torch.tensor([[own, other, crossing, NOBODY], [own, NOBODY, NOBODY, NOBODY]])
    for _ in range(20):
        boxes = drive_on(boxes, route, 0.1)
    angle = 20 / RADIUS  # of the centre line, which all go along at their speed
    radius, turned = boxes[0, :2, :2].norm(dim=-1), torch.atan2(boxes[0, :2, 1], boxes[0, :2, 0])
    assert torch.allclose(radius, torch.tensor([RADIUS - 3, RADIUS + 3]), atol=0.1)
    assert torch.allclose(turned, torch.tensor([angle, -angle]), atol=0.01)
    assert torch.allclose(boxes[0, :2, 6] - torch.tensor([math.pi / 2, -math.pi / 2]), turned, atol=0.03)
    assert torch.allclose(boxes[0, 2, :2], torch.tensor([RADIUS - 11, 0.0]), atol=1e-3)
    assert torch.allclose(boxes[1, 0, :2], torch.tensor([RADIUS - 3, 20.0]), atol=1e-3)
    assert boxes[0, 3].abs().max() == 0


@pytest.mark.parametrize("wrong", [{"others": 2}, {"camera": CAMERA, "view": (60.0, 50.0, 0.5, 0.7)}])
def test_what_does_not_go_together_is_refused(wrong):
    with pytest.raises(ValueError, match="camera"):
        WorldConfig(spec_of(64, 128), **wrong)


def test_what_tells_of_others_is_known_in_the_code():
    part = layout_part(SEEN)
    assert len(part) == SEEN.code_widths()[0] and int(part.sum()) == 1 + 32 * 3 * 16
    told = torch.ones(1, 32, 3 * 16)
    code = join(torch.zeros(1, RouteCoder(SEEN).width), torch.tensor([True]), told)
    assert torch.equal(code[0], part)
    assert not layout_part(replace(SEEN, others=0)).any()


def test_a_world_is_told_of_others_and_they_drive_on():
    world = make_peopled_world()
    free = world.start(world.scenes, [1, 2])
    told = world.condition(free.clone(), {"layout": BOXES})
    assert told.told.all() and not free.told.any() and told.others.shape == (2, 2, 8)
    by_distance = np.hypot(*(BOXES[:, :2] - free.pose[0, :2].numpy()).T).argsort()
    assert np.allclose(told.others[0], BOXES[by_distance[:2]])
    controls = torch.zeros(2, 2)
    after, _ = world.step(told.clone(), controls)
    dreamed, _ = world.step(free.clone(), controls)
    assert not torch.equal(after.latents, dreamed.latents)
    moved = (after.others - told.others)[..., :2].norm(dim=-1)
    assert torch.allclose(moved, told.others[..., 7] * world.spec.dt, rtol=0.2)
    mixed = told.clone()
    mixed.told[1] = False
    mixed, _ = world.step(mixed, controls)
    assert torch.allclose(mixed.latents[0], after.latents[0], atol=1e-5)
    assert torch.allclose(mixed.latents[1], dreamed.latents[1], atol=1e-5)
    again = world.condition(told.clone(), {"layout": None})
    assert torch.equal(world.step(again, controls)[0].latents, dreamed.latents)
    nobody, _ = world.step(world.condition(free.clone(), {"layout": np.zeros((0, 8))}), controls)
    assert not torch.equal(nobody.latents, dreamed.latents), "nobody there is not the same as nobody knows"


@pytest.mark.parametrize(("layout", "what"), [
    (np.zeros((2, 7)), r"\[A, 8\]"), (np.full((1, 8), np.nan), "finite"), (np.zeros((1, 8)), "sizes above 0"),
])  # fmt: skip
def test_a_layout_that_is_none_is_refused(layout, what):
    world = make_peopled_world()
    with pytest.raises(ValueError, match=what):
        world.condition(world.start(world.scenes, [1, 2]), {"layout": layout})
