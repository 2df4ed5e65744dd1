"""True driving on held-out tracks, recorded on the fly: clips, endings, branches from one state, and long drives.

Legend: N rows, c context controls (c + 1 context frames), T further steps, K branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivedit.evaluation.metrics.drift import sampled
from drivedit.evaluation.metrics.others import others_seen
from drivedit.evaluation.sources import Arrays, Sources, restarted, unpad
from drivedit.models import Scene, check_scene
from drivedit.utils import UNBOUNDED, Driver, Simulator, Truth, from_origin, load_object, origin_of
from drivedit.utils.episodes import Episode
from drivedit.utils.shards import read_shard

CONTEXT = 8  # controls of a context
STEER_FRAMES, SPEED_FRAMES = 15, 20
PLACE = ("route", "closed", "bounds", "attributes")  # what stays as it is
KEPT = ("frames", "controls", "poses", *PLACE)  # of a context
MOST = 24  # others that are kept, the nearest
BOX, ID, PIXELS = slice(0, 7), 7, 8  # columns of another: its box, its number, and how many pixels show it
CLIPS, ENDINGS, BRANCHES, DRIVES, AHEAD, EMPTY, HIDDEN = range(7)  # random streams
APART = 10_000  # seeds of the simulator from the first one of a stream to that of the next


@dataclass(frozen=True)
class Job:
    """One piece of recording.

    Attributes:
        sources: Who drives what.
        index: Number of the piece; it chooses the track and the random stream.
        steps: Steps to keep.
        good: Whether a good driver is wanted (clips only).
    """

    sources: Sources
    index: int
    steps: int
    good: bool = True

    def seed(self, stream: int) -> int:
        """The held-out seed of the simulator."""
        return self.sources.config.held_out_from + APART * stream + self.index


def record_clip(job: Job) -> Arrays:
    """A drive of exactly `steps` steps, by a good driver or by a wild one."""
    rng, probes = job.sources.rng(CLIPS, job.index), job.sources.probes
    twin = job.sources.make_twin()
    while True:
        driver, start = draw(job.sources, rng, probes.good if job.good else probes.wild)
        before = int(rng.integers(0, 40))
        drive = run(job.sources, twin, job.seed(CLIPS), start, driver, before + job.steps, pixels=True)
        if len(drive["controls"]) == before + job.steps and not drive["ended"].any():
            return {**_last(drive, job.steps), "good": np.array(job.good)}


def record_ending(job: Job) -> Arrays:
    """The last `steps` steps of a drive to an ending of the kind that is judged."""
    rng, probes = job.sources.rng(ENDINGS, job.index), job.sources.probes
    twin = job.sources.make_twin()
    while True:
        driver, start = draw(job.sources, rng, probes.leaving)
        start = probes.others.peopled(start) if probes.others else start
        drive = run(job.sources, twin, job.seed(ENDINGS), start, driver, 500)
        wanted = drive["ended"][-1] and str(drive["ending"]).startswith(probes.ending)
        if len(drive["controls"]) >= job.steps and wanted:
            return _last(drive, job.steps)


def record_branches(job: Job) -> Arrays:
    """A state at speed, and what the simulator makes of the probes' `steers` and `throttles` from it.

    Returns:
        frames `[c + 1, ...]`, controls, poses, route and bounds of the context; `steer_frames` `[K, T + 1, H, W, 3]`,
        `steer_poses` `[K, T + 1, 3]` and `speed_after` `[K]`.
    """
    sources, probes = job.sources, job.sources.probes
    rng, twin = sources.rng(BRANCHES, job.index), sources.make_twin()
    while True:
        driver, start = draw(sources, rng, probes.good)
        drive = run(sources, twin, job.seed(BRANCHES), probes.at_speed(start), driver, job.steps)
        if probes.can_branch(twin.truth().telemetry) and (branches := _branches(sources, twin, drive["frames"][-1])):
            return {**last_context(drive), **branches}


def _branches(sources: Sources, twin: Simulator, now: np.ndarray) -> Arrays:
    """What comes of the held controls, see `record_branches`; nothing if one of them ends the episode."""
    probes, state, fork = sources.probes, twin.get_state(), sources.make_twin()
    frames, poses, speeds, ended = [], [], [], False
    for controls in probes.steers:
        fork.set_state(state)
        seen, where = [now], [fork.truth().pose]
        for _ in range(STEER_FRAMES):
            observation, _, over, _, _ = fork.step(controls)
            seen.append(picture(sources, observation))
            where.append(fork.truth().pose)
            ended |= over
        frames.append(np.stack(seen))
        poses.append(np.array(where))
    for controls in probes.throttles:
        fork.set_state(state)
        for _ in range(SPEED_FRAMES):
            ended |= fork.step(controls)[2]
        speeds.append(fork.truth().telemetry[probes.speed])
    branches = {"steer_frames": np.stack(frames), "steer_poses": np.stack(poses), "speed_after": np.array(speeds)}
    return {} if ended else branches


def last_context(drive: Arrays) -> Arrays:
    """The last moments of a drive, for a dream to go on from."""
    context = _last(drive, CONTEXT)
    return {name: context[name] for name in KEPT}


def record_drive(job: Job) -> Arrays:
    """A drive of `steps` steps by the driver that sees only pictures, from a start that policies are judged from.

    Returns:
        frames, controls, poses, route and bounds of the context; `drive_` and the name of each field of
        `closed_loop.Drives`.
    """
    sources, probes, rng = job.sources, job.sources.probes, job.sources.rng(DRIVES, job.index)
    options = {name: float(rng.uniform(*limits)) for name, limits in sources.config.judging_starts.items()}
    twin, driver = sources.make_twin(), sources.make_driver()
    frame = picture(sources, twin.reset(seed=job.seed(DRIVES), options=options)[0])
    for _ in range(CONTEXT + 4):
        frame = picture(sources, twin.step(driver(frame))[0])
    context, pose = check_scene(twin.scene(CONTEXT), sources.config.spec), twin.truth().pose
    assert pose is not None
    restarted(driver)
    kept: dict[str, list[Any]] = {name: [] for name in ("actions", "poses", "speed", "told_road", "ended")}
    over, truth, seen = False, twin.truth(), []
    for _ in range(job.steps):
        action = np.asarray(driver(frame), np.float32)
        if not over:
            observation, _, over, _, _ = twin.step(action)
            frame, truth = picture(sources, observation), twin.truth()
        values = (action, truth.pose, truth.telemetry[probes.speed], truth.telemetry[probes.road], over)
        for name, value in zip(kept, values, strict=True):
            kept[name].append(value)
        seen.append(frame)
    drive = {f"drive_{name}": np.array(values) for name, values in kept.items()}
    frames = np.stack(seen)
    drive |= {"drive_road": probes.road_share(frames), "drive_seen": frames[sampled(job.steps)]}
    drive["drive_others"] = np.concatenate([others_seen(probes, frames[[step]], step) for step in range(job.steps)])
    drive["drive_poses"] = from_origin(drive["drive_poses"], origin_of(pose[None]))
    run_up = {"frames": context.frames, "controls": context.controls, "poses": context.poses_or_start()}
    return {**run_up, **_place(context), **drive}


def read_recordings(folder: Path, clips: int, steps: int, sources: Sources) -> list[Arrays]:
    """Clips from a folder that `python -m drivedit.data collect --held-out` wrote, half well driven, half wild.

    Raises:
        FileNotFoundError: There is no shard.
        ValueError: The recording is damaged, not held out, or has too few drives that are long enough.
    """
    shards = sorted(folder.glob("shard-*.h5"))
    if not shards:
        raise FileNotFoundError(f"{folder} holds no shard-*.h5; record with `python -m drivedit.data collect`")
    first, found = sources.config.held_out_from, {True: [], False: []}
    wanted = {True: clips - clips // 2, False: clips // 2}
    for path in shards:
        for episode in read_shard(path):
            if episode.seed < first:
                raise ValueError(f"{path} has the seed {episode.seed}; held-out ones start at {first}, record with "
                                 "--held-out")  # fmt: skip
            good = episode.driver in sources.probes.good
            if len(found[good]) < wanted[good] and len(episode) > steps:
                found[good].append({**_read(sources, episode, steps), "good": np.array(good)})
    if any(len(found[good]) < wanted[good] for good in wanted):
        raise ValueError(f"{folder} has {len(found[True])} well driven and {len(found[False])} other drives of more "
                         f"than {steps} steps; {wanted[True]} and {wanted[False]} are needed")  # fmt: skip
    return [clip for pair in zip(found[True], found[False], strict=False) for clip in pair] + found[True][clips // 2 :]


def scene(arrays: Arrays, row: int, now: int = CONTEXT, free: bool = False) -> dict[str, Any]:
    """The scene of a recorded row at frame `now`, as a mapping that `check_scene` takes; `free` of what is told."""
    context, route = slice(now - CONTEXT, now + 1), unpad(arrays["route"][row])
    seen = {
        "frames": arrays["frames"][row, context],
        "controls": arrays["controls"][row, now - CONTEXT : now],
        "poses": arrays["poses"][row, context].astype(np.float32),
    }
    told = {
        "route": route if len(route) else None,
        "closed": bool(arrays["closed"][row]),
        "bounds": arrays["bounds"][row],
    }
    return seen if free else seen | told


def scenes(arrays: Arrays, free: bool = False) -> list[dict[str, Any]]:
    """The first scene of every recorded row."""
    return [scene(arrays, row, free=free) for row in range(len(arrays["frames"]))]


def draw(sources: Sources, rng: np.random.Generator, plans: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Draws drivers until one has a plan that is wanted."""
    make = load_object(sources.config.drivers)
    for _ in range(5000):
        driver, start = make(rng)
        if driver.plan in plans:
            return driver, start
    raise ValueError(f"{sources.config.drivers} makes no driver whose plan is one of {plans}")


def run(
    sources: Sources, twin: Simulator, seed: int, start: dict[str, Any], driver: Driver, steps: int,
    enough: Callable[[Truth, int], bool] = lambda truth, step: False, pixels: bool = False,
) -> Arrays:  # fmt: skip
    """Drives to the end, for `steps` steps or until it is `enough`, of what is true and the step; see `others_of`."""
    learned, endings = sources.config.spec.learned(), list(sources.config.spec.endings)
    observation, _ = twin.reset(seed=seed, options=start)
    seen, true = [picture(sources, observation)], [twin.truth()]
    others = [others_of(sources, twin, true[0], pixels)]
    controls, rewards, ended, why = [], [], [], ""
    for step in range(steps):
        action = driver.act(true[-1], observation)
        observation, _, terminated, _, info = twin.step(action)
        seen.append(picture(sources, observation))
        true.append(twin.truth())
        others.append(others_of(sources, twin, true[-1], pixels))
        controls.append(action)
        rewards.append(sum(info["reward_terms"][name] for name in learned))
        ended.append(terminated)
        if terminated:
            why = next((name for name in endings if info["reward_terms"].get(name)), "")
        if terminated or enough(true[-1], step):
            break
    names = sources.config.spec.names("telemetry")
    drive = {
        "frames": np.stack(seen), "poses": np.array([truth.pose for truth in true]), "others": np.stack(others),
        "telemetry": np.array([[truth.telemetry[name] for name in names] for truth in true], np.float32),
        "controls": np.stack(controls), "reward": np.array(rewards, np.float32), "ended": np.array(ended),
        "ending": np.array(why), **_place(true[0]),
    }  # fmt: skip
    return from_here(drive)


def from_here(drive: Arrays) -> Arrays:
    """A drive with its places told from an origin near its end, as a world tells them."""
    origin = origin_of(drive["poses"][::-1])
    moved = {name: from_origin(drive[name], origin) for name in ("poses", "route", "bounds")}
    others = drive["others"].copy()
    others[..., :2] -= origin * (others[..., 3:4] > 0)
    flat = {name: moved[name].astype(np.float32) for name in ("route", "bounds")}
    return {**drive, **moved, **flat, "others": others.astype(np.float32)}


def others_of(sources: Sources, twin: Simulator, truth: Truth, pixels: bool = False) -> np.ndarray:
    """The `MOST` nearest others of this moment, float32 `[MOST, 9]` (see `BOX`); rows of zeros are nobody.

    How many `pixels` show each one takes another look; without, there are none.
    """
    probes = sources.probes.others
    if probes is None or truth.agents is None or truth.pose is None:
        return np.zeros((0, PIXELS + 1), np.float32)
    shown = probes.shown(twin) if pixels else {}
    counts = [shown.get(int(number), 0) for number in truth.agents.ids]
    return _nearest(truth.agents.boxes, truth.agents.ids, counts, truth.pose)


def _nearest(boxes: np.ndarray, ids: np.ndarray, pixels: Sequence[int] | np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The nearest of some others, see `others_of`."""
    rows = np.concatenate([boxes, ids[:, None], np.asarray(pixels, np.float32)[:, None]], 1)
    near = np.argsort(np.hypot(*(boxes[:, :2] - pose[:2]).T))[:MOST]
    return np.pad(rows[near], ((0, MOST - len(near)), (0, 0))).astype(np.float32)


def picture(sources: Sources, observation: Any) -> np.ndarray:
    """What people see of an observation."""
    return observation[sources.config.spec.picture] if isinstance(observation, dict) else observation


def _place(truth: Truth | Episode | Scene) -> Arrays:
    """Route and field of a drive, and the values of its attributes in the order of their names."""
    route = np.zeros((0, 2), np.float32) if truth.route is None else truth.route
    bounds = UNBOUNDED if truth.bounds is None else truth.bounds
    attributes = np.array([value for _, value in sorted(truth.attributes.items())], "U24")
    return dict(zip(PLACE, (route, np.array(truth.closed), bounds, attributes), strict=True))


def _last(drive: Arrays, steps: int) -> Arrays:
    """The last steps of a drive."""
    per_frame = {name: drive[name][-steps - 1 :] for name in ("frames", "poses", "telemetry", "others")}
    per_step = {name: drive[name][-steps:] for name in ("controls", "reward", "ended")}
    return {**per_frame, **per_step, **{name: drive[name] for name in PLACE}}


def _read(sources: Sources, episode: Episode, steps: int) -> Arrays:
    """The last `steps` steps of a stored episode that did not end there."""
    spec, stop = sources.config.spec, len(episode) - 1
    frames, after, agents = slice(stop - steps, stop + 1), slice(stop - steps, stop), episode.agents
    others = np.zeros((steps + 1, 0, PIXELS + 1), np.float32)
    if agents is not None:
        rows = [(agents.at(state), episode.poses[state]) for state in range(frames.start, frames.stop)]
        boxes, ids = agents.boxes, agents.ids
        others = np.stack([_nearest(boxes[at], ids[at], np.zeros(len(ids[at])), pose) for at, pose in rows])
    return from_here({
        "frames": episode.picture[frames], "poses": episode.poses[frames], "others": others,
        "telemetry": np.stack([episode.told(name)[frames] for name in spec.names("telemetry")], 1),
        "controls": episode.controls[after],
        "reward": sum((episode.earned(name)[after] for name in spec.learned()), np.zeros(steps, np.float32)),
        "ended": episode.terminated[after], **_place(episode),
    })  # fmt: skip
