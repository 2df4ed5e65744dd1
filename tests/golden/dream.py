"""200 dreamed steps of the shipped world, as hashes and as some figures of them: they stay while the house is rebuilt.

Bits depend on the processor and on the build of torch, so hashes are compared with those of the same kind of machine.
Elsewhere the figures are compared, which another order of additions moves by little.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch

from drivedit.inference import tune
from drivedit.models import World

GOLDEN = Path(__file__).with_name("carracing.json")
STEPS = 200
NAMES = ("scene", "route", "drawn", "batch")
EVERY = 20  # steps between two that figures are kept of


def key() -> str:
    """What bits depend on: kind of processor, and torch with its libraries."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    wanted = ("vendor_id", "cpu family", "model", "flags")
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    digest = hashlib.sha256(repr([told.get(name) for name in wanted]).encode() + torch.__config__.show().encode())
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind} torch {torch.__version__} {digest.hexdigest()[:12]}"


def dream(name: str) -> tuple[list[float], str]:
    """Figures and hash of a dream in float32: single worlds in pixels, or three of latents with forks of one."""
    with patch.object(sys.modules[tune.__module__], "fast_dtype", lambda device: torch.float32):
        world = tune(World.from_pretrained("carracing", device="cpu"))  # of its own: environments share theirs
    return _batch(world) if name == "batch" else _single(world, _options(name))


def _options(name: str) -> dict[str, Any]:
    angle = np.linspace(0, 2 * np.pi, 100)
    ellipse = np.stack([150 * np.cos(angle), 90 * np.sin(angle)], -1)
    return {"scene": {"scene": 0}, "route": {"scene": 3, "route": "random"}, "drawn": {"scene": 5, "route": ellipse}}[
        name
    ]


def _controls(step: int, worlds: int) -> np.ndarray:
    """Steering that swings, and gas that comes and goes, another for every world."""
    phase = np.arange(worlds)
    steering, throttle = 0.3 * np.sin(step / 7 + phase), 0.25 + 0.25 * np.cos(step / 31 + 2 * phase)
    return np.stack([steering, throttle], 1).astype(np.float32)


def _single(world: World, options: dict[str, Any]) -> tuple[list[float], str]:
    env: Any = gym.make("drivedit_env:DriveDiT-v0", world=world, compile=False, max_episode_steps=None)
    digest, figures = hashlib.sha256(), []
    obs, info = env.reset(seed=7, options=options)
    digest.update(obs.tobytes())
    for step in range(STEPS):
        obs, reward, _, _, info = env.step(_controls(step, 1)[0])
        digest.update(
            obs.tobytes() + np.array([reward, *info["telemetry"].values(), info["confidence"]], np.float64).tobytes()
        )
        if step % EVERY == 0:
            figures += [round(float(x), 3) for x in (obs.mean(), obs.std(), reward, *info["telemetry"].values())]
    env.close()
    return figures, digest.hexdigest()


def _batch(world: World) -> tuple[list[float], str]:
    envs: Any = gym.make_vec("drivedit_env:DriveDiT-v0", num_envs=3, world=world, obs_type="latent", compile=False)
    digest, figures = hashlib.sha256(), []
    obs, _ = envs.reset(seed=11)
    digest.update(obs.tobytes())
    for step in range(STEPS):
        obs, rewards, _, _, infos = envs.step(_controls(step, 3))
        digest.update(obs.tobytes() + rewards.tobytes() + infos["confidence"].tobytes())
        if step % EVERY == 0:
            figures += [round(float(x), 3) for x in (*obs.mean((1, 2, 3)), *obs.std((1, 2, 3)), *rewards)]
    branches = envs.unwrapped.fork(1, 2)
    for step in range(EVERY):
        obs, rewards, *_ = branches.step(_controls(step, 2))
        digest.update(obs.tobytes() + rewards.tobytes())
        figures += [round(float(x), 3) for x in (*obs.mean((1, 2, 3)), *rewards)]
    branches.close()
    envs.close()
    return figures, digest.hexdigest()
