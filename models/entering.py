"""What the kinds of worlds that are seen in pictures ask of a start scene."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drivedit.models.conditions.layout import moving, nearest
from drivedit.models.scenes import OTHERS, Scene
from drivedit.utils import motion_between

LARGEST_MOTION = 100.0  # between two frames of a scene, in units of the configuration's `motion_scale`


def others_of(scene: Scene, poses: Tensor, most: int) -> Tensor:
    """Others at the last frames of a scene, `[n + 1, A, 8]`; none `[0, A, 8]` where the world is not told of them.

    Args:
        scene: The scene.
        poses: Those of its last frames `[n + 1, 3]`.
        most: A, the nearest ones.
    """
    states = len(scene.frames)
    agents = scene.agents if OTHERS in scene.conditions and scene.poses is not None else None
    boxes = [] if agents is None else moving(agents, np.arange(states, dtype=np.float64))[-len(poses) :]
    pairs = zip(boxes, poses[:, None], strict=False)
    rows = [nearest(torch.from_numpy(each).float(), pose, most) for each, pose in pairs]
    return torch.cat([nearest(None, poses[:0], most), *rows])


def check_motion(scene: Scene, unit: Tensor) -> None:
    """ValueError where the poses of a scene jump; `unit` `[3]` is that of ego-motion between two frames."""
    if scene.poses is None:
        return
    poses = torch.from_numpy(scene.poses).to(unit.device)
    motion = motion_between(poses[:-1], poses[1:])
    far = (motion.abs() > LARGEST_MOTION * unit).any(1)
    if far.any():
        frame = int(far.nonzero()[0])
        most = [LARGEST_MOTION * scale for scale in unit.tolist()]
        raise ValueError(
            f"scene poses jump between frames {frame} and {frame + 1} by {motion[frame].tolist()}: a car moves at "
            f"most {most} (m forward, m to the right, rad) from one frame to the next"
        )
