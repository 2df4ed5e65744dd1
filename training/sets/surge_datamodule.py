"""Files of parameters and features for Lightning, laid out as for the synthesizer Surge XT. No Surge data is included.

`python -m drivedit.data synth` writes such files from a small synthesizer of ours.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from drivedit.data.parameter_files import AUDIO, M2L, MEL, PARAMS, ParameterFile, read_statistics
from drivedit.models.sets.tokens import check_coupling
from drivedit.training.sets.loading import Batches, Coupled, SetDataModule, loader, share_of
from drivedit.utils import generator

FEATURES = {"mel": MEL, "m2l": M2L}  # by the name of the conditioning
FAKE_ITEMS, FAKE_PARAMS = 10_000, 90
SHAPES = {MEL: (2, 128, 401), M2L: (128, 42), AUDIO: (2, 176_400)}
FILES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class SurgeDataModule(SetDataModule):
    """Batches with `params` and `noise` `[B, P]`, `mel_spec` `[B, 2, 128, 401]`, `m2l` `[B, 128, 42]`, `audio`.

    What is not the conditioning is None. `audio` `[B, 2, 176400]` is read to test and to predict, where a file has it;
    a file to predict may lack `params`, which are None then, as is `noise`.

    Args:
        dataset_root: Folder of train.h5, val.h5, test.h5 and stats.npz.
        use_saved_mean_and_variance: Bring mel spectrograms to mean 0 and deviation 1 by stats.npz.
        batch_size: Items of a batch.
        ot: Whether training couples noise to parameters within the batch.
        num_workers: Processes that load.
        fake: Random numbers in place of files, to see that everything runs.
        repeat_first_batch: Train on the first batch alone, to see that it is learnt.
        predict_file: File to predict; None: test.h5.
        conditioning: "mel" or "m2l".

    Raises:
        ValueError: The conditioning or the coupling is unknown.
    """

    predicted = "predict"

    def __init__(
        self,
        dataset_root: str | Path,
        use_saved_mean_and_variance: bool = True,
        batch_size: int = 1024,
        ot: bool = True,
        num_workers: int = 0,
        fake: bool = False,
        repeat_first_batch: bool = False,
        predict_file: str | None = None,
        conditioning: str = "mel",
    ) -> None:
        super().__init__()
        if conditioning not in FEATURES:
            raise ValueError(f"conditioning must be one of {', '.join(FEATURES)}, got {conditioning!r}")
        check_coupling(ot, None)
        self.root, self.feature = Path(dataset_root), FEATURES[conditioning]
        self.standardise = use_saved_mean_and_variance and conditioning == "mel" and not fake
        self.batch_size, self.ot, self.num_workers = batch_size, ot, num_workers
        self.fake, self.repeat_first_batch, self.predict_file = fake, repeat_first_batch, predict_file
        self.statistics: tuple[Tensor, Tensor] | None = None
        self.sources: dict[str, ParameterFile | _Fake] = {}

    def setup(self, stage: str | None = None) -> None:
        """Opens the files that a stage needs; None: train.h5, val.h5 and test.h5.

        Raises:
            FileNotFoundError: A file is missing, `stats.npz` among them.
            ValueError: A file is damaged or cut short, or its statistics do not fit.
        """
        if self.standardise and self.statistics is None:
            self.statistics = read_statistics(self.root)
        for split in ("train", "val", "test") if stage is None else FILES[stage]:
            if split not in self.sources:
                self.sources[split] = self._open(split)

    def _open(self, split: str) -> ParameterFile | _Fake:
        heard = split in ("test", "predict")
        if self.fake:
            return _Fake([PARAMS, self.feature, *([AUDIO] if heard else [])])
        name = self.predict_file if split == "predict" and self.predict_file else f"{split}.h5"
        path = self.root / ("test.h5" if name == "predict.h5" else name)
        wanted = [self.feature] if split == "predict" else [PARAMS, self.feature]
        source = ParameterFile(path, wanted, [PARAMS, AUDIO] if split == "predict" else [AUDIO] if heard else [])
        if self.statistics is not None:
            shape = source.read(range(1))[self.feature].shape[1:]
            for each in self.statistics:
                try:
                    fits = torch.broadcast_shapes(each.shape, shape) == shape
                except RuntimeError:
                    fits = False
                if not fits:
                    raise ValueError(f"statistics of shape {list(each.shape)} do not fit {self.feature} {list(shape)}")
        return source

    def teardown(self, stage: str | None = None) -> None:
        """Closes what is open."""
        for source in self.sources.values():
            source.close()

    def _loader(self, split: str, ot: bool | str) -> DataLoader[Any]:
        if split not in self.sources:
            raise RuntimeError("call setup() first")
        source, first = self.sources[split], split == "train" and self.repeat_first_batch
        keys = Batches(len(source), self.batch_size, split == "train", repeat_first=first, share=share_of(self.trainer))
        return loader(Coupled(partial(_read, source, self.statistics), 0, ot, None), keys, self.num_workers)


def _read(source: Any, statistics: tuple[Tensor, Tensor] | None, rows: range) -> tuple[Tensor | None, Any]:
    """The parameters of rows, and what makes the batch of noise."""
    found = {**dict.fromkeys((PARAMS, MEL, M2L, AUDIO)), **source.read(rows)}
    if statistics is not None:
        found[MEL] = (found[MEL] - statistics[0]) / statistics[1]
    return found[PARAMS], lambda noise: {**found, "noise": noise}


class _Fake:
    """Random rows."""

    def __init__(self, kinds: list[str]) -> None:
        self.kinds = kinds

    def __len__(self) -> int:
        return FAKE_ITEMS

    def read(self, rows: range) -> dict[str, Tensor]:
        """Rows, the same ones every time."""
        rng = generator(0, "fake", rows.start)
        shapes = {PARAMS: (FAKE_PARAMS,), **SHAPES}
        made = {name: torch.rand(len(rows), *shapes[name], generator=rng) * 2 - 1 for name in self.kinds}
        return made

    def close(self) -> None:
        """There is nothing to close."""
