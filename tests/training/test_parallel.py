"""Several processes take the steps that one process takes: the same losses and weights, resuming included."""

import os
import signal

import pytest
import torch
from helpers.processes import run_processes
from helpers.training import assert_same_runs, clips, learn


def interrupted_twice(rank: int, folder: str, shard: bool) -> None:
    def interrupted(rng: torch.Generator) -> dict[str, torch.Tensor]:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return clips(rng)

    with pytest.raises(SystemExit, match="143"):  # all end when one is told to
        learn(folder, shard, interrupted, shard=shard)
    learn(folder, shard, shard=shard, minutes=1e-9)  # stops after one step
    learn(folder, shard, shard=shard)


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_equal_one_that_accumulates(tmp_path, shard):
    """Data-parallel with copies (DDP) and with shards (FSDP2) of the weights.

    With shards all weights are AdamW's: Muon orthogonalises in bfloat16, whose rounding depends on the sharding.
    """
    learn(str(tmp_path / "one"), adam_only=shard, accumulate=2)
    run_processes(2, interrupted_twice, str(tmp_path / "two"), shard)
    assert_same_runs(tmp_path / "one", tmp_path / "two")
