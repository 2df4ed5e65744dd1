"""The map of who is around the car: in its place and direction, beside the picture it belongs to, or not at all."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from helpers.agents import boxes_at, make_reader
from helpers.worlds import BOXES, make_peopled_world

from drivedit.config.domains.street import SPEC as STREET
from drivedit.models import DiTWorld
from drivedit.utils import Truth
from drivedit.utils.episodes import Agents
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.screen import Screen
from drivedit_env.viewer.session import Session
from drivedit_env.viewer.surroundings import (
    GROUND,
    OTHER,
    OWN,
    REACH,
    READ,
    ROAD,
    Surroundings,
    draw_map,
    surroundings_of_truth,
    with_read,
)
from drivedit_env.viewer.viewer import Viewer

CAR = np.array([80.0, 2.5, np.pi / 2])  # where scene 0 ends: facing +y, so that -x is to the left
TRACK = 3  # of the street, with others near the start
GAS = np.array([0.0, 0.4], np.float32)


@pytest.fixture(scope="module")
def world() -> DiTWorld:
    world = make_peopled_world()
    world.config = replace(world.config, end_threshold=2.0)
    return world


def shows(image: np.ndarray, ahead: float, left: float, color: tuple[int, ...]) -> bool:
    """Whether the map has a colour at a place, in metres."""
    height, width = image.shape[:2]
    scale = height / 2 / REACH
    return bool(np.allclose(image[int(height / 2 - ahead * scale), int(width / 2 - left * scale)], color, atol=2))


def test_places_are_told_from_the_car():
    line = np.array([[80, 2.5], [80, 22.5], [60, 22.5]])
    around = Surroundings.seen_from(CAR, BOXES, line)
    assert np.allclose(around.boxes[:, :2], [[9.5, 0], [17.5, -4], [6.5, 10]], atol=1e-5)
    assert np.allclose(around.boxes[:, 2:4], BOXES[:, 3:5]) and np.allclose(around.boxes[:, 4], BOXES[:, 6] - np.pi / 2)
    assert np.allclose(around.route, [[0, 0], [20, 0], [20, 20]], atol=1e-5)
    loop = Surroundings.seen_from(CAR, BOXES, line, closed=True)
    assert np.array_equal(loop.route, [*around.route, around.route[0]])
    assert Surroundings.seen_from(CAR, BOXES[:0]).boxes.shape == (0, 5), "nobody there"


def test_the_map_shows_them_where_they_are():
    boxes = np.array([[20, 5, 8, 4, np.pi / 2], [-15, -6, 6, 2, 0], [1e7, 3, 4, 2, 0]], np.float32)
    image = draw_map(Surroundings(boxes, np.array([[-1e8, 0], [30, 0], [30, 99]], np.float32)), 400)
    assert image.shape == (400, 280, 4) and not image[[0, 0, -1, -1], [0, -1, 0, -1], 3].any(), "corners are round"
    for ahead, left, color in (
        (0, 0, OWN), (20, 5, OTHER), (20, 8, OTHER), (20, 1.5, OTHER), (24, 5, GROUND), (-15, -6, OTHER),
        (-17.5, -6, OTHER), (-15, 6, GROUND), (15, 0, ROAD), (-25, 0, ROAD), (30, 20, ROAD), (30, -20, GROUND),
    ):  # fmt: skip
        assert shows(image, ahead, left, color), (ahead, left)


def test_a_simulator_that_knows_of_nobody_has_no_map():
    nobody = Agents(np.zeros(2, int), np.zeros(0, int), np.zeros((0, 7), np.float32), np.zeros(0, int))
    assert surroundings_of_truth(Truth({}, CAR)) is None and surroundings_of_truth(Truth({}, agents=nobody)) is None
    empty = surroundings_of_truth(Truth({}, CAR, agents=nobody))
    assert empty is not None and not len(empty.boxes) and not len(empty.route), "an empty road is known, too"


def test_a_dream_has_one_where_it_is_told_of_others(world: DiTWorld, tmp_path: Path):
    assert Session(DriveDiTEnv(world), 0, folder=tmp_path).now.around == (None, None), "it dreams them"
    session = Session(DriveDiTEnv(world), 0, folder=tmp_path, layout=BOXES)
    first, real = session.now.around
    assert first is not None and real is None and np.abs(first.route).min(0).max() < 20
    assert (
        np.allclose(first.boxes[:, :2], [[9.5, 0], [6.5, 10]][: len(first.boxes)], atol=0.1) and len(first.boxes) == 2
    )
    moments = [session.step(GAS) for _ in range(3)]
    last = moments[-1].around[0]
    assert last is not None and not np.allclose(last.boxes[:, :2], first.boxes[:, :2], atol=0.2), "they have driven on"
    session.rewind()
    assert session.now.around is moments[1].around
    session.next_scene()
    without = session.now.around[0]
    assert without is not None and not len(without.route), "scene 1 has no route"


def test_a_key_shows_and_hides_it(world: DiTWorld, tmp_path: Path):
    viewer = Viewer(Session(DriveDiTEnv(world), 0, folder=tmp_path, layout=BOXES), Screen())
    viewer.paused = True

    def corner() -> np.ndarray:
        viewer.screen.draw(viewer.view(time.monotonic() + 60))
        surface = pygame.display.get_surface()
        assert surface is not None
        return pygame.surfarray.array3d(surface)[320:640, 10:320]

    with_map = corner()
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_m))
    viewer.tick()
    hidden = corner()
    assert (hidden != with_map).any(-1).mean() > 0.4
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_m))
    viewer.tick()
    assert np.array_equal(corner(), with_map)
    viewer.close()


def test_those_who_are_read_are_drawn_on_the_map_and_in_the_picture(world: DiTWorld, tmp_path: Path):
    reader = make_reader(image_size=(64, 64))
    viewer = Viewer(Session(DriveDiTEnv(world, readout=reader), 0, folder=tmp_path), Screen())
    moment = viewer.session.now
    assert (
        moment.around[0] is not None and len(moment.around[0].read) == (moment.info["agents"]["presence"] > 0.5).sum()
    )
    told = {"boxes": boxes_at((12.0, 0.0), (20.0, 3.0), (15.0, 3.0)), "presence": np.array([1.0, 0.75, 0.25])}
    around = with_read(None, told, reader.config)
    assert around.read[:, :2].tolist() == [[12, 0], [20, 3]] and not len(around.boxes)
    left, top, right, bottom = around.outlines[0]
    assert left + right == pytest.approx(1.0) and 0.4 < top < bottom < 0.8
    image = draw_map(around, 400)
    assert shows(image, 12 + 4.4 / 2, 0, READ) and shows(image, 12, 0, GROUND) and not shows(image, 15, 3.9, READ)
    viewer.session.now = replace(moment, around=(around, None))
    viewer.screen.draw(viewer.view(time.monotonic() + 60))
    surface = pygame.display.get_surface()
    assert surface is not None and (pygame.surfarray.array3d(surface) == READ[:3]).all(-1).sum() > 20
    viewer.close()


def test_dream_and_simulator_have_one_each(tmp_path: Path):
    pytest.importorskip("numba")
    spec = replace(STREET, observations={"camera": STREET.observations["camera"]})
    world = make_peopled_world(spec)
    twin: Any = gym.make("drivedit_env:StreetTwin-v0").unwrapped
    world.config = replace(world.config, end_threshold=2.0)
    twin.reset(seed=3)
    twin.step(GAS)
    world.scenes = [world.check_scene(twin.scene(1))]
    session = Session(DriveDiTEnv(world), 0, TRACK, folder=tmp_path)
    session.toggle_twin()
    dreamed, begun = session.now.around
    assert dreamed is None and begun is not None and begun.boxes.shape[1] == 5
    moments = [session.step(GAS) for _ in range(3)]
    assert moments[2].reality is not None
    twin.set_state(moments[2].reality)
    truth, real = twin.truth(), moments[2].around[1]
    assert real is not None and len(real.boxes) == len(truth.agents.ids) > 0
    apart = np.hypot(*(truth.agents.boxes[:, :2] - truth.pose[:2]).T)
    assert np.allclose(np.hypot(*real.boxes[:, :2].T), apart, atol=1e-3)
    assert np.abs(real.route).max(1).min() < 5, "its lane is near"
    told = Session(DriveDiTEnv(world), 0, TRACK, folder=tmp_path, layout="scene")
    told.toggle_twin()
    dreamed, begun = told.now.around
    assert dreamed is not None and begun is not None
    nearest = begun.boxes[np.hypot(*begun.boxes[:, :2].T).argsort()[:2]]
    assert np.allclose(dreamed.boxes, nearest, atol=0.02), "at the start both are the same"
    for each in (session, told):
        each.close()


def test_a_simulator_without_others_has_none(tiny_world: DiTWorld, tmp_path: Path):
    pytest.importorskip("Box2D")
    session = Session(DriveDiTEnv(tiny_world), 0, folder=tmp_path)
    session.toggle_twin()
    assert session.step(GAS).around == (None, None)
    session.close()
