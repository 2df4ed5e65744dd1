"""Small worlds that keep the ground around the car, a level field that a camera is driven over, and recordings."""

from dataclasses import replace

import numpy as np
import torch

from drivedit.config import BevWorldConfig, CameraConfig, Modality, PainterConfig, Quantity, RewardTerm, WorldSpec
from drivedit.models import BevWorld, Scene
from drivedit.models.conditions.route import ground_below
from drivedit.utils.episodes import Agents, Episode

SIZE = (32, 64)
CAMERA = CameraConfig(fov=75.0, height=1.5, pitch=5.0, ahead=0.4)
SPEC = WorldSpec(
    domain="field",
    observations={"camera": Modality((*SIZE, 3))},
    controls=[Quantity("steering"), Quantity("throttle")],
    telemetry=[Quantity("speed", 0, 60, 10.0, "m/s")],
    rewards={
        "progress": RewardTerm("learned", 0.5),
        "time": RewardTerm("constant", -0.1),
        "hit": RewardTerm("on_end", -5.0),
    },
    conditions=["route", "layout"],
    dt=0.1,
    endings={"hit": "the car hit another one"},
)
LINE = np.stack([np.linspace(-40, 80, 60), np.zeros(60)], -1).astype(np.float32)


def picture_at(pose: np.ndarray) -> np.ndarray:
    """The field uint8 `[32, 64, 3]`, seen from `[x, y, yaw]`: smooth waves on the ground, and an even sky."""
    rows, columns = SIZE
    x = torch.from_numpy((np.arange(columns) + 0.5) / columns * 2 - 1)
    y = torch.from_numpy(((np.arange(rows) + 0.5) / rows * 2 - 1) * rows / columns)[:, None]
    right, ahead = ground_below(CAMERA, x, y).numpy().transpose(2, 0, 1)
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    east, north = pose[0] + ahead * cos + right * sin, pose[1] + ahead * sin - right * cos
    near = np.exp(-ahead / 15)
    waves = [np.sin(0.7 * east + phase) * np.cos(0.5 * north - phase) * near for phase in (0.0, 1.0, 2.0)]
    return (127.5 + 100 * np.where((ahead < 100)[..., None], np.stack(waves, -1), 0.2)).astype(np.uint8)


def field_drive(steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures `[steps + 1, 32, 64, 3]`, controls `[steps, 2]` and poses `[steps + 1, 3]`."""
    rng = np.random.default_rng(seed)
    controls = np.clip(rng.normal(0, 0.5, (steps, 2)), -1, 1).astype(np.float32)
    poses = np.zeros((steps + 1, 3))
    poses[0] = [*rng.uniform(-5, 5, 2), rng.uniform(-0.3, 0.3)]
    for step, (steering, throttle) in enumerate(controls):
        x, y, yaw = poses[step]
        go = 0.6 + 0.3 * throttle
        poses[step + 1] = [x + go * np.cos(yaw), y + go * np.sin(yaw), yaw - 0.05 * steering]
    return np.stack([picture_at(pose) for pose in poses]), controls, poses


def box_ahead(x: float = 12.0) -> np.ndarray:
    """One other on the road, `[1, 8]`."""
    return np.array([[x, 0.0, 0.75, 4.5, 1.8, 1.5, 0.0, 3.0]], np.float32)


def field_scene(steps: int = 4, seed: int = 0, posed: bool = True) -> Scene:
    """A start scene."""
    frames, controls, poses = field_drive(steps, seed)
    scene = Scene({"camera": frames}, controls, poses=poses.astype(np.float32) if posed else None)
    return scene.with_route(LINE) if posed else scene


def field_episode(steps: int, seed: int = 0, ended: bool = False) -> Episode:
    """A drive as recordings have it."""
    frames, controls, poses = field_drive(steps, seed)
    rewards = {
        "progress": np.full(steps, 0.5, np.float32),
        "time": np.full(steps, -0.1, np.float32),
        "hit": np.r_[np.zeros(steps - 1), -5.0 * ended].astype(np.float32),
    }
    boxes = np.repeat(box_ahead()[:, :7], steps + 1, 0)
    agents = Agents(
        np.arange(steps + 2, dtype=np.int64), ids=np.zeros(steps + 1, np.int64), boxes=boxes,
        kinds=np.zeros(steps + 1, np.int64), names=("car",),
    )  # fmt: skip
    return Episode(
        spec=SPEC, observations={"camera": frames}, controls=controls, rewards=rewards,
        terminated=np.arange(steps) == (steps - 1 if ended else -1),
        telemetry={"speed": np.r_[6.0, 6.0 + 3.0 * controls[:, 1]].astype(np.float32)}, poses=poses,
        times=np.arange(steps + 1) * SPEC.dt, closed=False, route=LINE, agents=agents,
    )  # fmt: skip


def bev_config(**changes) -> BevWorldConfig:
    """A tiny configuration."""
    config = BevWorldConfig(
        spec=SPEC, camera=CAMERA, depths=[1e5, 30.0, 10.0, 5.0], window=(4.0, 28.0, 8.0), ground=4,
        looker=(16, 2), filler=(8, 1), renderer=PainterConfig((4, 4), 16, 2, 2, 3), code=4, looks=2,
        end_threshold=2.0, others=2, stride=4.0, reach=12.0,
    )  # fmt: skip
    return replace(config, **changes)


def make_bev_world(seed: int = 0, noise: float = 0.05, **changes) -> BevWorld:
    """A tiny world with random weights."""
    torch.manual_seed(seed)
    world = BevWorld(bev_config(**changes), [field_scene(4), field_scene(2, 1, posed=False)], "# A test world\n")
    for weight in world.parameters():
        weight.data.add_(noise * torch.randn(weight.shape))
    return world.eval()


def copying_world() -> BevWorld:
    """One that shows its start picture alone, as if all lay on the ground: the gate for paint is shut."""
    world = make_bev_world(noise=0.0)
    gate, bias = world.renderer.planes, world.renderer.out.bias
    assert bias is not None
    bias.data.view(-1, 16)[gate] = -10.0
    return world
