"""Hand-drawn routes go on smoothly where the road ends that the picture shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivedit.inference.routes import AHEAD, BEHIND, CLEAR, FELT, RADII, draw_route, random_route
from drivedit.models import DiTWorld
from drivedit.models.conditions.route import route_code
from drivedit_env.env import DriveDiTEnv


def ellipse(count: int = 120) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([130 * np.cos(angles), 80 * np.sin(angles)], 1)


def zigzag() -> np.ndarray:
    x = np.arange(0, 400, 3.0)
    return np.stack([x, 40 * np.sin(x / 40)], 1)


def turns(route: np.ndarray) -> np.ndarray:
    """Changes of heading (rad) from segment to segment."""
    step = np.diff(route.astype(np.float64), axis=0)
    heading = np.arctan2(step[:, 1], step[:, 0])
    return (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi


@pytest.mark.parametrize(("drawing", "closed"), [(ellipse(), True), (zigzag(), False)])
@pytest.mark.parametrize("backwards", [False, True])
def test_position_and_heading_are_continuous(tiny_world: DiTWorld, drawing, closed, backwards):
    scene = tiny_world.scenes[1]
    assert scene.poses is not None and scene.route is not None
    if backwards:
        scene = replace(scene, poses=scene.poses + np.array([0, 0, np.pi], np.float32))
    drawn, arc = draw_route(scene, drawing, closed)
    assert drawn.route is not None and not drawn.closed and arc == BEHIND
    steps = np.linalg.norm(np.diff(drawn.route, axis=0), axis=1)
    assert steps.max() < 8.0 and steps.min() > 0.1
    assert np.abs(turns(drawn.route)).max() < 0.13  # no kink beyond the drawing's own bends
    length = np.concatenate([[0], np.cumsum(steps)])
    kept = drawn.route[length < BEHIND + AHEAD - 1]
    assert np.abs(np.linalg.norm(kept, axis=1) - 150).max() < 0.5, "the scene's own circle is kept in sight"
    car = drawn.poses[-1]  # type: ignore[index]
    near = int(np.linalg.norm(kept - car[:2], axis=1).argmin())
    assert length[near] == pytest.approx(arc, abs=3.0)
    heading = kept[near + 1] - kept[near]
    assert heading @ [np.cos(car[2]), np.sin(car[2])] > 0, "the route leads where the car faces"


def test_the_drawing_keeps_its_shape(tiny_world: DiTWorld):
    drawn, _ = draw_route(tiny_world.scenes[0], zigzag(), False)
    assert drawn.route is not None
    tail = drawn.route[-len(zigzag()) + 1 :]
    assert np.allclose(turns(tail), turns(zigzag()[1:]), atol=1e-3)
    assert np.allclose(
        np.linalg.norm(np.diff(tail, axis=0), axis=1), np.linalg.norm(np.diff(zigzag()[1:], axis=0), axis=1), atol=1e-3
    )


def test_a_loop_is_driven_lap_after_lap(tiny_world: DiTWorld):
    drawn, _ = draw_route(tiny_world.scenes[0], ellipse(), True)
    assert drawn.route is not None
    assert np.linalg.norm(np.diff(drawn.route, axis=0), axis=1).sum() > 2000
    whole = turns(drawn.route[60:]).sum()
    assert whole > 3 * 2 * np.pi  # counter-clockwise as drawn, four laps


def test_random_roads_can_be_driven():
    """Bends are as sharp as told and no sharper, and the road does not touch what it has just passed."""
    sharpest, lefts = [], []
    for seed in range(30):
        route = random_route(np.random.default_rng(seed))
        steps = np.linalg.norm(np.diff(route, axis=0), axis=1)
        assert steps == pytest.approx(3.0) and steps.sum() >= 2000
        bends = turns(route) / 3.0
        assert np.abs(bends).max() <= 1 / RADII[0] + 1e-9
        sharpest.append(1 / np.abs(bends).max())
        lefts.append(bends[bends != 0] > 0)
        apart = np.linalg.norm(route[:, None] - route, axis=-1)
        lag = 3.0 * np.abs(np.subtract.outer(np.arange(len(route)), np.arange(len(route))))
        assert apart[(lag > 60) & (lag < FELT - 10)].min() > CLEAR - 1
    assert RADII[0] <= np.median(sharpest) < 12.5 and 0.5 < np.concatenate(lefts).mean() < 0.7


def test_the_seed_draws_the_random_road(tiny_world: DiTWorld):
    routes = []
    for env, seed in ((DriveDiTEnv(tiny_world), 3), (DriveDiTEnv(tiny_world), 3), (DriveDiTEnv(tiny_world), 4)):
        env.reset(seed=seed, options={"scene": 0, "route": "random"})
        routes.append(env.get_state().world.route.points)
    assert torch.equal(routes[0], routes[1])
    assert routes[0].shape != routes[2].shape or not torch.allclose(routes[0], routes[2])
    with pytest.raises(ValueError, match="'random' or an array"):
        env.reset(options={"route": "spiral"})


@pytest.mark.parametrize("poses", [True, False])
def test_without_a_road_the_drawing_begins_at_the_car(tiny_world: DiTWorld, poses):
    scene = tiny_world.scenes[0].with_route(None)
    if not poses:
        scene = replace(scene, poses=None)
    drawn, arc = draw_route(scene, ellipse(), True)
    assert drawn.closed and arc == 0.0 and drawn.route is not None
    x, y, yaw = scene.poses_or_start()[-1]
    assert np.allclose(drawn.route[0], [x, y], atol=1e-4)
    step = drawn.route[1] - drawn.route[-1]
    assert np.arctan2(step[1], step[0]) == pytest.approx(yaw, abs=0.02)


def test_the_network_is_told_the_drawn_road(tiny_world: DiTWorld):
    """At the start it hears the road that it sees; as the car moves on, the drawing."""
    env = DriveDiTEnv(tiny_world)
    codes = []
    for options in ({"scene": 0}, {"scene": 0, "route": zigzag()}):
        env.reset(seed=0, options=options)
        state = env.get_state().world
        route = state.route
        offsets = torch.tensor([o for o in tiny_world.config.route_offsets if o <= 38.0])
        codes.append(route_code(route, state.pose, state.arc, offsets, tiny_world.config.route_scale))
    assert torch.allclose(codes[0], codes[1], atol=0.03)
    assert state.arc.item() == pytest.approx(BEHIND, abs=2.0)


def test_the_car_stands_on_the_right_lap(tiny_world: DiTWorld):
    """A drawing that passes the start again must not put the car on a later lap."""
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    env = DriveDiTEnv(tiny_world)
    circle = 150 * np.stack([np.cos(angles), np.sin(angles)], 1)  # exactly the scene's own road, again and again
    env.reset(seed=0, options={"scene": 0, "route": circle, "closed": True})
    assert env.get_state().world.arc.item() == pytest.approx(BEHIND, abs=3.0)
