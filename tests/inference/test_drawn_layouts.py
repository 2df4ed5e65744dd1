"""Others of one scene on the road of another: as far along it, as far beside its line, and turned alike."""

import numpy as np

from drivedit.inference.drawn_layouts import brought_over
from drivedit.models import Scene
from drivedit.utils.episodes import Agents


def agents_of(moments: list[np.ndarray]) -> Agents:
    """The boxes `[2, 8]` of several moments as a recording has them."""
    ids = np.tile([0, 1], len(moments))
    boxes = np.concatenate(moments)[:, :7].astype(np.float32)
    return Agents(np.arange(len(moments) + 1) * 2, ids, boxes, 0 * ids)


def test_others_who_are_brought_over_keep_their_place_on_the_road():
    def scene(points: np.ndarray, pose: list[float], moments: list[np.ndarray] | None = None) -> Scene:
        frames = np.zeros((2, 8, 8, 3), np.uint8)
        poses, agents = np.array([pose, pose]), None if moments is None else agents_of(moments)
        told = Scene({"camera": frames}, np.zeros((1, 2), np.float32), poses=poses, agents=agents)
        return told.with_route(points.astype(np.float32), False, None)

    straight = np.stack([np.arange(-50.0, 200, 5), np.zeros(50)], 1)
    angle = np.arange(0, 3.0, 0.05)
    bend = 100 * np.stack([np.sin(angle), 1 - np.cos(angle)], 1)  # to the left from the origin on
    boxes = np.array([[20.0, 0.0, 0.8, 4, 2, 1.6, 0.0, 0.0], [40.0, 3.5, 0.8, 4, 2, 1.6, np.pi, 0.0]])
    source = scene(straight, [0, 0, 0], [boxes - [1.2, 0, 0, 0, 0, 0, 0, 0], boxes])
    found = brought_over(source, scene(bend, [0, 0, 0]), 0.1)
    for box, (far, left, turn) in zip(found, ((20, 0, 0), (40, 3.5, np.pi)), strict=True):
        theta = far / 100
        assert np.allclose(box[:2], [(100 - left) * np.sin(theta), 100 - (100 - left) * np.cos(theta)], atol=0.3)
        assert abs((box[6] - theta - turn + np.pi) % (2 * np.pi) - np.pi) < 0.03
    assert np.allclose(found[:, 7], [12, -12], atol=0.1)
