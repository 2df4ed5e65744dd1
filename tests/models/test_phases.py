"""Densities of levels, the grid and its phases: what the papers say, and what published code gets wrong."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from drivedit.models.flow.path import add_noise, jump, renoise
from drivedit.models.flow.phases import (
    EulerSolver,
    PCMFMScheduler,
    check_phases,
    parse_phases,
    phase_edges,
    phase_of,
    phases_at,
)
from drivedit.models.flow.schedules import (
    compute_density_for_timestep_sampling,
    linear_quadratic_levels,
    shifted,
    training_levels,
)

SCHEMES: dict[str, dict[str, Any]] = {
    "uniform": {},
    "logit_normal": {"logit_mean": 0.0, "logit_std": 1.0},
    "mode": {"mode_scale": 1.29},
}


def draw(scheme: str, count: int = 10_000, seed: int = 0, **options: Any) -> Tensor:
    return compute_density_for_timestep_sampling(scheme, count, torch.Generator().manual_seed(seed), **options)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- densities and levels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_places_are_in_the_unit_interval_and_repeat_with_their_generator(scheme):
    drawn = draw(scheme, **SCHEMES[scheme])
    assert drawn.shape == (10_000,) and drawn.min() >= 0 and drawn.max() <= 1
    assert torch.equal(drawn, draw(scheme, **SCHEMES[scheme])) and not torch.equal(
        drawn, draw(scheme, seed=1, **SCHEMES[scheme])
    )


def test_densities_have_the_form_that_they_are_named_by():
    logit = draw("logit_normal", **SCHEMES["logit_normal"])
    assert abs(logit.median() - 0.5) < 0.02 and abs(logit.logit().std() - 1) < 0.05
    assert abs(draw("logit_normal", logit_mean=1.0, logit_std=0.5).logit().mean() - 1) < 0.03
    flat = draw("mode", mode_scale=0.0).sort().values  # uniform: Kolmogorov and Smirnov's distance, p > .01
    assert (flat - torch.arange(1, 10_001) / 10_000).abs().max() * math.sqrt(10_000) < 1.63
    middle = ((draw("mode", mode_scale=1.29) - 0.5).abs() < 0.25).float().mean()
    assert middle > 0.55 > ((draw("uniform") - 0.5).abs() < 0.25).float().mean()


def test_what_a_density_needs_is_asked_for():
    with pytest.raises(ValueError, match="one of uniform, logit_normal, mode, got 'cosmap'"):
        draw("cosmap")
    lacking: dict[str, Any]
    for lacking in ({}, {"logit_mean": 0.0}, {"logit_std": 1.0}, {"logit_mean": 0.0, "logit_std": -1.0}):
        with pytest.raises(ValueError, match="logit_normal needs"):
            draw("logit_normal", **lacking)
    scale: dict[str, Any]
    for scale in ({}, {"mode_scale": 1.8}, {"mode_scale": -1.1}):  # where the map would fold back
        with pytest.raises(ValueError, match=r"mode_scale from -1 to 1\.75"):
            draw("mode", **scale)


def test_a_shift_moves_levels_to_noise_and_keeps_both_ends():
    assert torch.equal(training_levels(1000), torch.arange(1, 1001) / 1000)
    coarse = training_levels(50, 17.0)
    assert abs(coarse[0].item() - 0.258) < 5e-4 and coarse[-1] == 1 and (coarse.diff() > 0).all()
    assert torch.equal(shifted(torch.tensor([0.0, 1.0]), 3.0), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="shift above 0"):
        training_levels(10, 0.0)


def test_linear_quadratic_levels_are_even_first_and_end_at_data():
    levels = linear_quadratic_levels(1000, 0.1, 0.75).double()
    down = 1 - levels.flip(0)
    assert levels[-1] == 1 and (levels.diff() > 0).all()
    assert torch.allclose(down[:751], torch.linspace(0, 0.1, 751).double(), atol=1e-6)
    steps = down.diff()
    assert torch.allclose(steps[750:].diff(), steps[750:].diff().mean(), atol=2e-6) and steps[750:].diff().mean() > 1e-6
    assert abs(down[-1] + 2 * steps[-1] - steps[-2] - 1) < 1e-5  # the next step would be data
    with pytest.raises(ValueError, match="between 0 and 1"):
        linear_quadratic_levels(100, 0.0)


# -- noise again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.3), (0.5, 0.75), (0.2, 1.0), (0.9, 0.9)])
def test_noise_on_noise_is_a_point_of_the_path(low, high):
    """Added without regard to what is there already, it would be too little: .559 at .5 to .75."""
    here, there = torch.full((2000,), low), torch.full((2000,), high)
    data = torch.full((2000, 50), 3.0)
    x = renoise(add_noise(data, normal(2000, 50), here), normal(2000, 50, seed=1), here, there)
    assert abs(x.std() / high - 1) < 0.01 and abs(x.mean() - 3 * (1 - high)) < 0.02


# -- phases ----------------------------------------------------------------------------------------------------------


def test_edges_divide_the_points_evenly():
    assert phase_edges(50, 1).tolist() == [0] and phase_edges(50, 2).tolist() == [0, 25]
    assert phase_edges(50, 4).tolist() == [0, 12, 25, 37]
    with pytest.raises(ValueError, match="from 1 to 4 phases of 4 points, got 8"):
        phase_edges(4, 8)


@pytest.mark.parametrize("phases", [1, 2, 4, 50])
def test_every_point_is_in_the_phase_above_the_largest_edge_below_it(phases):
    edges, index = phase_edges(50, phases).tolist(), torch.arange(50).reshape(5, 10)
    lowest, after = phase_of(index, 50, phases)
    assert lowest.flatten().tolist() == [max(e for e in edges if e <= j) for j in range(50)]
    assert after.flatten().tolist() == [min((e for e in edges if e > j), default=50) for j in range(50)]


def test_schedules_are_read_and_go_on_with_their_last_value():
    schedule = "2000-2,4000-4"
    assert parse_phases(schedule) == [(2000, 2), (4000, 4)] and phases_at("3", 77) == 3
    found = [phases_at(schedule, step) for step in (1, 2000, 2001, 4000, 99_999)]
    assert found == [2, 2, 4, 4, 4] and all(type(value) is int for value in found)
    for wrong in ("", "2000-2,", "2000-2 4000-4", "2000:2", "4000-2,2000-4", "2000-0", "-1-2"):
        with pytest.raises(ValueError, match="schedule"):
            parse_phases(wrong)
    check_phases(schedule, 4)
    with pytest.raises(ValueError, match="from 1 to 3 phases of 3 points, got 4"):
        check_phases(schedule, 3)


def test_the_solver_ends_at_data_whatever_the_shift():
    solver = EulerSolver(training_levels(1000, 17.0), 1000, 50)
    assert solver.sigmas.shape == solver.sigmas_prev.shape == (50,)
    assert solver.sigmas[-1] == 1 and solver.sigmas_prev[0] == 0  # not the least level of training, .0167
    assert torch.equal(solver.sigmas_prev[1:], solver.sigmas[:-1])
    assert torch.equal(solver.sigmas, training_levels(1000, 17.0)[torch.arange(1, 51) * 20 - 1])
    assert solver.to("cpu") is solver
    with pytest.raises(ValueError, match="must divide the 1000 timesteps, got 30"):
        EulerSolver(training_levels(1000), 1000, 30)
    with pytest.raises(ValueError, match=r"must be \[1000\]"):
        EulerSolver(training_levels(100), 1000, 50)
    with pytest.raises(ValueError, match="must rise"):
        EulerSolver(training_levels(1000).flip(0), 1000, 50)


@pytest.mark.parametrize("phases", [1, 2, 4])
def test_a_target_at_the_end_of_its_phase_is_the_sample_itself(phases):
    """Bit for bit: it is the anchor that keeps a consistency function from collapse."""
    solver, index = EulerSolver(training_levels(1000, 3.0)), torch.arange(50)
    sample, wild = normal(50, 3, 4), 1e6 * normal(50, 3, 4, seed=1)
    end, edge = solver.euler_style_multiphase_pred(sample, wild, index, phases, is_target=True)
    at_edge = edge == index
    assert edge[at_edge].tolist() == phase_edges(50, phases).tolist()
    assert torch.equal(end[at_edge], sample[at_edge]) and not torch.equal(end[~at_edge], sample[~at_edge])
    assert (edge <= index).all() and set(edge.tolist()) == set(phase_edges(50, phases).tolist())


@pytest.mark.parametrize("phases", [1, 2, 5])
def test_on_a_straight_path_every_jump_is_exact(phases):
    solver, index = EulerSolver(training_levels(1000, 3.0)), torch.arange(50)
    clean, noise = normal(50, 6), normal(50, 6, seed=1)
    x, speed = add_noise(clean, noise, solver.sigmas[index]), noise - clean
    nearer = solver.euler_step(x, speed, index)
    assert torch.allclose(nearer, add_noise(clean, noise, solver.sigmas_prev[index]), atol=1e-5)
    end, edge = solver.euler_style_multiphase_pred(x, speed, index, phases)
    later, _ = solver.euler_style_multiphase_pred(nearer, speed, index, phases, is_target=True)
    assert torch.allclose(end, add_noise(clean, noise, solver.sigmas_prev[edge]), atol=1e-5)
    assert torch.allclose(end, later, atol=1e-5)


def test_a_jump_that_has_nowhere_to_go_is_exact_and_has_a_gradient():
    x = normal(3, 5).requires_grad_()
    levels = torch.tensor([0.0, 0.5, 0.5])
    out = jump(x, normal(3, 5, seed=1), levels, torch.tensor([0.0, 0.5, 0.25]))
    out.sum().backward()
    assert torch.equal(out[:2], x[:2]) and x.grad is not None and torch.isfinite(x.grad).all()


# -- sampling --------------------------------------------------------------------------------------------------------


def test_the_scheduler_steps_between_points_of_the_grid():
    scheduler = PCMFMScheduler(shift=3.0)
    grid = EulerSolver(training_levels(1000, 3.0)).sigmas.flip(0)
    assert torch.equal(scheduler.sigmas, grid) and torch.equal(scheduler.timesteps, 1000 * grid)
    scheduler.set_timesteps(8)
    assert torch.equal(scheduler.sigmas[:-1], grid[[0, 6, 12, 18, 25, 31, 37, 43]]) and scheduler.sigmas[-1] == 0
    with pytest.raises(ValueError, match="from 1 to 50 steps, got 51"):
        scheduler.set_timesteps(51)
    with pytest.raises(ValueError, match="one of"):
        scheduler.step(normal(2, 3), 12.5, normal(2, 3))
    with pytest.raises(RuntimeError, match="set_timesteps"):
        PCMFMScheduler().step(normal(2, 3), 1000.0, normal(2, 3))
    assert torch.equal(PCMFMScheduler(linear_quadratic=True).sigmas.flip(0), linear_quadratic_levels(1000)[19::20])


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_on_a_straight_path_the_scheduler_ends_at_data(steps):
    scheduler, clean, noise = PCMFMScheduler(shift=5.0), normal(2, 6), normal(2, 6, seed=1)
    scheduler.set_timesteps(steps)
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(noise - clean, timestep, x).prev_sample
    assert len(scheduler.timesteps) == steps and torch.allclose(x, clean, atol=1e-5)


@pytest.mark.parametrize(("phases", "steps"), [(1, 1), (4, 4), (4, 8), (2, 6)])
def test_a_phased_student_is_asked_at_the_ends_of_its_phases(phases, steps):
    """Evenly over the grid, 4 of 50 points are not the ends of 4 phases: they would be stepped over."""
    scheduler = PCMFMScheduler()
    scheduler.set_timesteps(steps, multiphase=phases)
    levels = scheduler.sigmas.tolist()
    assert len(levels) == steps + 1 and levels[0] == 1 and levels == sorted(levels, reverse=True)
    ends = scheduler.grid[phase_edges(50, phases)].tolist()
    assert set(ends) <= set(levels)
    if phases == 4:
        scheduler.set_timesteps(steps)
        assert not set(ends) <= set(scheduler.sigmas.tolist())
    with pytest.raises(ValueError, match="a multiple of 3 times"):
        scheduler.set_timesteps(4, multiphase=3)
