"""The path and the sampler, against closed forms: a Gaussian's flow is known, and so is every error made on its way."""

import math

import pytest
import torch
from torch import Tensor

from drivedit.models.flow.parametrisations import (
    alpha_products,
    level_of_ddpm,
    level_of_edm,
    nearest_step,
    signal_and_spread,
)
from drivedit.models.flow.path import (
    add_noise,
    clean_estimate,
    euler_step,
    noise_levels,
    over,
    velocity,
    velocity_estimate,
    weighted,
)
from drivedit.models.flow.sampler import guided, integrate, sample

MEAN, SPREAD = 0.7, 0.5  # of the data


def posterior(x: Tensor, sigma: Tensor, given: float | None = None) -> Tensor:
    """The mean of Gaussian data seen at a level of noise; `given` is another mean of the data."""
    mean, level = MEAN if given is None else given, over(sigma, x)
    gain = (1 - level) * SPREAD**2 / ((1 - level) ** 2 * SPREAD**2 + level**2)
    return mean + gain * (x - (1 - level) * mean)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("axes", [(), (4,), (4, 3)])
def test_velocity_and_clean_estimate_are_ways_to_say_the_same(axes):
    clean, noise = normal(4, 3, 5, seed=1), normal(4, 3, 5, seed=2)
    sigma = torch.rand(axes, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.01
    x = add_noise(clean, noise, sigma)
    assert torch.allclose(velocity_estimate(x, clean, sigma), velocity(clean, noise))
    assert torch.allclose(clean_estimate(x, velocity(clean, noise), sigma), clean)
    assert torch.allclose(euler_step(x, clean, sigma, sigma / 3), add_noise(clean, noise, sigma / 3))
    assert torch.equal(add_noise(clean, noise, torch.zeros(axes)), clean)
    assert torch.equal(add_noise(clean, noise, torch.ones(axes)), noise)


def test_each_row_and_frame_has_its_own_level():
    clean, noise, sigma = normal(2, 3, 5), normal(2, 3, 5, seed=1), torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25]])
    x = add_noise(clean, noise, sigma)
    assert torch.equal(x[0, 0], clean[0, 0]) and torch.equal(x[1, 0], noise[1, 0])
    assert torch.allclose(x[1, 2], 0.75 * clean[1, 2] + 0.25 * noise[1, 2])


def test_errors_count_most_where_there_is_little_noise():
    error = torch.ones(3)
    assert torch.allclose(weighted(error, torch.tensor([0.0, 0.5, 1.0])), torch.tensor([4.0, 2.0, 0.8]))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_other_parametrisations_pass_through_the_same_points(schedule):
    clean, noise, alphas = normal(1000, 3), normal(1000, 3, seed=1), alpha_products(schedule, 1000)
    signal, spread = signal_and_spread(alphas, clean)
    sigma = level_of_ddpm(alphas)
    assert torch.allclose((signal * clean + spread * noise) / (signal + spread), add_noise(clean, noise, sigma))
    assert torch.equal(nearest_step(alphas, sigma), torch.arange(1000))
    assert torch.equal(nearest_step(alphas, sigma.float()), torch.arange(1000))
    s = (spread / signal)[:, 0]
    assert torch.allclose(level_of_edm(s.log()), sigma)
    assert torch.allclose((clean + over(s, clean) * noise) / over(1 + s, clean), add_noise(clean, noise, sigma))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_levels_fall_evenly_from_noise_to_data(steps):
    levels = noise_levels(steps)
    assert len(levels) == steps + 1 and levels[0] == 1 and levels[-1] == 0
    assert torch.allclose(levels.diff(), torch.tensor(-1 / steps))
    with pytest.raises(ValueError, match="at least 1 sampling step, got 0"):
        noise_levels(0)


def test_the_sampler_is_of_first_order():
    """The flow of a Gaussian carries noise z to MEAN + SPREAD z; Euler's error halves with the steps."""
    z = normal(500)
    errors = []
    for steps in (50, 100, 200, 400):
        data = sample(posterior, z, noise_levels(steps).double())
        errors.append((data - (MEAN + SPREAD * z)).abs().max().item())
    orders = [math.log2(one / other) for one, other in zip(errors, errors[1:], strict=False)]
    assert orders == pytest.approx([1, 1, 1], abs=0.1) and errors[-1] < 1e-2


def test_one_step_gives_the_clean_estimate_and_no_step_the_noise():
    x = normal(3, 4)
    assert torch.equal(sample(posterior, x, noise_levels(1)), posterior(x, torch.ones(3)))
    assert torch.equal(sample(posterior, x, noise_levels(5)[:1]), x)


def test_a_straight_flow_needs_no_more_than_one_step():
    clean, x = normal(3, 4), normal(3, 4, seed=1)
    for steps in (1, 2, 9):
        assert torch.allclose(sample(lambda x, sigma, given: clean, x, noise_levels(steps).double()), clean)
    half = sample(lambda x, sigma, given: clean, x, torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert torch.allclose(half, add_noise(clean, x, torch.tensor(0.5)))


def test_a_sampler_asks_once_for_each_step_at_falling_levels():
    asked = []

    def denoiser(x: Tensor, sigma: Tensor, given: str) -> Tensor:
        asked.append((sigma.tolist(), given))
        return x

    sample(denoiser, normal(2, 3), noise_levels(4), "what is given")
    assert asked == [([level] * 2, "what is given") for level in (1.0, 0.75, 0.5, 0.25)]


def test_rows_go_down_levels_of_their_own_and_wait_where_these_stay():
    x, even = normal(3, 4), noise_levels(4).double()
    levels = torch.stack([even, even.clamp(min=0.5), torch.ones(5, dtype=torch.float64)], 1)
    out = sample(posterior, x, levels)
    for row, alone in enumerate((even, even[:3], even[:1])):
        assert torch.allclose(out[row], sample(posterior, x[row : row + 1], alone)[0])
    assert torch.equal(out[2], x[2])


def test_guidance_goes_beyond_the_condition_by_its_scale():
    x, sigma = normal(4, 3), torch.full((4,), 0.6)
    plain, conditional = posterior(x, sigma, 0.0), posterior(x, sigma, 2.0)
    assert torch.allclose(guided(posterior, 3.0, 0.0)(x, sigma, 2.0), plain + 3 * (conditional - plain))
    assert torch.allclose(guided(posterior, 0.0, 0.0)(x, sigma, 2.0), plain)
    assert guided(posterior, 1, 0.0) is posterior
    ends = sample(guided(posterior, 2.0, 0.0), normal(2000), noise_levels(200).double(), 1.0)
    assert ends.mean().item() == pytest.approx(2.0, abs=0.08)  # of Gaussians the mean is moved so far


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_solvers_of_velocities_have_their_order(solver, order):
    """On x' = -x down from level 1 the exact end is x e; the error falls by 2^order when the steps double."""

    def field(x: Tensor, sigma: Tensor, given: None) -> Tensor:
        return -x

    x = normal(5)
    errors = [
        (integrate(field, x, noise_levels(steps).double(), None, solver) - x * math.e).abs().max().item()
        for steps in (16, 32)
    ]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.125)


def test_solvers_agree_with_the_sampler_of_clean_estimates():
    z, levels = normal(50), noise_levels(7).double()[:-1]

    def field(x: Tensor, sigma: Tensor, given: float | None) -> Tensor:
        return velocity_estimate(x, posterior(x, sigma, given), sigma)

    assert torch.allclose(integrate(field, z, levels, 0.3, "euler"), sample(posterior, z, levels, 0.3))
    with pytest.raises(ValueError, match="euler, midpoint, heun, rk4, got 'leapfrog'"):
        integrate(field, z, levels, solver="leapfrog")
