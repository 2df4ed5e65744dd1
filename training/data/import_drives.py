"""Filmed drives become recordings: videos with tables of controls, or folders of pictures with `controls.json`.

Pictures and controls are all that is needed; positions give poses and the driven path as the route, a logged speed is
the telemetry. Rewards and endings are not known. The shards hold without loss what the source shows: a video has lost
detail when it was compressed, and that stays lost.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from drivedit.data.pictures import PictureDrive, find_drives, read_picture
from drivedit.data.recordings import TELEMETRY, Episode, batches, shard_path, write_shard
from drivedit.data.video import ControlTable, Video

log = logging.getLogger(__name__)
SIDE = 16  # sides of pictures are multiples of it: 8 pixels make a latent cell, 2 x 2 cells a token


@dataclass(frozen=True)
class Plan:
    """How drives are read.

    Attributes:
        fps: Frames per second of the recording; of pictures, the rate at which they were taken.
        size: Height and width of its pictures.
        episode_steps: Steps of an episode, about.
        offset: Time in the table of controls at the first frame of the video, in seconds.
    """

    fps: float = 10.0
    size: tuple[int, int] = (64, 64)
    episode_steps: int = 300
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.fps > 0 or self.episode_steps < 2:
            raise ValueError(
                f"fps must be positive and episode_steps at least 2, got fps={self.fps}, "
                f"episode_steps={self.episode_steps}"
            )
        if any(side < SIDE or side % SIDE for side in self.size):
            raise ValueError(f"both sides of size must be multiples of {SIDE}, got {self.size[0]} x {self.size[1]}")


def import_drives(
    out: str | Path,
    videos: Sequence[str | Path] = (),
    controls: Sequence[str | Path] = (),
    images: str | Path | None = None,
    plan: Plan | None = None,
    held_out: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Writes filmed drives as a recording folder; nothing is left there if it fails.

    Args:
        out: The folder to be; it must not exist or be empty.
        videos: Video files.
        controls: Tables of controls (see `drivedit.data.video`), one per video.
        images: Instead of videos, a folder of drives as pictures (see `drivedit.data.pictures`).
        plan: Rate, size and cutting; None: its defaults.
        held_out: Mark the recording as kept for judging; trainers refuse it.
        progress: Show a progress bar.

    Returns:
        The paths of the shards.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: A source is damaged or does not fit, or `out` holds something.
    """
    out, plan = Path(out), plan or Plan()
    if bool(videos) == (images is not None) or len(videos) != len(controls):
        raise ValueError(
            "give videos and one table of controls for each, or a folder of pictures, got "
            f"{len(videos)} videos, {len(controls)} tables and {'a' if images is not None else 'no'} folder of pictures"
        )
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something already; choose another folder, or empty it")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    attrs = {"held_out": held_out, "env": "", "fps": plan.fps, "recipe": "python -m drivedit.data import"}
    try:
        if images is not None:
            episodes = _of_pictures(find_drives(images), plan, progress)
        else:
            log.info("videos are compressed with loss: what they no longer show, no world can learn")
            pairs = [(Video(v), ControlTable(c)) for v, c in zip(videos, controls, strict=True)]
            episodes = _of_videos(pairs, plan, progress)
        names, steps, count = [], 0, 0
        for number, batch in enumerate(batches(episodes)):
            names.append(shard_path("", number).name)
            write_shard(work / names[-1], batch, attrs)
            steps, count = steps + sum(map(len, batch)), count + len(batch)
        if not names:
            raise ValueError("no drive has two frames in a row")
        work.chmod(0o755)
        os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    log.info("%d episodes, %d steps (%.1f minutes) in %s", count, steps, steps / plan.fps / 60, out)
    return [out / name for name in names]


def _of_videos(pairs: list[tuple[Video, ControlTable]], plan: Plan, progress: bool) -> Iterator[Episode]:
    """Episodes of videos with their tables."""
    for video, table in pairs:
        total = round(video.count / video.rate * plan.fps) or None
        frames = tqdm(video.frames(plan.fps, plan.size), video.path.name, total, unit="frame", disable=not progress)
        for first, pictures in _cut(frames, plan.episode_steps):
            seconds = (first + np.arange(len(pictures))) / plan.fps
            times, slack = plan.offset + seconds, 1 / plan.fps
            if not table.covers(times[0] + slack, times[-1] - slack):
                raise ValueError(
                    f"{table.path} covers {table.time[0]:.2f} to {table.time[-1]:.2f} s, but {video.path} shows "
                    f"{times[0]:.2f} to {times[-1]:.2f} s of that clock; shift the clock (offset) or cut the video"
                )
            telemetry = np.full((len(times), len(TELEMETRY)), np.nan, np.float32)
            telemetry[:, TELEMETRY.index("speed")] = table.speed(times)
            yield _episode(
                pictures,
                table.controls(times),
                {"source": video.path.name, "second": float(seconds[0])},
                telemetry=telemetry,
                poses=table.poses(times),
                route=table.route(times[0], times[-1]),
            )


def _of_pictures(drives: list[PictureDrive], plan: Plan, progress: bool) -> Iterator[Episode]:
    """Episodes of folders of pictures."""
    for drive in drives:
        controls = drive.controls()[:, :2]
        if np.abs(controls).max() > 1:
            raise ValueError(
                f"controls of {drive.folder} must lie in [-1, 1], the largest is {np.abs(controls).max():g}"
            )
        bar = tqdm(drive.frames, drive.name, unit="frame", disable=not progress)
        frames = ((number, read_picture(path, plan.size)) for number, path in enumerate(bar))
        for first, pictures in _cut(frames, plan.episode_steps):
            start = {"source": drive.name, "second": first / plan.fps}
            yield _episode(pictures, controls[first : first + len(pictures) - 1], start)


def _cut(frames: Iterable[tuple[int, np.ndarray]], steps: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts numbered frames into runs without holes, of about `steps` steps, half as many at least where possible.

    Yields:
        Number of the first frame, and uint8 `[n + 1 >= 2, H, W, 3]`.
    """
    run: list[np.ndarray] = []
    first = 0
    for number, picture in frames:
        if run and number != first + len(run):
            if len(run) > 1:
                yield first, np.stack(run)
            run = []
        if not run:
            first = number
        run.append(picture)
        if len(run) == (steps + 1) + (steps + 1) // 2:
            yield first, np.stack(run[: steps + 1])
            first, run = first + steps + 1, run[steps + 1 :]
    if len(run) > 1:
        yield first, np.stack(run)


def _episode(
    frames: np.ndarray,
    controls: np.ndarray,
    start: dict[str, str | float],
    telemetry: np.ndarray | None = None,
    poses: np.ndarray | None = None,
    route: np.ndarray | None = None,
) -> Episode:
    """An episode that knows what was given, and nothing else."""
    steps = len(controls)
    return Episode(
        frames=frames,
        controls=controls,
        reward=np.full(steps, np.nan, np.float32),
        progress=np.full(steps, np.nan, np.float32),
        terminated=np.zeros(steps, bool),
        telemetry=np.full((steps + 1, len(TELEMETRY)), np.nan, np.float32) if telemetry is None else telemetry,
        poses=np.full((steps + 1, 3), np.nan) if poses is None else poses,
        route=np.zeros((0, 2), np.float32) if route is None else route,
        driver="filmed",
        start=dict(start),
        closed=False,
    )
