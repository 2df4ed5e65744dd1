"""Metrics of sets and signals: what they are blind to, units, and means over items whatever the batches."""

from functools import partial

import pytest
import torch

from drivedit.data.ksin import make_sin
from drivedit.evaluation.metrics.sets import (
    ChamferDistance,
    LinearAssignmentDistance,
    LogSpectralDistance,
    complex_to_dbfs,
    log_spectral_distance,
)

SYNTH = partial(make_sin, length=64)


def draw(rows: int, seed: int = 0, k: int = 3) -> torch.Tensor:
    return torch.rand(rows, 2 * k, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_power_in_db_has_a_floor():
    z = torch.tensor([1 + 0j, 3 + 4j, 0.1j, 0j])
    assert complex_to_dbfs(z).tolist() == pytest.approx([0, 13.979, -20, -80], abs=1e-3)
    assert complex_to_dbfs(z, 1e-2)[-1].item() == pytest.approx(-20)


def test_the_spectral_distance_is_in_db_and_knows_no_order():
    signal = torch.randn(4, 65, generator=torch.Generator().manual_seed(0))
    assert not log_spectral_distance(signal, signal).any()
    assert torch.allclose(log_spectral_distance(10 * signal, signal), torch.full((4,), 20.0), atol=1e-3)
    params, metric = draw(5), LogSpectralDistance()
    metric.update(params[:, [2, 0, 1, 5, 3, 4]], SYNTH(params), SYNTH)
    assert metric.compute() < 1e-3
    metric.update(draw(5, 1), SYNTH(params), SYNTH)
    assert metric.compute() > 1


METRICS = {
    "lsd": (LogSpectralDistance, lambda p, t: (p, SYNTH(t), SYNTH)),
    "chamfer": (lambda: ChamferDistance(2), lambda p, t: (p, t)),
    "assignment": (lambda: LinearAssignmentDistance(2), lambda p, t: (p, t)),
    "squared": (lambda: LinearAssignmentDistance(2, squared=True), lambda p, t: (p, t)),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_mean_is_over_items_whatever_the_batches(name):
    """The original took means of batches, in which a short last one counts too much."""
    make, told = METRICS[name]
    predicted, target = draw(7), draw(7, 1)
    whole, parts = make(), make()
    whole.update(*told(predicted, target))
    for part in (slice(0, 3), slice(3, 7)):
        parts.update(*told(predicted[part], target[part]))
    assert parts.compute().item() == pytest.approx(whole.compute().item(), rel=1e-5)
    parts.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert parts.compute().isnan()


def test_squares_are_assigned_as_squares():
    predicted, target = torch.tensor([[0.0, 0, 0, 0]]), torch.tensor([[3.0, 1, 4, 0]])
    plain, squared = LinearAssignmentDistance(2), LinearAssignmentDistance(2, squared=True)
    for metric in (plain, squared):
        metric.update(predicted, target)
    assert plain.compute().item() == pytest.approx(3) and squared.compute().item() == pytest.approx(13)


@pytest.mark.parametrize("kind", [ChamferDistance, LinearAssignmentDistance])
def test_parameters_that_do_not_divide_are_refused(kind):
    with pytest.raises(ValueError, match="5 parameters do not divide into tokens of 2"):
        kind(params_per_token=2).update(torch.zeros(2, 5), torch.zeros(2, 5))
