"""Several processes that talk by gloo, for tests."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

PRELOADED = ["drivedit.training.stages"]  # once for all processes that a test process begins


def run_processes(count: int, work: Callable[..., None], *args: Any) -> None:
    """Calls `work(rank, *args)` in so many processes, which accelerate and torch find as torchrun sets them up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    start_processes(_in_a_process, (port, count, work, args), nprocs=count, start_method="forkserver")


def _in_a_process(rank: int, port: int, count: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(count), RANK=str(rank), LOCAL_RANK=str(rank)
    )
    work(rank, *args)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort a process that ends in the usual way after FSDP; all is on disk by now
