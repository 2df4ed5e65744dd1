"""Consistency in phases: the flow's own map has next to no loss, and each phase ends where it should."""

from dataclasses import replace

import pytest
import torch
from helpers.gaussian import MEAN, between, distill_config, gaussian_clip, make_rngs, posterior, transport, with_student
from helpers.worlds import make_world

from drivedit.models.flow.path import over
from drivedit.training.losses import prediction_decay, pseudo_huber
from drivedit.training.methods.method import Progress
from drivedit.training.methods.phased import Phased


def phased(**changes) -> Phased:
    return Phased(make_world(), distill_config(method="phased", **changes)).eval()


def loss(method: Phased, clip=None, step: int = 0) -> float:
    return method.clip_loss(clip or gaussian_clip(), Progress(step, 0.0), make_rngs())[1]["consistency"].item()


@pytest.mark.parametrize("points", [4, 16])
@pytest.mark.parametrize("phases", ["1", "2", "4"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_on_straight_paths_the_exact_student_has_no_loss(points, phases, shift):
    """Data that is one number: its field is known exactly, and every jump along it as well."""
    method = phased(grid=points, phases=phases, shift=shift)
    clip = gaussian_clip(4)
    clip.target = torch.full_like(clip.target, MEAN)

    def exact(x, sigma):
        return torch.full_like(x, MEAN)

    assert loss(with_student(method, exact, exact), clip) < 1e-6
    assert (
        loss(with_student(method, lambda x, sigma: exact(x, sigma) + 0.1 * sigma[..., None, None], exact), clip) > 1e-3
    )


@pytest.mark.parametrize("phases", ["1", "2"])
def test_the_loss_of_the_flows_own_map_falls_with_the_grid_and_others_do_not(phases):
    def exact(method: Phased):
        """The clean estimate whose line ends where the flow does."""
        grid, count = method.grid, int(phases)

        def student(x, sigma):
            index = (torch.bucketize(sigma, grid) - 1).clamp(min=0)
            end = grid[(index * count // (len(grid) - 1)) * (len(grid) - 1) // count]
            there = between(x, sigma, end)
            share = over(torch.where(sigma > end, end / sigma.clamp(min=1e-6), torch.zeros_like(sigma)), x)
            return (there - share * x) / (1 - share)

        return student

    losses = []
    for points in (16, 32, 64):
        method = phased(grid=points, phases=phases)
        losses.append(loss(with_student(method, exact(method))))
    assert losses[0] > 1.9 * losses[1] > 3.6 * losses[2]
    method = phased(grid=64, phases=phases)
    assert loss(with_student(method, posterior)) > 4 * losses[2]  # a blurred student


def test_a_schedule_says_how_many_phases_there_are_and_one_is_plain_consistency():
    method = phased(grid=8, phases="2-4,4-1")
    assert [method.phases(step) for step in (0, 1, 2, 3, 9)] == [4, 4, 1, 1, 1]
    clip, seen = gaussian_clip(), []
    for step in (0, 2):
        jumps = with_student(method, transport).jumps(
            clip, method.given(clip, make_rngs()), Progress(step, 0.0), make_rngs()
        )
        seen.append(sorted(set(jumps.end.flatten().tolist())))
        assert ((jumps.end < jumps.sigma) & (jumps.sigma <= jumps.top)).all()
    assert seen == [[0.0, 0.25, 0.5, 0.75], [0.0]]
    assert torch.equal(jumps.out, jumps.clean)
    for wrong, why in (({"phases": "10-9"}, "from 1 to 8 phases"), ({"phases": "soon"}, "a schedule of phases")):
        with pytest.raises(ValueError, match=why):
            phased(grid=8, **wrong)


def test_guidance_pushes_the_teacher_away_from_what_it_says_without_controls():
    asked = []

    def teach(guidance: float) -> torch.Tensor:
        world = make_world()
        world.config = replace(world.config, null_control=True)
        method = Phased(world, distill_config(guidance=guidance))

        def score(net, x, sigma, control, *_):
            asked.append(guidance)
            return control[..., :1, None].expand_as(x), None

        method.predict_clean = score  # type: ignore[assignment]
        clip = gaussian_clip(2)
        return method.teach(clip.target, torch.ones(2, 4), method.given(clip, make_rngs()))

    plain, twice = teach(1.0), teach(2.0)
    null = make_world().null_control[0]
    assert torch.allclose(twice, null + 2 * (plain - null)) and asked == [1.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="has never learned to dream without them"):
        phased(guidance=1.5)


def test_the_teacher_gets_no_gradient_and_neither_does_the_aim():
    method = phased(grid=4, phases="2").train()
    value, _ = method.clip_loss(gaussian_clip(2), Progress(0, 0.0), make_rngs())
    value.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in method.dynamics.parameters())
    for network in (method.teacher.network, method.target):
        assert all(weight.grad is None for weight in network.parameters())
    assert not [name for name in method.state_dict() if name.startswith("teacher")]


def test_pseudo_huber_counts_large_distances_once_and_small_ones_squared():
    far = torch.tensor([3.0, -2.0])
    assert abs(pseudo_huber(far).item() - (2.5 - 1e-3)) < 1e-5
    assert abs(pseudo_huber(torch.tensor([1e-5])).item() / (0.5 * 1e-10 / 1e-3) - 1) < 1e-3
    still = torch.zeros(3, requires_grad=True)
    pseudo_huber(still).backward()
    assert still.grad is not None and torch.equal(still.grad, torch.zeros(3))


def test_the_decay_of_predictions_has_a_gradient_at_zero():
    for kind, size in (("l1", 1.5), ("l2", 2.5)):
        value = torch.tensor([0.0, 0.0], requires_grad=True)
        prediction_decay(value, kind).backward()
        assert value.grad is not None and torch.equal(value.grad, torch.zeros(2))
        assert prediction_decay(torch.tensor([1.0, -2.0]), kind).item() == size
    with pytest.raises(ValueError, match="must be 'l1' or 'l2', got 'l3'"):
        prediction_decay(torch.zeros(2), "l3")
