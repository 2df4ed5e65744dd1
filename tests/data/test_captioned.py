"""Captioned pictures: sizes, batches of one size, orders that come again, and a loader that goes on where it was."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drivedit.config import PixelHDMConfig
from drivedit.config.pixel_training import DataConfig
from drivedit.data import BucketSampler, CaptionedPictures, create_dataloader_from_config_v2
from drivedit.data.datasets.buckets import make_sizes, nearest_size

MODEL = PixelHDMConfig.for_testing()  # patches of 8 x 8
SMALL = DataConfig(min_bucket_size=16, max_bucket_size=64, bucket_step=16, target_pixels=32**2, drop_last=False)
BUCKETS = [place % 7 for place in range(40)] + [0, 0, 3]  # 8, 6, 6, 7, 6, 5 and 5 pictures of a size


def write(folder: Path, name: str, height: int, width: int, caption: str | None = None) -> None:
    """A picture whose left half is red and whose right half is blue, with its caption."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(5):
        write(tmp_path, f"wide/{number}.png", 40, 80, f"wide {number}")
        write(tmp_path, f"square{number}.png", 64, 64, f"square {number}")
    write(tmp_path, "high.png", 66, 33)
    return tmp_path


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [DataConfig(), SMALL, DataConfig(bucket_step=16, max_aspect_ratio=3.0)])
def test_sizes_are_multiples_in_range_with_a_bounded_aspect(config):
    sizes = make_sizes(config, 8, 4096 * 4)
    low, high, step = config.min_bucket_size, config.max_bucket_size, config.bucket_step
    assert all(side % step == 0 and low <= side <= high for size in sizes for side in size)
    assert all(max(size) <= config.max_aspect_ratio * min(size) for size in sizes)
    assert sizes == sorted(sizes, key=math.prod) and len(set(sizes)) == len(sizes)
    assert {size[::-1] for size in sizes} == set(sizes)
    square = round(math.sqrt(config.target_pixels))
    assert (
        (square, square) in sizes and (high, high) in sizes and any(h == config.max_aspect_ratio * w for h, w in sizes)
    )


def test_sizes_have_no_more_patches_than_the_network_takes():
    sizes = make_sizes(DataConfig(), 16, 1024)
    assert max(h * w for h, w in sizes) == 512**2  # 1024 patches of 16 x 16
    assert make_sizes(DataConfig(use_bucketing=False), 16, 4096) == [(512, 512)]
    with pytest.raises(ValueError, match="no size fits: .* at most 100 patches"):
        make_sizes(DataConfig(), 16, 100)
    with pytest.raises(ValueError, match="bucket_step must be a multiple of the patch size 16, got 40; take 32"):
        make_sizes(DataConfig(bucket_step=40), 16, 4096)


@pytest.mark.parametrize("picture", [(1080, 1920), (700, 500), (3000, 3000), (2000, 400), (256, 256), (600, 520)])
def test_a_picture_is_not_enlarged_and_keeps_its_shape(picture):
    sizes = make_sizes(DataConfig(), 16, 4096)
    rows, columns = sizes[nearest_size(sizes, picture)]
    height, width = picture
    assert rows <= height and columns <= width
    aspect = min(max(width / height, 0.5), 2.0)
    assert abs(math.log(columns / rows / aspect)) < 0.13  # sides are multiples of 64


def test_a_picture_that_is_smaller_than_all_sizes_is_enlarged_least():
    sizes = make_sizes(DataConfig(), 16, 4096)
    assert sizes[nearest_size(sizes, (100, 100))] == (256, 256)


# -- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("mode", ["random", "sequential", "buffered_shuffle"])
def test_every_batch_has_one_size_and_every_picture_comes_once(mode, drop_last):
    sampler = BucketSampler(BUCKETS, 3, mode, 2, drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len({BUCKETS[picture] for picture in batch}) == 1 for batch in batches)
    pictures = [picture for batch in batches for picture in batch]
    left_out = sum(count % 3 for count in Counter(BUCKETS).values()) if drop_last else 0
    assert len(set(pictures)) == len(pictures) == len(BUCKETS) - left_out
    assert all(len(batch) == 3 for batch in batches) or not drop_last


def test_orders_differ_from_epoch_to_epoch_and_come_again():
    sampler = BucketSampler(BUCKETS, 3, "buffered_shuffle", 2, False)
    assert sampler.batches(0) == BucketSampler(BUCKETS, 3, "buffered_shuffle", 2, False).batches(0)
    assert sampler.batches(0) != sampler.batches(1)
    assert sampler.batches(0) != BucketSampler(BUCKETS, 3, "buffered_shuffle", 2, False, seed=1).batches(0)
    plain = BucketSampler(BUCKETS, 3, "sequential", 2, False)
    assert plain.batches(0) == plain.batches(1) and [BUCKETS[batch[0]] for batch in plain] == sorted(
        BUCKETS[batch[0]] for batch in plain
    )


def test_a_buffered_shuffle_takes_neighbouring_sizes_together():
    order = [BUCKETS[batch[0]] // 2 for batch in BucketSampler(BUCKETS, 3, "buffered_shuffle", 2, False)]
    changes = sum(one != other for one, other in zip(order, order[1:], strict=False))
    assert changes == len(set(order)) - 1 == 3  # chunks of sizes 0 1, 2 3, 4 5 and 6, each in one stretch
    anyhow = [BUCKETS[batch[0]] // 2 for batch in BucketSampler(BUCKETS, 3, "random", 2, False)]
    assert sum(one != other for one, other in zip(anyhow, anyhow[1:], strict=False)) > 3


def test_what_gives_no_batch_is_refused():
    with pytest.raises(ValueError, match="no size has the 9 pictures of a batch, at most 8 do share one; lower"):
        BucketSampler(BUCKETS, 9)
    with pytest.raises(ValueError, match="mode must be one of random, sequential, buffered_shuffle, got 'sorted'"):
        BucketSampler(BUCKETS, 3, "sorted")
    with pytest.raises(ValueError, match="at least 1, got 0 and 4"):
        BucketSampler(BUCKETS, 0)


# -- the loader ------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_batches_of_pictures_and_captions(folder):
    loader = create_dataloader_from_config_v2(folder, MODEL, replace(SMALL, caption_dropout=0.0), 2)
    batches = list(loader)
    assert len(batches) == len(loader) == 3 + 3 + 1
    captions = sorted(caption for batch in batches for caption in batch["captions"])
    assert captions == ["", *(f"{kind} {n}" for kind in ("square", "wide") for n in range(5))]
    for batch in batches:
        images = batch["images"]
        assert len(images) == len(batch["captions"]) and images.dtype == torch.float32
        shape = {"wide": (32, 64), "square": (64, 64), "": (64, 32)}[batch["captions"][0].partition(" ")[0]]
        assert images.shape[1:] == (3, *shape)
        red, blue = images[:, :, :, : shape[1] // 2 - 2], images[:, :, :, shape[1] // 2 + 2 :]
        assert (red[:, 0] == 1).all() and (red[:, 1:] == -1).all() and (blue[:, 2] == 1).all()


def test_it_goes_on_with_the_next_batch(folder):
    make = lambda: create_dataloader_from_config_v2(folder, MODEL, SMALL, 2, seed=3)  # noqa: E731
    loader, other = make(), make()
    whole = [batch["captions"] for _ in range(2) for batch in loader]
    seen = []
    for batch in other:
        seen.append(batch["captions"])
        if len(seen) == 3:
            break
    assert other.state_dict() == {"epoch": 0, "batch": 3}
    third = make()
    third.load_state_dict(other.state_dict())
    for resumed in (other, third):
        rest = [batch["captions"] for _ in range(2) for batch in resumed]
        assert seen + rest == whole and resumed.state_dict() == {"epoch": 2, "batch": 0}
    with pytest.raises(ValueError, match="an epoch here has 7 batches, the state is after 9"):
        third.load_state_dict({"epoch": 0, "batch": 9})


def test_a_share_of_captions_is_left_out(tmp_path):
    for number in range(200):
        write(tmp_path, f"{number:03}.png", 16, 16, "a road")
    config = DataConfig(
        use_bucketing=False, min_bucket_size=16, max_bucket_size=16, bucket_step=16, target_pixels=256,
        caption_dropout=0.25,
    )  # fmt: skip
    loader = create_dataloader_from_config_v2(tmp_path, MODEL, config, 50)
    empty = [sum(not caption for batch in loader for caption in batch["captions"]) for _ in range(2)]
    assert all(25 <= count <= 75 for count in empty)  # 50 are expected with a deviation of 6; the seed is fixed
    assert empty[0] != empty[1]


def test_a_turned_photo_has_the_size_that_it_is_shown_in(tmp_path):
    photo = Image.new("RGB", (64, 32), "red")
    tags = photo.getexif()
    tags[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=tags)
    pictures = CaptionedPictures(tmp_path, make_sizes(SMALL, 8, 4096))
    assert pictures.sizes[pictures.buckets[0]] == (64, 32) and pictures[0][0].shape == (3, 64, 32)


def test_folders_without_pictures_and_damaged_ones_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*none"):
        create_dataloader_from_config_v2(tmp_path / "none", MODEL, SMALL)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"there must be pictures \(.png, .jpg, .jpeg\) in .*, got none"):
        create_dataloader_from_config_v2(tmp_path, MODEL, SMALL)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ValueError, match="bad.png is damaged or not a picture"):
        create_dataloader_from_config_v2(tmp_path, MODEL, SMALL)
    (tmp_path / "bad.png").unlink()
    write(tmp_path, "good.png", 32, 32)
    (tmp_path / "good.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="good.txt is not UTF-8"):
        list(create_dataloader_from_config_v2(tmp_path, MODEL, SMALL, 1))
