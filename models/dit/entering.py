"""How a start scene is entered: its frames are put into the ring of a `DiTWorld`, as if it had just made them."""

from __future__ import annotations

import torch

from drivedit.models.conditions.layout import check_layout, nearest
from drivedit.models.dit.networks import DiTNetworks
from drivedit.models.dit.state import DiTState
from drivedit.models.entering import check_motion, others_of
from drivedit.models.scenes import OTHERS, Scene
from drivedit.models.world import StepOutput
from drivedit.utils import Route, motion_between


def enter_row(world: DiTNetworks, scene: Scene, seed: int) -> tuple[DiTState, StepOutput]:
    """Fills the ring with the context's frames, each as if the world had just made it."""
    keep = world.dynamics.capacity
    check_motion(scene, world.motion_scale)
    frames, controls = scene.frames[-keep - 1 :], scene.controls[-keep:]
    history = world.config.student.history
    latents = world.encode(frames[None])[0].flip(0)  # the latest first
    if scene.route is not None and not world.config.student.route_dim:
        raise ValueError("this world has learned nothing about routes (its recordings had none); give it no route")
    route = Route.from_points([scene.route], [scene.closed], [scene.bounds]).to(world.device)
    told = route if scene.poses is not None else Route.from_points([None], [False]).to(world.device)
    poses = torch.from_numpy(scene.poses_or_start()[-keep - 1 :]).to(world.device)
    arc, others = route.foot(poses[:1, :2], None), others_of(scene, poses, world.config.others)
    cache = world.dynamics.empty_cache(1, world.device, world.dtype)
    control = torch.from_numpy(controls).to(world.device)
    motion = torch.zeros(1, 3, device=world.device)
    latents = torch.cat([latents, latents[-1:].expand(history, -1, -1, -1)])  # before the first: the first
    recached = world.config.clean_cache
    for index in range(0 if recached else min(max(history, 1), len(frames) - 1), len(frames)):
        past = latents[len(frames) - index :][:history][None]
        pose = poses[max(index - 1, 0) : max(index, 1)]
        arc = route.foot(pose[:, :2], arc)
        if scene.poses is not None and index > 1:
            motion = motion_between(poses[index - 2 : index - 1], poses[index - 1 : index]) / world.motion_scale
        seen = world.see_others(others[index : index + 1], pose, motion) if len(others) else None
        code = world.code(told, pose, arc, motion, None if seen is None else (torch.ones_like(arc), seen))
        x = world.noise([0], "context", [index])  # not the seed's: a scene begins the same way in every future
        if recached:
            x = latents[len(frames) - 1 - index][None]
        sigma = torch.full((1,), 0.0 if recached else 1.0, device=world.device)
        before = control[max(index - 2, 0) : max(index - 1, 1)]
        led = control[index - 1 : index] if index else torch.zeros_like(before)
        driven = torch.cat([led, before, motion], -1)
        clean, readings = world.denoise(x, sigma, driven, code, past, cache, last=True)
        motion = readings.motion
    arc = route.foot(poses[-1:, :2], arc)
    if scene.poses is not None:
        motion = motion_between(poses[-2:-1], poses[-1:]) / world.motion_scale
    out = world.output(readings, readings.telemetry * world.telemetry_scale)
    layout = check_layout(scene.conditions.get(OTHERS))
    return DiTState(
        cache.k, cache.v, cache.clock, torch.tensor([seed], device=world.device),
        latents[None, : world.kept].clone(), control[-1:].clone(), motion, poses[-1:], arc, **vars(route),
        others=nearest(layout, poses[-1:], world.config.others),
        told=torch.full((1,), layout is not None, device=world.device),
    ), out  # fmt: skip
