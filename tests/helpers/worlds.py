"""Specs of worlds for tests."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from drivedit.config import (
    CameraConfig,
    Modality,
    Quantity,
    RewardTerm,
    StudentConfig,
    VAEConfig,
    WorldConfig,
    WorldSpec,
)
from drivedit.config.domains.carracing import SPEC
from drivedit.models import DiTState, DiTWorld, Scene, StepOutput


def spec_of(height: int = 64, width: int = 64, **changes) -> WorldSpec:
    """The spec of CarRacing with pictures of another size, and other changes."""
    return replace(SPEC, observations={"camera": Modality((height, width, 3))}, **changes)


def film_spec(height: int = 64, width: int = 64, telemetry: tuple[str, ...] = (), **changes) -> WorldSpec:
    """The spec of a film: pictures and controls, some telemetry, no reward."""
    told = [Quantity(name, -1e9, 1e9) for name in telemetry]
    return spec_of(height, width, **{"telemetry": told, "rewards": {"progress": RewardTerm("learned")}, **changes})


def told(state: DiTState, out: StepOutput) -> Any:
    """What a step gave, with the latents and the telemetry as one array each."""
    values = torch.stack([*out.telemetry.values()], 1) if out.telemetry else torch.zeros(len(state), 0)
    return SimpleNamespace(
        **{**vars(out), "latent": state.latents[:, 0].clone(), "telemetry": values, "reward": out.reward}
    )


VIEW = (61.73, 49.38, 0.5, 0.75)


def make_world(seed: int = 0) -> DiTWorld:
    torch.manual_seed(seed)
    student = StudentConfig(
        latent_dim=16, d_model=16, n_layers=2, n_heads=2, dropout=0.0, tokens_per_frame=16, window=3, history=2,
        control_dim=7, route_dim=321, map_dim=16,
    )  # fmt: skip
    vae = VAEConfig(3, 4, [8, 8, 16, 16], 1, False, 0.1, temporal_kernel=1)
    config = WorldConfig(SPEC, vae, student, view=VIEW, bounds_reach=40.0)
    world = DiTWorld(config, [make_scene(5), make_scene(2, route=False)], "# A test world\n")
    for p in world.parameters():
        p.data.add_(0.05 * torch.randn(p.shape))
    return world.eval()


BOXES = np.array([[80, 12, 0.8, 4, 2, 1.6, 1.6, 8], [84, 20, 1, 6, 2.2, 2, -1.5, 5], [70, 9, 0.8, 4, 2, 1.5, 0, 2]])


def make_peopled_world(spec: WorldSpec = SPEC) -> DiTWorld:
    """The world of `make_world`, seen by a camera, and told at most two others on the road."""
    config = make_world().config
    config = replace(
        config, view=None, camera=CameraConfig(pitch=3.0), others=2, spec=replace(spec, conditions=["route", "layout"]),
    )  # fmt: skip
    height, width = config.image_size
    student = replace(config.student, tokens_per_frame=height * width // 256)
    route_dim, map_dim = replace(config, student=student).code_widths()
    torch.manual_seed(0)
    world = DiTWorld(replace(config, student=replace(student, route_dim=route_dim, map_dim=map_dim)))
    if spec is SPEC:
        world.scenes = [make_scene(5), make_scene(2, route=False)]
    for p in world.parameters():
        p.data.add_(0.05 * torch.randn(p.shape))
    return world.eval()


def make_scene(steps: int, route: bool = True, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    frames = rng.integers(0, 255, (steps + 1, 64, 64, 3), dtype=np.uint8)
    controls = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    if not route:
        return Scene({"camera": frames}, controls)
    points = np.stack([80 * np.cos(angle), 60 * np.sin(angle)], -1).astype(np.float32)
    along = np.arange(steps + 1) * 0.5
    poses = np.stack([80 + 0 * along, along, np.full(steps + 1, np.pi / 2)], -1).astype(np.float32)
    bounds = np.array([-100, -100, 100, 100], np.float32)
    return Scene({"camera": frames}, controls, poses=poses).with_route(points, True, bounds)
