"""How a start scene is entered: a `RangeWorld` filters its scans, at whatever times they came, as it filters its dream.

Legend: n + 1 scans, H W their rows and columns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drivedit.models.scenes import Scene
from drivedit.models.sde.range_networks import RangeNetworks, RangeReadings
from drivedit.models.sde.range_state import RangeState
from drivedit.models.sde.ranges import encode_range
from drivedit.utils import Route, motion_between

KEPT = 16  # scans of a scene that are looked at
LARGEST_RATE = 100.0  # of the poses of a scene, in units of `RangeWorldConfig.rate_scale`


def enter_row(world: RangeNetworks, scene: Scene, seed: int) -> tuple[RangeState, RangeReadings]:
    """The state at the end of a scene, and what the heads read there.

    Raises:
        ValueError: The poses of the scene jump.
    """
    times = _times(scene, world.config.spec.dt)[-KEPT:]
    frames = torch.from_numpy(np.array(scene.frames[-KEPT:])).to(world.device)
    scans = encode_range(frames.float(), world.config.reach)[:, None]  # [n + 1, 1, 2, H, W]
    controls = torch.from_numpy(np.array(scene.controls[1 - len(scans) :])).float().to(world.device)
    poses = torch.from_numpy(scene.poses_or_start()[-KEPT:]).to(world.device)
    known = _rates(world, scene, poses, times)
    route = Route.from_points([scene.route], [scene.closed], [scene.bounds]).to(world.device)
    told = route if scene.poses is not None else Route.from_points([None], [False]).to(world.device)
    clock, unit = times.to(world.device), torch.ones(1, device=world.device)
    rates = torch.zeros(1, 3, device=world.device) if known is None else known[:1]
    motion = torch.zeros(1, *world.motion_shape(), device=world.device)
    motion = world.absorbed(motion, scans[0], scans[0], unit)
    arc = told.foot(poses[:1, :2], None)
    for index in range(1, len(scans)):
        dt = (clock[index] - clock[index - 1])[None]
        near = world.route_code(told, poses[index - 1 : index], arc, world.gone(rates, dt))
        given = world.told(controls[index - 1 : index], rates, near)
        # the seed is not the world's: a scene begins the same way in every future
        motion = world.carried(motion, clock[index - 1 : index], dt, [0], given)
        code = world.encoded(given, dt)
        gone = world.ego(controls[index - 1 : index], rates, dt) if known is None else known[index - 1 : index]
        moved = world.beams.moved(scans[index - 1], world.gone(gone, dt))
        motion = world.absorbed(motion, scans[index], moved, dt)
        readings = world.read(motion, code, gone)
        rates = readings.rates if known is None else gone
        arc = told.foot(poses[index : index + 1, :2], arc)
    arc = route.foot(poses[-1:, :2], arc)
    state = RangeState(
        motion, torch.stack([scans[-2], scans[-1]], 1), torch.zeros_like(clock[:1]),
        torch.zeros(1, dtype=torch.long, device=world.device), torch.tensor([seed], device=world.device), rates,
        poses[-1:].clone(), arc, **vars(route),
    )  # fmt: skip
    return state, readings


def _times(scene: Scene, dt: float) -> Tensor:
    """When the scans of a scene were taken, float64 `[n + 1]` in units of `dt`, the last one at 0."""
    if scene.times is None:
        return torch.arange(1.0 - len(scene.frames), 1.0, dtype=torch.float64)
    return torch.from_numpy((scene.times - scene.times[-1]) / dt)


def _rates(world: RangeNetworks, scene: Scene, poses: Tensor, times: Tensor) -> Tensor | None:
    """Ego-motion of a unit of time between the scans `[n, 3]`; None where the poses are not known."""
    if scene.poses is None:
        return None
    passed = times.diff().to(poses)[:, None]
    rates = motion_between(poses[:-1], poses[1:]) / passed / world.rate_scale
    far = (rates.abs() > LARGEST_RATE).any(1)
    if far.any():
        frame = int(far.nonzero()[0]) + len(scene.frames) - len(poses)
        most = [LARGEST_RATE * scale for scale in world.config.rate_scale]
        raise ValueError(
            f"scene poses jump between frames {frame} and {frame + 1}: a car moves at most {most} (m forward, m to the "
            f"right, rad) in {world.config.spec.dt:g} s"
        )
    return rates
