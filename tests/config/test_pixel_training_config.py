"""Configurations of PixelHDM's runs: published defaults, YAML, and what is refused."""

from dataclasses import replace

import pytest

from drivedit.config import PixelHDMConfig
from drivedit.config.pixel_training import Config, DataConfig, TrainingConfig


def test_defaults_are_the_published_ones():
    training, data = TrainingConfig(), DataConfig()
    assert (training.learning_rate, training.batch_size, training.max_steps) == (1e-4, 16, 500_000)
    assert (training.weight_decay, training.warmup_steps, training.ema_decay) == (0.01, 0, 0.99)
    assert (training.mixed_precision, training.max_grad_norm, training.zclip_threshold) == ("bf16", 1.0, 2.5)
    assert (data.use_bucketing, data.min_bucket_size, data.max_bucket_size) == (True, 256, 1024)
    assert (data.sampler_mode, data.bucket_step, data.max_aspect_ratio) == ("buffered_shuffle", 64, 2.0)
    assert (data.target_pixels, data.chunk_size, data.drop_last, data.caption_dropout) == (512**2, 4, True, 0.1)
    assert Config() == Config(PixelHDMConfig(), training, data)


def test_a_yaml_file_tells_what_differs_from_the_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {patch_size: 8, max_patches: 64}\ntraining:\n  learning_rate: 2e-4\n  batch_size: 4\ndata:\n"
    )
    config = Config.from_yaml(file)
    assert config.model == PixelHDMConfig(patch_size=8, max_patches=64) and config.model.bottleneck_dim == 16
    assert config.training == TrainingConfig(learning_rate=2e-4, batch_size=4) and config.data == DataConfig()
    file.write_text("")
    assert Config.from_yaml(str(file)) == Config()
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("model: [", ValueError, "run.yaml is not YAML"),
        ("- 3", ValueError, r"must have the sections model, training, data, got \[3\]"),
        ("trainer: {}", KeyError, "unknown key trainer; known keys: model, training, data"),
        ("data: {sampler: random}", KeyError, "unknown key data.sampler"),
        ("training: {batch_size: many}", ValueError, "training.batch_size: .*integer"),
        (
            "data: {sampler_mode: sorted}",
            ValueError,
            "must be one of random, sequential, buffered_shuffle, got 'sorted'",
        ),
        ("!!python/object/apply:os.getcwd []", ValueError, "run.yaml is not YAML"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, text, kind, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(kind, match=message):
        Config.from_yaml(tmp_path / "run.yaml")
    with pytest.raises(FileNotFoundError, match="there is no configuration .*other.yaml"):
        Config.from_yaml(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (TrainingConfig(), {"learning_rate": -1.0}, "learning_rate must be from 0 to 1, got -1.0"),
        (TrainingConfig(), {"mixed_precision": "fp16"}, "mixed_precision must be one of no, bf16, got 'fp16'"),
        (DataConfig(), {"max_bucket_size": 128}, "max_bucket_size must be from 256 to 65536, got 128"),
        (DataConfig(), {"max_aspect_ratio": 0.5}, "max_aspect_ratio must be from 1 to 100, got 0.5"),
        (DataConfig(), {"sampler_mode": "sorted"}, "sampler_mode must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **change)
