"""A cache of decoded frames with statistics that all processes of a loader share."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

PROCESSES = 65  # rows of the table of figures: the main process and this many workers less one
HITS, MISSES, FRAMES, BYTES, CLEARED = range(5)
MEBIBYTE = 2**20


class FrameCache:
    """Keeps decoded frames in the memory of the process that decoded them, those used longest ago leave first.

    Every worker of a loader has frames of its own. The figures lie in shared memory, a row per process, so that the
    main process sees and clears all of them.

    Args:
        limit_mb: MiB that the frames of one process may take.
    """

    def __init__(self, limit_mb: float) -> None:
        self.limit = limit_mb * MEBIBYTE
        self._figures = torch.zeros(PROCESSES, 5, dtype=torch.int64).share_memory_()
        self._clears = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._frames: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._process = os.getpid()

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The frame of that key; `read` is called if it is not here."""
        row = self._row()
        if key in self._frames:
            row[HITS] += 1
            self._frames.move_to_end(key)
            return self._frames[key]
        row[MISSES] += 1
        frame = read()
        if frame.nbytes <= self.limit:
            self._frames[key] = frame
            row[BYTES] += frame.nbytes
            while int(row[BYTES]) > self.limit:
                row[BYTES] -= self._frames.popitem(last=False)[1].nbytes
            row[FRAMES] = len(self._frames)
        return frame

    def stats(self) -> dict[str, Any]:
        """Figures over all processes since the last clearing.

        Returns:
            `hits`, `misses`, `hit_rate` (0 before the first look), `frames` and `memory_mb` held now, and `processes`
            that looked.
        """
        hits, misses, frames, size, _ = self._figures.sum(0).tolist()
        return {
            "hits": hits,
            "misses": misses,
            "hit_rate": hits / max(hits + misses, 1),
            "frames": frames,
            "memory_mb": size / MEBIBYTE,
            "processes": int((self._figures[:, : MISSES + 1].sum(1) > 0).sum()),
        }

    def clear(self) -> None:
        """Sets all figures to zero; every process drops its frames, another one than this when it next looks."""
        self._clears += 1
        self._figures[:, :CLEARED] = 0
        self._row()

    def _row(self) -> torch.Tensor:
        """The figures of this process, after dropping what was inherited from another one or has been cleared."""
        worker = get_worker_info()
        row = self._figures[0 if worker is None else 1 + worker.id % (PROCESSES - 1)]
        if self._process != os.getpid() or int(row[CLEARED]) != int(self._clears):
            self._process = os.getpid()
            self._frames.clear()
            row[FRAMES], row[BYTES], row[CLEARED] = 0, 0, self._clears[0]
        return row
