"""STDiff under its published names: the seed's configuration and shapes, frames before, saving, sampling."""

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from helpers.stdiff import PUBLISHED, small_tde, small_unet, stir
from omegaconf import OmegaConf

from drivedit import models
from drivedit.models import sde
from drivedit.models.sde import STDiffDiffusers, STDiffPipeline


def make(unet: dict[str, Any] | None = None, seed: int = 0, **tde: Any) -> STDiffDiffusers:
    torch.manual_seed(seed)
    model = STDiffDiffusers(small_unet(**(unet or {})), small_tde(**tde)).eval()
    stir(model)
    return model


def clip(n: int, t: int, size: tuple[int, int] = (8, 16), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, t, 1, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def call(model: STDiffDiffusers, n: int = 2, to: int = 3, tp: int = 2, **changes: Any) -> torch.Tensor:
    given: dict[str, Any] = {
        "Vo": clip(n, to), "idx_o": torch.arange(to), "idx_p": to + torch.arange(tp),
        "noisy_Vp": clip(n, tp, seed=1).flatten(0, 1), "timestep": 5, "clean_Vp": clip(n, tp, seed=2),
        "Vo_last_frame": clip(n, to)[:, -1:], "seeds": list(range(n)),
    }  # fmt: skip
    return model(**{**given, **changes}).sample


@pytest.mark.parametrize(("n", "to", "tp"), [(2, 3, 3), (3, 2, 1)])
@pytest.mark.parametrize("written", ["yaml", "omegaconf"])
def test_the_published_configuration_has_the_published_shapes(written, n, to, tp):
    whole: Any = yaml.safe_load(PUBLISHED) if written == "yaml" else OmegaConf.create(PUBLISHED)
    cfg = whole["STDiff"]
    with torch.device("meta"):  # all shapes, no numbers
        model = STDiffDiffusers(cfg["Diffusion"]["unet_config"], cfg["DiffNet"])
    assert (model.autoreg, model.super_res_training) == (True, False)
    observed, idx_o, idx_p = torch.empty(n, to, 1, 64, 512, device="meta"), torch.arange(to), to + torch.arange(tp)
    m = model.tde_model.context_encode(observed, idx_o)
    assert m.shape == (n, 256, 16, 128)
    assert model.tde_model.future_predict(m, torch.cat([idx_o[-1:], idx_p])).shape == (tp, n, 256, 16, 128)
    noisy, clean = (torch.empty(*shape, 1, 64, 512, device="meta") for shape in ((n * tp,), (n, tp)))
    steps = torch.zeros(n * tp, dtype=torch.long, device="meta")
    out = model(observed, idx_o, idx_p, noisy, steps, clean, observed[:, -1:])
    assert isinstance(out, sde.UNet2DMotionCondOutput) and out.sample.shape == (n * tp, 1, 64, 512)


def test_a_missing_key_is_named_and_so_is_an_unknown_one():
    published: Any = OmegaConf.create(PUBLISHED)
    whole = published.STDiff
    for part, key, name in (
        ("DiffNet", "autoregressive", "DiffNet lacks autoregressive"),
        ("DiffNet.MotionEncoder", "n_downs", "DiffNet.MotionEncoder lacks n_downs"),
        ("DiffNet.Int", "method", "DiffNet.Int lacks method"),
        ("DiffNet", "DiffUnet", "DiffNet lacks DiffUnet"),
        ("Diffusion.unet_config", "m_channels", "unet_config lacks m_channels"),
    ):
        cfg = whole.copy()
        OmegaConf.select(cfg, part).pop(key)
        either: list[Any] = [cfg, OmegaConf.to_container(cfg)]
        for each in either:
            with pytest.raises(KeyError, match=name):
                STDiffDiffusers(each["Diffusion"]["unet_config"], each["DiffNet"])
    with pytest.raises(KeyError, match="unknown key norm_nun_groups"):
        make({"norm_nun_groups": 4})
    with pytest.raises(ValueError, match="DiffNet must be a mapping"):
        STDiffDiffusers(small_unet(), None)


def test_channels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"in_channels must be 2 \(1 of a noisy frame, and 1 of the frame before\)"):
        make({"in_channels": 1})
    with pytest.raises(ValueError, match=r"in_channels must be 1 .* autoregressive: False, got 2"):
        make(autoregressive=False)
    with pytest.raises(ValueError, match=r"m_channels must be model_channels \* 2\^n_downs = 8, got 16"):
        make({"m_channels": 16})


def test_the_frame_before_stands_beside_each():
    model, shown = make(), []
    model.diffusion_unet.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    call(model, tp=3)
    last, clean = clip(2, 3)[:, -1:], clip(2, 3, seed=2)
    assert torch.equal(shown[0][:, :1], clip(2, 3, seed=1).flatten(0, 1))
    assert torch.equal(shown[0][:, 1:].unflatten(0, (2, 3)), torch.cat([last, clean[:, :2]], 1))
    with pytest.raises(ValueError, match="must be shown clean_Vp and Vo_last_frame"):
        call(model, clean_Vp=None)
    with pytest.raises(ValueError, match=r"Vo_last_frame \[N, 1, C, H, W\], got \[2, 2, 1, 8, 16\] and \[2, 2, 1"):
        call(model, Vo_last_frame=clip(2, 2))


def test_without_autoregression_no_clean_frame_is_needed():
    model = make({"in_channels": 1}, autoregressive=False)
    assert call(model, clean_Vp=None, Vo_last_frame=None).shape == (4, 1, 8, 16)


def test_times_must_rise():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"idx_o": torch.tensor([0, 1, 1])}, "idx_o must rise"),
        ({"idx_p": torch.tensor([2, 3])}, r"idx_p, after the last of idx_o, must rise .* got \[2.0, 2.0, 3.0\]"),
        ({"idx_p": torch.tensor([4, 3])}, "idx_p, after the last of idx_o, must rise"),
    ]
    for changes, match in cases:
        with pytest.raises(ValueError, match=match):
            call(make(), **changes)


def test_observed_frames_may_be_smaller():
    big = make({"sample_size": [16, 32]}, super_res_training=True)
    clean, last = clip(2, 2, (16, 32), seed=2), clip(2, 1, (16, 32))
    found = call(big, noisy_Vp=clip(2, 2, (16, 32)).flatten(0, 1), clean_Vp=clean, Vo_last_frame=last)
    assert found.shape == (4, 1, 16, 32)
    before = big.frames_before(clip(2, 3), clean, last)
    assert before.shape == clean.shape
    assert torch.allclose(before[:, 0].mean((-2, -1)), clip(2, 3)[:, -1].mean((-2, -1)), atol=0.02)
    assert before[:, 1].diff(dim=-1).abs().mean() < 0.7 * clean[:, 0].diff(dim=-1).abs().mean(), "less detail"
    same = clip(2, 2, seed=2)
    assert torch.equal(big.frames_before(clip(2, 3), same, last := clip(2, 1)), torch.cat([last, same[:, :1]], 1))


def test_saved_and_loaded_it_tells_the_same_to_the_bit(tmp_path):
    kinds = (dict, OmegaConf.create)
    for number, kind in enumerate(kinds):
        torch.manual_seed(0)
        model = STDiffDiffusers(kind(small_unet()), kind(small_tde(unet={"decay": True}))).eval()
        stir(model)
        folder = tmp_path / str(number)
        model.save_pretrained(folder)
        assert {file.name for file in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
        again = STDiffDiffusers.from_pretrained(folder)
        assert not again.training and torch.equal(call(again), call(model))
        model.save_pretrained(folder)  # over itself
        assert json.loads((folder / "config.json").read_text())["_class_name"] == "STDiffDiffusers"
    (tmp_path / "0" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt"):
        model.save_pretrained(tmp_path / "0")
    with pytest.raises(ValueError, match="safe_serialization must be True"):
        model.save_pretrained(tmp_path / "2", safe_serialization=False)
    with pytest.raises(ValueError, match="use_safetensors must be True"):
        STDiffDiffusers.from_pretrained(tmp_path / "1", use_safetensors=False)


def sampled(pipeline: STDiffPipeline, rows: list[int], **changes: Any) -> torch.Tensor:
    observed = clip(3, 3)[rows]
    given = {"idx_o": [0, 1, 2], "idx_p": [3.0, 3.5], "num_inference_steps": 3, "seeds": rows}
    found = pipeline(observed, observed[:, -1:], **{**given, **changes})
    assert isinstance(found, torch.Tensor)
    return found


def test_a_pipeline_predicts_clips_each_on_its_own():
    pipeline = STDiffPipeline(make(), DDPMScheduler())
    found = sampled(pipeline, [0, 1, 2])
    assert found.shape == (3, 2, 1, 8, 16) and 0 <= found.min() and found.max() <= 1
    assert torch.allclose(sampled(pipeline, [2, 1])[0], found[2], atol=1e-5)
    assert not torch.allclose(sampled(pipeline, [0], seeds=[9]), found[:1], atol=1e-3)
    drawn = [sampled(pipeline, [0], seeds=None, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    observed = clip(1, 3)
    numpy = pipeline(observed, observed[:, -1:], [0, 1, 2], [3], num_inference_steps=1, output_type="numpy")
    assert isinstance(numpy, np.ndarray) and numpy.shape == (1, 1, 1, 8, 16)
    for changes, match in (({"output_type": "pil"}, "'pt' or 'numpy'"), ({"num_inference_steps": 0}, "at least 1")):
        with pytest.raises(ValueError, match=match):
            sampled(pipeline, [0], **changes)


def test_frames_of_a_clip_begin_as_one_noise_or_each_as_its_own():
    starts: list[torch.Tensor] = []

    def watch(model: STDiffDiffusers, **changes: Any) -> list[torch.Tensor]:
        starts.clear()
        hook = model.diffusion_unet.register_forward_pre_hook(lambda _, given: starts.append(given[0][:, :1].clone()))
        sampled(STDiffPipeline(model, DDIMScheduler()), [0, 1], num_inference_steps=1, **changes)
        hook.remove()
        return starts

    fresh = watch(make())
    assert len(fresh) == 2 and not torch.equal(*fresh)
    assert torch.equal(*watch(make(), fix_init_noise=True))
    (together,) = watch(make({"in_channels": 1}, autoregressive=False))
    clips = together.unflatten(0, (2, 2))
    assert torch.equal(clips[:, 0], clips[:, 1]) and not torch.equal(clips[0], clips[1])


def test_the_scheduler_is_kept_with_the_weights_and_another_is_refused(tmp_path):
    trained = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    STDiffPipeline(make(), trained).save_pretrained(tmp_path / "it")
    again = STDiffPipeline.from_pretrained(tmp_path / "it")
    assert isinstance(again.scheduler, DDPMScheduler) and again.scheduler.config["prediction_type"] == "sample"
    assert torch.equal(sampled(again, [1]), sampled(STDiffPipeline(make(), trained), [1]))
    for faster in (DDIMScheduler, DPMSolverMultistepScheduler):
        other = faster.from_config(trained.config)
        assert sampled(STDiffPipeline.from_pretrained(tmp_path / "it", other), [1]).isfinite().all()
    with pytest.raises(ValueError, match="'beta_schedule': 'squaredcos_cap_v2'.*got.*'beta_schedule': 'linear'"):
        STDiffPipeline.from_pretrained(tmp_path / "it", DDPMScheduler(prediction_type="sample"))
    with pytest.raises(ValueError, match="do not say which scheduler"):
        STDiffPipeline(make())
    with pytest.raises(ValueError, match="must be one of diffusers, got str"):
        STDiffPipeline(make(), "ddpm")


def test_published_names_are_found_in_both_places():
    for name in sde.__all__:
        assert getattr(sde, name).__doc__
    assert models.STDiffDiffusers is STDiffDiffusers and models.DiffModel is sde.DiffModel
    assert "drivedit.models.sde.stdiff" in sys.modules
    with pytest.raises(AttributeError, match="no attribute 'STDiffuser'"):
        models.STDiffuser  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
