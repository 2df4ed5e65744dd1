"""Losses of the published API: closed forms, and an independent implementation where there is one."""

import pytest
import torch

from drivedit.training.losses import CompositeLoss, FlowMatchingLoss, ReconstructionLoss, gradient_difference


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_reconstruction_of_equal_pictures_is_free_and_blur_costs_most_at_edges():
    x = pictures(2, 3, 3, 32, 32)  # [B, T, C, H, W]
    loss = ReconstructionLoss()
    assert {k: v.item() for k, v in loss(x, x).items()} == pytest.approx(
        {"pixel": 0, "perceptual": 0, "ssim": 0, "total": 0}, abs=1e-6
    )
    brighter = loss(x + 0.1, x)
    assert brighter["pixel"].item() == pytest.approx(0.01, rel=1e-4)
    assert brighter["perceptual"].item() == pytest.approx(0, abs=1e-6)  # gradients do not see brightness
    blurred = loss(torch.nn.functional.avg_pool2d(x.flatten(0, 1), 3, 1, 1).view_as(x), x)
    assert blurred["perceptual"] > 0.1 and blurred["ssim"] > 0.1
    parts = {name: blurred[name] for name in ("pixel", "perceptual", "ssim")}
    total = parts["pixel"] + 0.1 * parts["perceptual"] + 0.1 * parts["ssim"]
    assert blurred["total"].item() == pytest.approx(total.item(), rel=1e-6)
    assert set(ReconstructionLoss(ssim_weight=0.0)(x, x)) == {"pixel", "perceptual", "total"}


def test_ssim_by_the_formula():
    """For constant pictures only the luminance term is left: (2ab + c) / (a^2 + b^2 + c)."""
    a, b, c = 0.4, 0.6, 0.01**2
    same = ReconstructionLoss()(torch.full((1, 1, 16, 16), a), torch.full((1, 1, 16, 16), b))
    assert same["ssim"].item() == pytest.approx(1 - (2 * a * b + c) / (a * a + b * b + c), rel=1e-2)


def test_gradient_difference_of_a_ramp():
    """A ramp of slope 1 has gradients 1, 2 and 4 at full, half and quarter size, one way only."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    assert gradient_difference(ramp, torch.zeros_like(ramp)).item() == pytest.approx((1 + 2 + 4) / 3)
    assert gradient_difference(ramp.mT, torch.zeros_like(ramp)).item() == pytest.approx((1 + 2 + 4) / 3)


def test_reconstruction_trains_a_picture():
    target = pictures(1, 3, 24, 24)
    guess = torch.full_like(target, 0.5).requires_grad_()
    optimizer, loss = torch.optim.Adam([guess], 0.05), ReconstructionLoss()
    first = loss(guess, target)["total"].item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(guess, target)["total"].backward()
        optimizer.step()
    assert loss(guess, target)["total"].item() < 0.05 * first


def test_flow_matching_levels_are_edm_levels_on_the_path():
    loss, g = FlowMatchingLoss(), torch.Generator().manual_seed(0)
    tau = loss.draw(20_000, generator=g)
    assert 0.00199 < tau.min() and tau.max() < 0.98766  # s / (1 + s) for s = .002 and 80
    s = (tau / (1 - tau)).double().log()
    low, high = torch.tensor([0.002, 80.0]).log().tolist()
    assert s.mean().item() == pytest.approx((low + high) / 2, abs=0.11)  # five standard errors
    assert s.std().item() == pytest.approx((high - low) / 12**0.5, abs=0.05)
    x0, n, level = torch.randn(3, 4), torch.randn(3, 4), 2.5
    edm, t = (x0 + level * n) / (1 + level), level / (1 + level)
    assert torch.allclose(edm, (1 - t) * x0 + t * n, atol=1e-6)
    with pytest.raises(ValueError, match="sigma_min <= sigma_max"):
        FlowMatchingLoss(1.0, 0.5)


def test_flow_matching_is_least_at_the_velocity():
    clean, noise = torch.randn(4, 8), torch.randn(4, 8)
    loss = FlowMatchingLoss()
    assert loss(noise - clean, clean, noise) == 0
    assert loss(noise - clean + 0.5, clean, noise).item() == pytest.approx(0.25, rel=1e-5)
    assert loss(clean - noise, clean, noise).item() == pytest.approx(
        4 * (noise - clean).square().mean().item(), rel=1e-5
    )
    with pytest.raises(ValueError, match=r"one shape, got \(4, 7\)"):
        loss(clean[:, 1:], clean, noise)


def test_composite_adds_up_and_names_what_it_lacks():
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    out = CompositeLoss({"a": 0.5, "b": 2.0})({"a": a, "b": b})
    assert out["total"] == 7 and out["a"] is a
    out["total"].backward()
    assert a.grad == 0.5 and b.grad == 2
    for wrong in ({"a": a}, {"a": a, "b": b, "c": b}):
        with pytest.raises(KeyError, match="losses must be"):
            CompositeLoss({"a": 0.5, "b": 2.0})(wrong)
    assert list(CompositeLoss({"a": 1.0}).parameters()) == []
    with pytest.raises(ValueError, match="at least one"):
        CompositeLoss({})


def test_learned_weights_find_the_size_of_each_loss():
    """exp(-s) L + s is least at s = log L, where every loss counts as much as every other."""
    losses = {"small": torch.tensor(0.01), "large": torch.tensor(50.0)}
    loss = CompositeLoss(dict.fromkeys(losses, 1.0), uncertainty_weighting=True)
    assert loss(losses)["total"].item() == pytest.approx(50.01)
    optimizer = torch.optim.Adam(loss.parameters(), 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(losses)["total"].backward()
        optimizer.step()
    assert loss.log_variances is not None
    assert torch.allclose(loss.log_variances, torch.tensor([0.01, 50.0]).log(), atol=0.02)
