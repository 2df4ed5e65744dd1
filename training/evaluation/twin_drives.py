"""True driving on held-out tracks, recorded on the fly: clips, endings, branches from one state, and long drives.

Legend: N rows, c context controls (c + 1 context frames), T further steps, K branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivedit.evaluation.metrics.drift import sampled
from drivedit.evaluation.metrics.pictures import road_share
from drivedit.evaluation.sources import FIRST_HELD_OUT_SEED, Arrays, Sources, load_object, unpad
from drivedit.utils import UNBOUNDED
from drivedit.utils.episodes import Episode
from drivedit.utils.shards import read_shard

CONTEXT = 8  # controls of a context
STEER_FRAMES, SPEED_FRAMES = 15, 20
STEERS = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)  # full left, straight, full right
THROTTLES = np.array([[0.0, 1.0], [0.0, 0.3], [0.0, -1.0]], np.float32)
KEPT = ("frames", "controls", "poses", "route", "bounds")  # of a context
WHEELS = 3  # place of the share of wheels on the road in the telemetry
CLIPS, ENDINGS, BRANCHES, DRIVES = range(4)  # random streams
FIRST_SEED = {stream: FIRST_HELD_OUT_SEED + 10_000 * stream for stream in range(4)}  # first track of each


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


def record_clip(job: Job) -> Arrays:
    """A drive of exactly `steps` steps, by a good driver or by a wild one."""
    rng = job.sources.rng(CLIPS, job.index)
    twin = job.sources.make_twin()
    while True:
        driver, start = _draw(job.sources, rng, ("clean",) if job.good else ("mixed", "wild"))
        before = int(rng.integers(0, 40))
        drive = _drive(twin, FIRST_SEED[CLIPS] + job.index, start, driver, before + job.steps)
        if len(drive["controls"]) == before + job.steps and not drive["ended"].any():
            return {**_last(drive, job.steps), "good": np.array(job.good)}


def record_ending(job: Job) -> Arrays:
    """The last `steps` steps of a drive out of the playfield."""
    rng = job.sources.rng(ENDINGS, job.index)
    twin = job.sources.make_twin()
    while True:
        driver, start = _draw(job.sources, rng, ("run_away",))
        drive = _drive(twin, FIRST_SEED[ENDINGS] + job.index, start, driver, 500)
        if len(drive["controls"]) >= job.steps and drive["ended"][-1]:
            return _last(drive, job.steps)


def record_branches(job: Job) -> Arrays:
    """A state on the road at speed, and what the simulator makes of `STEERS` and `THROTTLES` from it.

    Returns:
        frames `[c + 1, ...]`, controls, poses, route and bounds of the context; `steer_frames` `[K, T + 1, 64, 64, 3]`,
        `steer_poses` `[K, T + 1, 3]` and `speed_after` `[K]`.
    """
    rng = job.sources.rng(BRANCHES, job.index)
    twin = job.sources.make_twin()
    while True:
        driver, start = _draw(job.sources, rng, ("clean",))
        start["speed"] = max(start["speed"], 20.0)
        seed = FIRST_SEED[BRANCHES] + job.index
        drive = _drive(twin, seed, start, driver, job.steps)
        now = twin.telemetry
        if now["wheels_on_road"] == 1.0 and 15.0 < now["speed"] < 70.0 and abs(now["heading_error"]) < 0.3:
            break
    state = twin.get_state()
    fork = job.sources.make_twin()
    frames, poses, speeds = [], [], []
    for controls in STEERS:
        fork.set_state(state)
        seen, where = [drive["frames"][-1]], [fork.pose]
        for _ in range(STEER_FRAMES):
            seen.append(fork.step(controls)[0])
            where.append(fork.pose)
        frames.append(np.stack(seen))
        poses.append(np.stack(where))
    for controls in THROTTLES:
        fork.set_state(state)
        for _ in range(SPEED_FRAMES):
            fork.step(controls)
        speeds.append(fork.telemetry["speed"])
    context = _last(drive, CONTEXT)
    branches = {"steer_frames": np.stack(frames), "steer_poses": np.stack(poses), "speed_after": np.array(speeds)}
    return {**{name: context[name] for name in KEPT}, **branches}


def record_drive(job: Job) -> Arrays:
    """A drive of `steps` steps by the driver that sees only pictures, from a start on the road.

    Returns:
        frames, controls, poses, route and bounds of the context; `drive_` and the name of each field of
        `closed_loop.Drives`.
    """
    rng = job.sources.rng(DRIVES, job.index)
    options = {"track_position": float(rng.random()), "speed": float(rng.uniform(20.0, 40.0))}
    twin, driver = job.sources.make_twin(), job.sources.make_driver()
    frame, info = twin.reset(seed=FIRST_SEED[DRIVES] + job.index, options=options)
    for _ in range(CONTEXT + 4):
        frame, *_ = twin.step(driver(frame))
    context = twin.scene(CONTEXT)
    driver.reset()
    kept: dict[str, list[Any]] = {name: [] for name in ("actions", "poses", "speed", "wheels", "road", "ended")}
    over, seen, wanted = False, [], set(sampled(job.steps).tolist())
    for step in range(job.steps):
        action = np.asarray(driver(frame), np.float32)
        if not over:
            frame, _, over, _, info = twin.step(action)
        told = info["telemetry"]
        values = (action, twin.pose, told["speed"], told["wheels_on_road"], road_share(frame), over)
        for name, value in zip(kept, values, strict=True):
            kept[name].append(value)
        if step in wanted:
            seen.append(frame)
    drive = {f"drive_{name}": np.array(values) for name, values in kept.items()}
    drive["drive_seen"] = np.stack(seen) if seen else np.zeros((0, *frame.shape), np.uint8)
    return {**{name: context[name] for name in KEPT}, **drive}


def read_recordings(folder: Path, clips: int, steps: int) -> list[Arrays]:
    """Clips from a folder that `python -m drivedit.data collect --held-out` wrote, half well driven, half wild.

    Raises:
        FileNotFoundError: There is no shard.
        ValueError: The recording is damaged, not held out, or has too few drives that are long enough.
    """
    shards = sorted(folder.glob("shard-*.h5"))
    if not shards:
        raise FileNotFoundError(f"{folder} holds no shard-*.h5; record with `python -m drivedit.data collect`")
    found: dict[bool, list[Arrays]] = {True: [], False: []}
    wanted = {True: clips - clips // 2, False: clips // 2}
    for path in shards:
        for episode in read_shard(path):
            if episode.seed < FIRST_HELD_OUT_SEED:
                raise ValueError(f"{path} has the track seed {episode.seed}; held-out ones start at "
                                 f"{FIRST_HELD_OUT_SEED}, record with --held-out")  # fmt: skip
            good = episode.driver == "clean"
            if len(found[good]) < wanted[good] and len(episode) > steps:
                found[good].append({**_read(episode, steps), "good": np.array(good)})
    if any(len(found[good]) < wanted[good] for good in wanted):
        raise ValueError(f"{folder} has {len(found[True])} well driven and {len(found[False])} other drives of more "
                         f"than {steps} steps; {wanted[True]} and {wanted[False]} are needed")  # fmt: skip
    return [clip for pair in zip(found[True], found[False], strict=False) for clip in pair] + found[True][clips // 2 :]


def scene(arrays: Arrays, row: int, now: int = CONTEXT) -> dict[str, Any]:
    """The scene of a recorded row at frame `now`."""
    context = slice(now - CONTEXT, now + 1)
    return {
        "frames": arrays["frames"][row, context],
        "controls": arrays["controls"][row, now - CONTEXT : now],
        "poses": arrays["poses"][row, context].astype(np.float32),
        "route": unpad(arrays["route"][row]),
        "closed": True,
        "bounds": arrays["bounds"][row],
    }


def scenes(arrays: Arrays) -> list[dict[str, Any]]:
    """The first scene of every recorded row."""
    return [scene(arrays, row) for row in range(len(arrays["frames"]))]


def _draw(sources: Sources, rng: np.random.Generator, plans: tuple[str, ...]) -> tuple[Any, dict[str, float]]:
    """Draws drivers until one has a plan that is wanted."""
    make = load_object(sources.recorder)
    for _ in range(5000):
        driver, start = make(rng)
        if driver.plan in plans:
            return driver, start
    raise ValueError(f"{sources.recorder} makes no driver whose plan is one of {plans}")


def _drive(twin: Any, seed: int, start: dict[str, float], driver: Any, steps: int) -> Arrays:
    """Drives until the end or for `steps` steps."""
    frame, info = twin.reset(seed=seed, options=start)
    seen, where, told = [frame], [twin.pose], [list(info["telemetry"].values())]
    controls, progress, ended = [], [], []
    for _ in range(steps):
        action = driver.act(twin.pose, info["telemetry"], twin.centre_line)
        frame, _, terminated, _, info = twin.step(action)
        seen.append(frame)
        where.append(twin.pose)
        told.append(list(info["telemetry"].values()))
        controls.append(action)
        progress.append(info["reward_terms"]["progress"])
        ended.append(terminated)
        if terminated:
            break
    return {
        "frames": np.stack(seen), "poses": np.stack(where), "telemetry": np.array(told, np.float32),
        "controls": np.stack(controls), "progress": np.array(progress, np.float32), "ended": np.array(ended),
        "route": twin.route, "bounds": twin.bounds,
    }  # fmt: skip


def _last(drive: Arrays, steps: int) -> Arrays:
    """The last steps of a drive."""
    per_frame = {name: drive[name][-steps - 1 :] for name in ("frames", "poses", "telemetry")}
    per_step = {name: drive[name][-steps:] for name in ("controls", "progress", "ended")}
    return {**per_frame, **per_step, "route": drive["route"], "bounds": drive["bounds"]}


def _read(episode: Episode, steps: int) -> Arrays:
    """The last `steps` steps of a stored episode that did not end there."""
    stop = len(episode) - 1
    frames, after = slice(stop - steps, stop + 1), slice(stop - steps, stop)
    return {
        "frames": episode.picture[frames], "poses": episode.poses[frames],
        "telemetry": np.stack([values[frames] for values in episode.telemetry.values()], 1),
        "controls": episode.controls[after], "progress": episode.earned("progress")[after],
        "ended": episode.terminated[after],
        "route": episode.route, "bounds": UNBOUNDED if episode.bounds is None else episode.bounds,
    }  # fmt: skip
