"""Heads on a frozen teacher: who gets which gradient, what the heads are shown, and where the student is pushed."""

import pytest
import torch
from helpers.gaussian import distill_config, gaussian_clip, make_rngs
from helpers.worlds import make_world
from torch import nn

from drivedit.config import LoopConfig
from drivedit.models.flow.path import add_noise
from drivedit.training.losses import discriminator_hinge, generator_hinge
from drivedit.training.methods.adversarial import Adversarial, FeatureHeads, outputs_of
from drivedit.training.methods.method import Progress
from drivedit.training.optimizers import make_optimizers
from drivedit.training.steps import Steps


def adversarial(**changes) -> Adversarial:
    torch.manual_seed(0)
    return Adversarial(make_world(), distill_config(method="adversarial", critic_steps=2, grid=4, **changes)).train()


def test_hinges_have_the_published_values():
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert discriminator_hinge(zero, zero) == 2 and discriminator_hinge(one, -one) == 0
    assert discriminator_hinge(5 * one, -7 * one) == 0 and discriminator_hinge(-one, one) == 4
    assert generator_hinge(0.5 * one) == -0.5 and generator_hinge(3 * one) == -3
    assert generator_hinge(0.5 * one, saturating=True) == 0.5 and generator_hinge(3 * one, saturating=True) == 0


def grads(network: nn.Module) -> list[torch.Tensor]:
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


def gradients(method: Adversarial, step: int) -> dict[str, bool]:
    """Which networks a step gives a gradient other than zero."""
    method.zero_grad()
    loss, _ = method.clip_loss(gaussian_clip(2), Progress(step, 0.0), make_rngs())
    loss.backward()
    networks = {"student": method.dynamics, "discriminator": method.discriminator, "teacher": method.teacher.network}
    return {
        name: any(weight.grad is not None and bool(weight.grad.any()) for weight in network.parameters())
        for name, network in networks.items()
    }


def test_the_heads_learn_at_every_step_and_the_student_at_its_turn():
    method = adversarial()
    assert gradients(method, 0) == {"student": True, "discriminator": True, "teacher": False}
    assert gradients(method, 1) == {"student": False, "discriminator": True, "teacher": False}
    names = [[group.name for group in method.groups(step)] for step in range(3)]
    assert names == [["discriminator", "student"], ["discriminator"], ["discriminator", "student"]]
    heads = method.groups(0)[0]
    assert heads.lr == 1e-5 and heads.clip == 1.0 and len(heads.parameters) == len([*method.discriminator.parameters()])


def test_neither_loss_moves_the_other_network():
    """Without the student's loss the heads' gradient is the same, and without the heads' that of the student."""
    both, without = adversarial(), adversarial(adversarial=0.0)
    for method in (both, without):
        gradients(method, 0)
    assert all(map(torch.equal, grads(both.discriminator), grads(without.discriminator)))
    assert not all(map(torch.equal, grads(both.dynamics), grads(without.dynamics)))
    with torch.no_grad():  # heads that all is the same to: nothing is left of theirs
        for weight in both.discriminator.parameters():
            weight.zero_()
    gradients(both, 0)
    assert all(map(torch.allclose, grads(both.dynamics), grads(without.dynamics)))


def test_the_teacher_is_shown_points_of_the_path_within_the_phase():
    method = adversarial(phases="2", against_data=True)
    clip, shown = gaussian_clip(256), []
    clip.tokens, clip.target = torch.zeros_like(clip.tokens), torch.zeros_like(clip.target)
    jumps = method.jumps(clip, method.given(clip, make_rngs()), Progress(0, 0.0), make_rngs(1))
    jumps.out = add_noise(clip.target, jumps.noise, jumps.end)  # all noise, of the level where phases end

    def features(noisy, sigma, given):
        shown.append((noisy, sigma))
        return [noisy]

    method.features = features  # type: ignore[method-assign]
    method.seen(jumps, clip, (clip.control, clip.route, clip.tokens), make_rngs(2))
    (fake, level), (real, same) = shown
    assert torch.equal(level, same) and torch.equal(fake, real)
    assert ((level >= jumps.end) & (level <= jumps.top)).all() and set(jumps.end.flatten().tolist()) == {0.0, 0.5}
    for end in (0.0, 0.5):
        rows = (jumps.end == end) & (level > 0.05)
        assert abs((fake / level[..., None, None])[rows].std() - 1) < 0.01


def test_heads_look_at_the_layers_that_are_named():
    method, clip = adversarial(layers=[1]), gaussian_clip(2)
    assert len(method.discriminator.bias) == 1 and len(adversarial().discriminator.bias) == 2
    given, level = method.given(clip, make_rngs()), torch.full((2, 4), 0.5)
    (seen,) = method.features(clip.target, level, given)
    with outputs_of(list(method.teacher.network.blocks)) as outputs:
        method.teach(clip.target, level, given)
    assert torch.equal(seen, outputs[1]) and not torch.equal(seen, outputs[0]) and len(outputs) == 2
    method.teach(clip.target, level, given)
    assert len(outputs) == 2  # nothing is kept any more
    with pytest.raises(ValueError, match=r"from 0 to 1, got \[2\]"):
        adversarial(layers=[0, 2])


def test_what_is_scored_is_pushed_to_what_is_right():
    torch.manual_seed(0)
    heads, rng = FeatureHeads(16, 1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(heads.parameters(), 1e-2)
    direction = torch.randn(16, generator=rng)
    right, wrong = (sign * direction + torch.randn(64, 4, 2, 16, generator=rng) for sign in (1, -1))
    for _ in range(50):
        optimizer.zero_grad()
        discriminator_hinge(heads([right]), heads([wrong])).backward()
        optimizer.step()
    assert heads([right]).mean() > 0.5 and heads([wrong]).mean() < -0.5
    moved = wrong.clone().requires_grad_()
    generator_hinge(heads([moved])).backward()
    assert moved.grad is not None and (-moved.grad * direction).sum() > 0


def test_heads_have_their_own_rate_and_moments_and_the_frozen_teacher_none():
    method = adversarial()
    optimizers = make_optimizers(method.groups(0), LoopConfig())
    steps = Steps(method, optimizers, 1.0, 0, False, torch.device("cpu"))
    steps.rates(1e-3, 0.1)
    assert [part["lr"] for part in optimizers["discriminator"][0].param_groups] == pytest.approx([1e-6, 1e-6])
    rates = [part["lr"] for optimizer in optimizers["student"] for part in optimizer.param_groups]
    assert rates == pytest.approx([1e-4] * len(rates)) and len(rates) > 1
    held = {id(p) for all_ in optimizers.values() for o in all_ for part in o.param_groups for p in part["params"]}
    assert not held & {id(weight) for weight in method.teacher.network.parameters()}
    assert not [name for name in method.state_dict() if "teacher" in name]
