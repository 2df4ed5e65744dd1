"""Others on the road of a `BevWorld`: told ones drive on as they are told, all else is dreamed."""

from __future__ import annotations

import torch
from torch import Tensor

from drivedit.models.bev.others import inherited, unseen_looks
from drivedit.models.bev.parts import BevNetworks, Scenery
from drivedit.models.bev.state import BevState
from drivedit.models.bev.traffic import all_of, as_box, gone_from, joined, one_of
from drivedit.models.conditions.layout import drive_on
from drivedit.utils import noise

LOOKS, COMES, UNSEEN = "looks", "comes", "unseen"  # streams of noise: how others look, who comes, who is not in sight
BEFORE = -1  # clock of what is drawn for a start scene
Others = tuple[Tensor, Tensor]  # boxes `[B, A, 8]`, and how they look `[B, A, L + SEEN_AT]`


def drawn_looks(world: BevNetworks, seeds: list[int], clocks: list[int]) -> Tensor:
    """How others look whom nobody has seen yet, `[B, A, L + SEEN_AT]`."""
    return unseen_looks(noise(seeds, LOOKS, clocks, (world.config.others, world.config.looks)).to(world.device))


def relooked(world: BevNetworks, before: BevState, after: BevState) -> Tensor:
    """How others look `[B, A, L + SEEN_AT]` after a layout was told: like those who were there, or new."""
    return inherited(
        after.others, (before.others, before.looks), drawn_looks(world, after.seeds.tolist(), after.clock.tolist())
    )


def completed(world: BevNetworks, scenery: Scenery, others: Others, car: Tensor, seed: int) -> Others:
    """Others whom a start picture shows `[1, A, 8]`, and those who are there but not in sight.

    Args:
        world: The world.
        scenery: Of the start picture.
        others: Whom it shows.
        car: The car as a box `[1, 8]`.
        seed: Of the dream.
    """
    if world.traffic is None:
        return others
    coming = world.traffic(scenery.ground, scenery.anchor, others[0], car, car.new_ones(1))
    drawn = torch.special.ndtr(noise([seed], UNSEEN, [BEFORE], tuple(coming.shape[2:]))).to(coming)
    cell, comes = all_of(coming, drawn, world.config.others)
    looks = drawn_looks(world, [seed], [BEFORE])[:, : cell.shape[1]]
    return joined(*others, (world.traffic.placed(coming, scenery.anchor, cell), comes, looks), car)


def driven_on(world: BevNetworks, state: BevState) -> Others:
    """Others one frame later: told ones at their speed along the road; else as traffic does, and somebody may come.

    Args:
        world: The world.
        state: Its state, but for others and how they look, one frame later.
    """
    told = drive_on(state.others, state.route, world.config.spec.dt)
    if world.traffic is None or bool(state.told.all()):
        return told, state.looks
    window, dt = (state.ground, state.anchor), world.config.spec.dt
    car = as_box(state.pose, state.motion[:, 0] * world.motion_scale[0], dt)
    others = gone_from(world.traffic.driven(world.window, *window, state.others, car), state.pose)
    coming = world.traffic(*window, others, car, torch.zeros_like(car[:, 0]))
    seeds, clocks = state.seeds.tolist(), state.clock.tolist()
    drawn = torch.special.ndtr(noise(seeds, COMES, clocks, (1,)))[:, 0].to(coming)
    cell, comes = one_of(coming, drawn)
    box = world.traffic.placed(coming, state.anchor, cell)
    others, looks = joined(others, state.looks, (box, comes, drawn_looks(world, seeds, clocks)[:, :1]), car)
    given = state.told[:, None, None]
    return torch.where(given, told, others), torch.where(given, state.looks, looks)
