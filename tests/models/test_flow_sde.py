"""Brownian paths that depend on seed and time alone, and SDE steppers against closed forms.

Random figures are of fixed seeds; bounds are four standard errors and more, where nothing else is said.
"""

import math

import pytest
import torch

from drivedit.models.flow.sde import (
    FINEST,
    BrownianPath,
    calculus,
    grid_steps,
    integrate_ode,
    integrate_sde,
)

B = 0.8  # noise of geometric Brownian motion


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gain(path: BrownianPath, start: float, end: float) -> torch.Tensor:
    rows = len(path.seeds)
    return path.increment(times(start).expand(rows), times(end).expand(rows))


def test_increments_have_the_variance_of_their_time_and_are_independent():
    path = BrownianPath([3], (20_000,), 0.1)
    for start, end in ((0.2, 0.3), (0.0, 0.5), (0.2, 0.225), (0.23, 0.41)):
        drawn = gain(path, start, end)
        assert drawn.mean().item() == pytest.approx(0, abs=4 * math.sqrt((end - start) / 20_000))
        assert drawn.var().item() == pytest.approx(end - start, rel=0.05)
    parts = torch.cat([gain(path, 0.0, 0.07), gain(path, 0.07, 0.1), gain(path, 0.1, 0.15), gain(path, -0.1, 0.0)])
    assert (torch.corrcoef(parts) - torch.eye(4)).abs().max() < 4 / math.sqrt(20_000)


def test_parts_of_time_add_up_however_they_are_cut():
    path = BrownianPath([0, 1], (3, 4), 0.1)
    whole = gain(path, 0.1, 1.2)
    for cuts in ((0.6,), (0.1000001, 0.55), (0.3, 0.3, 0.31, 0.9), (0.1 + 0.2, 1.1)):
        edges = [0.1, *cuts, 1.2]
        parts = torch.stack([gain(path, low, high) for low, high in zip(edges, edges[1:], strict=False)])
        assert torch.allclose(parts.sum(0), whole, atol=1e-6)
    assert torch.equal(gain(path, 0.1 + 0.2, 0.4), gain(path, 0.3, 0.4)), "0.30000000000000004 is a time of the grid"
    assert not gain(path, 0.35, 0.35).any()


def test_a_row_has_its_path_in_any_batch():
    path, alone = BrownianPath([7, 4], (5,), 0.1), BrownianPath([4], (5,), 0.1)
    start, end = times(0.0, 0.25), times(0.13, 0.31)
    assert torch.equal(path.increment(start, end)[1:], alone.increment(start[1:], end[1:]))
    other = BrownianPath([4], (5,), 0.1, "another stream")
    assert not torch.equal(gain(other, 0, 1), gain(alone, 0, 1))
    with pytest.raises(ValueError, match="a time for each of 1 seeds"):
        alone.increment(start, end)
    with pytest.raises(ValueError, match="spacing must be above 0"):
        BrownianPath([4], (5,), 0.0)


def test_steps_end_on_the_grid_and_land_on_what_is_asked_for():
    steps = grid_steps(times(0.1 + 0.2, 0.25), times(0.55, 0.3), 0.1)
    assert torch.allclose(steps, times(0.3, 0.25, 0.4, 0.3, 0.5, 0.3, 0.55, 0.3).reshape(4, 2), atol=1e-12)
    assert steps.diff(dim=0).min() == 0 and grid_steps(times(0.5), times(0.5), 0.1).shape == (1, 1)
    halves = torch.cat([grid_steps(times(0.0), times(0.3), 0.1), grid_steps(times(0.1 + 0.2), times(0.7), 0.1)[1:]])
    assert torch.equal(halves, grid_steps(times(0.0), times(0.7), 0.1))
    assert len(grid_steps(times(0.0), times(0.3 + 0.01 * FINEST), 0.1)) == 4, "no step of nothing"
    for start, end, dt in ((0.0, 1.0, 0.0), (1.0, 0.5, 0.1), (0.0, math.inf, 0.1), (math.nan, 1.0, 0.1)):
        with pytest.raises(ValueError, match="dt must be above 0 and times finite and not fall"):
            grid_steps(times(start), times(end), dt)


@pytest.mark.parametrize(("method", "order"), [("euler", 0.5), ("euler_heun", 1), ("heun", 1), ("midpoint", 1)])
def test_strong_order_on_geometric_brownian_motion(method, order):
    """It is dy = y/2 dt + b y dW on the same paths as its closed form, with 8 to 64 steps."""
    path, start, end = BrownianPath([0], (4000,), 1.0), times(0), times(1)
    drift = 0.5 - (B**2 / 2 if calculus(method) == "ito" else 0)
    exact = (drift + B * path.increment(start, end).double()).exp()
    if calculus(method) == "ito":  # the same solution, of Ito's equation: its drift is larger by b^2 / 2
        drift += B**2 / 2
    y, counts = torch.ones(1, 4000, dtype=torch.float64), (8, 16, 32, 64)
    errors = [
        (integrate_sde(lambda y: drift * y, lambda y: B * y, y, start, end, path, 1 / n, method) - exact).abs().mean()
        for n in counts
    ]
    logs = torch.stack(errors).log2()
    slope = ((logs[0] - logs[-1]) / (len(counts) - 1)).item()
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("method", "mean"), [("euler_heun", math.exp(B**2 / 2)), ("heun", math.exp(B**2 / 2)), ("euler", 1)]
)
def test_the_mean_tells_ito_from_stratonovich(method, mean):
    """Of dy = b y dW at 1: exp(b^2 / 2) is Stratonovich's, 1 is Ito's; within three standard errors, about .02."""
    path = BrownianPath([0], (40_000,), 1 / 16)
    y = integrate_sde(
        torch.zeros_like, lambda y: B * y, torch.ones(1, 40_000), times(0), times(1), path, 1 / 16, method
    )
    assert y.mean().item() == pytest.approx(mean, abs=3 * y.std().item() / 200)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_order_of_the_solvers_without_noise(method, order):
    """On x' = -x, to a time that is no multiple of the step."""
    x, errors = torch.ones(2, 3, dtype=torch.float64), []
    for dt in (0.2, 0.1):
        found = integrate_ode(lambda x: -x, x, times(0.0, 0.5), times(1.0, 1.5), dt, method)
        errors.append((found - math.exp(-1)).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)
    for end in (0.95, 1.03):
        found = integrate_ode(lambda x: -x, x, times(0, 0), times(end, end), 0.1, "rk4")
        assert found[0, 0].item() == pytest.approx(math.exp(-end), abs=1e-6)


@pytest.mark.parametrize("method", ["euler", "euler_heun", "heun", "midpoint"])
def test_two_halves_are_the_whole_on_the_grid_bit_for_bit(method):
    def step(x: torch.Tensor, start: float, end: float) -> torch.Tensor:
        path = BrownianPath([5, 6], (7,), 0.1)
        both = (times(start).expand(2), times(end).expand(2))
        return integrate_sde(torch.cos, lambda x: torch.tanh(x) / 2, x, *both, path, 0.1, method)

    x = torch.linspace(-2, 2, 14).reshape(2, 7)
    assert torch.equal(step(step(x, 0, 1), 1, 2), step(x, 0, 2))
    assert torch.equal(step(step(x, 0.5, 0.1 * 7), 0.7, 0.1 * 9), step(x, 0.5, 0.9))
    off = step(step(x, 0, 0.55), 0.55, 1)  # off the grid the path is still the same one: only the steps differ
    assert 0 < (off - step(x, 0, 1)).abs().max() < 0.1


def test_rows_go_from_their_own_time_to_their_own():
    path = BrownianPath([5, 6], (4,), 0.1)
    x = torch.ones(2, 4)
    both = integrate_sde(torch.cos, torch.sin, x, times(0.3, 0.0), times(0.42, 1.1), path, 0.1)
    for row, (start, end) in enumerate(((0.3, 0.42), (0.0, 1.1))):
        alone = BrownianPath([path.seeds[row]], (4,), 0.1)
        assert torch.equal(
            both[row : row + 1], integrate_sde(torch.cos, torch.sin, x[:1], times(start), times(end), alone, 0.1)
        )


def test_without_noise_an_sde_is_its_ode():
    path, x = BrownianPath([1], (6,), 0.1), torch.linspace(-1, 1, 6)[None]
    for method, solver in (("euler", "euler"), ("euler_heun", "euler"), ("heun", "heun"), ("midpoint", "midpoint")):
        found = integrate_sde(torch.cos, torch.zeros_like, x, times(0), times(0.95), path, 0.1, method)
        assert torch.allclose(found, integrate_ode(torch.cos, x, times(0), times(0.95), 0.1, solver), atol=1e-6)


def test_unknown_methods_are_named():
    path, x = BrownianPath([1], (6,), 0.1), torch.ones(1, 6)
    with pytest.raises(ValueError, match="euler, euler_heun, heun, midpoint, got 'srk'"):
        integrate_sde(torch.cos, torch.sin, x, times(0), times(1), path, 0.1, "srk")
    with pytest.raises(ValueError, match="euler, midpoint, heun, rk4, got 'dopri5'"):
        integrate_ode(torch.cos, x, times(0), times(1), 0.1, "dopri5")
