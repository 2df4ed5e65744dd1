"""Worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading

import torch


def begin_worker() -> None:
    """Begins the process of a worker in a pool: one thread for torch, and an end when its parent ends, even killed.

    Threads of several workers would get in their way, and nobody would wait for what an orphan makes.

    Raises:
        RuntimeError: This is no process of `multiprocessing`.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only a process that multiprocessing started has a parent to end with")
    torch.set_num_threads(1)

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="end with the parent", daemon=True).start()
