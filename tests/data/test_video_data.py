"""Clips as tensors: what lies in a folder comes out in order, and transforms keep picture and controls true."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.episodes import made_up
from helpers.films import SIZE, write_drive

from drivedit.data import (
    AugmentationPipeline,
    ControlPreprocessor,
    FrameTransforms,
    VideoDataset,
    VideoLoader,
    VideoPreprocessor,
    VideoTransforms,
    write_shard,
)

PUBLISHED = {  # names, order and defaults of the published reference
    VideoDataset: "data_root, sequence_length=16, frame_skip=1, image_size=(256, 256), split='train', "
    "cache_frames=True, load_controls=True, load_depth=False",
    VideoLoader: "dataset, batch_size=8, shuffle=True, num_workers=4, pin_memory=True, drop_last=True, "
    "prefetch_factor=2",
    AugmentationPipeline: "transforms, p=0.5",
    VideoPreprocessor: "target_size=(256, 256), normalize=True, mean=None, std=None, dtype=torch.float32",
    ControlPreprocessor: "control_dim=4, normalize_controls=True, control_ranges=None, smooth_controls=True, "
    "smooth_window=3",
    VideoTransforms.temporal_crop: "video, length, start=None",
    VideoTransforms.apply_frame_transform: "video, transform_fn, **kwargs",
    FrameTransforms.resize: "frame, size, mode='bilinear'",
    FrameTransforms.gaussian_noise: "frame, std=0.01",
}


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda f: f.__qualname__)
def test_signatures_are_the_published_ones(published):
    parameters = inspect.signature(published).parameters.values()
    plain = [p.replace(annotation=p.empty) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert ", ".join(map(str, plain)) == PUBLISHED[published]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drives")
    write_drive(folder / "train" / "a", 12, 1, depth=True)
    write_drive(folder / "train" / "b", 7, 2, depth=True)
    return folder


def dataset(root: Path, **settings) -> VideoDataset:
    return VideoDataset(root, **{"sequence_length": 4, "image_size": SIZE, **settings})


# -- VideoDataset and VideoLoader --------------------------------------------------------------------------------------


def test_clips_come_in_order_and_hold_what_was_written(tmp_path):
    frames, controls = write_drive(tmp_path / "train" / "x", 12)
    clips = dataset(tmp_path)
    assert [clips[i]["start_idx"] for i in range(len(clips))] == [0, 2, 4, 6, 8], "half a clip apart"
    item = clips[1]
    assert item["sequence_id"] == "x" and item["frames"].shape == (4, 3, *SIZE)
    assert np.array_equal((item["frames"] * 255).round().byte().permute(0, 2, 3, 1), frames[2:6])
    assert 0 <= item["frames"].min() and item["frames"].max() <= 1
    assert np.allclose(item["controls"], controls[2:6])
    with pytest.raises(IndexError):
        clips[len(clips)]
    assert len(dataset(tmp_path, sequence_length=1)) == 12


def test_skipped_frames_keep_their_controls(tmp_path):
    frames, controls = write_drive(tmp_path / "train" / "x", 12)
    clips = dataset(tmp_path, sequence_length=3, frame_skip=4)
    item = clips[0]
    assert np.array_equal((item["frames"] * 255).round().byte().permute(0, 2, 3, 1), frames[[0, 4, 8]])
    assert np.allclose(item["controls"][1, :2], controls[4:8, :2].mean(0))
    assert np.allclose(item["controls"][1, 2:], controls[4, 2:])
    assert len(clips) == 1


def test_depth_and_sizes(root):
    item = dataset(root, load_depth=True, load_controls=False, image_size=(8, 12))[1]
    assert item["depth"].shape == (4, 1, 8, 12) and "controls" not in item
    assert torch.allclose(item["depth"][:, 0, 0, 0], torch.arange(2, 6) * 655 / 65535)
    metres = dataset(root, load_depth=True, depth_scale=1000.0)[1]["depth"]
    assert metres[1].mean().item() == pytest.approx(3 * 0.655)


def test_a_recording_is_a_dataset_too(tmp_path):
    episodes = [made_up(10, seed) for seed in range(3)]
    write_shard(tmp_path / "shard-00000.h5", episodes)
    clips = VideoDataset(tmp_path, sequence_length=6, image_size=(64, 64))
    item = clips[2]  # 11 frames a drive: clips start at 0 and 3
    assert (item["sequence_id"], item["start_idx"], len(clips)) == ("drive-000001", 0, 4)
    assert np.array_equal((item["frames"] * 255).round().byte().permute(0, 2, 3, 1), episodes[1].picture[:6])
    assert np.allclose(item["controls"][:, :2], episodes[1].controls[:6]) and not item["controls"][:, 2:].any()
    looked = VideoDataset(tmp_path, sequence_length=11, image_size=(32, 32), split="val")
    assert len(looked) == 1 and looked[0]["frames"].shape == (11, 3, 32, 32)
    with pytest.raises(ValueError, match="'test'"):
        VideoDataset(tmp_path, split="test")
    with pytest.raises(ValueError, match="no depth"):
        VideoDataset(tmp_path, sequence_length=4, load_depth=True)


def test_batches_are_repeatable_and_shuffled_anew_every_epoch(root):
    def starts(**settings):
        loader = VideoLoader(dataset(root), batch_size=2, num_workers=0, **settings)
        return [[batch["start_idx"].tolist() for batch in loader] for _ in range(2)]

    assert len(dataset(root)) == 7
    first, second = starts(seed=1)
    assert starts(seed=1) == [first, second] and first != second and sum(map(len, first)) == 6
    assert starts(shuffle=False, drop_last=False)[0] == [[0, 2], [4, 6], [8, 0], [2]]
    batch = next(iter(VideoLoader(dataset(root), 3, num_workers=0)))
    assert batch["frames"].shape == (3, 4, 3, *SIZE) and len(batch["sequence_id"]) == 3


def test_the_cache_counts_and_forgets(root):
    clips = dataset(root)
    loader = VideoLoader(clips, batch_size=7, num_workers=0, shuffle=False)
    first = next(iter(loader))["frames"]
    stats = loader.get_cache_stats()  # 5 and 2 clips of 4 frames, over 12 and 6 different frames
    assert (stats["hits"], stats["misses"], stats["frames"], stats["processes"]) == (10, 18, 18, 1)
    assert stats["hit_rate"] == 10 / 28 and stats["memory_mb"] == pytest.approx(18 * 16 * 24 * 3 / 2**20)
    assert torch.equal(next(iter(loader))["frames"], first)
    assert loader.get_cache_stats()["misses"] == 18
    loader.clear_cache()
    assert not any(loader.get_cache_stats().values())
    next(iter(loader))
    assert loader.get_cache_stats()["misses"] == 18

    small = dataset(root, cache_mb=5 * 16 * 24 * 3 / 2**20)
    for index in range(len(small)):
        small[index]
    assert small.cache.stats()["frames"] == 5 and small.cache.stats()["hits"] == 10, "neighbouring clips share frames"
    none = dataset(root, cache_frames=False)
    assert torch.equal(none[0]["frames"], none[0]["frames"])
    assert none.cache.stats()["hits"] == none.cache.stats()["frames"] == 0


def test_workers_share_the_figures_of_their_caches(root):
    loader = VideoLoader(dataset(root), batch_size=1, num_workers=2, shuffle=False)
    batches = [list(loader), list(loader)]
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(*batches, strict=True))
    stats = loader.get_cache_stats()
    assert stats["processes"] == 2 and stats["hits"] + stats["misses"] == 2 * 28 and stats["hits"] >= 28
    loader.clear_cache()
    assert loader.get_cache_stats()["misses"] == 0
    list(loader)
    again = loader.get_cache_stats()
    assert again["misses"] == again["frames"] == stats["frames"], "workers forgot their frames as well"


def test_folders_that_hold_no_clips_are_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*none"):
        VideoDataset(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no folder .*test"):
        dataset(root, split="test")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="no pictures"):
        VideoDataset(tmp_path)
    with pytest.raises(ValueError, match=r"spans 17 frames.* has 12"):
        dataset(root, sequence_length=5, frame_skip=4)
    with pytest.raises(ValueError, match="must be positive"):
        dataset(root, frame_skip=0)
    with pytest.raises(ValueError, match=r"7 clips.*batch of 8"):
        VideoLoader(dataset(root))
    write_drive(tmp_path / "train" / "x", 4)
    with pytest.raises(FileNotFoundError, match="no depth pictures"):
        dataset(tmp_path, load_depth=True)
    (tmp_path / "train" / "x" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.png is damaged"):
        dataset(tmp_path)[0]


# -- transforms --------------------------------------------------------------------------------------------------------


@pytest.fixture()
def video() -> torch.Tensor:
    return torch.rand(2, 6, 3, 8, 12)


def test_transforms_along_time(video):
    crop = VideoTransforms.temporal_crop
    assert torch.equal(crop(video, 3, 2), video[:, 2:5]) and torch.equal(crop(video[0], 3, 2), video[0, 2:5])
    drawn = {crop(torch.arange(6.0).view(6, 1, 1, 1), 3, generator=g)[0].item() for g in _generators(60)}
    assert drawn == {0, 1, 2, 3}  # a start is missed once in 10^7 runs
    assert torch.equal(VideoTransforms.temporal_subsample(video, 4), video[:, [0, 4]])
    assert torch.equal(VideoTransforms.temporal_flip(VideoTransforms.temporal_flip(video)), video)
    assert torch.equal(VideoTransforms.temporal_flip(video)[:, 0], video[:, 5])
    brighter = VideoTransforms.apply_frame_transform(video, FrameTransforms.brightness, factor=0.5)
    assert torch.equal(brighter, video * 0.5)
    for wrong in ({"length": 7}, {"length": 3, "start": 4}, {"length": 0}):
        with pytest.raises(ValueError, match="must be from"):
            crop(video, wrong["length"], wrong.get("start"))
    with pytest.raises(ValueError, match="factor"):
        VideoTransforms.temporal_subsample(video, 0)
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        VideoTransforms.temporal_flip(torch.ones(2, 3))


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_pictures_are_resized_cropped_and_mirrored(video):
    for mode in ("nearest", "bilinear", "bicubic", "area"):
        small = FrameTransforms.resize(video, (4, 6), mode)
        assert small.shape == (2, 6, 3, 4, 6) and 0 <= small.min() and small.max() <= 1
        assert torch.allclose(FrameTransforms.resize(torch.full((3, 8, 8), 0.3), (5, 9), mode), torch.tensor(0.3))
    halved = video.unflatten(-1, (6, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    assert torch.allclose(FrameTransforms.resize(video, (4, 6), "area"), halved, atol=1e-6)
    assert torch.equal(FrameTransforms.crop(video, 2, 3, 4, 5), video[..., 2:6, 3:8])
    mirrored = FrameTransforms.horizontal_flip(video)
    assert torch.equal(mirrored[..., 0], video[..., -1]) and torch.equal(
        FrameTransforms.horizontal_flip(mirrored), video
    )
    with pytest.raises(ValueError, match="does not lie in 8 x 12"):
        FrameTransforms.crop(video, 5, 0, 4, 4)
    with pytest.raises(ValueError, match="'linear'"):
        FrameTransforms.resize(video, (4, 4), "linear")


def test_light_and_noise_stay_in_range(video):
    assert torch.equal(FrameTransforms.brightness(video, 2.0), (2 * video).clamp(max=1))
    assert torch.allclose(FrameTransforms.contrast(video, 1.0), video, atol=1e-6)
    grey = FrameTransforms.contrast(video, 0.0)
    assert torch.allclose(grey, video.mean((-3, -2, -1), keepdim=True).expand_as(video), atol=1e-6)
    alone = FrameTransforms.contrast(video[1, 2], 1.4)
    assert torch.allclose(FrameTransforms.contrast(video, 1.4)[1, 2], alone), "every frame about its own mean"
    flat = torch.full((3, 100, 100), 0.5)
    noisy = FrameTransforms.gaussian_noise(flat, 0.05, generator=torch.Generator().manual_seed(0))
    assert (noisy - flat).std().item() == pytest.approx(0.05, rel=0.03)  # five standard errors: .02
    assert FrameTransforms.gaussian_noise(video, 9.0).max() == 1
    normal = FrameTransforms.normalize(video, [0.5, 0.4, 0.3], [0.1, 0.2, 0.4])
    assert torch.allclose(normal[:, :, 2], (video[:, :, 2] - 0.3) / 0.4)
    for wrong in (lambda: FrameTransforms.brightness(video, -1.0), lambda: FrameTransforms.contrast(video, -0.1)):
        with pytest.raises(ValueError, match="negative"):
            wrong()
    with pytest.raises(ValueError, match="3 channels"):
        FrameTransforms.normalize(video, [0.5], [0.5])


def test_a_mirror_mirrors_the_controls(video):
    controls = torch.rand(2, 6, 4)
    mirror = AugmentationPipeline([{"name": "horizontal_flip"}], p=1.0)
    flipped, followed = mirror(video, controls)
    assert torch.equal(flipped, video.flip(-1)) and followed is not None
    assert torch.equal(followed, controls * torch.tensor([-1, 1, -1, 1]))
    back, restored = mirror(flipped, followed)
    assert torch.equal(back, video) and restored is not None and torch.equal(restored, controls)
    assert torch.equal(mirror(video, controls[..., :2])[1], controls[..., :2] * torch.tensor([-1, 1]))  # type: ignore[arg-type]
    assert mirror(video)[1] is None


def test_clips_of_a_batch_draw_apart_and_keep_their_pairs(video):
    """Wherever a clip was mirrored its steering was, and never otherwise."""
    pipeline = AugmentationPipeline([{"name": "horizontal_flip"}])
    clips = torch.rand(40, 3, 3, 4, 4)
    controls = torch.rand(40, 3, 2) + 0.1
    out, followed = pipeline(clips, controls, generator=torch.Generator().manual_seed(0))
    assert followed is not None
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(out, clips, strict=True)])
    assert torch.equal(followed[:, 0, 0] < 0, mirrored) and 5 < mirrored.sum() < 35  # missed once in 10^6 seeds
    again, _ = pipeline(clips, controls, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out, again)


def test_pipelines(video):
    training = AugmentationPipeline.create_training_pipeline((16, 16))
    out, controls = training(video, torch.zeros(2, 6, 4), generator=torch.Generator().manual_seed(1))
    assert out.shape == (2, 6, 3, 16, 16) and 0 <= out.min() and out.max() <= 1 and controls is not None
    plain, _ = AugmentationPipeline.create_validation_pipeline((16, 16))(video)
    assert torch.equal(plain, FrameTransforms.resize(video, (16, 16))) and not torch.equal(plain, out)
    cut = AugmentationPipeline([{"name": "temporal_crop", "p": 1, "params": {"length": 2}}])
    numbers = torch.arange(6.0)
    clip, rows = cut(numbers.view(6, 1, 1, 1), numbers.view(6, 1))
    assert torch.equal(clip.flatten(), rows.flatten()) and len(clip) == 2  # type: ignore[union-attr]
    never = AugmentationPipeline([{"name": "brightness", "p": 0.0}, {"name": "gaussian_noise", "p": 0.0}])
    assert torch.equal(never(video)[0], video)
    dark = AugmentationPipeline([{"name": "brightness", "params": {"low": 0.5, "high": 0.5}}], p=1.0)
    assert torch.allclose(dark(video)[0], video / 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "temporal_flip"},
        {"p": 1.0},
        {"name": "contrast", "prob": 1.0},
        {"name": "contrast", "p": 1.5},
        {"name": "resize", "p": 0.5, "params": {"size": (4, 4)}},
    ],
)
def test_pipelines_refuse_what_they_do_not_know(wrong):
    with pytest.raises(ValueError, match="name|p must be"):
        AugmentationPipeline([wrong])


def test_pipelines_refuse_shapes_that_do_not_belong_together(video):
    with pytest.raises(ValueError, match=r"\[2, 5, 4\]"):
        AugmentationPipeline([])(video, torch.zeros(2, 5, 4))


# -- preprocessing -----------------------------------------------------------------------------------------------------


def test_videos_are_prepared_for_networks_and_back():
    pictures = torch.randint(0, 256, (2, 4, 3, 8, 12), dtype=torch.uint8)
    ready = VideoPreprocessor((8, 12)).preprocess_batch(pictures)
    assert torch.allclose(ready, pictures.float() / 127.5 - 1, atol=1e-6)
    assert torch.allclose(VideoPreprocessor().denormalize(ready), pictures / 255, atol=1e-6)
    mean, std = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
    other = VideoPreprocessor((4, 6), mean=mean, std=std, dtype=torch.float16)
    half = other.preprocess_batch(pictures)
    assert half.dtype == torch.float16 and half.shape == (2, 4, 3, 4, 6)
    small = FrameTransforms.resize(pictures / 255, (4, 6))
    assert torch.allclose(other.denormalize(half), small, atol=2e-3)
    assert torch.equal(VideoPreprocessor((8, 12), normalize=False).preprocess_batch(pictures), pictures / 255)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        VideoPreprocessor().preprocess_batch(pictures.float())
    with pytest.raises(ValueError, match="target_size"):
        VideoPreprocessor((0, 4))


def test_smoothing_looks_back_only_and_keeps_constants():
    smooth = ControlPreprocessor(control_dim=2)
    constant = torch.tensor([0.3, -0.7]).expand(5, 2)
    assert torch.allclose(smooth.preprocess_controls(constant), constant), "at the start as well"
    controls = torch.rand(2, 20, 2) * 2 - 1
    out = smooth.preprocess_controls(controls)
    assert torch.allclose(out[:, 7], controls[:, 5:8].mean(1)) and torch.allclose(out[:, 1], controls[:, :2].mean(1))
    changed = controls.clone()
    changed[:, 10:] = 0.0
    assert torch.equal(smooth.preprocess_controls(changed)[:, :10], out[:, :10]), "the future does not leak"
    assert torch.equal(ControlPreprocessor(2, smooth_controls=False).preprocess_controls(controls), controls)
    wide = ControlPreprocessor(2, smooth_window=50).preprocess_controls(controls)
    assert torch.allclose(wide[:, -1], controls.mean(1), atol=1e-6)


def test_controls_are_clipped_scaled_and_scaled_back():
    raw = torch.tensor([[0.5, -2.0, 5.0, -10.0]])
    plain = ControlPreprocessor(smooth_controls=False)
    assert plain.preprocess_controls(raw).tolist() == [[0.5, -1.0, 0.5, -1.0]]
    assert plain.denormalize_controls(plain.preprocess_controls(raw)).tolist() == [[0.5, -1.0, 5.0, -10.0]]
    ranged = ControlPreprocessor(5, control_ranges={"steering": (-2, 2), "throttle": (0, 1)}, smooth_controls=False)
    assert ranged.preprocess_controls(torch.tensor([[1.0, 0.5, 0, 0, 9.0]])).tolist() == [[0.5, 0.0, 0, 0, 1.0]]
    numbered = ControlPreprocessor(5, control_ranges={4: (0.0, 18.0)}, smooth_controls=False)
    assert numbered.preprocess_controls(torch.tensor([[1.0, 0.5, 0, 0, 9.0]]))[0, 4] == 0
    unscaled = ControlPreprocessor(normalize_controls=False, smooth_controls=False)
    assert unscaled.preprocess_controls(raw).tolist() == [[0.5, -1.0, 5.0, -10.0]]
    assert unscaled.denormalize_controls(raw).tolist() == raw.tolist()


def test_preprocessors_refuse_what_makes_no_sense():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"smooth_window": 0}, "smooth_window"),
        ({"control_ranges": {"wheel": (0, 1)}}, "'wheel'"),
        ({"control_ranges": {4: (0, 1)}}, "got 4"),
        ({"control_ranges": {"steering": (1, -1)}}, "least, greatest"),
    ]
    for settings, message in cases:
        with pytest.raises(ValueError, match=message):
            ControlPreprocessor(**settings)
    with pytest.raises(ValueError, match=r"\(B,\) T, 4\]"):
        ControlPreprocessor().preprocess_controls(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="finite"):
        ControlPreprocessor().preprocess_controls(torch.full((5, 4), torch.nan))
