"""The ground around the car and others on it: where cells lie, how windows follow, what is told and read of others."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fields import CAMERA, LINE, SIZE, bev_config, box_ahead, make_bev_world

from drivedit.models.bev.ground import ASIDE, FINER, ROAD, TURN, Ground, beside
from drivedit.models.bev.others import (
    TOLD,
    carried,
    inherited,
    seen_looks,
    told_maps,
    unseen_looks,
)
from drivedit.models.conditions.layout import outlines, seen_from
from drivedit.utils import Route, advance_pose, generator, motion_between

TALL = SIZE[0] / SIZE[1]
TOKENS = SIZE[0] // 4, SIZE[1] // 4
HERE = torch.tensor([[3.0, -2.0, 0.4]])


@pytest.fixture(scope="module")
def window() -> Ground:
    return Ground(bev_config())


def noise(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, name))


def test_places_seen_from_one_pose_are_where_another_sees_them():
    poses = torch.tensor([[1.0, 2.0, 0.3], [4.0, -1.0, -1.2]])
    ahead, right = noise("ahead", 2, 5), noise("right", 2, 5)
    anchor = torch.tensor([[0.5, 0.5, 2.0]]).expand(2, -1)
    moved = torch.stack([ahead, right, 0 * ahead], -1)
    world = advance_pose(poses[:, None].expand(-1, 5, -1), moved)
    seen = motion_between(anchor[:, None].expand(-1, 5, -1), world)
    found = beside(motion_between(anchor, poses), ahead, right)
    for axis in range(2):
        assert torch.allclose(found[axis], seen[..., axis], atol=1e-5)


def test_cells_are_read_where_they_lie(window):
    ground = noise("ground", 1, 4, 32, 16)
    assert torch.allclose(window.read(ground, window.ahead, window.right), ground, atol=1e-5)
    between = window.read(ground, window.ahead + 0.5, window.right)[:, :, :-1]
    assert torch.allclose(between, (ground[:, :, :-1] + ground[:, :, 1:]) / 2, atol=1e-5)
    assert not window.read(ground, window.ahead + 100, window.right).any(), "beyond the window there is nothing"


def test_what_pictures_say_is_lifted_to_where_they_show_it(window):
    rows, columns = SIZE
    across, down = torch.linspace(-1, 1, columns + 1), torch.linspace(-1, 1, rows + 1)
    grid = torch.stack(torch.meshgrid((down[1:] + down[:-1]) / 2, (across[1:] + across[:-1]) / 2, indexing="ij"))
    rel = torch.tensor([[0.5, -0.3, 0.1]])
    lifted = window.lifted(grid[None], rel, (0.0, 1.0))
    assert lifted.shape == (1, 6, 32, 16)
    ahead, right = window.places(rel)
    for part, height in zip(lifted.split(3, 1), (0.0, 1.0), strict=True):
        depth, aside, up = seen_from(CAMERA, torch.zeros(3), ahead, -right, torch.full_like(ahead, height))
        scale = depth * math.tan(math.radians(CAMERA.fov / 2))
        there = part[:, 2] > 0
        inner = there & ((aside / scale).abs() < 0.95) & ((up / scale / TALL).abs() < 0.95)
        assert inner.sum() > 20 and not part[:, :2][:, :, ~there[0]].any()
        assert torch.allclose(part[:, 0][inner], (-up / scale / TALL)[inner], atol=1e-3)
        assert torch.allclose(part[:, 1][inner], (aside / scale)[inner], atol=1e-3)


def test_colours_of_the_road_are_lifted_to_parts_of_cells(window):
    rows, columns = SIZE
    across, down = torch.linspace(-1, 1, columns + 1), torch.linspace(-1, 1, rows + 1)
    grid = torch.stack(torch.meshgrid((down[1:] + down[:-1]) / 2, (across[1:] + across[:-1]) / 2, indexing="ij"))
    rel = torch.tensor([[0.5, -0.3, 0.1]])
    painted = window.painted(grid[None], rel)
    assert painted.shape == (1, 2 * FINER**2 + 1, 32, 16)
    parts = F.pixel_shuffle(painted[:, :-1], FINER)
    ahead, right = beside(rel, window.ahead_finer, window.right_finer)
    depth, aside, up = seen_from(CAMERA, torch.zeros(3), ahead, -right, torch.zeros_like(ahead))
    scale = depth * math.tan(math.radians(CAMERA.fov / 2))
    there = F.interpolate(painted[:, -1:], scale.shape[-2:])[:, 0] > 0
    inner = there & ((aside / scale).abs() < 0.95) & ((up / scale / TALL).abs() < 0.95)
    assert inner.sum() > 300
    assert torch.allclose(parts[:, 0][inner], (-up / scale / TALL)[inner], atol=1e-3)
    assert torch.allclose(parts[:, 1][inner], (aside / scale)[inner], atol=1e-3)
    middle = (window.ahead_finer.unflatten(1, (-1, FINER)).mean(2).unflatten(2, (-1, FINER)).mean(3), window.ahead)
    assert torch.allclose(*middle, atol=1e-5), "parts lie in their cells"


def test_every_pixel_of_the_road_is_looked_up_where_the_camera_sees_it():
    world = make_bev_world()
    ahead, right = world.ground_pixels[:, 20:, 4:-4]
    depth, aside, up = seen_from(CAMERA, torch.zeros(3), ahead, -right, torch.zeros_like(ahead))
    scale = depth * math.tan(math.radians(CAMERA.fov / 2))
    columns = (torch.arange(4, 60) + 0.5) / 64 * 2 - 1
    rows = (torch.arange(20, 32) + 0.5) / 32 * 2 - 1
    assert torch.allclose(aside / scale, columns.expand_as(scale), atol=1e-4)
    assert torch.allclose(-up / scale / TALL, rows[:, None].expand_as(scale), atol=1e-4)


def test_the_route_is_told_where_it_lies(window):
    route = Route.from_points([LINE, None], [False, False])
    pose = torch.tensor([[0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])  # the route lies 2 m to the right
    road = window.road(route, torch.tensor([40.0, 0.0]), pose)
    best = road[0, 0].argmax(1)
    assert road[0, 1].all() and not road[1].any()
    assert torch.allclose(window.right[0, 0, best], torch.tensor(2.0), atol=0.51)
    beyond = (window.right[0] - 2.0).abs()
    assert torch.allclose(road[0, 0], 1 / (1 + (beyond / 4) ** 2), atol=1e-3)
    turned = window.road(route, torch.tensor([40.0, 0.0]), pose + torch.tensor([0.0, 0.0, torch.pi]))
    assert torch.allclose(window.right[0, 0, turned[0, 0].argmax(1)], torch.tensor(-2.0), atol=0.51)


def test_windows_follow_by_whole_cells_and_turn_when_the_car_has_turned(window):
    stride = window.stride
    gone = torch.tensor([
        [stride - 0.1, 0.0, 0.0], [stride + 0.4, 0.3, 0.1], [0.0, ASIDE + 1, 0.0], [-9.0, 0.0, 0.0],
        [1.0, 0.2, TURN + 0.1],
    ])  # fmt: skip
    anchor = HERE.expand(5, -1)
    pose = advance_pose(anchor, gone)
    left, following = window.left(anchor, pose)
    assert left.tolist() == [False, True, True, True, True] and torch.equal(following[0], anchor[0])
    moved = motion_between(anchor, following)
    assert torch.allclose(moved[1], torch.tensor([4.0, 0.0, 0.0]), atol=1e-5)
    assert torch.allclose(moved[2:4], torch.tensor([[0.0, 9.0, 0.0], [-9.0, 0.0, 0.0]]), atol=1e-5)
    assert torch.equal(following[4], pose[4])
    ground = noise("moved", 1, 4, 32, 16)
    shifted, known = window.moved(ground, anchor[1:2], following[1:2])
    assert known[:, :, :-4].all() and not known[:, :, -4:].any() and not shifted[:, :, -4:].any()
    assert torch.allclose(shifted[:, :, :-4], ground[:, :, 4:], atol=1e-4)


def layout(*ahead: float) -> torch.Tensor:
    boxes = torch.from_numpy(box_ahead()).repeat(len(ahead), 1)
    boxes[:, 0] = torch.tensor(ahead)
    return boxes[None]


def test_cells_are_told_of_the_nearest_other_that_shows_in_them():
    boxes, looks = layout(8.0, 20.0), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    maps = told_maps(CAMERA, TOKENS, TALL, boxes, looks, torch.zeros(1, 3))
    assert maps.shape == (1, TOLD + 2, 8, 16)
    somebody = maps[0, TOLD - 1] > 0
    assert 0 < somebody.sum() < 40 and not maps[0][:, ~somebody].any()
    assert set(maps[0, TOLD, somebody].tolist()) == {1.0}, "the near one hides the far one"
    assert maps[0, 0].max() <= 1 and maps[0, 1:3, somebody].amax() <= 1.5
    beside_it = boxes.clone()
    beside_it[0, 1, 1] = 6.0
    both = told_maps(CAMERA, TOKENS, TALL, beside_it, looks, torch.zeros(1, 3))
    assert set(both[0, TOLD][both[0, TOLD - 1] > 0].tolist()) == {1.0, 3.0}
    assert not told_maps(CAMERA, TOKENS, TALL, 0 * boxes, looks, torch.zeros(1, 3)).any()


def test_who_was_there_keeps_its_looks_and_others_get_new_ones():
    old, looks = layout(8.0, 30.0), noise("looks", 1, 2, 4)
    drawn = noise("drawn", 1, 2, 4)
    found = inherited(layout(31.0, 60.0), (old, looks), drawn)
    assert torch.equal(found[0, 0], looks[0, 1]) and torch.equal(found[0, 1], drawn[0, 1])
    assert torch.equal(inherited(layout(8.0, 30.0), (0 * old, looks), drawn), drawn), "nobody was there"
    assert torch.equal(inherited(old, (old[:, :0], looks[:, :0]), drawn), drawn)


def test_looks_are_those_of_the_picture_where_another_is_seen():
    features = noise("features", 1, 4, *TOKENS)
    boxes, drawn = layout(10.0, -10.0), noise("drawn", 1, 2, 4)
    found = seen_looks(features, CAMERA, TALL, boxes, torch.zeros(1, 3), drawn)
    assert torch.equal(found[0, 1], unseen_looks(drawn)[0, 1]) and not found[0, 1, 4:].any(), "behind the car"
    assert not torch.equal(found[0, 0, :4], drawn[0, 0])
    low, high, _ = outlines(CAMERA, boxes, torch.zeros(1, 3))
    assert torch.allclose(found[0, 0, 4:] * torch.tensor([1.0, TALL] * 2), torch.cat([low, high], -1)[0, 0])
    brighter = seen_looks(features + 1, CAMERA, TALL, boxes, torch.zeros(1, 3), drawn)
    assert torch.allclose(brighter[0, 0, :4], found[0, 0, :4] + 1, atol=1e-5)


def test_others_are_carried_from_where_the_start_picture_shows_them():
    size, pose = (32, 64), torch.zeros(1, 3)
    then, now = layout(12.0, 30.0), layout(8.0, -10.0)
    then[..., 1], now[..., 1] = torch.tensor([1.0, -2.0]), torch.tensor([2.0, -2.0])
    looks = seen_looks(noise("features", 1, 4, *TOKENS), CAMERA, TALL, then, pose, torch.zeros(1, 2, 4))
    place, shown = carried(CAMERA, size, TALL, now, looks, pose)
    unit = torch.tensor([1.0, TALL])
    (low, high, _), (before, after, _) = (outlines(CAMERA, boxes, pose) for boxes in (now, then))
    rows, columns = shown[0].nonzero().unbind(1)
    here = torch.stack([(columns + 0.5) / 64 * 2 - 1, (rows + 0.5) / 32 * 2 - 1], -1) * unit
    assert len(here) > 20 and (here > low[0, 0]).all() and (here < high[0, 0]).all(), (
        "within its outline, nobody else's"
    )
    share = (here - low[0, 0]) / (high - low)[0, 0]
    wanted = before[0, 0] + share * (after - before)[0, 0]
    assert torch.allclose(place[0][shown[0]] * unit, wanted, atol=1e-4)
    hidden = carried(CAMERA, size, TALL, torch.cat([now, layout(5.0)], 1), F.pad(looks, (0, 0, 0, 1)), pose)[1]
    assert hidden.sum() < shown.sum() and not (hidden & ~shown).any(), "somebody nearer is before it"
    assert not carried(CAMERA, size, TALL, now, unseen_looks(looks[..., :4]), pose)[1].any()
    same, shown = carried(CAMERA, size, TALL, then, looks, pose)
    grid = torch.stack(
        torch.meshgrid((torch.arange(64) + 0.5) / 32 - 1, (torch.arange(32) + 0.5) / 16 - 1, indexing="xy"), -1
    )
    assert shown.any() and torch.allclose(same[0][shown[0]], grid[shown[0]], atol=1e-5), "at first it is where it is"


def test_cells_are_told_on_which_side_of_the_route_they_lie_and_where_it_leads(window):
    line = np.stack([np.linspace(-100, 100, 101), np.zeros(101)], -1)
    route = Route.from_points([line, line[::-1], None], [False] * 3)
    pose = torch.tensor([[0.0, 2.0, 0.2]] * 3)
    told = window.road(route, route.foot(pose[:, :2], None), pose)
    assert told.shape == (3, ROAD, 32, 16) and not told[2].any()
    assert torch.allclose(told[0], told[1], atol=1e-4), "the way the car faces, whichever way it is told"
    near, there, fine, coarse, ahead, right = told[0]
    x, y = (each[0] for each in beside(torch.zeros(1, 3), window.ahead, window.right))
    south = -(2.0 + x * math.sin(0.2) - y * math.cos(0.2))  # metres to the right of the route
    assert torch.allclose(fine, (south / 4).tanh(), atol=1e-3) and torch.allclose(
        coarse, (south / 16).tanh(), atol=1e-3
    )
    assert torch.allclose(near, 1 / (1 + (south / 4) ** 2), atol=1e-3) and (there == 1).all()
    assert torch.allclose(ahead, torch.tensor(math.cos(0.2))) and torch.allclose(right, torch.tensor(math.sin(0.2)))
