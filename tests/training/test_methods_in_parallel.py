"""Methods of distillation on several processes: the steps that one process takes, with copies and with shards."""

from pathlib import Path

import pytest
import torch
from helpers.processes import run_processes
from helpers.training import clips
from helpers.worlds import make_world

from drivedit.config import DistillConfig, LoopConfig
from drivedit.training.loop import train
from drivedit.training.methods import METHODS
from drivedit.utils import load_object

NAMES = ("adversarial", "continuous")
LOSS = DistillConfig(
    clip_frames=4, rollout=1, critic_steps=2, phases="1-4,2-2", warmup_share=0.2, discriminator_lr=1e-3
)


def learn_by(name: str, folder: Path, **options) -> None:
    torch.manual_seed(0)
    method = load_object(METHODS[name])(make_world(), LOSS)
    method.matrices = list  # Muon orthogonalises in bfloat16, whose rounding depends on the sharding
    told = {"steps": 2, "lr": 3e-3, "warmup": 1, "cooldown": 0.0, "bf16": False, "log_every": 1, **options}
    train(method, clips, LoopConfig(**told), folder / name)


def all_methods(_rank: int, folder: str, options: dict[str, int | bool], names: tuple[str, ...]) -> None:
    for name in names:
        learn_by(name, Path(folder), **options)


@pytest.mark.parametrize(
    ("options", "accumulate", "names"),
    [({}, 2, NAMES), ({"shard": True}, 2, (*NAMES, "matching")), ({"sequence_parallel": 2}, 1, NAMES[1:])],
    ids=["copies", "shards", "shared clips"],
)
def test_two_processes_take_the_steps_of_one(tmp_path, options, accumulate, names):
    run_processes(2, all_methods, str(tmp_path / "two"), options, names)
    for name in names:
        learn_by(name, tmp_path / "one", accumulate=accumulate)
        one, two = (torch.load(tmp_path / n / name / "last.pt", weights_only=True)["stage"] for n in ("one", "two"))
        assert one.keys() == two.keys() and not [weight for weight in one if weight.startswith("teacher")]
        apart = {weight: (one[weight] - two[weight]).abs().max().item() for weight in one}
        assert max(apart.values()) < 2e-5, (name, max(apart.items(), key=lambda item: item[1]))
