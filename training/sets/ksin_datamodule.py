"""k-sin for Lightning: signals, the parameters that made them, and noise."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from drivedit.data.ksin import SPREAD, ksin_params, make_sin
from drivedit.models.sets.tokens import check_coupling
from drivedit.training.sets.loading import Batches, Coupled, SetDataModule, loader, share_of

__all__ = ["KSinDataModule", "make_sin"]
SPLITS = ("train", "val", "test")


class KSinDataModule(SetDataModule):
    """Batches `(signal [B, L], params [B, 2k], noise [B, 2k], synth_fn)`; `synth_fn` makes signals of parameters.

    Args:
        k: Sines of a signal.
        signal_length: Samples L.
        sort_frequencies: Sort the frequencies of an item, which breaks the symmetry in part.
        break_symmetry: Give each sine a band of its own.
        shift_test_distribution: Draw the frequencies to test from others than those to train and validate.
        train_val_test_sizes: Items of the splits.
        train_val_test_seeds: Their seeds; no two splits share an item where these differ.
        batch_size: Items of a batch.
        ot: How training couples noise to parameters: False, True (within the batch), "token" (within each item, the
            best for sets) or "both".
        num_workers: Processes that load.

    Raises:
        ValueError: k is below 1, two seeds are equal, the distribution is shifted and the symmetry broken, or the
            coupling is unknown.
    """

    def __init__(
        self,
        k: int,
        signal_length: int = 1024,
        sort_frequencies: bool = False,
        break_symmetry: bool = False,
        shift_test_distribution: bool = False,
        train_val_test_sizes: tuple[int, int, int] = (100_000, 10_000, 10_000),
        train_val_test_seeds: tuple[int, int, int] = (123, 456, 789),
        batch_size: int = 1024,
        ot: bool | str = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if shift_test_distribution and break_symmetry:
            raise ValueError("shift_test_distribution and break_symmetry exclude each other: bands are fixed")
        if len(set(train_val_test_seeds)) != len(SPLITS):
            raise ValueError(f"train_val_test_seeds must differ, got {tuple(train_val_test_seeds)}")
        check_coupling(ot, 2)
        self.k, self.sort, self.shift = k, sort_frequencies, shift_test_distribution
        self.sizes: dict[str, int] = dict(zip(SPLITS, train_val_test_sizes, strict=True))
        self.seeds: dict[str, int] = dict(zip(SPLITS, train_val_test_seeds, strict=True))
        self.batch_size, self.ot, self.num_workers = batch_size, ot, num_workers
        self.synth = partial(make_sin, length=signal_length, break_symmetry=break_symmetry)
        self.params: dict[str, Tensor] = {}

    def setup(self, stage: str | None = None) -> None:
        """Draws the parameters of the splits that a stage needs; None: of all."""
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
        for split in SPLITS if stage is None else needed[stage]:
            if split not in self.params:
                shift = (SPREAD if split == "test" else -SPREAD) if self.shift else None
                self.params[split] = ksin_params(self.seeds[split], self.sizes[split], self.k, self.sort, shift)

    def _loader(self, split: str, ot: bool | str) -> DataLoader[Any]:
        if split not in self.params:
            raise RuntimeError("call setup() first")
        seed, read = self.seeds[split], partial(_read, self.params[split], self.synth)
        keys = Batches(self.sizes[split], self.batch_size, split == "train", seed, share=share_of(self.trainer))
        return loader(Coupled(read, seed, ot, 2), keys, self.num_workers)


def _read(params: Tensor, synth: Any, rows: range) -> tuple[Tensor, Any]:
    """The parameters of rows, and what makes the batch of noise."""
    chosen = params[rows.start : rows.stop]
    return chosen, lambda noise: (synth(chosen), chosen, noise, synth)
