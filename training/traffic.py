"""How others drive, and who comes, is learned last, on the ground that a `BevWorld` then knows to fill.

Others go on from where they are by now, as in `drivedit.training.ego`: what counts is that they get where they got in
truth. Some are put a little beside it at first, so they learn to come back.

Legend: B clips, n states of a clip, A others, T frames that others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from drivedit.config.bev import GAP
from drivedit.data.clips import Drives
from drivedit.models import BevWorld
from drivedit.models.bev.parts import Scenery
from drivedit.models.bev.traffic import KEPT, Traffic, as_box
from drivedit.models.conditions.layout import SPEED, outlines
from drivedit.training.bev_clips import NONE, BevClips
from drivedit.training.stages import is_main
from drivedit.training.steps import Figures
from drivedit.utils import Route, generator

log = logging.getLogger(__name__)
ROWS = 8  # clips of a step
AHEAD = 47  # frames of a clip
FRAMES = 16  # that others go on, T
PARTS = 3  # of a clip that are looked at in a step
REUSED = 4  # steps with the same clips, for what takes long is to fill their ground
RATE = 2e-3  # of learning
FALLING_FROM = 0.4  # share of the steps after which it falls
LARGEST = 5.0  # norm of a gradient
SIGHT = 60.0  # metres to others that a start picture shows
ASIDE, TURNED, FASTER = 0.4, 0.04, 0.5  # metres, radians and m/s that some are put off at first
LIKE = (1.0, 1.0, 10.0, 0.3)  # weights of x, y (m), of yaw (rad) and of speed (m/s) that others are off
HELD = 48  # clips that are only looked at


def fit_traffic(
    world: BevWorld, drives: Drives, chosen: np.ndarray, checked: np.ndarray, steps: int, seed: int
) -> Figures:
    """Learns how others drive and who comes; the rest of the world stays as it is.

    Args:
        world: The world, with others.
        drives: The recordings.
        chosen: Numbers of the drives to learn from.
        checked: Of those that are only looked at.
        steps: How long.
        seed: Of what is drawn.

    Returns:
        How far others are off after some frames, by what is learned and straight on (`off_m`, `straight_m`), and how
        many come in a frame, foretold and in truth; of drives that are only looked at.
    """
    traffic, rng = world.traffic, generator(seed, "traffic")
    assert traffic is not None
    longest = min(int(np.diff(drives.first)[picked].max()) for picked in (chosen, checked))
    if longest < GAP + FRAMES + 2:
        log.warning("traffic: no drive has %d states; others go straight on, and nobody comes", GAP + FRAMES + 2)
        return {}
    clips = BevClips(drives, world.config, min(AHEAD, longest - GAP - 1))
    draw, held = (clips.drawing(picked, rows) for picked, rows in ((chosen, ROWS), (checked, HELD)))
    traffic.requires_grad_(True)
    optimizer = torch.optim.AdamW(traffic.parameters(), RATE)
    for step in tqdm(range(steps), desc="traffic", delay=5, mininterval=5, disable=not is_main(world.device)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (1 - step / steps) / (1 - FALLING_FROM))
        if step % REUSED == 0:
            batch = {name: value.to(world.device) for name, value in draw(rng).items()}
            scenery = filled(world, batch, rng)
        late = clips.ahead - FRAMES
        starts = [GAP, *(GAP + torch.randint(late, (PARTS - 1,), generator=rng)).tolist()]
        losses = [judge(world, traffic, batch, scenery, now, rng) for now in starts]
        losses.append(judge_coming(world, traffic, batch, scenery, GAP, begun=True))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(traffic.parameters(), LARGEST)
        optimizer.step()
    traffic.requires_grad_(False)
    return traffic_figures(world, traffic, held(generator(0, "held")), generator(0, "filled"))


@torch.no_grad()
def filled(world: BevWorld, batch: dict[str, Tensor], rng: torch.Generator) -> Scenery:
    """The scenery of the present states of a batch of `BevClips`."""
    frames = (batch["frames"][:, [0, GAP]].float() / 127.5 - 1).permute(0, 1, 4, 2, 3)
    route = Route(*(batch[name] for name in Route.__dataclass_fields__))
    drawn = torch.randn(len(frames), *world.noise_shape(), generator=rng).to(frames)
    return world.begun(
        frames, batch["pose"][:, [0, GAP]], world.looker(frames), batch["others"][:, GAP], route, batch["arc"][:, GAP],
        drawn,
    )  # fmt: skip


def kept_ids(batch: dict[str, Tensor], now: int) -> Tensor:
    """Ids `[B, A]` of others at a state that are near enough to be kept; NONE for nobody."""
    far = (batch["others"][:, now, :, :2] - batch["pose"][:, now, None, :2]).norm(dim=-1)
    return torch.where(far < KEPT, batch["ids"][:, now], NONE)


def box_of_car(world: BevWorld, batch: dict[str, Tensor], now: int) -> Tensor:
    """The car as a box `[B, 8]`."""
    return as_box(batch["pose"][:, now], batch["motion"][:, now, 0] * world.motion_scale[0], world.spec.dt)


def judge(
    world: BevWorld, traffic: Traffic, batch: dict[str, Tensor], scenery: Scenery, now: int, rng: torch.Generator
) -> Tensor:
    """The loss of others that go on from a state, and of who comes after it."""
    others, wanted, there = followed(batch, now)
    found = gone_on(world, traffic.driven, batch, scenery, now, put_off(others, rng))
    error = found[..., [0, 1, 6, SPEED]] - wanted[..., [0, 1, 6, SPEED]]
    error = torch.cat([error[..., :2], torch.atan2(error[..., 2:3].sin(), error[..., 2:3].cos()), error[..., 3:]], -1)
    sizes = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.3, reduction="none") * error.new_tensor(LIKE)
    driving = (sizes * there[..., None]).sum() / there.sum().clamp(min=1)
    return driving + judge_coming(world, traffic, batch, scenery, now)


def put_off(others: Tensor, rng: torch.Generator) -> Tensor:
    """Others `[B, A, 8]`, half of them a little beside their place, turned and faster or slower."""
    some = (torch.rand(others.shape[:2], generator=rng) < 0.5)[..., None]
    drawn = (torch.randn(*others.shape[:2], 3, generator=rng) * some).to(others)
    aside, turned, faster = (drawn * drawn.new_tensor([ASIDE, TURNED, FASTER])).split(1, -1)
    yaw = others[..., 6:7]
    place = others[..., :2] + aside * torch.cat([-yaw.sin(), yaw.cos()], -1)
    return torch.cat([place, others[..., 2:6], yaw + turned, (others[..., SPEED:] + faster).clamp(min=0)], -1)


def followed(batch: dict[str, Tensor], now: int) -> tuple[Tensor, Tensor, Tensor]:
    """Others at a state `[B, A, 8]`, where they are in the frames after it `[B, T, A, 8]`, and while they are there."""
    ids, then = kept_ids(batch, now), slice(now + 1, now + 1 + FRAMES)
    same = (batch["ids"][:, then, None] == ids[:, None, :, None]) & (ids != NONE)[:, None, :, None]  # [B, T, A, A]
    place = same.long().argmax(-1)[..., None].expand(-1, -1, -1, batch["others"].shape[-1])
    others = torch.where((ids != NONE)[..., None], batch["others"][:, now], 0.0)
    return others, batch["others"][:, then].gather(2, place), same.any(-1).to(others)


def gone_on(
    world: BevWorld, drive: Callable[..., Tensor], batch: dict[str, Tensor], scenery: Scenery, now: int, others: Tensor
) -> Tensor:
    """Where others are in the frames after a state, `[B, T, A, 8]`."""
    found = []
    for step in range(now, now + FRAMES):
        others = drive(world.window, scenery.ground, scenery.anchor, others, box_of_car(world, batch, step))
        found.append(others)
    return torch.stack(found, 1)


def judge_coming(
    world: BevWorld, traffic: Traffic, batch: dict[str, Tensor], scenery: Scenery, now: int, begun: bool = False
) -> Tensor:
    """The loss of who comes in the frame after a state; or of who is there already whom its picture does not show."""
    coming, cell, new, wanted = comers(world, traffic, batch, scenery, now, begun)
    target = torch.zeros_like(coming[:, 0]).flatten(1).scatter_reduce(1, cell, new.to(coming), "amax")
    sure = F.binary_cross_entropy_with_logits(coming[:, 0].flatten(1), target, reduction="sum") / len(cell)
    told = coming[:, 1:].flatten(2).transpose(1, 2).gather(1, cell[..., None].expand(-1, -1, coming.shape[1] - 1))
    apart = F.smooth_l1_loss(told, traffic.unplaced(scenery.anchor, wanted), beta=0.1, reduction="none").mean(-1)
    return sure + (apart * new).sum() / len(cell)


def comers(
    world: BevWorld, traffic: Traffic, batch: dict[str, Tensor], scenery: Scenery, now: int, begun: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The map of who comes; cells `[B, A]` of others in the frame after a state, who of them is new, and their boxes.

    With `begun` these are others of the state itself, and new are those whom its picture does not show.
    """
    ids, boxes, after = kept_ids(batch, now), batch["others"][:, now], now + (not begun)
    if begun:
        ids = torch.where(in_sight(world, boxes, batch["pose"][:, now]), ids, NONE)
    there = torch.where((ids != NONE)[..., None], boxes, 0.0)
    flag = there.new_full((len(there),), float(begun))
    coming = traffic(scenery.ground, scenery.anchor, there, box_of_car(world, batch, now), flag)
    then, wanted = kept_ids(batch, after), batch["others"][:, after]
    cell, inside = traffic.cells_of(scenery.anchor, wanted, (coming.shape[-2], coming.shape[-1]))
    return coming, cell, inside & (then != NONE) & ~(then[..., None] == ids[:, None]).any(-1), wanted


def in_sight(world: BevWorld, boxes: Tensor, pose: Tensor) -> Tensor:
    """Whether the middle of others `[B, A, 8]` is in the picture and near enough to be read off it, `[B, A]`."""
    low, high, depth = outlines(world.config.camera, boxes, pose)
    middle = (low + high) / 2 / low.new_tensor([1.0, world.window.tall])
    return (depth > 0) & (depth < SIGHT) & (middle.abs() < 1).all(-1) & (boxes[..., 3] > 0)


@torch.no_grad()
def traffic_figures(world: BevWorld, traffic: Traffic, batch: dict[str, Tensor], rng: torch.Generator) -> Figures:
    """How well others are foretold in a batch of clips."""
    batch = {name: value.to(world.device) for name, value in batch.items()}
    scenery = filled(world, batch, rng)
    others, wanted, there = followed(batch, GAP)
    last = there[:, -1]
    figures: Figures = {}
    straight = Traffic(world.config).to(world.device)
    for name, how in (("off_m", traffic), ("straight_m", straight)):
        found = gone_on(world, how.driven, batch, scenery, GAP, others)[:, -1]
        off = (found - wanted[:, -1])[..., :2].norm(dim=-1)
        figures[name] = float((off * last).sum() / last.sum().clamp(min=1))
    maps = [comers(world, traffic, batch, scenery, now) for now in range(GAP, GAP + FRAMES)]
    figures["foretold_comers"] = float(torch.stack([coming[:, 0].sigmoid().sum((1, 2)) for coming, *_ in maps]).mean())
    figures["comers"] = float(torch.stack([new.float().sum(1) for _, _, new, _ in maps]).mean())
    return figures
