"""Steps of a dream in continuous time: replay, branches, frames that come at any times, and rows of their own."""

from dataclasses import replace

import pytest
import torch
from helpers.stdiff import small_model

from drivedit.models.sde import MotionState, absorb, advance, begin, step


def frames(n: int, to: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, to, 1, 8, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def paint(motion: torch.Tensor, kept: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """A frame network that needs no training: all that it is given counts."""
    moved = torch.nn.functional.interpolate(motion.mean(1, keepdim=True), drawn.shape[-2:])
    return (0.6 * kept[:, -1] + 0.1 * kept[:, 0] + 3 * moved + 0.1 * drawn).tanh()


def controls(step: int, rows: int = 2) -> torch.Tensor:
    return torch.stack([torch.tensor([0.3 * step, -0.1 + row]) for row in range(rows)])


@pytest.fixture(scope="module")
def model():
    return small_model(unet={"control_dim": 2})


def start(model, rows: int = 2, kept: int = 2, seeds: tuple[int, ...] = (4, 9)) -> MotionState:
    return begin(model, frames(rows, 3), [0.0, 1.0, 2.0], seeds, kept)


@torch.no_grad()
def drive(model, state: MotionState, steps: int, dt: float = 1.0, seen=controls) -> tuple[MotionState, torch.Tensor]:
    shown = []
    for index in range(steps):
        state, frame = step(model, paint, state, dt, seen(index, len(state)))
        shown.append(frame)
    return state, torch.stack(shown)


def test_a_state_has_one_size_and_a_restored_one_goes_on_to_the_bit(model):
    first = start(model)
    state, _ = drive(model, first, 5)
    assert state.size() == first.size() and state.clock.tolist() == [7.0, 7.0] and state.painted.tolist() == [5, 5]
    again = MotionState.from_bytes(state.to_bytes("it"), "it")
    copies = [drive(model, each, 30, 0.7)[1] for each in (state, again)]
    assert torch.equal(*copies) and copies[0].diff(dim=0).abs().mean() > 0.01


def test_a_state_that_goes_in_stays_as_it_is(model):
    state = start(model)
    before = {name: value.clone() for name, value in state.tensors().items()}
    drive(model, state, 2)
    assert all(torch.equal(value, before[name]) for name, value in state.tensors().items())


def test_branches_differ_in_nothing_but_their_controls(model):
    state = start(model).select([0, 0])

    def steered(index: int, rows: int) -> torch.Tensor:
        return torch.tensor([[0.5, 0.0], [0.5 if index < 3 else -0.5, 0.0]])

    _, shown = drive(model, state, 6, seen=steered)
    apart = (shown[:, 0] - shown[:, 1]).abs().amax((1, 2, 3))
    assert apart[:3].max() < 1e-5 < 1e-3 < apart[3:].min()


def test_seeds_make_other_futures_of_one_start(model):
    state = start(model).select([0, 0, 0])
    state = replace(state, seed=torch.tensor([1, 1, 2]))
    _, shown = drive(model, state, 3, seen=lambda index, rows: torch.zeros(rows, 2))
    assert torch.allclose(shown[:, 0], shown[:, 1], atol=1e-5)
    assert (shown[:, 0] - shown[:, 2]).abs().max() > 0.01


@torch.no_grad()
def test_two_halves_of_a_step_are_the_whole_on_the_grid(model):
    state = start(model)
    seen = controls(1)
    whole = advance(model, state, 0.4, seen)
    halves = advance(model, advance(model, state, 0.2, seen), 0.2, seen)
    assert torch.equal(whole.motion, halves.motion) and torch.allclose(whole.clock, halves.clock)
    odd = advance(model, advance(model, state, 0.15, seen), 0.25, seen)
    moved = (whole.motion - state.motion).abs().max()
    assert 0 < (odd.motion - whole.motion).abs().max() < 0.1 * moved


@torch.no_grad()
def test_rows_pass_their_own_time(model):
    state, dt = start(model), torch.tensor([0.25, 0.8])
    both, shown = step(model, paint, state, dt, controls(1))
    for row in range(2):
        alone, frame = step(model, paint, state.select([row]), dt[row], controls(1)[row : row + 1])
        assert torch.allclose(frame[0], shown[row], atol=1e-5)
        assert torch.allclose(alone.motion[0], both.motion[row], atol=1e-5) and alone.clock == both.clock[row]


@torch.no_grad()
def test_frames_may_come_at_any_time_and_correct_the_motion_by_their_speed(model):
    state = start(model)
    later = advance(model, advance(model, state, 0.3), 0.2)
    frame = state.frames[:, -1] + 0.1
    seen = absorb(model, later, frame)
    assert seen.seen.tolist() == [2.5, 2.5] and torch.equal(seen.frames[:, 1], frame)
    assert torch.equal(seen.frames[:, 0], state.frames[:, 1])
    half = absorb(model, replace(later, seen=later.seen + 0.25), state.frames[:, -1] + 0.05)
    assert torch.allclose(half.motion, seen.motion, atol=1e-6), "half the difference in half the time"
    assert not torch.allclose(absorb(model, later, state.frames[:, -1]).motion, seen.motion, atol=1e-4)


def test_filtering_observed_frames_is_what_encoding_them_is():
    """With a motion equation of zero, frames that are absorbed one by one make the context of all."""
    model, seen, times = small_model(awake=False), frames(2, 5), [0.0, 1.0, 1.5, 3.0, 3.25]
    with torch.no_grad():
        state = begin(model, seen[:, :2], times[:2], [0, 1])
        for index in range(2, 5):
            state = absorb(model, advance(model, state, times[index] - times[index - 1]), seen[:, index])
        assert torch.allclose(state.motion, model.context_encode(seen, times), atol=1e-6)


def test_what_cannot_be_is_named(model):
    state = start(model)
    for wrong, match in (
        (lambda: advance(model, state, 0.0), r"dt must be above 0 and finite, one number or \[2\], got 0.0"),
        (lambda: advance(model, state, [0.1, float("nan")]), "dt must be above 0 and finite"),
        (lambda: advance(model, state, [0.1, 0.1, 0.1]), r"one number or \[2\]"),
        (lambda: advance(model, state, 0.1, torch.zeros(2, 3)), r"controls must be \[B, 2\]"),
        (lambda: absorb(model, state, state.frames[:, -1]), "time must have passed since the frame before, got"),
        (lambda: absorb(model, advance(model, state, 1), frames(2, 1)), r"frames must be \[2, 1, 8, 16\], got"),
        (lambda: start(model, kept=4), "kept must be from 1 to the 3 observed frames, got 4"),
        (lambda: start(model, seeds=(1,)), "a seed for each of 2 clips"),
        (lambda: begin(model, frames(2, 1), [0.0], [1, 2]), "To >= 2"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()
