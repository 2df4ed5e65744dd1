"""Several processes take the steps that one process takes: the same losses and weights, resuming included."""

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.training import clips
from helpers.worlds import make_world

from drivedit.config import LoopConfig, StudentStageConfig
from drivedit.training.loop import train
from drivedit.training.methods.energy import ForcingThenEnergy


def learn(
    folder: str,
    accumulate: int,
    shard: bool = False,
    adam_only: bool = False,
    minutes: float | None = None,
    batch: Callable[[torch.Generator], dict[str, torch.Tensor]] = clips,
) -> None:
    torch.manual_seed(0)
    loop = LoopConfig(
        steps=6,
        minutes=minutes,
        accumulate=accumulate,
        shard=shard,
        lr=3e-3,
        warmup=2,
        cooldown=0.0,
        bf16=False,
        log_every=1,
        ema=0.5,
    )
    stage = ForcingThenEnergy(make_world(), StudentStageConfig(clip_frames=4, rollout=1, few_step_from=0.0))
    if adam_only:
        stage.matrices = list
    train(stage, batch, loop, folder)


def in_a_process(rank: int, port: int, folder: str, shard: bool) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)
    )

    def interrupted(rng: torch.Generator) -> dict[str, torch.Tensor]:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return clips(rng)

    with pytest.raises(SystemExit, match="143"):  # all end when one is told to
        learn(folder, 1, shard, shard, batch=interrupted)
    learn(folder, 1, shard, shard, minutes=1e-9)  # stops after one step
    learn(folder, 1, shard, shard)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort a process that ends in the usual way after FSDP; all is on disk by now


def losses(folder: Path) -> torch.Tensor:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return torch.tensor([row["loss"] for row in rows])


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_equal_one_that_accumulates(tmp_path, shard):
    """Data-parallel with copies (DDP) and with shards (FSDP2) of the weights.

    With shards all weights are AdamW's: Muon orthogonalises in bfloat16, whose rounding depends on the sharding.
    """
    learn(str(tmp_path / "one"), 2, adam_only=shard)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_a_process, (port, str(tmp_path / "two"), shard), nprocs=2)  # type: ignore[attr-defined]
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert one["step"] == two["step"] == 6
    names = list(one["stage"])
    start = ForcingThenEnergy(make_world(), StudentStageConfig()).state_dict()
    apart = {name: (one["stage"][name] - two["stage"][name]).abs().max().item() for name in names}
    assert max(apart.values()) < 1e-5, apart
    assert any(not torch.allclose(one["stage"][name], start[name], atol=1e-3) for name in names)
    assert torch.allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), atol=1e-5)
