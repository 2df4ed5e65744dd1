"""How others drive and who comes, learned of recordings."""

import numpy as np
import pytest
import torch
from helpers.fields import SPEC, bev_config, field_episode, make_bev_world

from drivedit.config.bev import GAP
from drivedit.data.clips import Drives
from drivedit.models.conditions.layout import SPEED
from drivedit.training import traffic as fitting
from drivedit.training.bev_clips import NONE, BevClips
from drivedit.training.bev_stage import fit_bev
from drivedit.training.traffic import filled, fit_traffic, followed, in_sight, judge_coming, kept_ids
from drivedit.utils import generator

STATES = 30


def braking_drives(drives: int = 3) -> Drives:
    """Of a car with one ahead that brakes by 4 m/s^2 from 10 m/s."""
    episodes = []
    for seed in range(drives):
        episode = field_episode(STATES, seed)
        assert episode.agents is not None and episode.poses is not None
        time = np.arange(STATES + 1) * SPEC.dt
        speed = np.maximum(10.0 - 4.0 * time, 0)
        episode.agents.boxes[:, 0] = episode.poses[0, 0] + 12 + np.r_[0, np.cumsum(speed[1:] * SPEC.dt)]
        episode.agents.boxes[:, 1] = episode.poses[0, 1]
        episodes.append(episode)
    return Drives.of(episodes, SPEC)


@pytest.fixture(scope="module")
def drives() -> Drives:
    return braking_drives()


def test_others_are_learned_to_brake_as_they_do(drives, monkeypatch):
    monkeypatch.setattr(fitting, "HELD", 8)
    world = make_bev_world()
    before = {name: weight.clone() for name, weight in world.state_dict().items() if "traffic" not in name}
    figures = fit_traffic(world, drives, np.arange(2), np.arange(2, 3), 60, 0)
    assert figures["off_m"] < 0.5 * figures["straight_m"] and figures["straight_m"] > 1
    assert figures["comers"] == 0 and figures["foretold_comers"] < 0.05
    after = world.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items()), "the rest stays"
    assert not any(weight.requires_grad for weight in world.parameters() if weight.grad is not None)


def test_others_are_followed_by_their_names(drives):
    batch = BevClips(drives, fit_bev(bev_config(), drives.facts()), 20).batch(np.array([4, 6]))
    batch["ids"], batch["others"] = batch["ids"].clone(), batch["others"].clone()
    now = GAP + 2
    for name in ("ids", "others"):
        batch[name][0, now + 3] = batch[name][0, now + 3].flip(0)
    batch["ids"][1, now + 5 :] = NONE
    others, after, there = followed(batch, now)
    assert torch.equal(others[:, 0], batch["others"][:, now, 0]) and not others[:, 1].any()
    assert torch.equal(after[0, 2, 0], batch["others"][0, now + 3, 1]), "it is the second one there"
    assert there[0, :, 0].all() and there[1, :4, 0].all() and not there[1, 4:].any() and not there[:, :, 1].any()
    assert (kept_ids(batch, now)[:, 0] == 0).all()
    batch["others"][:, now, 0, 0] += 1000
    assert (kept_ids(batch, now) == NONE).all(), "too far to matter"


def test_who_comes_is_whoever_was_not_there_before(drives):
    world = make_bev_world()
    batch = BevClips(drives, world.config, 20).batch(np.array([4, 35]))
    scenery, traffic = filled(world, batch, generator(0, "x")), world.traffic
    assert traffic is not None
    sure = judge_coming(world, traffic, batch, scenery, GAP)
    new = {**batch, "ids": batch["ids"].clone()}
    new["ids"][:, GAP, 0] = NONE
    assert judge_coming(world, traffic, new, scenery, GAP) > sure + 3, "nobody is expected"
    pose, boxes = batch["pose"][:, GAP], batch["others"][:, GAP]
    assert in_sight(world, boxes, pose)[:, 0].all()
    shown = judge_coming(world, traffic, batch, scenery, GAP, begun=True)
    behind = {**batch, "others": batch["others"].clone()}
    behind["others"][:, GAP, 0, :2] = pose[:, :2] - 3 * torch.stack([pose[:, 2].cos(), pose[:, 2].sin()], -1)
    assert not in_sight(world, behind["others"][:, GAP], pose).any()
    assert judge_coming(world, traffic, behind, scenery, GAP, begun=True) > shown + 3
    assert boxes[..., SPEED].max() > 5


def test_short_drives_teach_nothing(caplog):
    short = Drives.of([field_episode(10, 0)] * 2, SPEC)
    assert fit_traffic(make_bev_world(), short, np.arange(1), np.arange(1, 2), 5, 0) == {}
    assert "go straight on" in caplog.text
