"""True driving on held-out tracks, recorded on the fly: clips, endings, branches from one state, and long drives.

Legend: N rows, c context controls (c + 1 context frames), T further steps, K branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivedit.evaluation.metrics.drift import sampled
from drivedit.evaluation.sources import Arrays, Sources, restarted, unpad
from drivedit.models import Scene, check_scene
from drivedit.utils import UNBOUNDED, Driver, Simulator, Truth, load_object
from drivedit.utils.episodes import Episode
from drivedit.utils.shards import read_shard

CONTEXT = 8  # controls of a context
STEER_FRAMES, SPEED_FRAMES = 15, 20
PLACE = ("route", "closed", "bounds")  # what stays as it is
KEPT = ("frames", "controls", "poses", *PLACE)  # of a context
CLIPS, ENDINGS, BRANCHES, DRIVES = range(4)  # random streams
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
        driver, start = _draw(job.sources, rng, probes.good if job.good else probes.wild)
        before = int(rng.integers(0, 40))
        drive = _drive(job.sources, twin, job.seed(CLIPS), start, driver, before + job.steps)
        if len(drive["controls"]) == before + job.steps and not drive["ended"].any():
            return {**_last(drive, job.steps), "good": np.array(job.good)}


def record_ending(job: Job) -> Arrays:
    """The last `steps` steps of a drive to an ending."""
    rng = job.sources.rng(ENDINGS, job.index)
    twin = job.sources.make_twin()
    while True:
        driver, start = _draw(job.sources, rng, job.sources.probes.leaving)
        drive = _drive(job.sources, twin, job.seed(ENDINGS), start, driver, 500)
        if len(drive["controls"]) >= job.steps and drive["ended"][-1]:
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
        driver, start = _draw(sources, rng, probes.good)
        drive = _drive(sources, twin, job.seed(BRANCHES), probes.at_speed(start), driver, job.steps)
        if probes.can_branch(twin.truth().telemetry):
            break
    state = twin.get_state()
    fork = sources.make_twin()
    frames, poses, speeds = [], [], []
    for controls in probes.steers:
        fork.set_state(state)
        seen, where = [drive["frames"][-1]], [fork.truth().pose]
        for _ in range(STEER_FRAMES):
            seen.append(_picture(sources, fork.step(controls)[0]))
            where.append(fork.truth().pose)
        frames.append(np.stack(seen))
        poses.append(np.array(where))
    for controls in probes.throttles:
        fork.set_state(state)
        for _ in range(SPEED_FRAMES):
            fork.step(controls)
        speeds.append(fork.truth().telemetry[probes.speed])
    context = _last(drive, CONTEXT)
    branches = {"steer_frames": np.stack(frames), "steer_poses": np.stack(poses), "speed_after": np.array(speeds)}
    return {**{name: context[name] for name in KEPT}, **branches}


def record_drive(job: Job) -> Arrays:
    """A drive of `steps` steps by the driver that sees only pictures, from a start that policies are judged from.

    Returns:
        frames, controls, poses, route and bounds of the context; `drive_` and the name of each field of
        `closed_loop.Drives`.
    """
    sources, probes, rng = job.sources, job.sources.probes, job.sources.rng(DRIVES, job.index)
    options = {name: float(rng.uniform(*limits)) for name, limits in sources.config.judging_starts.items()}
    twin, driver = sources.make_twin(), sources.make_driver()
    frame = _picture(sources, twin.reset(seed=job.seed(DRIVES), options=options)[0])
    for _ in range(CONTEXT + 4):
        frame = _picture(sources, twin.step(driver(frame))[0])
    context = check_scene(twin.scene(CONTEXT), sources.config.spec)
    restarted(driver)
    kept: dict[str, list[Any]] = {name: [] for name in ("actions", "poses", "speed", "told_road", "road", "ended")}
    over, truth, seen, wanted = False, twin.truth(), [], set(sampled(job.steps).tolist())
    for step in range(job.steps):
        action = np.asarray(driver(frame), np.float32)
        if not over:
            observation, _, over, _, _ = twin.step(action)
            frame, truth = _picture(sources, observation), twin.truth()
        told = truth.telemetry
        values = (action, truth.pose, told[probes.speed], told[probes.road], probes.road_share(frame), over)
        for name, value in zip(kept, values, strict=True):
            kept[name].append(value)
        if step in wanted:
            seen.append(frame)
    drive = {f"drive_{name}": np.array(values) for name, values in kept.items()}
    drive["drive_seen"] = np.stack(seen) if seen else np.zeros((0, *frame.shape), np.uint8)
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


def scene(arrays: Arrays, row: int, now: int = CONTEXT) -> dict[str, Any]:
    """The scene of a recorded row at frame `now`, as a mapping that `check_scene` takes."""
    context, route = slice(now - CONTEXT, now + 1), unpad(arrays["route"][row])
    return {
        "frames": arrays["frames"][row, context],
        "controls": arrays["controls"][row, now - CONTEXT : now],
        "poses": arrays["poses"][row, context].astype(np.float32),
        "route": route if len(route) else None,
        "closed": bool(arrays["closed"][row]),
        "bounds": arrays["bounds"][row],
    }


def scenes(arrays: Arrays) -> list[dict[str, Any]]:
    """The first scene of every recorded row."""
    return [scene(arrays, row) for row in range(len(arrays["frames"]))]


def _draw(sources: Sources, rng: np.random.Generator, plans: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Draws drivers until one has a plan that is wanted."""
    make = load_object(sources.config.drivers)
    for _ in range(5000):
        driver, start = make(rng)
        if driver.plan in plans:
            return driver, start
    raise ValueError(f"{sources.config.drivers} makes no driver whose plan is one of {plans}")


def _drive(sources: Sources, twin: Simulator, seed: int, start: dict[str, Any], driver: Driver, steps: int) -> Arrays:
    """Drives until the end or for `steps` steps."""
    learned = sources.config.spec.learned()
    observation, _ = twin.reset(seed=seed, options=start)
    seen, true = [_picture(sources, observation)], [twin.truth()]
    controls, rewards, ended = [], [], []
    for _ in range(steps):
        action = driver.act(true[-1], observation)
        observation, _, terminated, _, info = twin.step(action)
        seen.append(_picture(sources, observation))
        true.append(twin.truth())
        controls.append(action)
        rewards.append(sum(info["reward_terms"][name] for name in learned))
        ended.append(terminated)
        if terminated:
            break
    names = sources.config.spec.names("telemetry")
    return {
        "frames": np.stack(seen), "poses": np.array([truth.pose for truth in true]),
        "telemetry": np.array([[truth.telemetry[name] for name in names] for truth in true], np.float32),
        "controls": np.stack(controls), "reward": np.array(rewards, np.float32), "ended": np.array(ended),
        **_place(true[0]),
    }  # fmt: skip


def _picture(sources: Sources, observation: Any) -> np.ndarray:
    """What people see of an observation."""
    return observation[sources.config.spec.picture] if isinstance(observation, dict) else observation


def _place(truth: Truth | Episode | Scene) -> Arrays:
    """Route and field of a drive."""
    route = np.zeros((0, 2), np.float32) if truth.route is None else truth.route
    bounds = UNBOUNDED if truth.bounds is None else truth.bounds
    return dict(zip(PLACE, (route, np.array(truth.closed), bounds), strict=True))


def _last(drive: Arrays, steps: int) -> Arrays:
    """The last steps of a drive."""
    per_frame = {name: drive[name][-steps - 1 :] for name in ("frames", "poses", "telemetry")}
    per_step = {name: drive[name][-steps:] for name in ("controls", "reward", "ended")}
    return {**per_frame, **per_step, **{name: drive[name] for name in PLACE}}


def _read(sources: Sources, episode: Episode, steps: int) -> Arrays:
    """The last `steps` steps of a stored episode that did not end there."""
    spec, stop = sources.config.spec, len(episode) - 1
    frames, after = slice(stop - steps, stop + 1), slice(stop - steps, stop)
    return {
        "frames": episode.picture[frames], "poses": episode.poses[frames],
        "telemetry": np.stack([episode.told(name)[frames] for name in spec.names("telemetry")], 1),
        "controls": episode.controls[after],
        "reward": sum((episode.earned(name)[after] for name in spec.learned()), np.zeros(steps, np.float32)),
        "ended": episode.terminated[after], **_place(episode),
    }  # fmt: skip
