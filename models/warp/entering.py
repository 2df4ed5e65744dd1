"""How a start scene is entered: a `WarpWorld` looks at its frames one after another, as if it had just made them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drivedit.models.conditions.layout import check_layout, nearest
from drivedit.models.entering import check_motion, others_of
from drivedit.models.scenes import OTHERS, Scene
from drivedit.models.warp.networks import WarpNetworks
from drivedit.models.warp.state import WarpState
from drivedit.models.world import StepOutput
from drivedit.utils import Route, motion_between

KEPT = 16  # frames of a scene that are looked at


@torch.no_grad()
def enter_row(world: WarpNetworks, scene: Scene, seed: int) -> tuple[WarpState, StepOutput]:
    """The state at the end of a scene, and what the heads read there.

    Raises:
        ValueError: The poses of the scene jump, or it has a route that this world has not learned about.
    """
    check_motion(scene, world.motion_scale)
    if scene.route is not None and not world.config.route_dim:
        raise ValueError("this world has learned nothing about routes (its recordings had none); give it no route")
    frames = torch.from_numpy(np.array(scene.frames[-KEPT:])).to(world.device).float() / 127.5 - 1
    frames = frames.permute(0, 3, 1, 2)[:, None]  # [n + 1, 1, C, H, W]
    controls = torch.from_numpy(np.array(scene.controls[1 - len(frames) :])).float().to(world.device)
    route = Route.from_points([scene.route], [scene.closed], [scene.bounds]).to(world.device)
    told = route if scene.poses is not None else Route.from_points([None], [False]).to(world.device)
    poses = torch.from_numpy(scene.poses_or_start()[-KEPT:]).to(world.device)
    known = motion_between(poses[:-1], poses[1:]) / world.motion_scale if scene.poses is not None else None
    others = others_of(scene, poses, world.config.others)
    memory = torch.zeros(1, *world.memory_shape(), device=world.device)
    motion = torch.zeros(1, 3, device=world.device) if known is None else known[:1]
    noise, arc = torch.zeros(1, 1, *world.config.image_size, device=world.device), None
    for now in range(1, len(frames)):
        pose = poses[now - 1 : now]
        arc = told.foot(pose[:, :2], arc)
        seen = world.see_others(others[now : now + 1], pose, motion) if len(others) else None
        code = told_code(world, told, pose, arc, motion, None if seen is None else (torch.ones_like(arc), seen))
        driven = torch.cat([controls[now - 1 : now], controls[max(now - 2, 0) : max(now - 1, 1)], motion], 1)
        pair = torch.stack([frames[max(now - 2, 0)], frames[now - 1]], 1)
        gone = world.foretold(controls[now - 1 : now], motion) if known is None else known[now - 1 : now]
        painted = world.paint(pair, world.sight(pair, driven, gone), memory, driven, code, gone, noise)
        memory = painted.memory
        motion = painted.read.motion if known is None else gone
    out = world.output(painted.read, painted.read.telemetry * world.telemetry_scale)
    layout = check_layout(scene.conditions.get(OTHERS))
    return WarpState(
        torch.stack([frames[-2], frames[-1]], 1), memory, torch.zeros(1, dtype=torch.long, device=world.device),
        torch.tensor([seed], device=world.device), controls[-1:].clone(), motion, poses[-1:].clone(),
        route.foot(poses[-1:, :2], arc), **vars(route), others=nearest(layout, poses[-1:], world.config.others),
        told=torch.full((1,), layout is not None, device=world.device),
    ), out  # fmt: skip


def told_code(
    world: WarpNetworks, route: Route, pose: Tensor, arc: Tensor, motion: Tensor, others: tuple[Tensor, Tensor] | None
) -> Tensor:
    """`ToldNetworks.code`, or nothing where the world is told nothing."""
    if not world.config.route_dim:
        return pose.new_zeros(len(pose), 0)
    return world.code(route, pose, arc, motion, others)
