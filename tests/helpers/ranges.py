"""Small worlds of range images for tests, a round wall with posts that a car drives in, and recordings of it."""

from dataclasses import replace

import numpy as np
import torch

from drivedit.config import Modality, PainterConfig, Quantity, RangeWorldConfig, RewardTerm, WorldSpec
from drivedit.models import RangeWorld, Scene
from drivedit.utils.episodes import Episode
from drivedit.utils.ranges import RangeView

VIEW = RangeView(8, 32)
SPEC = WorldSpec(
    domain="wall",
    observations={"range": Modality((8, 32, 2), "float32", 0.0, 85.0, "m")},
    controls=[Quantity("steering"), Quantity("throttle")],
    telemetry=[Quantity("speed", 0, 60, 10.0, "m/s")],
    rewards={
        "progress": RewardTerm("learned", 0.5),
        "time": RewardTerm("constant", -0.1),
        "hit": RewardTerm("on_end", -5.0),
    },
    conditions=["route"],
    dt=0.1,
    any_dt=True,
    endings={"hit": "the car hit the wall"},
)
DERIVED = [Quantity("free_distance", 0, 85, 20.0, "m"), Quantity("time_to_collision", 0, 30, 5.0, "s")]


def scan_at(pose: np.ndarray) -> np.ndarray:
    """The range image float32 `[8, 32, 2]` of a wall of 30 m radius with posts before it, seen from `[x, y, yaw]`."""
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    heights = np.linspace(-1.5, 1.0, 12)
    wall = np.stack([30 * np.cos(angles), 30 * np.sin(angles)], -1)
    post = np.stack([12 + 0.4 * np.cos(angles[::8]), 5 + 0.4 * np.sin(angles[::8])], -1)
    ground = np.concatenate([wall, post, -post]) - pose[:2]
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    seen = np.stack([ground @ [cos, sin], ground @ [-sin, cos]], -1)
    points = np.concatenate([np.c_[seen, np.full(len(seen), height)] for height in heights])
    return VIEW.project(points)


def wall_drive(steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scans `[steps + 1, 8, 32, 2]`, controls `[steps, 2]` and poses `[steps + 1, 3]` of a car inside the wall."""
    rng = np.random.default_rng(seed)
    controls = np.clip(rng.normal(0, 0.5, (steps, 2)), -1, 1).astype(np.float32)
    poses = np.zeros((steps + 1, 3))
    poses[0] = [*rng.uniform(-5, 5, 2), rng.uniform(-3, 3)]
    for step, (steering, throttle) in enumerate(controls):
        x, y, yaw = poses[step]
        go = 0.5 + 0.2 * throttle
        poses[step + 1] = [x + go * np.cos(yaw), y + go * np.sin(yaw), yaw - 0.1 * steering]
    return np.stack([scan_at(pose) for pose in poses]), controls, poses


def wall_scene(steps: int = 4, seed: int = 0, posed: bool = True) -> Scene:
    """A start scene."""
    scans, controls, poses = wall_drive(steps, seed)
    scene = Scene({"range": scans}, controls, poses=poses.astype(np.float32) if posed else None)
    line = np.stack([np.linspace(-40, 40, 30), np.zeros(30)], -1).astype(np.float32)
    return scene.with_route(line) if posed else scene


def wall_episode(steps: int, seed: int = 0, ended: bool = False) -> Episode:
    """A drive as recordings have it."""
    scans, controls, poses = wall_drive(steps, seed)
    rewards = {
        "progress": np.full(steps, 0.5, np.float32),
        "time": np.full(steps, -0.1, np.float32),
        "hit": np.r_[np.zeros(steps - 1), -5.0 * ended].astype(np.float32),
    }
    return Episode(
        spec=SPEC, observations={"range": scans}, controls=controls, rewards=rewards,
        terminated=np.arange(steps) == (steps - 1 if ended else -1),
        telemetry={"speed": np.full(steps + 1, 5.0, np.float32)}, poses=poses,
        times=np.arange(steps + 1) * SPEC.dt, closed=False,
        route=np.stack([np.linspace(-40, 40, 30), np.zeros(30)], -1).astype(np.float32),
    )  # fmt: skip


def range_config(**changes) -> RangeWorldConfig:
    """A tiny configuration."""
    spec = replace(SPEC, telemetry=[*SPEC.telemetry, *DERIVED])
    config = RangeWorldConfig(
        spec=spec, model_channels=2, n_downs=2, layers=1, head=16, seconds=(0.1, 0.3), end_threshold=2.0,
        painter=PainterConfig(width=16, blocks=2), route_offsets=[0.0, 5.0],
    )  # fmt: skip
    return replace(config, **changes)


def make_range_world(seed: int = 0, **changes) -> RangeWorld:
    """A tiny world with random weights."""
    torch.manual_seed(seed)
    scenes = [wall_scene(4), wall_scene(2, 1, posed=False)]
    world = RangeWorld(range_config(**changes), scenes, "# A test world\n")
    for weight in world.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape))
    return world.eval()
