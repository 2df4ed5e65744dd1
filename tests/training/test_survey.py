"""Surveys of the ground: what counts, what is hidden, what a flow may learn of, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.fields import SPEC, bev_config, field_episode, make_bev_world

from drivedit.config import BevStageConfig
from drivedit.config.bev import GAP
from drivedit.data.clips import Drives
from drivedit.training.bev_clips import BevClips
from drivedit.training.bev_stage import fit_bev
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.ground import GroundMethod, behind
from drivedit.training.methods.method import Progress
from drivedit.training.methods.survey import Surveyor, counted, shown_frames, survey
from drivedit.utils import generator

LOSS = BevStageConfig(horizon=6, views=3, drop_route=0.0)


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    drives = Drives.of([field_episode(14, 0), field_episode(16, 1)], SPEC)
    return BevClips(drives, fit_bev(bev_config(), drives.facts()), LOSS.horizon).batch(np.array([4, 6, 20]))


@pytest.fixture(scope="module")
def surveyor(batch) -> Surveyor:
    torch.manual_seed(0)
    found = Surveyor(bev_config())
    found.norm.momentum = 1.0  # so it knows at once how large its numbers are
    survey(make_bev_world(), found, batch, [GAP, GAP + 3], GAP)
    return found


def test_latents_are_of_one_size_and_of_the_window_of_a_state(batch, surveyor):
    world = make_bev_world()
    found = survey(world, surveyor, batch, [GAP, GAP + 3], GAP)
    assert found.latents.shape == (3, 48, 8, 4) and found.sure.shape == (3, 1, 8, 4)
    assert torch.allclose(found.latents.mean((0, 2, 3)), torch.zeros(48), atol=1e-4)
    assert torch.allclose(found.latents.square().mean((0, 2, 3)), torch.ones(48), atol=0.1)
    first = world.looker(shown_frames(batch, [0, GAP]))
    assert torch.allclose(found.seen.motion, first.motion, atol=1e-5), "what the first pictures tell"
    assert found.sure[:, :, 0].mean() < 0.1 < 0.7 < found.sure[:, :, 3:].mean(), "little is seen behind the car"
    later = survey(world, surveyor, batch, [GAP, GAP + 3], GAP + 4)
    assert not torch.equal(later.latents, found.latents)
    more = survey(world, surveyor, batch, [GAP, GAP + 3, GAP + 6], GAP)
    assert (more.sure >= found.sure).all()


def test_what_is_near_counts_most_and_what_is_hidden_nothing(batch):
    world = make_bev_world()
    here, boxes = batch["pose"][:, GAP], batch["others"][:, GAP]
    free, taken = (counted(world, each, here, here)[1][:, 0, 0] for each in (torch.zeros_like(boxes), boxes))
    middle = free[0, 8:, 8]
    assert (middle[1:] < middle[:-1]).all() and middle[-1] > 0
    assert (taken <= free).all() and ((taken == 0) & (free > 0)).any()


def test_what_is_known_lies_behind_a_line():
    known = behind(make_bev_world(), Rngs(generator(0, "own"), torch.device("cpu"), generator(0, "alike")), 400)
    assert known.shape == (400, 1, 32, 16) and (known[:, :, :-1] >= known[:, :, 1:]).all()
    share = known.mean((1, 2, 3))
    assert share.mean() == pytest.approx(0.5, abs=0.05) and share.std() > 0.2


def test_the_flow_alone_is_trained_and_only_on_what_was_seen_and_is_new(batch, surveyor):
    method = GroundMethod(make_bev_world(), surveyor, LOSS)
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"flow"}
    loss, logs = method.loss(batch, Progress(3, 0.5), generator(0, "noise"))
    loss.backward()
    idle = [name for name, weight in method.named_parameters() if weight.grad is None]
    assert not idle and loss.isfinite() and {"noisy", "clean"} == set(logs)
    again, _ = method.loss(batch, Progress(3, 0.5), generator(0, "noise"))
    assert torch.equal(loss.detach(), again.detach())


def test_a_flow_learns_the_ground_of_few_clips(batch, surveyor):
    torch.manual_seed(0)
    method = GroundMethod(make_bev_world(), surveyor, replace(LOSS, horizon=1))
    adam, seen = torch.optim.AdamW(method.flow.parameters(), 1e-2), []
    for step in range(100):
        loss, _ = method.loss(batch, Progress(step, 0.0), generator(0, "noise", step))
        seen.append(loss.item())
        loss.backward()
        adam.step()
        adam.zero_grad()
    assert np.mean(seen[:5]) > 1.5 and np.mean(seen[-10:]) < 0.7 * np.mean(seen[:5])
