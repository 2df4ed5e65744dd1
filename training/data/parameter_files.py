"""HDF5 files of parameters and features of what they make, and the statistics of the features.

A file has one row per item in each of its arrays: `params` `[N, P]` and any of `mel_spec` `[N, 2, 128, 401]`, `m2l`
`[N, 128, 42]`, `audio` `[N, 2, samples]`. `stats.npz` beside it has `mean` and `std`, which broadcast to a `mel_spec`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import h5py
import numpy as np
import torch
from torch import Tensor

from drivedit.utils import write_atomically
from drivedit.utils.hdf5 import dataset

PARAMS, MEL, M2L, AUDIO = "params", "mel_spec", "m2l", "audio"
STATISTICS = "stats.npz"
LEAST_STD = 1e-3
BLOCK = 256  # rows that are read at once for the statistics


def write_parameters(path: str | Path, count: int, rows: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Writes a file of float32 arrays, whole or not at all, row by row.

    Args:
        path: The file.
        count: How many rows there are.
        rows: Each with the same arrays, of the same shapes.

    Raises:
        ValueError: There are no rows, another number of them, or they differ.
    """

    def write(file: IO[bytes]) -> None:
        done, shapes = 0, {}
        with h5py.File(file, "w") as store:
            for row in rows:
                if not done:
                    shapes = {name: value.shape for name, value in row.items()}
                    for name, shape in shapes.items():
                        store.create_dataset(name, (count, *shape), "f4", chunks=(1, *shape), compression="lzf")
                found = {name: value.shape for name, value in row.items()}
                if found != shapes or done == count:
                    raise ValueError(f"there must be {count} rows of {shapes}, got {found} as row {done} for {path}")
                for name, value in row.items():
                    store[name][done] = value  # type: ignore[index]
                done += 1
        if done != count or not count:
            raise ValueError(f"there must be {count} rows, and 1 at least; got {done} for {path}")

    write_atomically(path, write)


def write_statistics(folder: str | Path) -> None:
    """Writes `stats.npz`: mean and deviation of each channel and band of the `mel_spec` of train.h5.

    Raises:
        FileNotFoundError: There is no train.h5.
        ValueError: It is damaged, or has no `mel_spec`.
    """
    file = ParameterFile(Path(folder) / "train.h5", [MEL])
    sums = [torch.zeros(()).double(), torch.zeros(()).double()]
    for start in range(0, len(file), BLOCK):
        mel = file.read(range(start, min(start + BLOCK, len(file))))[MEL].double()
        sums = [known + mel.pow(power).mean(-1, keepdim=True).sum(0) for power, known in zip((1, 2), sums, strict=True)]
    file.close()
    mean, square = (value / len(file) for value in sums)
    std = (square - mean**2).clamp(min=LEAST_STD**2).sqrt()
    told = mean.float().numpy(), std.float().numpy()
    write_atomically(Path(folder) / STATISTICS, lambda out: np.savez(out, mean=told[0], std=told[1]))


def read_statistics(folder: str | Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of features.

    Raises:
        FileNotFoundError: There is no `stats.npz`.
        ValueError: It is damaged, or has no positive deviations.
    """
    path = Path(folder) / STATISTICS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: mean and std of the features of train.h5; write it with drivedit.data.parameter_files."
            "write_statistics, or take use_saved_mean_and_variance=False"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            mean, std = (torch.from_numpy(np.asarray(stored[name], np.float32)) for name in ("mean", "std"))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must hold the arrays mean and std ({error})") from error
    if not (mean.isfinite().all() and (std > 0).all()):
        raise ValueError(f"{path} must hold finite means and deviations above 0")
    return mean, std


class ParameterFile:
    """A file that is read by rows; every process opens it for itself.

    Args:
        path: The file.
        kinds: Arrays that are read.
        optional: Arrays that are read where the file has them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or cut short, lacks an array, is empty, or its arrays differ in length.
    """

    def __init__(self, path: str | Path, kinds: Sequence[str], optional: Sequence[str] = ()) -> None:
        self.path, self._opened = Path(path), None
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        try:
            with h5py.File(self.path, "r") as file:
                self.kinds = [*kinds, *(name for name in optional if name in file and name not in kinds)]
                lengths = {name: len(dataset(file, name)) for name in self.kinds}
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.path} is cut short, damaged, or lacks an array: {error}") from error
        if len(set(lengths.values())) != 1 or not min(lengths.values()):
            raise ValueError(f"the arrays of {self.path} must have one length above 0, got {lengths}")
        self.count = lengths[self.kinds[0]]

    def __len__(self) -> int:
        return self.count

    def read(self, rows: range) -> dict[str, Tensor]:
        """Rows that follow one another, of all arrays.

        Raises:
            ValueError: They cannot be read.
        """
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), h5py.File(self.path, "r")
        file = self._opened[1]
        try:
            return {name: torch.from_numpy(dataset(file, name)[rows.start : rows.stop]).float() for name in self.kinds}
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{self.path} is damaged: rows {rows.start} to {rows.stop - 1}: {error}") from error

    def close(self) -> None:
        """Closes the file, which is opened again where it is read again."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_opened": None}
