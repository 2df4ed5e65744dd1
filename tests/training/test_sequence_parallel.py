"""Processes that share clips compute what one alone computes: outputs, every gradient, whole runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processes import run_processes
from helpers.training import Line, assert_same_runs, learn, line_batch, make_episode
from helpers.worlds import make_world
from torch import Tensor, nn

from drivedit.config import DataConfig, LoopConfig, StudentStageConfig, VAEStageConfig
from drivedit.data.recordings import write_shard
from drivedit.models import DiTStudent, DiTWorld
from drivedit.models.layers.past import past_of
from drivedit.training.checkpoints import computed_twice
from drivedit.training.loop import train
from drivedit.training.sequence_parallel import Ulysses
from drivedit.training.stages import student, vae

FRAMES, TOKENS, WIDTH = 6, 3, 8
CASES: list[dict[str, Any]] = [
    {"rows": 1},
    {"rows": 3, "window": 2, "history": 2},
    {"rows": 3, "window": 2, "history": 2, "dropout": 0.3, "twice": True},
    {"rows": 2, "window": 4, "memory": True},
    {"rows": 2, "times": [0, 1, 2, 1, 2, 3], "twice": True},
]


def outcome(case: dict[str, Any], spread: Ulysses | None) -> tuple[dict[str, Tensor], list[int]]:
    """Output and gradients of a student, also those of what it is given; and the frames that its blocks saw."""
    torch.manual_seed(0)
    student = DiTStudent(
        WIDTH, 16, 2, 4, dropout=case.get("dropout", 0.0), tokens_per_frame=TOKENS, window=case.get("window"),
        history=case.get("history", 0), control_dim=2, route_dim=5 + 2 * TOKENS, map_dim=2,
    )  # fmt: skip
    for weight in student.parameters():
        nn.init.normal_(weight, std=0.2)
    rows = case["rows"]
    clip = torch.randn(rows, FRAMES, TOKENS, WIDTH, requires_grad=True)
    given = {
        "sigma": torch.rand(rows, FRAMES), "control": torch.randn(rows, FRAMES, 2),
        "route": torch.randn(rows, FRAMES, 5 + 2 * TOKENS), "past": past_of(clip, student.history).flatten(1, 2),
    }  # fmt: skip
    inputs = {"clip": clip}
    if case.get("memory"):
        inputs["memory"] = given["memory"] = torch.randn(rows, 5, 16, requires_grad=True)
    if "times" in case:
        given["frame_ids"] = torch.tensor(case["times"])
    seen: list[int] = []
    student.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    wanted = torch.randn(clip.shape)
    with computed_twice(student, case.get("twice", False)), (spread or Ulysses()).spreading(student):
        torch.manual_seed(1)
        out, _ = student(clip.flatten(1, 2), **given)
        (out.unflatten(1, (FRAMES, -1)) - wanted).square().mean().backward()
    found = {"out": out.detach()}
    for name, value in [*student.named_parameters(), *inputs.items()]:
        assert value.grad is not None and value.grad.abs().max() > 0, name
        found[name] = value.grad
    return found, seen


def in_pairs(rank: int) -> None:
    torch.distributed.init_process_group("gloo")
    shared_equals_alone()
    what_does_not_divide_is_refused(rank)


def shared_equals_alone() -> None:
    spread = Ulysses(2)
    for case in CASES:
        alone, saw = outcome(case, None)
        shared, part = outcome(case, spread)
        assert (saw[0], part[0]) == (FRAMES, FRAMES // 2)
        for name, value in shared.items():
            torch.distributed.all_reduce(value)  # as data-parallel training takes the mean of gradients
            apart = (value / 2 - alone[name]).abs().max().item()
            assert apart < 1e-5, (case, name, apart)


def what_does_not_divide_is_refused(rank: int) -> None:
    student = DiTStudent(WIDTH, 16, 1, 2)
    with Ulysses(2).spreading(student), pytest.raises(ValueError, match="3 frames do not divide over 2"):
        student(torch.zeros(1, 3, WIDTH))
    assert student.spread is None
    with pytest.raises(ValueError, match="3 heads do not divide over 2"), Ulysses(2).spreading(DiTStudent(8, 18, 1, 3)):
        pass
    with pytest.raises(ValueError, match="transformers"), Ulysses(2).spreading(nn.Linear(2, 2)):
        pass
    assert Ulysses(2).share(torch.tensor([float(rank)])) == 0


def test_two_processes_equal_one():
    """Windows, the past of frames, memory, rotations and dropout are right at the edge; odd sizes are refused."""
    run_processes(2, in_pairs)


def test_one_process_shares_with_none(tmp_path):
    with pytest.raises(ValueError, match="2 of 1"):
        train(Line(), line_batch, LoopConfig(sequence_parallel=2), tmp_path)
    with pytest.raises(ValueError, match="train.shard"):
        LoopConfig(offload=True)


def stopped_and_resumed(_rank: int, folder: str) -> None:
    options = {"shard": True, "sequence_parallel": 2, "checkpointing": True, "offload": True}
    learn(folder, adam_only=True, minutes=1e-9, **options)  # stops after one step
    learn(folder, adam_only=True, **options)


def test_shards_and_shared_clips_resumed_equal_one_process(tmp_path: Path):
    """Two pairs of processes, weights in four shards: the run of one process that accumulates two batches."""
    learn(str(tmp_path / "one"), adam_only=True, accumulate=2)
    run_processes(4, stopped_and_resumed, str(tmp_path / "four"))
    assert_same_runs(tmp_path / "one", tmp_path / "four")


def student_stage(_rank: int, root: str, out: str, options: dict[str, Any]) -> None:
    loop = LoopConfig(steps=3, batch_size=2, warmup=1, bf16=False, **options)
    config, data = make_world().config, DataConfig(f"{root}/recordings", validation_fraction=0.5)
    student(config, loop, data, StudentStageConfig(clip_frames=4, rollout=1, few_step_from=0.5), out, "cpu")


def test_the_student_stage_writes_the_same_world(tmp_path: Path):
    """From shards and shared clips to a whole world on disk, with its figures."""
    write_shard(tmp_path / "recordings" / "shard-00000.h5", [make_episode(20, seed) for seed in range(2)])
    config, data = make_world().config, DataConfig(str(tmp_path / "recordings"), validation_fraction=0.5)
    vae(config, LoopConfig(steps=1, batch_size=2, bf16=False), data, VAEStageConfig(), str(tmp_path / "one"), "cpu")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    student_stage(0, str(tmp_path), str(tmp_path / "one"), {})
    run_processes(2, student_stage, str(tmp_path), str(tmp_path / "two"), {"shard": True, "sequence_parallel": 2})
    one, two = (DiTWorld.from_pretrained(tmp_path / run / "student" / "world") for run in ("one", "two"))
    for (name, value), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.allclose(value, other, atol=1e-4), name
    rows = [(tmp_path / run / "student" / "curve.jsonl").read_text().splitlines()[-1] for run in ("one", "two")]
    first, second = (json.loads(row) for row in rows)
    assert first == pytest.approx(second, rel=1e-3)
