"""Places as a map projection tells them, 5,400 km from zero: the same drive there is the same to networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fuzz.episodes import spec_of
from helpers.films import write_table

from drivedit.config import StudentConfig, WorldConfig
from drivedit.config.domains.carracing import SPEC
from drivedit.data.clips import Drives
from drivedit.data.exchange.films import Plan, import_drives
from drivedit.data.recordings import Episode, iter_episodes, write_shard
from drivedit.models import Scene, check_scene
from drivedit.training.latents import route_codes
from drivedit.training.scenes import pick_scenes
from drivedit.utils import advance_pose, from_origin, origin_of

FAR = np.array([500_000.0, 5_400_000.0])
WORLD = WorldConfig(SPEC, student=StudentConfig(route_dim=61))


def test_an_origin_is_whole_kilometres_near_the_first_known_place():
    near, far = np.array([[np.nan, 1.0], [1999.0, -5.0]]), np.array([[500_123.0, 5_399_600.0, 0.1]])
    assert origin_of(near, far).tolist() == [0, 0] and origin_of(None, np.zeros((0, 2))).tolist() == [0, 0]
    assert origin_of(None, far).tolist() == [500_000, 5_400_000]
    moved = from_origin(far, origin_of(far))
    assert moved.dtype == np.float64 and moved.tolist() == [[123, -400, 0.1]] and far[0, 0] == 500_123
    assert from_origin(np.array([0.0, 1, np.inf, 3]), np.array([10.0, 20])).tolist() == [-10, -19, np.inf, -17]
    same = np.array([[0.1, -0.0, 0.7]], np.float32)
    assert from_origin(same, np.zeros(2)).astype(np.float32).tobytes() == same.tobytes()


@pytest.mark.parametrize("shift, bound", [(FAR, 0), (FAR + [123.4, -321.7], 2**-11)], ids=["kilometres", "any"])
def test_a_circle_far_away_has_the_same_route_codes(film, tmp_path, shift, bound):
    """To the bit by whole kilometres, else to a step of the float16 that codes are kept in."""

    def circle(x: float, y: float) -> dict:
        return {"x": lambda t: x + 40 * np.sin(0.3 * t), "y": lambda t: y + 40 * np.cos(0.3 * t) - 40}

    for name, (x, y) in {"near": (0.0, 0.0), "far": shift}.items():
        table = write_table(tmp_path / f"{name}.csv", **circle(x, y))
        import_drives(tmp_path / name, [film[0]], [table], plan=Plan(fps=10, episode_steps=20), progress=False)
    near, far = (Drives.open(tmp_path / name) for name in ("near", "far"))
    (episode, *_) = iter_episodes(tmp_path / "far")
    assert np.abs(episode.poses[:, :2]).max() < 1000 and episode.start["origin"] == FAR.tolist()
    codes = [route_codes(drives, WORLD).astype(np.float64) for drives in (near, far)]
    assert np.abs(codes[0]).max() > 0.5 and np.abs(codes[0] - codes[1]).max() <= bound
    assert np.abs(near.motion() - far.motion()).max() < 1e-5


def test_recordings_far_away_are_unpacked_near_an_origin_of_each_drive(tmp_path, caplog):
    steps, drives = 12, []
    for shift in (np.zeros(2), FAR, 2 * FAR):
        poses = np.stack([0.2 * np.arange(steps + 1) + shift[0], np.full(steps + 1, shift[1]), np.zeros(steps + 1)], 1)
        route = np.stack([np.arange(0, 60, 2) + shift[0], np.full(30, shift[1])], 1)
        drives.append(
            Episode(
                spec_of(16, 16, []),
                {"camera": np.zeros((steps + 1, 16, 16, 3), np.uint8)},
                np.zeros((steps, 2), np.float32),
                poses=poses,
                route=route.astype(np.float32),
                closed=False,
                bounds=np.array([*(shift - 50), *(shift + 50)], np.float32),
            )
        )
    write_shard(tmp_path / "shard-00000.h5", drives)
    opened = Drives.open(tmp_path)
    for drive in range(3):
        assert np.allclose(opened.pose[opened.states(drive)], drives[0].poses, rtol=0, atol=1e-8)
        assert np.array_equal(opened.routes[drive], drives[0].route), "whole metres survive float32"
        assert np.array_equal(opened.bounds[drive], drives[0].bounds)
    assert np.allclose(opened.motion()[1 : steps + 1, 0], 0.2) and "off by up to 0.5 m" in caplog.text
    codes = route_codes(opened, WORLD).reshape(3, steps + 1, -1)
    assert np.array_equal(codes[0], codes[1]) and np.array_equal(codes[0], codes[2]) and codes.any()
    scene = pick_scenes(opened, np.array([2]), WorldConfig(opened.spec, student=StudentConfig(window=4)), count=1)[0]
    assert scene.poses is not None and scene.poses.dtype == np.float32 and np.abs(scene.poses).max() < 10


def shifted(scene: Scene, shift: np.ndarray) -> Scene:
    assert scene.route is not None and scene.poses is not None
    moved = replace(scene, poses=from_origin(scene.poses, -shift))
    bounds = from_origin(np.array([-200.0, -200, 200, 200]), -shift)
    return moved.with_route(from_origin(scene.route, -shift), scene.closed, bounds)


def test_a_scene_far_away_is_dreamed_alike(tiny_world):
    scenes = [shifted(tiny_world.scenes[0], shift) for shift in (np.zeros(2), FAR)]
    near, far = (tiny_world.start([scene], [3]) for scene in scenes)
    for _ in range(20):
        near, far = (tiny_world.step(s, torch.tensor([[0.1, 0.3]]))[0] for s in (near, far))
        assert torch.equal(near.latents, far.latents) and torch.equal(near.pose, far.pose)
    odd = tiny_world.start([shifted(tiny_world.scenes[0], FAR + [123.4, -321.7])], [3])
    start = tiny_world.start([scenes[0]], [3])
    code, odd_code = (tiny_world.code(s.route, s.pose, s.arc, s.motion) for s in (start, odd))
    assert (code - odd_code).abs().max() < 1e-4
    moved = odd.pose
    for _ in range(100):
        moved = advance_pose(moved, torch.tensor([[0.2, 0.0, 0.0]]))
    assert (moved - odd.pose)[:, :2].norm() == pytest.approx(20, rel=1e-3), "at .2 m per frame a dream moves"


def test_scenes_near_zero_stay_as_they_are(tiny_world):
    for scene in tiny_world.scenes:
        again = check_scene(scene, SPEC)
        for name in ("poses", "route"):
            assert np.asarray(getattr(again, name)).tobytes() == np.asarray(getattr(scene, name)).tobytes()
    route = np.array([[3e5, 4e6], [3e5 + 50, 4e6]])
    alone = check_scene({"frames": scene.frames, "controls": scene.controls, "route": route}, SPEC).route
    assert alone is not None and alone.tolist() == [[0, 0], [50, 0]] and alone.dtype == np.float32
