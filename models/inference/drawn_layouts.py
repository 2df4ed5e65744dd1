"""Who could be on the road of a scene: those who were around the car in another one, brought to this scene's road.

They keep how far along the road they are from the car, how far beside its line, how they are turned to it, and how fast
they are. Scenes that are alike (`Scene.attributes`) lend theirs first: roads differ in lanes and traffic.
"""

from __future__ import annotations

import numpy as np
import torch

from drivedit.inference.layouts import boxes_of, check_places
from drivedit.models import Scene, World
from drivedit.models.conditions.layout import SPEED, moving
from drivedit.models.scenes import OTHERS
from drivedit.utils import Route

NEAR = 120.0  # metres along the road within which they are brought over


def draw_layout(world: World, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Boxes `[A, 8]` of a layout for a scene, on the road that is driven.

    Args:
        world: Its start scenes are drawn from: of those that are most like this one, and are not it, a random one
            whose agents fit here; of others where none does.
        scene: The scene.
        rng: What is drawn with.

    Raises:
        ValueError: The world is told of nobody, or nobody of its scenes fits.
    """
    if OTHERS not in world.spec.conditions:
        raise ValueError("option layout needs a world that has learned to be told who is there")
    known = [each for each in world.scenes if each.agents is not None and each.poses is not None]
    alike = [sum(scene.attributes.get(name) == value for name, value in each.attributes.items()) for each in known]
    own = [_same(each, scene) for each in known]
    luck = rng.random(len(known))
    for number in sorted(range(len(known)), key=lambda number: (own[number], -alike[number], luck[number])):
        boxes = brought_over(known[number], scene, world.spec.dt)
        try:
            check_places(boxes, scene, scene.poses_or_start()[-1].astype(np.float64))
        except ValueError:
            continue
        return boxes
    raise ValueError(f"option layout 'random' draws from scenes with agents, and of {len(known)} that this world has "
                     "none fits here")  # fmt: skip


def brought_over(source: Scene, scene: Scene, dt: float) -> np.ndarray:
    """Boxes `[A, 8]` of the agents at the end of a scene, around the car at the end of another one."""
    assert source.agents is not None
    times = dt * np.arange(len(source.frames)) if source.times is None else source.times
    boxes = moving(source.agents, times)[-1]
    here, there = (each.poses_or_start()[-1].astype(np.float64) for each in (scene, source))
    if source.route is None or scene.route is None:
        along = _turned(boxes[:, :2] - there[:2], -there[2])
        places, yaw = _turned(along, here[2]) + here[:2], boxes[:, 6] + here[2] - there[2]
    else:
        ahead, beside, turn = _on_road(source, boxes, there)
        near = np.abs(ahead) < NEAR
        boxes, ahead, beside, turn = boxes[near], ahead[near], beside[near], turn[near]
        places, heading = _placed(scene, here, ahead, beside)
        yaw = heading + turn
    told = np.concatenate([places, boxes[:, 2:6], yaw[:, None], boxes[:, SPEED:]], 1)
    return boxes_of(told)


def _on_road(scene: Scene, boxes: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Metres ahead of the car along its road and to the right of its line, and turns to it, `[A]` each."""
    points = torch.from_numpy(np.concatenate([pose[None, :2], boxes[:, :2]])).float()
    route = Route.from_points([scene.route] * len(points), [scene.closed] * len(points))
    arc, beside, tangent = (value.double().numpy() for value in route.locate(points, None))
    ahead = arc[1:] - arc[0]
    if scene.closed:
        lap = float(route.count[0] * route.spacing[0])
        ahead = (ahead + lap / 2) % lap - lap / 2
    return ahead, beside[1:], boxes[:, 6] - np.arctan2(tangent[1:, 1], tangent[1:, 0])


def _placed(scene: Scene, pose: np.ndarray, ahead: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places `[A, 2]` and headings of the road `[A]` so far ahead of the car and beside the line."""
    route = Route.from_points([scene.route], [scene.closed])
    arc = route.foot(torch.from_numpy(pose[None, :2]).float(), None)
    point, tangent = (value[0].double().numpy() for value in route.at((arc + torch.from_numpy(ahead).float())[None]))
    right = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    return point + beside[:, None] * right, np.arctan2(tangent[:, 1], tangent[:, 0])


def _turned(points: np.ndarray, yaw: float) -> np.ndarray:
    """Points `[A, 2]` turned to the left."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _same(one: Scene, other: Scene) -> bool:
    """Whether two scenes show the same."""
    return one.frames.shape == other.frames.shape and bool(np.array_equal(one.frames, other.frames))
