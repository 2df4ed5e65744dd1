"""Batches that are functions of (seed, epoch, place), whatever the number of workers, with noise coupled to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from drivedit.models.sets.tokens import couple
from drivedit.utils import extra, generator

with extra("sets", "data modules of sets"):
    from lightning import LightningDataModule

Key = tuple[int, int, int]  # number of a batch over all epochs, first row, row after the last one


class Batches(Sampler[Key]):
    """Keys of batches of rows that follow one another, which files are read fastest by.

    Args:
        count: Rows.
        size: Rows of a batch, the last one of those that are not shuffled may have fewer.
        shuffle: Begin each epoch at another row and take its whole batches in another order.
        seed: Of that order.
        repeat_first: Give the first batch every time.
        share: Number of this process, and how many there are: each takes every so manieth batch.
    """

    def __init__(
        self, count: int, size: int, shuffle: bool, seed: int = 0, repeat_first: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        if count < 1 or size < 1:
            raise ValueError(f"there must be at least 1 row and 1 row in a batch, got {count} and {size}")
        self.count, self.size, self.shuffle, self.seed, self.repeat_first = count, size, shuffle, seed, repeat_first
        self.share, self.epoch = share, 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch is next; without it epochs are counted."""
        self.epoch = epoch

    def _whole(self) -> int:
        """Batches of an epoch, over all processes, which take equally many of those that are shuffled."""
        if not self.shuffle:
            return -(-self.count // self.size)
        world, there = self.share[1], max(1, self.count // self.size)
        return there - there % world or world

    def __len__(self) -> int:
        return len(range(self.share[0], self._whole(), self.share[1]))

    def __iter__(self) -> Iterator[Key]:
        rng, epoch, whole = generator(self.seed, "order", self.epoch), self.epoch, self._whole()
        self.epoch += 1
        starts = range(0, self.count, self.size)
        if self.shuffle and self.count > self.size:
            first = int(torch.randint(self.count % self.size + 1, (), generator=rng))
            order = torch.randperm(self.count // self.size, generator=rng).tolist()
            starts = [first + self.size * place for place in order]
        for place in range(self.share[0], whole, self.share[1]):
            number, start = epoch * whole + place if self.shuffle else place, starts[place % len(starts)]
            number, start = (0, 0) if self.repeat_first else (number, start)
            yield number, start, min(start + self.size, self.count)


class Coupled(Dataset[Any]):
    """Whole batches by their keys.

    Args:
        read: The rows of a batch: parameters `[B, P]`, or None; and what makes the batch of them and of their noise.
        seed: Of the noise.
        ot: The coupling, as `drivedit.models.sets.tokens.couple` takes it.
        params_per_token: Numbers of a token; None: parameters are no tokens.
    """

    def __init__(
        self,
        read: Callable[[range], tuple[Tensor | None, Callable[[Tensor | None], Any]]],
        seed: int,
        ot: bool | str,
        params_per_token: int | None,
    ) -> None:
        self.read, self.seed, self.ot, self.params_per_token = read, seed, ot, params_per_token

    def __getitem__(self, key: Key) -> Any:
        number, start, stop = key
        params, make = self.read(range(start, stop))
        if params is None:
            return make(None)
        noise = torch.randn(params.shape, generator=generator(self.seed, "noise", number))
        return make(couple(noise, params, self.ot, self.params_per_token))


def as_it_is(batch: Any) -> Any:
    """A batch is made already."""
    return batch


def share_of(trainer: Any) -> tuple[int, int]:
    """The number of this process and how many there are, of a Lightning trainer; None: it is alone."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def loader(batches: Dataset[Any], keys: Batches, num_workers: int) -> DataLoader[Any]:
    """A loader of whole batches by their keys."""
    return DataLoader(batches, batch_size=None, sampler=keys, num_workers=num_workers, collate_fn=as_it_is)


class SetDataModule(LightningDataModule):
    """Loaders of splits: noise is coupled to train, and plain to judge."""

    predicted = "test"  # the split that is predicted
    ot: bool | str

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches to train on, in another order in each epoch."""
        return self._loader("train", self.ot)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches to validate on, with the same noise every time."""
        return self._loader("val", False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches to test on."""
        return self._loader("test", False)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches to predict."""
        return self._loader(self.predicted, False)

    def _loader(self, split: str, ot: bool | str) -> DataLoader[Any]:
        raise NotImplementedError
