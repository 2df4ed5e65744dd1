"""The library leaves the process as it found it: generators, warnings, threads, dtype, logging, grad mode."""

import logging
import random
import signal
import warnings

import accelerate  # noqa: F401 (these three add warning filters when they are imported)
import gymnasium as gym
import numpy as np
import scipy.stats  # noqa: F401
import torch
import torchmetrics  # noqa: F401
from helpers.training import make_episode
from helpers.worlds import make_world

from drivedit.config import DataConfig, LoopConfig, StudentStageConfig, VAEStageConfig
from drivedit.data.recordings import write_shard
from drivedit.evaluation import SequenceEvaluator
from drivedit.models import DiTWorld
from drivedit.training.stages import student, vae


def state() -> dict[str, object]:
    root = logging.getLogger()
    return {
        "random": random.getstate(), "numpy": repr(np.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "warnings": list(warnings.filters), "threads": torch.get_num_threads(), "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(), "level": root.level, "handlers": list(root.handlers),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(), "numpy errors": np.geterr(),
    }  # fmt: skip


def unchanged(before: dict[str, object]) -> None:
    after = state()
    assert {name: (before[name], after[name]) for name in before if before[name] != after[name]} == {}


def test_environments_leave_it(tiny_world, tmp_path):
    tiny_world.save_pretrained(tmp_path / "world")
    before = state()
    env = gym.make("drivedit_env:DriveDiT-v0", world=str(tmp_path / "world"), device="cpu", compile=False)
    env.reset(seed=3)
    env.action_space.seed(0)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.close()
    rows = gym.make_vec("drivedit_env:DriveDiT-v0", 2, world=str(tmp_path / "world"), device="cpu", compile=False)
    rows.reset(seed=3)
    rows.step(np.zeros((2, 2), np.float32))
    rows.close()
    frames = torch.zeros(1, 4, 3, 64, 64)
    world = DiTWorld.from_pretrained(tmp_path / "world", device="cpu")
    SequenceEvaluator(world, device="cpu").evaluate_sequence(frames[:, :2], frames[:, 2:])
    unchanged(before)


def test_training_and_evaluation_leave_it(tmp_path):
    write_shard(tmp_path / "recordings" / "shard-00000.h5", [make_episode(20, seed) for seed in range(2)])
    data = DataConfig(str(tmp_path / "recordings"), validation_fraction=0.5)
    config = make_world().config
    loop = LoopConfig(steps=2, batch_size=2, warmup=1, log_every=1)
    before = state()
    vae(config, loop, data, VAEStageConfig(), str(tmp_path), "cpu")
    student(config, loop, data, StudentStageConfig(clip_frames=4, rollout=1, few_step_from=0.5), str(tmp_path), "cpu")
    DiTWorld.from_pretrained(tmp_path / "student" / "world", device="cpu")
    unchanged(before)


def test_fresh_weights_are_those_of_the_seed_whatever_was_drawn_before(tmp_path):
    write_shard(tmp_path / "recordings" / "shard-00000.h5", [make_episode(20, seed) for seed in range(2)])
    data = DataConfig(str(tmp_path / "recordings"), validation_fraction=0.5)
    made = []
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(len(made) + 1)
        loop = LoopConfig(steps=1, batch_size=2, bf16=False, seed=seed)
        world = vae(make_world().config, loop, data, VAEStageConfig(), str(tmp_path / run), "cpu")
        made.append(world.dynamics.position)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
