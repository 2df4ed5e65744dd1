"""Columns of a picture: where the ground is read for them, and that the near hides the far."""

import math

import pytest
import torch
from helpers.fields import CAMERA, SIZE, make_bev_world

from drivedit.models.bev.columns import DISTANCES, HEADS, KEY, PER_CELL, Columns
from drivedit.models.conditions.layout import seen_from
from drivedit.utils import generator

CODE = torch.zeros(1, 4)


@pytest.fixture
def columns() -> Columns:
    found = make_bev_world(noise=0.0).renderer.columns
    for block in found.blocks:
        block.get_parameter("scale").data.zero_()  # so what is read stays where it was read
    return found


def drawn(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, name))


def test_the_ground_is_read_along_the_ray_of_each_column(columns):
    depth, aside, _ = seen_from(
        CAMERA, torch.zeros(3), columns.ahead, -columns.right, torch.full_like(columns.ahead, 1.5)
    )
    across = aside / depth / math.tan(math.radians(CAMERA.fov / 2))
    wanted = (torch.arange(SIZE[1] // 4 * PER_CELL) + 0.5) / (SIZE[1] // 4 * PER_CELL) * 2 - 1
    assert torch.allclose(across, wanted.expand_as(across), atol=0.01)
    away = columns.ahead[:, 0] - CAMERA.ahead
    steps = away[1:] / away[:-1]
    assert torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-3), "steps grow with the distance"
    assert away.max() == pytest.approx(28.0, rel=1e-3), "up to the end of the window"


def test_at_first_a_row_sees_the_road_where_it_meets_it(columns):
    columns.rows.data.zero_()
    ground = drawn("ground", 1, 4, DISTANCES, 32)
    seen = columns(ground, CODE)
    assert seen.shape == (1, columns.values_dim, 8, 16)
    meets = (columns.there[0] > 0).float().argmax(1)[-3:].tolist()
    assert meets == sorted(meets, reverse=True) and meets[0] > 0
    for row, first in zip((5, 6, 7), meets, strict=True):
        there, beyond = ground.clone(), ground.clone()
        there[:, :, first : first + 3], beyond[:, :, first + 8 :] = 0, 0
        change = [(columns(each, CODE) - seen)[:, :, row].abs().max() for each in (there, beyond)]
        assert change[0] > 0.01 and change[1] < 0.05 * change[0], row


def test_what_is_opaque_hides_all_behind_it(columns):
    columns.rows.data.zero_()
    columns.there.data.fill_(-20.0)
    ground = drawn("ground", 1, 4, DISTANCES, 32)
    empty = columns(ground, CODE)
    assert empty.abs().max() < 1e-4, "nothing is there"
    columns.there.data[..., 10] = 20.0
    wall = columns(ground, CODE)
    columns.there.data[..., 30] = 20.0
    assert wall.abs().max() > 0.01 and torch.allclose(columns(ground, CODE), wall, atol=1e-5)
    columns.there.data[:, 3, 5] = 20.0
    nearer = columns(ground, CODE)
    assert not torch.allclose(nearer[:, :, 3], wall[:, :, 3], atol=1e-3)
    assert torch.allclose(nearer[:, :, 4], wall[:, :, 4], atol=1e-5), "rows compose for themselves"


def test_what_is_there_depends_on_the_ground(columns):
    ground = drawn("ground", 1, 4, DISTANCES, 32)
    columns.rows.data.copy_(drawn("rows", HEADS, 8, KEY))
    first = columns(ground, CODE)
    other = ground.clone()
    other[:, :, 20, 16] += 2
    changed = (columns(other, CODE) - first).abs().amax((0, 1))
    assert changed[:, 8].max() > 1e-3 and not changed[:, 9:].any() and not changed[:, :8].any()
