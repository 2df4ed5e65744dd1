"""Consistency in continuous time: the derivative is one, the flow's own map has no loss, and others do."""

import pytest
import torch
from helpers.gaussian import (
    MEAN,
    distill_config,
    gaussian_clip,
    make_rngs,
    posterior,
    transport,
    with_student,
)
from helpers.worlds import make_world

from drivedit.models.flow.path import add_noise, over
from drivedit.training.methods import continuous
from drivedit.training.methods.continuous import ANCHOR, ContinuousConsistency, anchored
from drivedit.training.methods.dynamics import predict_clean
from drivedit.training.methods.method import Progress


def method_of(**changes) -> ContinuousConsistency:
    return ContinuousConsistency(make_world(), distill_config(method="continuous", **changes)).eval()


def tangent(student, monkeypatch, share: float = 1.0, clip=None, **changes) -> float:
    """The root mean square of the change that is asked of a student, at a share of the run."""
    method = with_student(method_of(**changes), student)
    monkeypatch.setattr(continuous, "predict_clean", lambda net, x, sigma, *_: (student(x, sigma), None))
    return method.clip_loss(clip or gaussian_clip(), Progress(0, share), make_rngs())[1]["tangent"].item()


def exact(x, sigma):
    """The clean estimate whose anchored form is the flow's own map, at all levels."""
    share = over(1 - (1 - sigma / ANCHOR).clamp(min=0).square(), x).clamp(min=1e-3)
    return x + (transport(x, sigma) - x) / share


def test_the_flows_own_map_is_asked_for_no_change_and_others_are(monkeypatch):
    right = tangent(exact, monkeypatch)
    assert right < 2e-4 and tangent(posterior, monkeypatch) > 0.02  # a blurred student
    assert tangent(lambda x, s: MEAN + 1.5 * (transport(x, s) - MEAN), monkeypatch) > 20 * right  # wrong at data alone


def test_on_straight_paths_of_the_data_the_exact_student_is_asked_for_no_change(monkeypatch):
    clip = gaussian_clip(4)
    clip.target = torch.full_like(clip.target, MEAN)

    def known(x, sigma):
        return torch.full_like(x, MEAN)

    method_sees = tangent(lambda x, s: exact_of(known, x, s), monkeypatch, clip=clip, data_flow=True)
    assert method_sees < 1e-4
    assert tangent(lambda x, s: known(x, s) + s[..., None, None], monkeypatch, clip=clip, data_flow=True) > 0.3


def exact_of(clean, x, sigma):
    share = over(1 - (1 - sigma / ANCHOR).clamp(min=0).square(), x).clamp(min=1e-3)
    return x + (clean(x, sigma) - x) / share


def test_at_the_beginning_the_teachers_own_estimates_are_learned(monkeypatch):
    def denoiser(x, sigma):
        return exact_of(posterior, x, sigma)

    assert tangent(denoiser, monkeypatch, share=0.0) < 1e-5 < 0.02 < tangent(denoiser, monkeypatch, share=1.0)
    half = tangent(denoiser, monkeypatch, share=0.15)  # of a warm-up of .3
    assert half == pytest.approx(0.5 * tangent(denoiser, monkeypatch, share=0.3), rel=1e-3)


def test_the_derivative_is_that_of_small_steps():
    """Through all of the network, attention and adaptive norms, in double precision."""
    method, clip = method_of().double(), gaussian_clip(2)
    given = (clip.control.double(), clip.route.double(), method.past(clip.tokens).double())
    target, g = clip.target.double(), torch.Generator().manual_seed(0)
    sigma = torch.tensor([[0.05, 0.3, 0.6, 1.0], [0.95, 0.08, 0.2, 0.5]], dtype=torch.float64)
    noisy = add_noise(target, torch.randn(target.shape, generator=g, dtype=torch.float64), sigma)
    motion = torch.randn(target.shape, generator=g, dtype=torch.float64)
    with torch.no_grad():
        found = method.derivative(noisy, sigma, given, motion)

        def at(step: float) -> torch.Tensor:
            x, level = noisy + step * motion, sigma * (1 + step)
            return anchored(x, predict_clean(method.dynamics, x, level, *given)[0], level)

        wanted = (at(1e-3) - at(-1e-3)) / 2e-3  # the network is told levels in float32: no smaller steps
    assert wanted.abs().mean() > 0.1 and torch.allclose(found, wanted, atol=3e-4)
    assert not found.requires_grad


def test_training_makes_the_estimate_change_less_along_the_flow():
    """A student that starts as the teacher, of which nothing but the derivative is asked."""
    method, clip = (
        method_of(warmup_share=0.0, pure_noise=0.0, context_noise=0.0, drop_past=0.0).train(),
        gaussian_clip(4),
    )
    optimizer = torch.optim.Adam(method.dynamics.parameters(), 1e-3)
    sizes = []
    for step in range(60):
        loss, logs = method.clip_loss(clip, Progress(step, 1.0), make_rngs(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sizes.append(logs["tangent"].item())
        assert loss.item() < 1  # however steep the derivative is
    assert sum(sizes[-10:]) < 0.8 * sum(sizes[:10])
    assert all(weight.grad is None for weight in method.teacher.network.parameters())


def test_an_estimate_passes_into_the_frame_itself_at_data_and_is_the_networks_where_samplers_ask():
    x, clean = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    levels = torch.tensor([[0.0, 0.1, 0.25], [0.5, 0.75, 1.0]])
    out = anchored(x, clean, levels)
    assert torch.equal(out[0, 0], x[0, 0]) and torch.equal(out[0, 1:], clean[0, 1:]) and torch.equal(out[1], clean[1])


@pytest.mark.parametrize("half", [False, True])
def test_it_trains_under_autocast_as_well(half):
    method, clip = method_of().train(), gaussian_clip(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss, _ = method.clip_loss(clip, Progress(0, 0.2), make_rngs())
    loss.backward()
    assert torch.isfinite(loss) and all(
        weight.grad is None or torch.isfinite(weight.grad).all() for weight in method.dynamics.parameters()
    )
