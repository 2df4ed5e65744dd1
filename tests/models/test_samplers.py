"""Samplers of pixel-space transformers against a Gaussian whose flow is known: order, ends, and calls of the model."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from drivedit.config import PixelHDMConfig
from drivedit.models.flow.dpm import multistep, singlestep
from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.unified import StandardCFG, UnifiedSampler, apply_cfg, create_sampler_from_config

MEAN, SPREAD = 0.7, 0.5  # of the data
METHODS = {"euler": 1, "heun": 2, "dpm_pp": 2, "dpm_pp_2s": 2}  # and their orders
T_EPS = 0.05


def estimate(z: Tensor, t: Tensor | float, mean: Tensor | float = MEAN) -> Tensor:
    """The mean of Gaussian data, given z at time t."""
    gain = t * SPREAD**2 / (t**2 * SPREAD**2 + (1 - t) ** 2)
    return mean + gain * (z - t * mean)


class Oracle:
    """A perfect model of the Gaussian; a text `[B, 1, 1]` is the mean of its data."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, z: Tensor, t: Tensor, text_embed: Tensor | None = None) -> Tensor:
        self.calls += 1
        mean = MEAN if text_embed is None else text_embed[:, 0]
        return (estimate(z, t[:, None], mean) - z) / (1 - t[:, None])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def end(z: Tensor) -> Tensor:
    """The clean estimate where the flow of noise z is at 1 - t_eps."""
    t = 1 - T_EPS
    return estimate(t * MEAN + math.sqrt(t**2 * SPREAD**2 + T_EPS**2) * z, t)


def error(method: str, steps: int, z: Tensor) -> float:
    return (UnifiedSampler(method, steps, T_EPS).sample(Oracle(), z) - end(z)).abs().max().item()


@pytest.mark.parametrize("method", METHODS)
def test_methods_have_their_order(method):
    errors = [error(method, steps, normal(200, 1)) for steps in (20, 40, 80)]
    orders = [math.log2(one / other) for one, other in pairwise(errors)]
    assert orders == pytest.approx([METHODS[method]] * 2, abs=0.15 if method == "euler" else 0.2)


def test_methods_of_second_order_agree_at_many_steps():
    z = normal(200, 1)
    heun, *others = (UnifiedSampler(m, 200).sample(Oracle(), z) for m in METHODS if m != "euler")
    assert all((other - heun).abs().max() < 1e-3 for other in others)


@pytest.mark.parametrize("method", METHODS)
def test_samples_have_mean_and_spread_of_the_data(method):
    """Of equally likely noise, so that nothing is due to chance; ended without the estimate, .1 would be noise."""
    z = torch.distributions.Normal(0, 1).icdf((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)[:, None]
    data = UnifiedSampler(method, 100).sample(Oracle(), z)
    assert data.mean().item() == pytest.approx(MEAN, rel=0.02) and data.std().item() == pytest.approx(SPREAD, rel=0.02)


@pytest.mark.parametrize("solver", [multistep, singlestep])
def test_dpm_steps_between_pure_noise_and_pure_data(solver):
    """The logarithm of their ratio is infinite at both ends; the error falls as h^2 log(1 / h)."""
    z, errors = normal(200, 1), []
    for steps in (1, 2, 80, 160):
        data = solver(lambda x, sigma, given: estimate(x, 1 - sigma[:, None]), z, noise_levels(steps).double())
        errors.append((data - (MEAN + SPREAD * z)).abs().max().item())
    assert all(map(math.isfinite, errors)) and 1.65 < math.log2(errors[2] / errors[3]) < 2


@pytest.mark.parametrize("method", METHODS)
def test_a_straight_flow_is_followed_exactly(method):
    data, z = normal(3, 4, seed=1), normal(3, 4)

    def model(z: Tensor, t: Tensor) -> Tensor:
        return (data - z) / (1 - t[:, None])

    for steps in (1, 2, 5):
        assert torch.allclose(UnifiedSampler(method, steps).sample(model, z), data)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, 7.5])
@pytest.mark.parametrize("t_start", [0.0, 0.3])
def test_calls_of_the_model_are_counted_right(method, scale, t_start):
    """A scale below 1 is guidance as well."""
    sampler, told = UnifiedSampler(method, 50), {"guidance_scale": scale, "null_text_embeddings": torch.zeros(2, 1, 1)}
    for steps in (1, 2, 7, None):
        model = Oracle()
        sampler.sample(model, normal(2, 3), torch.ones(2, 1, 1), num_steps=steps, t_start=t_start, **told)
        assert model.calls == sampler.count_nfe(steps, use_cfg=scale != 1, t_start=t_start)


@pytest.mark.parametrize("method", METHODS)
def test_guidance_goes_beyond_the_text(method):
    """Of Gaussians of one spread, guided velocities are those of a Gaussian whose mean is moved by the scale."""
    z, sampler = normal(50, 1), UnifiedSampler(method, 10)
    text = torch.full((50, 1, 1), 0.4, dtype=torch.float64)

    def run(text: Tensor, **options: Any) -> Tensor:
        return sampler.sample(Oracle(), z, text, **options)

    guided = run(text, guidance_scale=3.0, null_text_embeddings=text / 4)
    assert torch.allclose(guided, run(text / 4 + 3 * (text - text / 4)))
    assert torch.allclose(run(text, guidance_scale=0.0, null_text_embeddings=text / 4), run(text / 4))
    with pytest.raises(ValueError, match="guidance_scale 7.5 needs null_text_embeddings or null_pooled"):
        run(text, guidance_scale=7.5)


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_told_step_by_step(method):
    seen: list[tuple[int, int]] = []
    UnifiedSampler(method, 4).sample(Oracle(), normal(2, 3), callback=lambda step, steps, z: seen.append((step, steps)))
    assert seen == [(step, 4) for step in range(4)]


@pytest.mark.parametrize("method", METHODS)
def test_pictures_keep_their_precision_and_shape(method):
    z = torch.randn(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    out = UnifiedSampler(method, 3).sample(lambda z, t: z * t[:, None, None, None], z)
    assert out.shape == z.shape and out.dtype == torch.float32 and not out.requires_grad


def test_what_is_told_reaches_the_model_and_nothing_else():
    seen = []

    def model(z: Tensor, t: Tensor, **given: Tensor) -> Tensor:
        seen.append({name: value.item() for name, value in given.items()})
        return z

    UnifiedSampler("euler", 1).sample(
        model, normal(1, 2), torch.tensor([1]), torch.tensor([2]), guidance_scale=2.0,
        null_text_embeddings=torch.tensor([3]), pooled_text_embed=torch.tensor([4]),
    )  # fmt: skip
    assert seen == [{"text_embed": 3}, {"text_embed": 1, "text_mask": 2, "pooled_text_embed": 4}] * 2


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="one of euler, heun, dpm_pp, dpm_pp_2s, got 'ddim'"):
        UnifiedSampler("ddim")
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        UnifiedSampler(num_steps=0)
    with pytest.raises(ValueError, match="t_eps must be above 0 and below 0.5, got 0.5"):
        UnifiedSampler(t_eps=0.5)
    with pytest.raises(ValueError, match="below 1 - t_eps = 0.95, got 0.95"):
        UnifiedSampler().sample(Oracle(), normal(1, 2), t_start=0.95)


def test_a_configuration_makes_its_sampler():
    sampler = create_sampler_from_config(PixelHDMConfig(default_sampler_method="dpm_pp", time_eps=0.02))
    assert (sampler.method, sampler.num_steps, sampler.t_eps) == ("dpm_pp", 50, 0.02)
    times = sampler.timesteps()
    assert times[0] == 0 and times[-1] == 0.98 and len(times) == 51


def test_guidance_of_two_predictions():
    conditional, unconditional = normal(3, 8, 8, 3), 2 * normal(3, 8, 8, 3, seed=1) + 1
    for rescale in (0.0, 0.7, 1.0):
        assert torch.allclose(apply_cfg(conditional, unconditional, 1.0, rescale), conditional, atol=1e-6)
    assert torch.equal(apply_cfg(conditional, unconditional, 0.0), unconditional)
    out = apply_cfg(conditional, unconditional, 7.5)
    assert torch.allclose(out, unconditional + 7.5 * (conditional - unconditional))
    assert torch.equal(out, StandardCFG().apply(conditional, unconditional, 7.5))
    spread = apply_cfg(conditional, unconditional, 7.5, 1.0).flatten(1).std(1)
    assert torch.allclose(spread, conditional.flatten(1).std(1)) and (out.flatten(1).std(1) > 2 * spread).all()
    half = apply_cfg(conditional, unconditional, 7.5, 0.5)
    assert torch.allclose(half, (out + apply_cfg(conditional, unconditional, 7.5, 1.0)) / 2)
