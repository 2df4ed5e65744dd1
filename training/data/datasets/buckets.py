"""Sizes that pictures of many shapes are brought to, and batches of which every one has a single size.

Sizes are `(height, width)` in pixels. A picture is cut and scaled to the size that keeps most of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from drivedit.config.pixel_training import SAMPLER_MODES, DataConfig
from drivedit.utils import generator

Size = tuple[int, int]
WIDER = 4  # shapes that are wider than the square, and as many that are higher: nine in all
ASPECT_WEIGHT, AREA_WEIGHT = 0.7, 0.3  # of what a size loses of a picture


def make_sizes(config: DataConfig, patch_size: int, max_patches: int) -> list[Size]:
    """The sizes of a configuration, by area.

    Of every shape there is one of `target_pixels` and one for each longer side, as nearly as `bucket_step` allows.

    Args:
        config: The configuration.
        patch_size: Side of a patch of the network in pixels.
        max_patches: Most patches of a picture.

    Raises:
        ValueError: `bucket_step` is no multiple of the patch size, or no size is left.
    """
    step, low, high = config.bucket_step, config.min_bucket_size, config.max_bucket_size
    if step % patch_size:
        raise ValueError(
            f"bucket_step must be a multiple of the patch size {patch_size}, got {step}; "
            f"take {max(round(step / patch_size), 1) * patch_size}"
        )

    def near(*sides: float) -> Size:
        """Multiples of the step that are nearest to a height and a width."""
        height, width = (max(round(side / step), 1) * step for side in sides)
        return height, width

    square = math.sqrt(config.target_pixels)
    found = [near(square, square)]
    edges = range(-(-low // step) * step, high + 1, step)
    for aspect in (config.max_aspect_ratio ** (k / WIDER) for k in range(WIDER + 1)) if config.use_bucketing else ():
        wide = [near(square / aspect**0.5, square * aspect**0.5), *(near(edge / aspect, edge) for edge in edges)]
        found += [*wide, *(size[::-1] for size in wide)]
    fitting = {
        size for size in found
        if low <= min(size) and max(size) <= high and max(size) <= config.max_aspect_ratio * min(size)
        and size[0] * size[1] <= max_patches * patch_size**2
    }  # fmt: skip
    if not fitting:
        raise ValueError(
            f"no size fits: sides must be multiples of bucket_step {step} from min_bucket_size {low} to "
            f"max_bucket_size {high}, with at most {max_patches} patches; those found were {sorted(set(found))}"
        )
    return sorted(fitting, key=_by_area)


def nearest_size(sizes: Sequence[Size], picture: Size) -> int:
    """The place of the size that loses least of a picture; it is enlarged only where it is smaller than all sizes.

    What is lost is counted as .7 times the difference of the logarithms of width over height, plus .3 times the share
    by which the area changes.
    """
    height, width = picture

    def loss(place: int) -> float:
        rows, columns = sizes[place]
        aspect = abs(math.log(columns / rows) - math.log(width / height))
        return ASPECT_WEIGHT * aspect + AREA_WEIGHT * abs(1 - rows * columns / (height * width))

    smaller = [place for place, (rows, columns) in enumerate(sizes) if rows <= height and columns <= width]
    return min(smaller or range(len(sizes)), key=loss)


def _by_area(size: Size) -> tuple[int, Size]:
    return size[0] * size[1], size


class BucketSampler(Sampler[list[int]]):
    """Batches of pictures of one size each, a function of (seed, epoch).

    Args:
        buckets: The size of each picture, by its place among the sizes, which are by area.
        batch_size: Pictures in a batch.
        mode: "random", "sequential" or "buffered_shuffle" (see `DataConfig`).
        chunk_size: Sizes that "buffered_shuffle" takes together.
        drop_last: Whether batches that a size does not fill are left out.
        seed: Of the orders.

    Attributes:
        epoch: Number of the epoch.
        start: Batches of it that are left out of the next iteration, because they were there already.

    Raises:
        ValueError: The mode is unknown, a number is below 1, or there would be no batch.
    """

    def __init__(
        self, buckets: Sequence[int], batch_size: int, mode: str = "buffered_shuffle", chunk_size: int = 4,
        drop_last: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        if mode not in SAMPLER_MODES:
            raise ValueError(f"mode must be one of {', '.join(SAMPLER_MODES)}, got {mode!r}")
        if batch_size < 1 or chunk_size < 1:
            raise ValueError(f"batch_size and chunk_size must be at least 1, got {batch_size} and {chunk_size}")
        self.members: dict[int, list[int]] = {bucket: [] for bucket in sorted(set(buckets))}
        for picture, bucket in enumerate(buckets):
            self.members[bucket].append(picture)
        self.batch_size, self.mode, self.chunk_size = batch_size, mode, chunk_size
        self.drop_last, self.seed = drop_last, seed
        self.epoch = self.start = 0
        if not len(self):
            most = max(map(len, self.members.values()), default=0)
            raise ValueError(
                f"no size has the {batch_size} pictures of a batch, at most {most} do share one; lower batch_size, set "
                "drop_last to False, or set use_bucketing to False"
            )

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        counts = [len(members) for members in self.members.values()]
        return sum(count // self.batch_size if self.drop_last else -(-count // self.batch_size) for count in counts)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches(self.epoch)[self.start :]

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch."""
        rng = generator(self.seed, "buckets", epoch)
        by_size = [self._cut(members, rng) for members in self.members.values()]
        if self.mode == "sequential":
            return [batch for batches in by_size for batch in batches]
        count = self.chunk_size if self.mode == "buffered_shuffle" else len(by_size)
        chunks = [by_size[first : first + count] for first in range(0, len(by_size), count)]
        shuffled: list[list[int]] = []
        for chunk in _shuffled(chunks, rng):
            shuffled += _shuffled([batch for batches in chunk for batch in batches], rng)
        return shuffled

    def _cut(self, members: list[int], rng: torch.Generator) -> list[list[int]]:
        """The batches of one size."""
        order = members if self.mode == "sequential" else _shuffled(members, rng)
        batches = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
        return [batch for batch in batches if len(batch) == self.batch_size or not self.drop_last]


def _shuffled(items: list, rng: torch.Generator) -> list:
    """The items in an order that is drawn."""
    return [items[place] for place in torch.randperm(len(items), generator=rng).tolist()]
