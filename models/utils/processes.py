"""Processes: workers, and programs that need one core."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def begin_worker() -> None:
    """Begins the process of a worker in a pool: one thread for torch, and an end when its parent ends, even killed.

    Threads of several workers would get in their way, and nobody would wait for what an orphan makes.

    Raises:
        RuntimeError: This is no process of `multiprocessing`.
    """
    import torch

    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only a process that multiprocessing started has a parent to end with")
    torch.set_num_threads(1)

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="end with the parent", daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, in a program that steps one world; `OMP_NUM_THREADS` decides otherwise if it is set.

    One world is many small operations: a second thread brings little, and where other programs keep the cores busy the
    threads wait for each other, spinning, longer than they compute.
    """
    import torch

    before = torch.get_num_threads()
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
