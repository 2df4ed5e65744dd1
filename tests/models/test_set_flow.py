"""The set flow's loss and samples: a Gaussian whose flow is known, oracles, guidance, and what it is conditioned on."""

from typing import Any

import pytest
import torch

from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.sampler import integrate
from drivedit.models.sets.flow import SetFlow
from drivedit.models.sets.ksin import ksin_flow

MEAN, SPREAD = 0.7, 0.5


class Oracle(torch.nn.Module):
    """A field that is told its answer: `u(x, t, condition)`."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer, self.calls = answer, 0

    def forward(self, x, t, conditioning=None):
        self.calls += 1
        return self.answer(x, t, conditioning)

    def apply_dropout(self, z, rate, *, rng=None):
        return z

    def penalty(self):
        return torch.tensor(0.25)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(sigma_min: float) -> Any:
    """The field of data from N(MEAN, SPREAD^2), in closed form."""

    def field(x, t, conditioning):
        wide = (1 - sigma_min) * (1 - t)
        variance = (t * SPREAD) ** 2 + wide**2
        slope = (t * SPREAD**2 - (1 - sigma_min) * wide) / variance
        return MEAN + slope * (x - t * MEAN)

    return field


@pytest.mark.parametrize("sigma_min", [0.0, 0.3])
def test_samples_of_a_known_field_are_gaussian_and_its_loss_is_least(sigma_min):
    """With the original's target, data minus the whole noise, the field of `sigma_min` > 0 would be another one."""
    field = Oracle(gaussian(sigma_min))
    flow = SetFlow(torch.nn.Identity(), field, 0.0, sigma_min)
    data = flow.sample(None, normal(4000, 1), 100)
    assert data.mean().item() == pytest.approx(MEAN, rel=0.02)
    assert data.std().item() == pytest.approx(SPREAD, rel=0.02)
    params, noise = MEAN + SPREAD * normal(20_000, 1, seed=1), normal(20_000, 1, seed=2)

    def loss(shift: float) -> float:
        field.answer = lambda x, t, c: gaussian(sigma_min)(x, t, c) + shift * x
        return flow.loss(params, params, noise, torch.Generator().manual_seed(0))[0].item()

    assert loss(0.0) < min(loss(0.1), loss(-0.1))


def test_an_oracle_of_the_data_is_followed_to_them():
    data = normal(5, 8)
    """It points at the data from wherever one is, and loses its way where time is up."""
    oracle = Oracle(lambda x, t, c: (data - x) / (1 - t).clamp(min=1e-4))
    flow, noise = SetFlow(torch.nn.Identity(), oracle), normal(5, 8, seed=1)
    found = integrate(flow.velocity, noise, noise_levels(50).double()[:-1])
    found = integrate(flow.velocity, found, torch.tensor([0.02, 1e-4]), solver="euler")
    assert torch.allclose(found, data, atol=1e-3)


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 1), (0.0, 2), (3.0, 2)])
def test_guidance_goes_beyond_the_condition_and_costs_nothing_at_one(guidance, calls):
    oracle = Oracle(lambda x, t, c: torch.zeros_like(x) if c is None else c + 0 * x)
    flow, c, noise = SetFlow(torch.nn.Identity(), oracle), normal(3, 1, seed=1), normal(3, 4)
    assert torch.allclose(flow.sample(c, noise, 2, guidance), noise + guidance * c)
    assert oracle.calls == calls * 4 * 2
    assert torch.allclose(flow.sample(None, noise, 2, 5.0), noise)


def test_the_loss_is_the_mean_error_of_the_velocity_and_the_penalty():
    params, noise, rng = normal(6, 4), normal(6, 4, seed=1), torch.Generator()
    flow = SetFlow(torch.nn.Identity(), Oracle(lambda x, t, c: params - noise))
    loss, logs = flow.loss(params, params, noise, rng)
    assert loss.item() == pytest.approx(0.25) and logs["flow"].item() == pytest.approx(0, abs=1e-12)
    flow = SetFlow(torch.nn.Identity(), Oracle(lambda x, t, c: params - noise + torch.tensor([1.0, 0, 0, 2])))
    assert flow.loss(params, params, noise, rng)[1]["flow"].item() == pytest.approx(5 / 4)
    weight = torch.tensor([1.0, 0, 0, 0]).expand(6, -1)
    assert flow.loss(params, params, noise, rng, weight=weight)[1]["flow"].item() == pytest.approx(1)
    for wrong in ({"dropout": 1.5}, {"sigma_min": 1.0}):
        with pytest.raises(ValueError, match="dropout must be in"):
            SetFlow(torch.nn.Identity(), torch.nn.Identity(), **wrong)


@pytest.mark.parametrize("per_layer", [False, True])
def test_conditions_count_unless_they_are_dropped(per_layer):
    flow = ksin_flow(2, 32, d_model=16, num_layers=2, num_heads=2, d_ff=16, conditioning_dim=8, channels=(4,))
    if per_layer:
        flow.encoder = torch.nn.Sequential(flow.encoder, torch.nn.Linear(8, 16), torch.nn.Unflatten(1, (2, 8)))
    rng = torch.Generator().manual_seed(1)
    for weight in flow.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=rng)
    signal, params, noise = (normal(4, size, seed=size).float() for size in (32, 4, 4))

    def loss(observed: torch.Tensor) -> float:
        return flow.loss(observed, params, noise, torch.Generator().manual_seed(0))[0].item()

    flow.dropout = 0.0
    assert loss(signal) != pytest.approx(loss(signal + 1), abs=1e-5)
    flow.dropout = 1.0
    assert loss(signal) == loss(signal + 1)
    assert torch.equal(flow.sample(signal, noise, 2, 0.0), flow.sample(signal + 1, noise, 2, 0.0))
    assert not torch.allclose(flow.sample(signal, noise, 2), flow.sample(None, noise, 2), atol=1e-4)


def test_degrees_of_equivariance():
    order = [1, 0, 3, 2]
    params, t, c = normal(3, 4).float(), torch.full((3, 1), 0.4), normal(3, 8).float()
    for name, exact in (("exact", True), ("learnt", False), ("none", False)):
        field = ksin_flow(2, 32, name, d_model=16, num_layers=1, num_heads=2, d_ff=16, conditioning_dim=8).vector_field
        rng = torch.Generator().manual_seed(1)
        for weight in field.parameters():
            weight.data += 0.3 * torch.randn(weight.shape, generator=rng)
        apart = (field(params[:, order], t, c) - field(params, t, c)[:, order]).abs().max().item()
        assert (apart < 1e-5) == exact, (name, apart)
    with pytest.raises(ValueError, match="exact, learnt, none"):
        ksin_flow(2, 32, "some")
