"""Traffic that nobody told of: how others drive on, who comes, and where newcomers are put."""

from dataclasses import replace

import pytest
import torch
from helpers.fields import bev_config, box_ahead, make_bev_world

from drivedit.models import BevWorld
from drivedit.models.bev.traffic import APART, KEPT, Traffic, all_of, as_box, gone_from, joined, one_of
from drivedit.models.conditions.layout import drive_on
from drivedit.utils import advance_pose

MAP = (8, 4)  # of the tiny world's window of 32 x 16 m, in cells of 4 m


def some_traffic(seed: int = 0) -> Traffic:
    torch.manual_seed(seed)
    traffic = Traffic(bev_config())
    for weight in traffic.parameters():
        weight.data.add_(0.3 * torch.randn(weight.shape))
    return traffic


def some_others(rows: int = 2, others: int = 3, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    place = torch.rand(rows, others, 2) * torch.tensor([24.0, 12.0]) - torch.tensor([2.0, 6.0])
    size = torch.tensor([0.75, 4.5, 1.8, 1.5]).expand(rows, others, -1)
    return torch.cat([place, size, torch.randn(rows, others, 1), 3 + 5 * torch.rand(rows, others, 1)], -1)


def setting(rows: int = 2, seed: int = 2):
    """A ground, the pose of its window, and a car."""
    torch.manual_seed(seed)
    ground, anchor = torch.randn(rows, 4, 32, 16), torch.zeros(rows, 3)
    return ground, anchor, as_box(torch.randn(rows, 3) * 0.3, torch.full((rows,), 0.8), 0.1)


def moved_by(boxes: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Boxes as they stand in a plane that is turned and shifted: by where its origin lies, `[3]`."""
    pose = advance_pose(by.expand(*boxes.shape[:-1], 3), from_pose(boxes[..., [0, 1, 6]]))
    return torch.cat([pose[..., :2], boxes[..., 2:6], pose[..., 2:], boxes[..., 7:]], -1)


def from_pose(pose: torch.Tensor) -> torch.Tensor:
    """The ego-motion from the origin to a pose."""
    return pose * pose.new_tensor([1.0, -1.0, -1.0])


def test_who_has_learned_nothing_goes_straight_on_and_nobody_comes():
    world, others = make_bev_world(noise=0.0), some_others()
    traffic, (ground, anchor, car) = Traffic(world.config), setting()
    straight = drive_on(others, world.start(world.scenes[1:] * 2, [0, 1]).route, 0.1)
    assert torch.allclose(traffic.driven(world.window, ground, anchor, others, car), straight, atol=1e-5)
    coming = traffic(ground, anchor, others, car, torch.zeros(2))
    assert coming.shape == (2, 9, *MAP) and (coming[:, 0].sigmoid() < 1e-3).all()


def test_how_others_drive_does_not_depend_on_where_the_plane_begins_or_on_their_order():
    world, traffic, others = make_bev_world(), some_traffic(), some_others()
    ground, anchor, car = setting()
    after = traffic.driven(world.window, ground, anchor, others, car)
    assert not torch.allclose(after[..., 7], others[..., 7], atol=1e-2), "they speed up and brake"
    by = torch.tensor([30.0, -12.0, 2.0])
    there = advance_pose(by.expand(2, 3), from_pose(anchor))
    shifted = traffic.driven(world.window, ground, there, moved_by(others, by), moved_by(car, by))
    assert torch.allclose(shifted[..., :6], moved_by(after, by)[..., :6], atol=1e-3)
    assert torch.allclose(shifted[..., 7], after[..., 7], atol=1e-3)
    order = [2, 0, 1]
    assert torch.allclose(
        traffic.driven(world.window, ground, anchor, others[:, order], car), after[:, order], atol=1e-5
    )
    coming, again = (traffic(ground, anchor, each, car, torch.zeros(2)) for each in (others, others[:, order]))
    assert torch.allclose(coming, again, atol=1e-5)


def test_each_sees_everybody_else_and_the_car_and_the_ground_but_nobody_who_is_not_there():
    world, traffic, others = make_bev_world(), some_traffic(), some_others()
    ground, anchor, car = setting()
    after = traffic.driven(world.window, ground, anchor, others, car)[:, 0]
    nobody = torch.zeros(2, 1, 8)
    alone = traffic.driven(world.window, ground, anchor, torch.cat([others, nobody], 1), car)
    assert torch.allclose(alone[:, 0], after, atol=1e-5) and not alone[:, 3].any()
    for other in (
        traffic.driven(world.window, ground, anchor, others[:, :1], car),
        traffic.driven(world.window, ground, anchor, others, car + torch.tensor([3.0, *[0.0] * 6, 9.0])),
        traffic.driven(world.window, -ground, anchor, others, car),
    ):
        assert not torch.allclose(other[:, 0], after, atol=1e-4)


def test_newcomers_are_placed_where_the_map_tells():
    traffic = some_traffic()
    torch.manual_seed(0)
    anchor = torch.tensor([[3.0, -2.0, 0.7], [0.0, 0.0, -2.0]])
    rel = torch.stack([torch.rand(2, 5) * 31 - 3.9, torch.rand(2, 5) * 15 - 7.9, torch.randn(2, 5)], -1)
    pose = advance_pose(anchor[:, None].expand(-1, 5, -1), rel)
    size = torch.tensor([4.5, 1.8, 1.5]).expand(2, 5, -1)
    boxes = torch.cat([pose[..., :2], size[..., 2:] / 2, size, pose[..., 2:], 7 * torch.rand(2, 5, 1)], -1)
    cell, inside = traffic.cells_of(anchor, boxes, MAP)
    assert inside.all()
    told, maps = traffic.unplaced(anchor, boxes), torch.zeros(2, 9, MAP[0] * MAP[1])
    for other in range(5):
        maps[torch.arange(2), 1:, cell[:, other]] = told[:, other]
        placed = traffic.placed(maps.unflatten(2, MAP), anchor, cell[:, other : other + 1])[:, 0]
        wanted = boxes[:, other]
        assert torch.allclose(placed[:, :6], wanted[:, :6], atol=1e-4)
        assert torch.allclose((placed[:, 6] - wanted[:, 6]).cos(), torch.ones(2), atol=1e-5)
        assert torch.allclose(placed[:, 7], wanted[:, 7], atol=1e-4)
    _, inside = traffic.cells_of(anchor, torch.cat([boxes[:, :1] + 100, torch.zeros(2, 1, 8)], 1), MAP)
    assert not inside.any()


def test_who_comes_is_drawn_as_the_map_tells():
    coming = torch.full((1, 9, 2, 2), -20.0)
    coming[0, 0, 0, 1], coming[0, 0, 1, 1] = torch.tensor([0.2, 0.3]).logit()
    uniform = (torch.arange(1000) + 0.5) / 1000
    cell, comes = one_of(coming.expand(1000, -1, -1, -1), uniform)
    counted = [int((comes & (cell == n)).sum()) for n in range(4)]
    assert counted == pytest.approx([0, 200, 0, 300], abs=1) and int((~comes).sum()) == pytest.approx(500, abs=1)
    cell, comes = all_of(coming.expand(1000, -1, -1, -1), uniform[:, None, None].expand(-1, 2, 2), 3)
    counted = [int((comes & (cell == n)).sum()) for n in range(4)]
    assert cell.shape == (1000, 3) and counted == pytest.approx([0, 200, 0, 300], abs=1)


def test_newcomers_take_free_places_then_the_farthest_ones():
    others = torch.zeros(1, 2, 8)
    others[0, 0] = torch.from_numpy(box_ahead(20.0)[0])
    looks, car = torch.zeros(1, 2, 1), as_box(torch.zeros(1, 3), torch.ones(1), 0.1)
    assert car[0, 7] == 10.0
    box, look, yes = torch.from_numpy(box_ahead(60.0))[None], torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)
    both, looked = joined(others, looks, (box, yes, look), car)
    assert both[0, :, 0].tolist() == [20.0, 60.0] and looked.flatten().tolist() == [0.0, 1.0]
    third = torch.from_numpy(box_ahead(40.0))[None]
    full, _ = joined(both, looked, (third, yes, look), car)
    assert full[0, :, 0].tolist() == [20.0, 40.0], "the farthest one made room"
    for place, comes in ((20.0 + 0.9 * APART, yes), (0.5 * APART, yes), (KEPT + 1, yes), (40.0, ~yes)):
        same, _ = joined(both, looked, (torch.from_numpy(box_ahead(place))[None], comes, look), car)
        assert torch.equal(same, both)
    assert gone_from(both + torch.tensor([KEPT - 30, *[0.0] * 7]), torch.zeros(1, 3))[0, :, 3].tolist() == [4.5, 0.0]


@pytest.fixture
def busy() -> BevWorld:
    """A world in which somebody comes in nearly every frame."""
    world = make_bev_world(noise=0.0, others=3)
    assert world.traffic is not None and world.traffic.coming.bias is not None
    world.traffic.coming.bias.data[:] = torch.tensor([-3.0, 0, 0, 1.0, 0, 0.5, 0.9, 0.36, 0.3])
    world.traffic.does.bias.data[:] = torch.tensor([-1.0, 0.0])
    return world


def test_a_free_world_dreams_traffic_and_a_told_one_has_whom_it_was_told_of(busy):
    told = busy.condition(busy.start(busy.scenes[:1], [0]), {"layout": box_ahead(14.0)})
    free = replace(told, told=torch.zeros(1, dtype=torch.bool))
    after, _ = busy.step(told, torch.zeros(1, 2))
    wanted = drive_on(told.others, told.route, 0.1)
    assert torch.equal(after.others, wanted) and after.others[0, 0, 7] == 3.0
    dreamed, _ = busy.step(free, torch.zeros(1, 2))
    assert dreamed.others[0, 0, 7] == pytest.approx(3.0 - 0.3), "it brakes by 3 m/s^2"
    for _ in range(6):
        dreamed, _ = busy.step(dreamed, torch.zeros(1, 2))
    assert (dreamed.others[0, :, 3] > 0).sum() > 1, "somebody has come"
    busy.check_state(dreamed)
    apart = torch.cdist(dreamed.others[0, :, :2], dreamed.others[0, :, :2]) + 1e3 * torch.eye(3)
    assert apart.min() > APART / 2


def test_who_comes_is_one_future_of_a_seed(busy):
    def dreamed(seed: int) -> list[torch.Tensor]:
        state = busy.start(busy.scenes[1:], [seed])
        seen = [state.others]
        for _ in range(3):
            state, _ = busy.step(state, torch.zeros(1, 2))
            seen.append(state.others)
        return seen

    first, again, other = dreamed(0), dreamed(0), dreamed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[-1], other[-1])
    assert (first[0][0, :, 3] > 0).any(), "some are there at the start, out of sight"
    state = busy.start(busy.scenes[1:] * 2, [0, 1])
    both, _ = busy.step(state, torch.zeros(2, 2))
    assert torch.allclose(both.others[0], first[1][0], atol=1e-5), "rows are worlds of their own"
