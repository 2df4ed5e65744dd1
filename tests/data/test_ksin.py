"""k-sin: the signals, and splits that share nothing."""

import math

import pytest
import torch

from drivedit.data.ksin import ksin_params, make_sin


def test_signals_know_no_order_unless_the_symmetry_is_broken():
    params = ksin_params(1, 5, 3).double()
    moved = params[:, [2, 0, 1, 5, 3, 4]]
    assert torch.allclose(make_sin(params, 64), make_sin(moved, 64), atol=1e-6)
    assert (make_sin(params, 64, True) - make_sin(moved, 64, True)).abs().max() > 0.1


def test_a_signal_is_the_sum_of_its_sines():
    f, a = 0.2, -0.4
    expected = [0.3 * math.sin(math.pi * 0.6 * n) for n in range(8)]
    assert make_sin(torch.tensor([f, a]), 8).tolist() == pytest.approx(expected, abs=1e-6)
    banded = make_sin(torch.tensor([-1.0, f, -1.0, a]), 8, True)  # the second of two bands begins at pi / 2
    assert banded.tolist() == pytest.approx([0.3 * math.sin(math.pi * (0.5 + 0.3) * n) for n in range(8)], abs=1e-6)
    assert not make_sin(torch.tensor([-1.0, a]), 8).any()
    loud, quiet = make_sin(torch.tensor([f, 1.0]), 8), make_sin(torch.tensor([f, -0.5]), 8)
    assert torch.allclose(quiet, loud / 4, atol=1e-6)
    assert make_sin(torch.zeros(2, 3, 6), 16).shape == (2, 3, 16)


@pytest.mark.parametrize("count", [0, 5])
def test_an_odd_number_of_parameters_is_refused(count):
    with pytest.raises(ValueError, match=f"got {count} parameters"):
        make_sin(torch.zeros(2, count), 8)


def test_splits_share_no_item():
    """The original's seeds are products: its item 0 is the same in all splits, and hundreds more are."""
    splits = [{tuple(row) for row in ksin_params(seed, 10_000, 2).tolist()} for seed in (123, 456, 789)]
    assert [len(split) for split in splits] == [10_000] * 3
    assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])


def test_an_item_depends_on_its_index_alone():
    few, many = ksin_params(123, 5, 3), ksin_params(123, 20, 3)
    assert torch.equal(many[:5], few)
    assert -1 <= many.min() < -0.8 and 0.8 < many.max() <= 1


def test_frequencies_can_be_sorted_or_shifted():
    plain, ordered = ksin_params(3, 50, 4), ksin_params(3, 50, 4, sort_frequencies=True)
    assert torch.equal(ordered[:, :4], plain[:, :4].sort(-1).values) and torch.equal(ordered[:, 4:], plain[:, 4:])
    for shift in (-1 / 3, 1 / 3):
        moved = ksin_params(3, 4000, 2, shift=shift)
        assert moved[:, :2].mean().item() == pytest.approx(shift * 0.93, abs=0.02)  # truncated at +-1
        assert moved.abs().max() <= 1 and abs(moved[:, 2:].mean().item()) < 0.03
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ksin_params(3, 5, 0)
