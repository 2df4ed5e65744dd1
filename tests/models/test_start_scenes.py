"""Drawn frames as start scenes: what lies between them, how the car came, and worlds that begin with them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.fields import make_bev_world
from helpers.generated import ATTRIBUTES, make_generator
from helpers.worlds import film_spec, make_world

from drivedit.config import WorldSpec
from drivedit.models import World
from drivedit.models.pixel.generator import SceneGenerator
from drivedit.models.pixel.start_scenes import blended, draw_scenes, scene_of
from drivedit.utils import generator

SPEC = film_spec(8, 16, attributes=ATTRIBUTES, dt=0.1)
FRAMES = np.stack([np.full((8, 16, 3), value, np.uint8) for value in (10, 50, 0)])


def generator_of(world: World, **changes: Any) -> SceneGenerator:
    """A generator of the pictures of a world."""
    spec = world.spec
    told = WorldSpec("", spec.only([spec.picture]).observations, attributes=spec.attributes, dt=spec.dt)
    return make_generator(spec=told, **changes)


def test_frames_in_between_are_blended_and_the_drawn_ones_stay():
    found = blended(FRAMES, 4)
    assert found[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50, 38, 25, 12, 0] and found.dtype == np.uint8
    assert np.array_equal(blended(FRAMES, 1), FRAMES)
    assert np.array_equal(blended(FRAMES[:1], 1), FRAMES[[0, 0]])


def test_a_scene_tells_how_the_car_came():
    scene = scene_of(FRAMES, SPEC, 2, 12.0, {"time": "night", "mood": "good"})
    assert len(scene.frames) == 5 and np.array_equal(scene.frames[[0, 2, 4]], FRAMES)
    assert scene.poses is not None and not scene.poses[:, 1:].any()
    assert np.allclose(np.diff(scene.poses[:, 0]), 12.0 * SPEC.dt) and not scene.poses[-1].any()
    assert scene.controls.tolist() == [SPEC.rest] * 4 and scene.attributes == {"time": "night"}
    assert scene_of(FRAMES, SPEC, 2).poses is None and scene.route is None
    with pytest.raises(ValueError, match="attributes"):
        scene_of(FRAMES, SPEC, 2, attributes={"time": "dawn"})


@pytest.mark.parametrize(("make", "apart"), [(make_world, 1), (make_bev_world, 4)])
@pytest.mark.parametrize("speed", [8.0, None])
def test_a_world_begins_with_scenes_that_are_drawn(make, apart, speed):
    world = make()
    drawn = draw_scenes(generator_of(world, apart=apart), world.spec, None, speed, 2, generator(0, "noise"))
    assert [len(scene.frames) for scene in drawn] == [apart + 1] * 2
    state, out = world.enter(drawn, [0, 1])
    assert out.reward.isfinite().all() and state.pose.shape == (2, 3)
    if speed is not None:
        motion = state.motion.reshape(2, 3) * world.motion_scale
        assert motion[:, 0] == pytest.approx([speed * world.spec.dt] * 2, rel=1e-3)
    rest = torch.tensor(world.spec.rest).expand(2, -1)
    for _ in range(3):
        state, out = world.step(state, rest)
    picture = world.observe(state, [world.spec.picture])[world.spec.picture]
    assert out.reward.isfinite().all() and (picture[0] != picture[1]).any()


def test_a_generator_of_another_configuration_is_named():
    made, noise = make_generator(), generator(0, "noise")
    for spec, message in (
        (
            film_spec(16, 16, attributes=ATTRIBUTES, dt=0.1),
            r"observations: the generator has .*\[8, 16, 3\].* the world has",
        ),
        (replace(SPEC, dt=0.5), "dt: the generator has 0.1, the world has 0.5"),
        (replace(SPEC, observations={"front": SPEC.observations["camera"]}), "the world has .*front"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_scenes(made, spec, None, 5.0, 1, noise)
    with pytest.raises(ValueError, match="'hail'"):
        draw_scenes(made, SPEC, {"weather": "hail"}, 5.0, 1, noise)
