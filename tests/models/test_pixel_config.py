"""The configuration of pixel-space transformers: published defaults, sizes that fit, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from drivedit.config import PixelHDMConfig

SIZES = {
    "default": PixelHDMConfig.default,
    "small": PixelHDMConfig.small,
    "large": PixelHDMConfig.large,
    "for_testing": PixelHDMConfig.for_testing,
}


def test_defaults_are_the_published_ones():
    config = PixelHDMConfig.default()
    assert config == PixelHDMConfig()
    assert (config.hidden_dim, config.pixel_dim, config.patch_size) == (1024, 16, 16)
    assert (config.patch_layers, config.pixel_layers, config.num_heads, config.num_kv_heads) == (16, 4, 16, 4)
    assert config.bottleneck_dim == 64 and config.mrope_dims == (16, 24, 24) and config.text_max_length == 511
    assert (config.repa_lambda, config.repa_early_stop, config.freq_loss_quality) == (0.5, 250_000, 90)
    method = (config.default_sampler_method, config.default_num_steps, config.default_guidance_scale)
    assert method == ("heun", 50, 7.5) and config.time_eps == 0.05


@pytest.mark.parametrize("size", SIZES)
def test_sizes_return_from_a_dictionary_and_from_json_as_they_were(size, tmp_path):
    config = SIZES[size]()
    assert PixelHDMConfig.from_dict(config.to_dict()) == config
    assert PixelHDMConfig.from_json(config.to_json()) == config
    config.save_json(tmp_path / "config.json")
    assert PixelHDMConfig.from_json(tmp_path / "config.json") == config


def test_the_bottleneck_follows_the_patch_unless_it_is_told():
    assert PixelHDMConfig(patch_size=8).bottleneck_dim == 16
    assert PixelHDMConfig(bottleneck_dim=256).bottleneck_dim == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 1000}, "num_heads must divide hidden_dim 1000, got 16"),
        ({"num_kv_heads": 5}, "num_kv_heads must divide num_heads 16, got 5"),
        ({"head_dim": 32}, "head_dim must be hidden_dim / num_heads = 64, got 32"),
        ({"mrope_text_dim": 18}, r"add up to head_dim 64, got \(18, 24, 24\)"),
        ({"mrope_text_dim": 17, "mrope_img_h_dim": 23}, "must be even"),
        ({"repa_align_layer": 17}, "repa_align_layer must be one of the 16 patch_layers, got 17"),
        ({"default_sampler_method": "ddim"}, "default_sampler_method must be 'euler' or .*, got 'ddim'"),
        ({"mlp_type": "gelu"}, "mlp_type must be 'swiglu', got 'gelu'"),
        ({"freq_loss_block_size": 16}, "freq_loss_block_size must be 8, got 16"),
        ({"freq_loss_quality": 0}, "freq_loss_quality must be from 1 to 100, got 0"),
        ({"time_eps": 0.5}, "time_eps must be from 0.0001 to 0.49, got 0.5"),
        ({"cfg_dropout": float("nan")}, "cfg_dropout must be from 0 to 1, got nan"),
        ({"out_channels": 6}, "out_channels must be in_channels, got 6 and 3"),
        ({"in_channels": 1, "out_channels": 1}, "freq_loss_use_ycbcr needs 3 in_channels, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        replace(PixelHDMConfig.default(), **changes)


def test_unknown_keys_and_wrong_types_are_refused():
    with pytest.raises(KeyError, match="unknown key hiden_dim"):
        PixelHDMConfig.from_dict({"hiden_dim": 64})
    with pytest.raises(ValueError, match="patch_layers"):
        PixelHDMConfig.from_dict({"patch_layers": "many"})
