"""Assignment, distances and couplings of sets, against brute force and optimal transport's own definition."""

from itertools import permutations

import pytest
import torch

from drivedit.models.sets.tokens import (
    align_tokens,
    as_params,
    as_tokens,
    assignment_distance,
    chamfer_distance,
    couple,
    match_batch,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def permuted(params: torch.Tensor, order: list[int]) -> torch.Tensor:
    return as_params(as_tokens(params, 2)[:, order])


def test_tokens_are_laid_out_in_blocks():
    params = torch.tensor([[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]])
    assert as_tokens(params, 2).tolist() == [[[1, 10], [2, 20], [3, 30]]]
    assert torch.equal(as_params(as_tokens(params, 3)), params)
    for wrong in (4, 0):
        with pytest.raises(ValueError, match=f"6 parameters do not divide into tokens of {wrong}"):
            as_tokens(params, wrong)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("squared", [False, True])
def test_the_assignment_is_the_best_of_all_permutations(k, squared):
    one, other = draw(4, 2 * k), draw(4, 2 * k, seed=1)
    found = assignment_distance(one, other, 2, squared)
    for row in range(4):
        costs = [
            (as_tokens(one, 2)[row, list(order)] - as_tokens(other, 2)[row]).square().sum(-1)
            for order in permutations(range(k))
        ]
        assert found[row].item() == pytest.approx(min((c if squared else c.sqrt()).mean().item() for c in costs))
    assert torch.allclose(found, assignment_distance(other, one, 2, squared))


@pytest.mark.parametrize("distance", [assignment_distance, chamfer_distance])
def test_distances_know_no_order_on_either_side(distance):
    one, other = draw(3, 8), draw(3, 8, seed=1)
    plain = distance(one, other, 2)
    assert torch.allclose(distance(permuted(one, [2, 0, 3, 1]), permuted(other, [1, 3, 0, 2]), 2), plain)
    assert distance(one, permuted(one, [3, 1, 0, 2]), 2).max() < 1e-12 and plain.min() > 0.1


def test_chamfer_is_blind_to_how_often_a_token_comes_and_assignment_is_not():
    first, second = torch.tensor([[0.0, 0, 1, 0, 0, 1]]), torch.tensor([[0.0, 1, 1, 0, 1, 1]])
    assert chamfer_distance(first, second, 2) == 0
    assert assignment_distance(first, second, 2).item() == pytest.approx(2**0.5 / 3)
    with pytest.raises(ValueError, match=r"\[1, 6\] and \[1, 4\]"):
        assignment_distance(first, second[:, :4], 2)


def test_matching_permutes_the_noise_of_a_batch_and_costs_least():
    noise, params = draw(6, 4), draw(6, 4, seed=1)
    matched = match_batch(noise, params)
    assert sorted(matched.tolist()) == sorted(noise.tolist())
    least = min(
        torch.linalg.vector_norm(noise[list(order)] - params, dim=1).sum().item() for order in permutations(range(6))
    )
    assert torch.linalg.vector_norm(matched - params, dim=1).sum().item() == pytest.approx(least)


def test_alignment_permutes_tokens_inside_each_sample_alone():
    noise, params = draw(5, 8), draw(5, 8, seed=1)
    aligned = align_tokens(noise, params, 2)
    for row in range(5):
        assert sorted(as_tokens(aligned, 2)[row].tolist()) == sorted(as_tokens(noise, 2)[row].tolist())
    cost = (aligned - params).square().sum(1)
    assert torch.allclose(cost / 4, assignment_distance(noise, params, 2, squared=True))
    assert not torch.equal(aligned, noise)


def test_a_coupling_is_named_and_data_stay_where_they_are():
    noise, params = draw(5, 8), draw(5, 8, seed=1)
    kept = params.clone()
    assert torch.equal(couple(noise, params, False), noise)
    assert torch.equal(couple(noise, params, True), match_batch(noise, params))
    assert torch.equal(couple(noise, params, "token", 2), align_tokens(noise, params, 2))
    assert torch.equal(couple(noise, params, "both", 2), align_tokens(match_batch(noise, params), params, 2))
    assert torch.equal(params, kept)
    with pytest.raises(ValueError, match="got 'batch'"):
        couple(noise, params, "batch")
    with pytest.raises(ValueError, match="permutes tokens"):
        couple(noise, params, "token")
