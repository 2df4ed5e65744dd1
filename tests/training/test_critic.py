"""The critic of dreamed pictures: whom its two losses move, and that it learns to tell, and to be deceived."""

from itertools import pairwise

import torch

from drivedit.training.methods.critic import FrameCritic, contest
from drivedit.utils import generator, seeded

SIZE = (3, 32, 64)


def critic_of(maps: int = 0) -> FrameCritic:
    with seeded(generator(0, "critic")):
        return FrameCritic(3, maps)


def noise(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, name))


def test_scores_are_of_texture_and_of_the_whole_and_hear_of_the_first_picture_and_of_the_maps():
    critic = critic_of(2)
    pictures, begun, maps = noise("pictures", 4, *SIZE), noise("begun", 4, *SIZE), noise("maps", 4, 2, 8, 16)
    scores = critic(pictures, begun, maps)
    assert scores.shape == (4, 2, 2, 4)
    assert not torch.equal(scores, critic(pictures, begun.flip(0), maps))
    assert not torch.equal(scores, critic(pictures, begun, maps.flip(0)))
    assert critic(noise("wide", 1, 3, 64, 128), noise("far", 1, 3, 64, 128), maps[:1]).shape == (1, 2, 4, 8)


def test_each_loss_moves_one_side_alone():
    critic, given = critic_of(), (noise("begun", 4, *SIZE), torch.zeros(4, 0, 8, 16))
    dreamed, true = noise("dreamed", 4, *SIZE).requires_grad_(), noise("true", 4, *SIZE)
    judged, fooling = contest(critic, dreamed, true, given, noise("jolt", 8, *SIZE))
    weights = list(critic.parameters())
    assert all(grad.any() for grad in torch.autograd.grad(judged, weights, retain_graph=True))
    assert torch.autograd.grad(judged, dreamed, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(fooling, weights, retain_graph=True, allow_unused=True) == (None,) * len(weights)
    assert torch.autograd.grad(fooling, dreamed)[0].any()


def test_it_learns_to_tell_pictures_apart_and_what_is_nearer_to_the_recorded_ones_deceives_it_more():
    critic, size = critic_of(), (6, 3, 16, 32)
    given = torch.zeros(size), torch.zeros(6, 0, 4, 8)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        true, dreamed = (level + 0.1 * noise(f"{level}{step}", *size) for level in (0.5, -0.5))
        judged, _ = contest(critic, dreamed, true, given, noise(f"jolt{step}", 12, *size[1:]))
        losses.append(judged.item())
        judged.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    between = [torch.lerp(dreamed, true, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    fooling = [contest(critic, each, true, given, noise("jolt", 12, *size[1:]))[1].item() for each in between]
    assert all(later < sooner for sooner, later in pairwise(fooling))
