"""How a start scene is entered: a `BevWorld` looks at two of its frames, and fills the ground around the car."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drivedit.config.bev import GAP
from drivedit.models.bev.company import BEFORE, completed, drawn_looks
from drivedit.models.bev.others import inherited, seen_looks
from drivedit.models.bev.parts import BevNetworks
from drivedit.models.bev.state import BevState
from drivedit.models.bev.traffic import as_box
from drivedit.models.conditions.layout import check_layout, moving, nearest
from drivedit.models.entering import check_motion
from drivedit.models.scenes import OTHERS, Scene
from drivedit.models.sets.agents import AgentsReader
from drivedit.models.world import StepOutput
from drivedit.utils import Route, advance_pose, generator, motion_between, noise

SURE = 0.5  # share of the sets that are read, in which one is who is there
NEW = "ground"  # stream of noise of new ground


def shown_others(
    reader: AgentsReader | None, scene: Scene, pose: Tensor, seed: int, layout: Tensor | None, dt: float
) -> Tensor | None:
    """Whom the picture of a scene shows, boxes `[A, 8]`: as the scene knows, or as is read, or as it was told.

    Args:
        reader: Who reads pictures; None: nobody does.
        scene: The scene.
        pose: The car's `[1, 3]`.
        seed: Of what is read.
        layout: What was told, `[A, 8]`.
        dt: Seconds from one observation to the next, where the scene does not know.
    """
    if scene.agents is not None:
        times = dt * np.arange(len(scene.frames)) if scene.times is None else scene.times
        return check_layout(moving(scene.agents, times)[-1])
    if reader is None:
        return layout
    now, before = scene.frames[-1:], scene.frames[-2:-1]
    found = reader.read(now, generator(seed, "read"), before=before)
    boxes = found.boxes[0, found.presence[0] > SURE].to(pose)
    rel = torch.stack([boxes[:, 0], -boxes[:, 1], -boxes[:, 6]], -1)
    where = advance_pose(pose.expand(len(rel), 3), rel)
    return torch.cat([where[:, :2], boxes[:, 2:6], where[:, 2:], boxes[:, 7:]], 1)


@torch.no_grad()
def enter_row(
    world: BevNetworks, scene: Scene, seed: int, temperature: float, reader: AgentsReader | None
) -> tuple[BevState, StepOutput]:
    """The state at the end of a scene, and what the heads read there.

    Raises:
        ValueError: The poses of the scene jump, or it has a route that this world has not learned about.
    """
    check_motion(scene, world.motion_scale)
    if scene.route is not None and not world.config.route_dim:
        raise ValueError("this world has learned nothing about routes (its recordings had none); give it no route")
    first = max(0, len(scene.frames) - 1 - GAP)
    frames = torch.from_numpy(np.stack([scene.frames[first], scene.frames[-1]])).to(world.device).float() / 127.5 - 1
    frames = frames.permute(0, 3, 1, 2)[None]  # [1, 2, C, H, W]
    controls = torch.from_numpy(np.array(scene.controls[-1:])).float().to(world.device)
    route = Route.from_points([scene.route], [scene.closed], [scene.bounds]).to(world.device)
    seen = world.looker(frames)
    poses = torch.from_numpy(scene.poses_or_start()[[first, -1]]).to(world.device)[None]
    if scene.poses is None:
        motion = seen.motion
        back = motion * world.motion_scale * (first + 1 - len(scene.frames))
        poses = torch.stack([advance_pose(poses[:, 1], back), poses[:, 1]], 1)
    else:
        last = torch.from_numpy(scene.poses[-2:]).to(world.device)
        motion = motion_between(last[:1], last[1:]) / world.motion_scale
    pose = poses[:, 1]
    arc = route.foot(pose[:, :2], None)
    layout, most = check_layout(scene.conditions.get(OTHERS)), world.config.others
    there = nearest(shown_others(reader, scene, pose, seed, layout, world.config.spec.dt), pose, most)
    drawn = temperature * noise([seed], NEW, [BEFORE], world.noise_shape()).to(frames)
    scenery = world.begun(frames, poses, seen, there, route, arc, drawn)
    unseen = drawn_looks(world, [seed], [BEFORE])
    looks = seen_looks(
        seen.looks, world.config.camera, world.window.tall, there, pose, unseen[..., : world.config.looks]
    )
    if layout is not None:
        others = nearest(layout, pose, most)
        looks = inherited(others, (there, looks), unseen)
    else:
        others = there
        car = as_box(pose, motion[:, 0] * world.motion_scale[0], world.config.spec.dt)
        others, looks = completed(world, scenery, (others, looks), car, seed)
    _, read = world.render(scenery, pose, (others, looks), controls, motion)
    return BevState(
        frames[:, 1], **vars(scenery), looks=looks, clock=torch.zeros(1, dtype=torch.long, device=world.device),
        seeds=torch.tensor([seed], device=world.device), control=controls, motion=motion, pose=pose, arc=arc,
        **vars(route), others=others, told=torch.full((1,), layout is not None, device=world.device),
    ), world.output(read, read.telemetry * world.telemetry_scale)  # fmt: skip
