"""The stages that make a clip of a text, the pipeline of them, and the engine."""

import copy
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drivedit.config import InferenceArgs, VAEConfig
from drivedit.inference import ForwardBatch, InferenceEngine, TextToVideoPipeline
from drivedit.inference.pipelines import (
    ClipTextEncodingStage,
    ConditioningStage,
    DecodingStage,
    DenoisingStage,
    InputValidationStage,
    LatentPreparationStage,
    LlamaEncodingStage,
    PipelineStage,
    TimestepPreparationStage,
)
from drivedit.models.dits import HunyuanVideoTransformer3DModel, WanVideoTransformer3DModel
from drivedit.models.flow.path import noise_levels
from drivedit.models.text_encoder import HunyuanTextEncoder
from drivedit.models.vaes import WanVAE
from drivedit.utils import get_forward_context

SIZES: dict[str, Any] = {"d_model": 16, "n_layers": 1, "n_heads": 2, "text_dim": 12, "grid": (1, 2)}
ARGS = InferenceArgs("wan", "", 16, 32, 5, 3, precision="fp32")
GUIDED = replace(ARGS, guidance_scale=2.0)


def alive(network: Any) -> Any:
    for weight in network.parameters():
        weight.data.add_(0.2 * torch.randn(weight.shape))
    return network.eval()


@pytest.fixture
def parts() -> tuple[WanVideoTransformer3DModel, WanVAE, HunyuanTextEncoder]:
    vae = WanVAE(VAEConfig(3, 16, [4, 4, 8, 8], 1, False, 0.1))
    return alive(WanVideoTransformer3DModel(**SIZES)), alive(vae), HunyuanTextEncoder(width=12)


@pytest.fixture
def model(parts, tmp_path) -> str:
    parts[0].save(tmp_path / "transformer.safetensors")
    parts[1].save(tmp_path / "vae.safetensors")
    return str(tmp_path)


def batch(*prompts: str, **more: Any) -> ForwardBatch:
    return ForwardBatch(list(prompts), list(range(5, 5 + len(prompts))), **more)


def equal(one: ForwardBatch, other: ForwardBatch) -> bool:
    pairs = [(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def test_stages_change_nothing_but_what_they_give(parts):
    """Property 14 of the field's stages: neither the batch that comes in nor the arguments, nor the networks."""
    transformer, vae, encoder = parts
    given, args = batch("night rain", "a cat", negative_prompt="blur"), copy.deepcopy(GUIDED)
    stages = TextToVideoPipeline(transformer, vae, encoder, "cpu").stages
    weights = {name: value.clone() for name, value in transformer.state_dict().items()}
    for stage in stages:
        before = copy.deepcopy(given)
        first, second = stage(given, args), stage(given, args)
        assert equal(given, before) and equal(first, second) and args == GUIDED, type(stage).__name__
        given = first
    assert given.output is not None and given.output.shape == (2, 3, 5, 16, 32)
    assert all(torch.equal(value, weights[name]) for name, value in transformer.state_dict().items())
    assert [type(stage) for stage in stages] == [
        InputValidationStage, ClipTextEncodingStage, LlamaEncodingStage, ConditioningStage, LatentPreparationStage,
        TimestepPreparationStage, DenoisingStage, DecodingStage,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"height": 20}, {}, "multiples of 8 above 0, got 20 and 32"),
        ({"width": 0}, {}, "multiples of 8 above 0, got 16 and 0"),
        ({"height": -8}, {}, "multiples of 8"),
        ({"height": None}, {}, "multiples of 8"),
        ({"num_frames": 4}, {}, r"4 k \+ 1 frames .*got 4"),
        ({"num_frames": None}, {}, "num_frames must be given"),
        ({"num_inference_steps": 0}, {}, "num_inference_steps must be at least 1, got 0"),
        ({}, {"prompt": [" "]}, "needs a prompt, or prompt_embeds"),
        ({}, {"prompt": []}, "needs a prompt, or prompt_embeds"),
        ({"guidance_scale": 3.0}, {}, "guidance_scale 3 needs a negative_prompt"),
        ({}, {"timesteps": torch.ones(1), "sigmas": torch.ones(1)}, "timesteps or sigmas, not both"),
        ({}, {"seeds": [1, 2]}, "one seed for each clip"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_computed(changes, more, message):
    with pytest.raises(ValueError, match=message):
        InputValidationStage()(replace(batch("rain"), **more), replace(ARGS, **changes))


def test_what_can_be_made_passes():
    stage = InputValidationStage()
    assert stage(batch("rain", negative_prompt=""), GUIDED).negative_prompt == ""
    stage(ForwardBatch([], [1], prompt_embeds=torch.zeros(1, 2, 12)), ARGS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("output_type", "pil"), ("precision", "int4"), ("sp_size", 2), ("tp_size", 0), ("flow_shift", 0.0), ("seed", -1)],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        InferenceArgs(**{name: value})


def test_the_whole_prompt_goes_before_its_words_and_the_null_is_the_negative_prompt(parts):
    encoder = parts[2]
    given = batch("night rain", "cat", negative_prompt="blur")
    for stage in (ClipTextEncodingStage(encoder), LlamaEncodingStage(encoder, 4), ConditioningStage()):
        given = stage(given, GUIDED)
    words, mask = given.encoder_hidden_states, given.encoder_attention_mask
    assert words is not None and mask is not None and given.null_hidden_states is not None
    assert torch.equal(words[:, 0], encoder.pool(["night rain", "cat"])) and words.shape == (2, 5, 12)
    assert mask.tolist() == [[True, True, True, False, False], [True, True, False, False, False]]
    assert torch.equal(given.null_hidden_states[1, 1:], encoder.encode("blur", max_sequence_length=4)[0][0])
    plain = ConditioningStage()(LlamaEncodingStage(encoder)(batch("cat", negative_prompt="blur"), ARGS), ARGS)
    assert plain.null_hidden_states is None  # without guidance nothing is encoded for it
    handed = ForwardBatch(["cat"], [1], prompt_embeds=words[:1])
    assert LlamaEncodingStage(encoder)(handed, ARGS).prompt_embeds is handed.prompt_embeds
    with pytest.raises(ValueError, match="no prompt_embeds: encode"):
        ConditioningStage()(batch("cat"), ARGS)


def test_noise_is_that_of_the_seed_in_any_batch():
    stage = LatentPreparationStage(16)
    both = stage(batch("a", "b"), ARGS).latents
    alone = stage(ForwardBatch(["b"], [6]), ARGS).latents
    assert both is not None and alone is not None and both.shape == (2, 16, 2, 2, 4)
    assert torch.equal(both[1:], alone) and not torch.equal(both[0], both[1])
    mine = torch.zeros(1, 16, 2, 2, 4)
    assert stage(batch("a", latents=mine), ARGS).latents is mine
    with pytest.raises(ValueError, match=r"latents must be \[1, 16, 2, 2, 4\]"):
        stage(batch("a", latents=torch.zeros(1, 16, 3, 2, 4)), ARGS)


def test_levels_are_shifted_or_handed_over():
    stage = TimestepPreparationStage()
    made = stage(batch("a"), replace(ARGS, num_inference_steps=4, flow_shift=3.0))
    even = [1, 0.75, 0.5, 0.25, 0]
    assert made.sigmas is not None and made.timesteps is not None
    assert made.sigmas.tolist() == pytest.approx([3 * s / (1 + 2 * s) for s in even])
    assert torch.equal(made.timesteps, 1000 * made.sigmas[:-1])
    assert torch.equal(stage(batch("a"), replace(ARGS, flow_shift=1.0)).sigmas, noise_levels(3))  # type: ignore
    for handed in ({"timesteps": torch.tensor([1000.0, 400])}, {"sigmas": torch.tensor([1, 0.4])},
                   {"sigmas": torch.tensor([1, 0.4, 0])}):  # fmt: skip
        assert stage(batch("a", **handed), ARGS).sigmas.tolist() == pytest.approx([1, 0.4, 0])  # type: ignore
    for bad in ([0.4, 1], [1, 1], [2, 1], [0]):
        with pytest.raises(ValueError, match="levels of noise fall"):
            stage(batch("a", sigmas=torch.tensor(bad, dtype=torch.float)), ARGS)
    with pytest.raises(ValueError, match="timesteps or sigmas, not both"):
        stage(batch("a", sigmas=torch.ones(1), timesteps=torch.ones(1)), ARGS)
    with pytest.raises(ValueError, match="num_inference_steps must be given"):
        stage(batch("a"), replace(ARGS, num_inference_steps=None))


# -- denoising ---------------------------------------------------------------------------------------------------

CLEAN = torch.arange(2 * 16 * 2 * 2 * 4).reshape(2, 16, 2, 2, 4) / 128 - 1


def oracle(x: Tensor, words: Tensor, timestep: Tensor, mask: Tensor | None) -> Tensor:
    """The velocity n - x0 of the straight path from CLEAN through x."""
    return (x - CLEAN) / (timestep / 1000)[:, None, None, None, None]


def ready(**more: Any) -> ForwardBatch:
    noise = (1024 * torch.rand(CLEAN.shape)).round() / 256  # few bits, so that sums are exact
    return ForwardBatch(["a", "b"], [1, 2], latents=noise, sigmas=torch.tensor([1.0, 0.0]),
                        encoder_hidden_states=torch.ones(2, 3, 12), **more)  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_oracle_s_straight_field_leads_to_the_data(steps):
    """In one step exactly (property 14), in several to rounding."""
    done = DenoisingStage(oracle)(replace(ready(), sigmas=noise_levels(steps)), ARGS).latents
    assert torch.equal(done, CLEAN) if steps == 1 else torch.allclose(done, CLEAN, atol=1e-5)  # type: ignore[arg-type]


def test_five_tensors_or_batch_and_arguments(parts):
    stage, given = DenoisingStage(parts[0]), replace(ready(), sigmas=torch.tensor([1, 0.5, 0]))
    by_batch = stage(given, ARGS).latents
    assert given.latents is not None and given.encoder_hidden_states is not None
    by_tensors = stage.forward(given, torch.tensor([1000.0, 500]), given.latents, given.encoder_hidden_states)
    assert isinstance(by_tensors, Tensor) and by_batch is not None
    assert torch.allclose(by_tensors, by_batch, atol=0.05 * float(by_batch.std()))  # these in half precision


def test_guidance_is_the_line_through_both_estimates_and_rescaling_brings_back_the_spread():
    calls = []

    def network(x: Tensor, words: Tensor, timestep: Tensor, mask: Tensor | None) -> Tensor:
        calls.append((words.mean().item(), get_forward_context().current_timestep))
        return oracle(x, words, timestep, mask) * words.mean()

    given = ready(null_hidden_states=torch.zeros(2, 3, 12))
    given = replace(given, sigmas=torch.tensor([1.0, 0.5, 0]))
    DenoisingStage(network)(given, ARGS)
    assert calls == [(1, 0), (1, 1)]
    calls.clear()
    DenoisingStage(network)(given, GUIDED)
    assert calls == [(0, 0), (1, 0), (0, 1), (1, 1)]
    one = replace(given, sigmas=torch.tensor([1.0, 0.0]))
    out = DenoisingStage(network)(one, GUIDED).latents
    assert one.latents is not None and out is not None  # u is the noise itself, c the data: u + 2 (c - u)
    assert torch.allclose(out, one.latents + 2 * (CLEAN - one.latents))
    back = DenoisingStage(network)(one, replace(GUIDED, guidance_rescale=1.0)).latents
    assert back is not None and torch.allclose(back.flatten(1).std(1), CLEAN.flatten(1).std(1), rtol=1e-4)
    with pytest.raises(RuntimeError, match="no forward context"):
        get_forward_context()


def test_embedded_guidance_is_told_where_the_model_takes_it():
    told = []

    def network(*given: Any, guidance: Tensor | None = None) -> Tensor:
        told.append(None if guidance is None else guidance.tolist())
        return oracle(*given)

    DenoisingStage(network, embeds_guidance=True)(ready(), ARGS)
    DenoisingStage(network, embeds_guidance=True)(ready(), replace(ARGS, embedded_cfg_scale=0.0))
    DenoisingStage(network)(ready(), ARGS)
    assert told == [[6.0, 6.0], None, None]
    network_of_it = TextToVideoPipeline(
        alive(HunyuanVideoTransformer3DModel(**SIZES)), WanVAE(VAEConfig(3, 16, [4, 4, 8, 8], 1, False, 0.1)),
        HunyuanTextEncoder(width=12), "cpu",
    )  # fmt: skip
    assert network_of_it(batch("a"), ARGS).output is not None


def test_a_stage_that_was_left_out_is_named():
    with pytest.raises(ValueError, match="denoising needs latents, sigmas, encoder_hidden_states, null_hidden_states"):
        DenoisingStage(oracle)(batch("a"), GUIDED)
    with pytest.raises(ValueError, match="no latents to decode"):
        DecodingStage(WanVAE(VAEConfig(3, 16, [4, 4, 8, 8], 1, False, 0.1)))(batch("a"), ARGS)


# -- pipeline and engine -----------------------------------------------------------------------------------------


def test_a_run_is_its_seed_s(model):
    engine = InferenceEngine.create_engine(replace(ARGS, model_path=model))
    first, again = engine.run(["night rain", "cat"]), engine.run(["night rain", "cat"])
    assert torch.equal(first["samples"], again["samples"])
    video = first["samples"]
    assert video.shape == (2, 3, 5, 16, 32) and 0 <= video.min() and video.max() <= 1
    assert first["seeds"] == [1024, 1025] and first["size"] == (16, 32, 5) and first["generation_time"] > 0
    assert first["prompts"] == ["night rain", "cat"]
    other = engine.run("night rain", replace(engine.args, seed=7))["samples"]
    assert not torch.allclose(other, video[:1], atol=1e-3)
    alone = engine.run("cat", replace(engine.args, seed=1025))["samples"]
    assert (alone - video[1:]).abs().mean() < 1e-3 < (alone - video[:1]).abs().mean()
    assert not torch.allclose(engine.run("rain", negative_prompt="blur", inference_args=replace(
        engine.args, guidance_scale=3.0))["samples"], engine.run("rain")["samples"], atol=1e-3)  # fmt: skip


def test_latents_and_arrays_are_given_as_asked(model):
    engine = InferenceEngine.create_engine(replace(ARGS, model_path=model))
    latents = engine.run("cat", replace(engine.args, output_type="latent"))
    assert latents["samples"].shape == (1, 16, 2, 2, 4) and latents["size"] == (2, 4, 2)
    array = engine.run("cat", replace(engine.args, output_type="np"))["samples"]
    assert isinstance(array, np.ndarray) and np.array_equal(array, engine.run("cat")["samples"].numpy())


def test_models_that_are_not_there_or_not_so_are_named(model, parts, tmp_path):
    with pytest.raises(
        ValueError, match="model_type must be one of world, mochi, hunyuan, hunyuan_hf, wan, got 'sora'"
    ):
        InferenceEngine.create_engine(replace(ARGS, model_type="sora"))
    with pytest.raises(FileNotFoundError, match=r"lacks transformer.safetensors and vae.*no pretrained"):
        InferenceEngine.create_engine(replace(ARGS, model_path=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="type mochi has latents of 12 channels.* has 16"):
        InferenceEngine.create_engine(replace(ARGS, model_type="mochi", model_path=model))
    with pytest.raises(ValueError, match="latents of 16 channels and words of 12 numbers.* makes 4"):
        TextToVideoPipeline(parts[0], WanVAE(VAEConfig(3, 4, [4, 4, 8, 8], 1, False)), parts[2])
    engine = InferenceEngine.create_engine(replace(ARGS, model_path=model))
    with pytest.raises(ValueError, match="this engine has the model_type wan, got mochi"):
        engine.run("cat", replace(ARGS, model_type="mochi", model_path=model))
    with pytest.raises(ValueError, match="multiples of 8 above 0, got 0"):
        engine.run("cat", replace(engine.args, height=0))


def test_a_stage_of_one_s_own_stands_between_the_others(parts):
    class Doubled(PipelineStage):
        def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
            assert batch.latents is not None
            return replace(batch, latents=2 * batch.latents)

    pipeline = TextToVideoPipeline(parts[0], parts[1], parts[2], "cpu")
    plain = pipeline(batch("a"), ARGS).latents
    pipeline.stages.insert(-1, Doubled())
    assert torch.equal(pipeline(batch("a"), ARGS).latents, 2 * plain)  # type: ignore[arg-type, operator]
