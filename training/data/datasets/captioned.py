"""Pictures with captions: a folder of them, brought to sizes that batches share, and the loader of these batches.

A caption is a text file of the picture's name beside it, `night/7.txt` beside `night/7.jpg`; a picture without one has
the empty caption.

Legend: B pictures of a batch, h w their pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from drivedit.config import PixelHDMConfig
from drivedit.config.pixel_training import DataConfig, TrainingConfig
from drivedit.data.datasets.buckets import BucketSampler, Size, make_sizes, nearest_size
from drivedit.data.exchange.pictures import KINDS, read_picture
from drivedit.utils import generator

ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the tag of a photo that is turned by a quarter, and its values


class CaptionedPictures(Dataset[tuple[Tensor, str]]):
    """The pictures of a folder and of the folders in it, by name, each with its caption.

    Args:
        root: The folder.
        sizes: Sizes that there are; every picture has the one that keeps most of it.

    Attributes:
        paths: The pictures.
        buckets: The size of each, by its place among the sizes.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no picture in it, or one is damaged.
    """

    def __init__(self, root: str | Path, sizes: Sequence[Size]) -> None:
        if not Path(root).is_dir():
            raise FileNotFoundError(f"there is no folder {root}")
        self.paths = sorted(path for path in Path(root).rglob("*") if path.suffix.lower() in KINDS and path.is_file())
        if not self.paths:
            raise ValueError(f"there must be pictures ({', '.join(KINDS)}) in {root} or in the folders in it, got none")
        self.sizes = list(sizes)
        self.buckets = [nearest_size(self.sizes, _size(path)) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """A picture `[3, h, w]` in [-1, 1], cut to the shape of its size and scaled to it, and its caption.

        Raises:
            ValueError: The picture or the caption cannot be read.
        """
        path = self.paths[index]
        pixels = torch.from_numpy(read_picture(path, self.sizes[self.buckets[index]], "crop"))
        return pixels.permute(2, 0, 1).float() / 127.5 - 1, _caption(path.with_suffix(".txt"))


class BucketLoader(DataLoader[Any]):
    """Batches of pictures of one size with their captions; it knows where it is and goes on there.

    A batch is `{"images": [B, 3, h, w] in [-1, 1], "captions": B texts}`. An iteration that was broken off goes on with
    the next batch of its epoch, be it in another process after `load_state_dict`.

    Args:
        pictures: The pictures.
        sampler: Their batches.
        caption_dropout: Share of captions that are given as empty texts, a function of (seed, epoch, batch).
        num_workers: Processes that read; 0: this one.
    """

    def __init__(
        self, pictures: CaptionedPictures, sampler: BucketSampler, caption_dropout: float = 0.0, num_workers: int = 0
    ) -> None:
        self.order, self.caption_dropout = sampler, caption_dropout
        super().__init__(pictures, batch_sampler=sampler, num_workers=num_workers, collate_fn=_together)

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        order = self.order
        for batch in super().__iter__():
            rng = generator(order.seed, f"captions{order.epoch}", order.start)
            dropped = torch.rand(len(batch["captions"]), generator=rng) < self.caption_dropout
            pairs = zip(batch["captions"], dropped.tolist(), strict=True)
            order.start += 1
            yield {**batch, "captions": ["" if drop else caption for caption, drop in pairs]}
        order.epoch, order.start = order.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where it is: the epoch, and how many batches of it are done."""
        return {"epoch": self.order.epoch, "batch": self.order.start}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where a loader of the same pictures was.

        Raises:
            ValueError: There are not so many batches.
        """
        if not 0 <= state["batch"] <= len(self):
            raise ValueError(
                f"an epoch here has {len(self)} batches, the state is after {state['batch']}; other pictures?"
            )
        self.order.epoch, self.order.start = state["epoch"], state["batch"]


def create_dataloader_from_config_v2(
    root_dir: str | Path,
    model_config: PixelHDMConfig,
    data_config: DataConfig,
    batch_size: int = TrainingConfig.batch_size,
    *,
    num_workers: int = 0,
    seed: int = 0,
) -> BucketLoader:
    """Batches of the captioned pictures of a folder, in sizes that the network takes.

    Args:
        root_dir: The folder.
        model_config: Of the network, which says the side of a patch and how many there may be.
        data_config: Sizes and order.
        batch_size: Pictures in a batch.
        num_workers: Processes that read; 0: this one.
        seed: Of the order.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no picture in it, one is damaged, no size fits the network, or no batch is full.
    """
    pictures = CaptionedPictures(root_dir, make_sizes(data_config, model_config.patch_size, model_config.max_patches))
    sampler = BucketSampler(
        pictures.buckets, batch_size, data_config.sampler_mode, data_config.chunk_size, data_config.drop_last, seed
    )
    return BucketLoader(pictures, sampler, data_config.caption_dropout, num_workers)


def _together(items: list[tuple[Tensor, str]]) -> dict[str, Any]:
    """A batch of pictures and captions."""
    pictures, captions = zip(*items, strict=True)
    return {"images": torch.stack(pictures), "captions": list(captions)}


def _size(path: Path) -> Size:
    """Height and width of a picture as it is shown, of the head of its file."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(ORIENTATION) in LYING
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is damaged or not a picture ({error})") from error
    return (width, height) if turned else (height, width)


def _caption(path: Path) -> str:
    """What a text file says, without line breaks at its ends; nothing if there is none."""
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption {path} is not UTF-8 ({error})") from error
