"""Drift and calibration against distributions with closed-form answers."""

import copy
import math

import numpy as np
import pytest
import torch

from drivedit.evaluation.metrics.drift import (
    HORIZONS,
    SAMPLES,
    drift_figures,
    encoder_features,
    frechet_distance,
    sampled,
    windows,
)
from drivedit.evaluation.metrics.figures import calibration
from drivedit.models import VAE3D


@pytest.fixture(scope="module")
def seeing_world(tiny_world):
    """The tiny world with an encoder of weights of the usual size; its own tells pictures apart by 1e-5 at most."""
    world = copy.deepcopy(tiny_world)
    torch.manual_seed(0)
    world.vae = VAE3D.from_config(world.config.vae).eval()
    return world


def normal(mean: np.ndarray, root: np.ndarray, count: int = 200, seed: int = 0) -> np.ndarray:
    """A sample whose mean and covariance (root @ root.T) are exactly these."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x = x - x.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T).T
    return white @ root.T + mean


def test_normal_distributions_that_commute():
    """|m|^2 + sum (s - t)^2 for deviations s and t along the same axes."""
    mean, s, t = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 0.1]), np.array([3.0, 2.0, 0.0])
    found = frechet_distance(normal(np.zeros(3), np.diag(s)), normal(mean, np.diag(t), 300, 1))
    assert found == pytest.approx(mean @ mean + ((s - t) ** 2).sum(), rel=1e-6)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = frechet_distance(normal(np.zeros(3), np.diag(s)) @ turn, normal(mean, np.diag(t), 300, 1) @ turn)
    assert turned == pytest.approx(found, rel=1e-6)


def test_normal_distributions_that_do_not_commute():
    """In the plane tr sqrt(AB) = sqrt(tr AB + 2 sqrt(det AB))."""
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.8], [-0.8, 3.0]])
    first, second = (normal(np.zeros(2), np.linalg.cholesky(c), seed=k) for k, c in enumerate((a, b)))
    cross = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    assert frechet_distance(first, second) == pytest.approx(np.trace(a + b) - 2 * cross, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_agreement_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Plain(torch.nn.Module):
        num_features = 4

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.double()[:, :, 0, 0]

    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, high, (50, 4, 1, 1), generator=rng).byte() for high in (200, 255))
    oracle = FrechetInceptionDistance(feature=Plain()).set_dtype(torch.float64)
    oracle.update(first, real=True)
    oracle.update(second, real=False)
    flat = (first[:, :, 0, 0].double().numpy(), second[:, :, 0, 0].double().numpy())
    assert frechet_distance(*flat) == pytest.approx(float(oracle.compute()), rel=1e-4)


def test_one_feature_and_wrong_samples():
    x = np.array([[0.0], [2.0]])  # mean 1, deviation sqrt 2
    assert frechet_distance(x, 3 * x + 1) == pytest.approx(9 + 2 * 4)
    with pytest.raises(ValueError, match=r"n >= 2"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match=r"got \(2, 1\) and \(2, 3\)"):
        frechet_distance(x, np.zeros((2, 3)))


def test_every_horizon_has_equally_many_pictures_up_to_it():
    at = windows(1000)
    assert tuple(at) == HORIZONS and all(len(set(steps.tolist())) == SAMPLES for steps in at.values())
    assert at[10].tolist() == list(range(10)) and at[1000].max() == 999 and at[1000].min() == 950
    assert set(sampled(1000)) == set(np.concatenate(list(at.values())))
    assert list(windows(60)) == [10, 50] and sampled(9).size == 0


def test_drift_grows_with_what_goes_wrong_and_is_none_in_a_perfect_dream(seeing_world):
    rng = np.random.default_rng(0)
    kept = sampled(100)
    scene = np.concatenate([scene.frames for scene in seeing_world.scenes])
    base = scene[rng.integers(len(scene), size=(3, len(kept)))].astype(int)
    true = np.clip(base + rng.integers(-20, 21, (3, len(kept), 1, 1, 3)), 0, 255).astype(np.uint8)
    figures = drift_figures(seeing_world, true, true, 100)
    assert [figures[f"frechet_{h}"] for h in (10, 50, 100)] == pytest.approx([0, 0, 0], abs=1e-9)
    assert all(math.isnan(figures[name]) for name in ("frechet_300", "frechet_1000", "frechet_true"))
    fading = (true * (1 - kept / 200)[:, None, None, None]).astype(np.uint8)
    figures = drift_figures(seeing_world, true, fading, 100)
    assert 1e-6 < figures["frechet_10"] < figures["frechet_50"] < figures["frechet_100"]


def test_features_are_those_of_single_pictures(seeing_world):
    frames = np.concatenate([scene.frames for scene in seeing_world.scenes])
    features = encoder_features(seeing_world, frames)
    assert features.shape == (len(frames), 2 * seeing_world.latent_shape()[0])
    with torch.no_grad():
        latent = seeing_world.encode(frames[None, 3:4])[0, 0].flatten(1)
    assert features[3] == pytest.approx(torch.cat([latent.mean(1), latent.std(1)]).numpy(), abs=1e-5)
    assert np.abs(features[3] - features[-1]).max() > 1e-3  # another scene's


def test_calibration_bins_are_ordered_and_equally_full():
    rng = np.random.default_rng(0)
    confidence = rng.permutation(np.arange(20) / 20)
    table = calibration(confidence, (1 - confidence) ** 2, 4)
    assert table["count"] == [5, 5, 5, 5]
    assert table["confidence"] == pytest.approx([0.1, 0.35, 0.6, 0.85])
    least = np.arange(5) / 20
    assert table["rmse"][0] == pytest.approx(np.sqrt(((1 - least) ** 2).mean()))
    assert table["rmse"] == sorted(table["rmse"], reverse=True)
    assert calibration(confidence[:2], confidence[:2], 4)["count"] == [1, 1]
