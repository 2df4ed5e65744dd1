"""True driving among others on held-out roads: braking behind one ahead, an empty road, one that is hidden for a while.

Legend: K branches, T steps, c + 1 context frames.
"""

from __future__ import annotations

import copy

import numpy as np

from drivedit.evaluation.sources import Arrays
from drivedit.evaluation.twin_drives import (
    AHEAD,
    CONTEXT,
    EMPTY,
    HIDDEN,
    ID,
    PIXELS,
    SPEED_FRAMES,
    Job,
    draw,
    last_context,
    others_of,
    picture,
    run,
)
from drivedit.utils import Driver, OthersProbes, Simulator, Truth, origin_of

HIDDEN_FRAMES = 5  # for which one is hidden at least
LONGEST = 15  # frames that it is hidden at most
VISIBLE = 12  # pixels of one that is plainly seen
UNSEEN = 2  # pixels of one that is hidden, at most
RETRIED = 5  # steps from one moment that is tried to the next
TRIED = 12  # drives, before there is no such moment


def record_ahead(job: Job) -> Arrays:
    """A moment behind another, and what comes of each of the probes' throttles while a good driver steers.

    Returns:
        The context; `ahead_controls` `[K, T, C]`, `ahead_others` `[K, T, A, 9]`, `ahead_seen` `[K, 2, H, W, 3]`, the
        pictures of the last two steps, and `ahead_gap` `[K]` m.
    """
    sources, probes, asked = job.sources, job.sources.probes, _asked(job)
    low, high = asked.gap_range
    rng, twin, fork = sources.rng(AHEAD, job.index), sources.make_twin(), sources.make_twin()
    branches: list[Arrays] = []
    while True:
        driver, start = draw(sources, rng, probes.good)

        def enough(truth: Truth, step: int, driver: Driver = driver) -> bool:
            told = truth.telemetry
            behind = low < told[asked.gap] < high and told[probes.speed] > asked.speed
            if behind and step > CONTEXT and step % RETRIED == 0:
                branches[:] = _branches(job, twin, fork, driver)
            return bool(branches)

        drive = run(sources, twin, int(rng.integers(1000)) + job.seed(AHEAD), asked.peopled(start), driver, 120, enough)
        if branches:
            return {**last_context(drive), **{f"ahead_{name}": np.stack([each[name] for each in branches])
                                              for name in branches[0]}}  # fmt: skip


def _branches(job: Job, twin: Simulator, fork: Simulator, driver: Driver) -> list[Arrays]:
    """What comes of each of the probes' throttles in a `fork` of the twin; nothing if one of them tells nothing."""
    found, state = [], twin.get_state()
    for held in job.sources.probes.throttles:
        fork.set_state(state)
        found.append(_branch(job, fork, copy.deepcopy(driver), held))
        if not found[-1]:
            return []
    return found


def _branch(job: Job, fork: Simulator, driver: Driver, held: np.ndarray) -> Arrays:
    """What comes of held controls but for the steering; nothing if the episode ends or nobody is ahead any more."""
    sources, asked = job.sources, _asked(job)
    steers, observation = sources.config.spec.steers, None
    controls, others, seen = [], [], []
    origin = origin_of(_pose(fork)[None])
    for _ in range(SPEED_FRAMES):
        action = np.where(np.arange(len(held)) == steers, driver.act(fork.truth(), observation), held)
        observation, _, ended, _, _ = fork.step(action.astype(np.float32))
        if ended:
            return {}
        there = others_of(sources, fork, fork.truth())
        there[:, :2] -= origin * (there[:, 3:4] > 0)
        controls.append(action.astype(np.float32))
        others.append(there)
        seen.append(picture(sources, observation))
    gap = fork.truth().telemetry[asked.gap]
    if gap > 2 * asked.gap_range[1]:
        return {}
    return {
        "controls": np.stack(controls),
        "others": np.stack(others),
        "seen": np.stack(seen[-2:]),
        "gap": np.array(gap),
    }


def record_empty(job: Job) -> Arrays:
    """A drive of `steps` steps where nobody else is."""
    sources, asked = job.sources, _asked(job)
    rng, twin = sources.rng(EMPTY, job.index), sources.make_twin()
    while True:
        driver, start = draw(sources, rng, sources.probes.good)
        drive = run(sources, twin, job.seed(EMPTY), asked.empty(start), driver, job.steps)
        if len(drive["controls"]) == job.steps and not drive["ended"].any():
            return {
                name: drive[name] for name in ("frames", "controls", "poses", "route", "closed", "bounds", "others")
            }


def record_hidden(job: Job) -> Arrays:
    """A drive in which another is hidden for some frames and reappears, or one of no such moment.

    Returns:
        The context, which ends with the last frame that shows it; `hidden_controls` `[LONGEST + 1, C]` and
        `hidden_box` `[7]`, where it is when it reappears, `hidden_pose` `[3]`, the car's pose then, `hidden_seen`
        `[H, W, 3]`, the picture, and `hidden_steps`, after how many steps (0: there is no such moment).
    """
    sources, asked = job.sources, _asked(job)
    rng, twin = sources.rng(HIDDEN, job.index), sources.make_twin()
    most, drive, moment, tried = LONGEST + 1, {}, None, 0
    while not drive or (moment is None and tried < TRIED):
        driver, start = draw(sources, rng, sources.probes.good)
        found = run(sources, twin, int(rng.integers(1000)) + job.seed(HIDDEN), asked.peopled(start), driver, job.steps,
                    pixels=True)  # fmt: skip
        tried += 1
        if len(found["controls"]) >= CONTEXT + most:
            drive, moment = found, reappearing(found["others"], CONTEXT)
    now, back, place = moment or (CONTEXT, CONTEXT, 0)
    context = {name: drive[name][now - CONTEXT : now + 1] for name in ("frames", "poses")}
    ahead = drive["controls"][now : now + most]
    return {
        **context, "controls": drive["controls"][now - CONTEXT : now],
        **{name: drive[name] for name in ("route", "closed", "bounds")},
        "hidden_controls": np.pad(ahead, ((0, most - len(ahead)), (0, 0))), "hidden_steps": np.array(back - now),
        "hidden_box": drive["others"][back, place, :7], "hidden_pose": drive["poses"][back],
        "hidden_seen": drive["frames"][back],
    }  # fmt: skip


def reappearing(others: np.ndarray, first: int) -> tuple[int, int, int] | None:
    """The first time that another is plainly seen, then hidden for `HIDDEN_FRAMES` to `LONGEST` frames, and seen again.

    Args:
        others: `[T + 1, A, 9]`.
        first: The first frame that may be the last before it is hidden.

    Returns:
        The last frame before it is hidden, the first one in which it is plainly seen again, and its row then.
    """
    for number in np.unique(others[..., ID][others[..., 3] > 0]):
        known = (others[..., ID] == number) & (others[..., 3] > 0)
        pixels = (others[..., PIXELS] * known).sum(1)
        seen = np.flatnonzero(pixels >= VISIBLE)
        for now, back in zip(seen[:-1], seen[1:], strict=True):
            gone = np.flatnonzero(np.append(pixels[now + 1 : back] > UNSEEN, True))  # where a spell out of sight ends
            longest = np.diff(gone, prepend=-1).max() - 1
            there = known[now : back + 1].any(1).all()
            if now >= first and HIDDEN_FRAMES <= longest and back - now <= LONGEST and there:
                return int(now), int(back), int(np.flatnonzero(known[back])[0])
    return None


def _asked(job: Job) -> OthersProbes:
    """What is asked of others; the domain has some."""
    asked = job.sources.probes.others
    assert asked is not None
    return asked


def _pose(twin: Simulator) -> np.ndarray:
    """Where the car is."""
    pose = twin.truth().pose
    assert pose is not None
    return pose
