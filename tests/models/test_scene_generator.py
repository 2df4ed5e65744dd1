"""The generator of start scenes: how it stacks frames, what it is told, what it draws, its file, its refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.generated import ATTRIBUTES, NETWORK, generator_config, make_generator

from drivedit.config import Modality, PixelHDMConfig, SceneGeneratorConfig, WorldSpec
from drivedit.models.pixel.generator import LARGEST, SceneGenerator
from drivedit.utils import count_parameters, generator

FOGGY = {"weather": "fog", "time": "night"}


def draw(made: SceneGenerator, attributes=None, speed=None, count=1, seed=0, **options) -> np.ndarray:
    return made.sample(attributes, speed, count, generator(seed, "noise"), **options)


def test_stacked_frames_are_one_picture_and_come_back():
    made = make_generator()
    frames = torch.randint(0, 256, (3, 2, 8, 16, 3), dtype=torch.uint8, generator=generator(0, "frames"))
    pictures = made.stack(frames)
    assert pictures.shape == (3, 8, 16, 6) and -1 <= pictures.min() and pictures.max() <= 1
    assert torch.allclose(pictures[..., 3:], frames[:, 1].float() / 127.5 - 1)
    assert np.array_equal(made.frames(pictures), frames.numpy())
    assert torch.equal(made.unstack(pictures)[2], pictures[1, ..., :3])
    with pytest.raises(ValueError, match=r"uint8 \[B, 2, 8, 16, 3\], got uint8 \[3, 3, 8, 16, 3\]"):
        made.stack(frames[:, [0, 1, 1]])


def test_every_attribute_value_and_speed_is_told_apart():
    made = make_generator()
    values = torch.cartesian_prod(*(torch.arange(1 + len(each)) for each in ATTRIBUTES.values()))
    tokens = made.tell(values, torch.full((9,), torch.nan))
    assert tokens.shape == (9, 3, 32)
    assert (
        len(torch.unique(tokens[:, :2].flatten(1), dim=0)) == 9 and len(torch.unique(made.of_values.weight, dim=0)) == 6
    )
    assert torch.equal(tokens[:, 2], made.no_speed.expand(9, -1))
    fast = made.tell(values[:4], torch.tensor([0.0, 1.0, 20.0, torch.nan]))[:, 2]
    assert len(torch.unique(fast, dim=0)) == 4 and fast.isfinite().all()
    assert made.values({"time": "night"}) == [0, 2] and made.values({}) == [0, 0]


def test_draws_depend_on_what_is_told_and_on_the_noise():
    made = make_generator()
    frames = draw(made, FOGGY, 10.0, 3)
    assert frames.shape == (3, 2, 8, 16, 3) and frames.dtype == np.uint8 and frames.std() > 1
    assert np.array_equal(frames, draw(made, FOGGY, 10.0, 3)) and not made.training
    others = [draw(made, FOGGY, 10.0, 3, 1), draw(made, {"weather": "fog"}, 10.0, 3), draw(made, FOGGY, 11.0, 3),
              draw(made, FOGGY, None, 3)]  # fmt: skip
    assert all((frames != other).any() for other in others)
    assert (frames[0] != frames[1]).any() and draw(made, count=17).shape[0] == 17


def test_guidance_leads_from_the_open_scene_to_the_one_that_is_told():
    made = make_generator()
    told = draw(made, FOGGY, 5.0, guidance=1.0)
    assert np.array_equal(draw(made, FOGGY, 5.0), told)  # 1 is this configuration's
    assert np.array_equal(draw(made, FOGGY, 5.0, guidance=0.0), draw(made, guidance=1.0))
    assert (draw(made, FOGGY, 5.0, guidance=4.0) != told).any()


@pytest.mark.parametrize("method", ["euler", "heun", "dpm_pp", "dpm_pp_2s"])
def test_every_sampler_draws(method):
    made = make_generator()
    assert (draw(made, FOGGY, method=method) != draw(made, FOGGY, method=method, steps=2)).any()


def test_a_file_holds_the_whole_generator_in_half_precision(tmp_path):
    made, file = make_generator(), tmp_path / "scenes.safetensors"
    made.save(file)
    again = SceneGenerator.load(file)
    assert again.config == made.config and file.stat().st_size < 2.2 * count_parameters(made) + 20_000
    assert np.abs(draw(again, FOGGY).astype(int) - draw(made, FOGGY)).max() <= 3
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged"):
        SceneGenerator.load(file)


def test_the_default_one_is_small_enough_to_ship_and_a_wide_one_is_refused(tmp_path):
    spec = WorldSpec("", {"camera": Modality((64, 128, 3))}, attributes=ATTRIBUTES)
    with torch.device("meta"):
        count = count_parameters(SceneGenerator(SceneGeneratorConfig(spec)))
    assert 3e6 < count < 5e6 and 2 * count < LARGEST
    wide = PixelHDMConfig(**{**NETWORK, "hidden_dim": 1024, "num_heads": 64, "patch_layers": 2})
    with pytest.raises(ValueError, match="at most 10 MB"):
        make_generator(network=wide).save(tmp_path / "it.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_is_no_scene_is_refused():
    made = make_generator()
    options: dict[str, Any]
    for attributes in ({"weather": "hail"}, {"mood": "good"}):
        with pytest.raises(ValueError, match=r"of a scene are none of its spec, which has .*'fog'"):
            draw(made, attributes)
    for options, message in (
        ({"method": "ddim"}, "method must be one of euler, heun, dpm_pp, dpm_pp_2s, got 'ddim'"),
        ({"steps": 0}, "num_steps must be at least 1, got 0"), ({"count": 0}, "count must be at least 1, got 0"),
        ({"speed": float("nan")}, "speed must be within 200 m/s, got nan"), ({"speed": 900.0}, "got 900"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            draw(made, **options)


def test_configurations_that_do_not_fit_are_refused():
    odd = WorldSpec("", {"camera": Modality((10, 16, 3))})
    with pytest.raises(ValueError, match="multiples of the patch size 4, got 10 x 16; take 8 x 16"):
        make_generator(spec=odd)
    with pytest.raises(ValueError, match="needs a spec with a picture"):
        make_generator(spec=WorldSpec())
    network = generator_config().network
    for changes, message in (
        ({"frames": 22}, "must be at most 64, got 66"), ({"frames": 1}, "apart must be 1"),
        ({"frames": 3}, "pixel_dim must be at least .* = 9: .* got 8"),
        ({"apart": 0}, "apart must be from 1"), ({"network": replace(network, repa_enabled=True)}, "must be false"),
        ({"spec": WorldSpec("", {"range": Modality((8, 16, 2), "float32")})}, r"uint8 \[H, W, 3\].* got float32"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            generator_config(**changes)
