"""Filmed drives become recordings: videos or scans with tables of controls, folders of pictures with `controls.json`.

Pictures and controls are all that is needed; positions give poses and the driven path as the route, a logged reward is
what the world's reward is learned from, and what else was logged is telemetry. Positions far from zero, as map
projections have them, are told from an origin near the episode, which `start["origin"]` names. The shards hold without
loss what the source shows: a video has lost detail when it was compressed, and that stays lost.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from drivedit.config import Modality, Quantity, RewardTerm, WorldSpec
from drivedit.data.exchange.control_table import LARGEST, NEEDED, ControlTable
from drivedit.data.exchange.pictures import FITS, PictureDrive, find_drives, read_picture, share
from drivedit.data.exchange.scans import BEAMS, ScanDrive, view_of
from drivedit.data.exchange.scans import modality as scan_modality
from drivedit.data.exchange.scans import say as say_scans
from drivedit.data.exchange.table_checks import check_clock, check_units
from drivedit.data.exchange.video import SAME, Video
from drivedit.data.recordings import Episode, batches, shard_path, write_shard
from drivedit.utils import code_fingerprint, from_origin, origin_of, work_folder

log = logging.getLogger(__name__)
SIDE = 16  # sides of pictures are multiples of it: 8 pixels make a latent cell, 2 x 2 cells a token
SHORT = 64  # pixels of the shorter side, unless a size is asked for
TERM = "progress"  # the reward term that is learned
SPEED = Quantity("speed", -LARGEST, LARGEST, 20.0, "m/s")
PICTURES_FPS = 10.0  # rate at which pictures were taken, unless it is told


@dataclass(frozen=True)
class Plan:
    """How drives are read.

    Attributes:
        fps: Frames per second of the recording; None: every frame of a video (of the slowest one, where they differ).
            Of pictures, the rate at which they were taken; None: 10.
        size: Height and width of its pictures; None: the shorter side has 64 pixels (or fewer, where the film has),
            and the aspect is that of the film as nearly as multiples of 16 allow.
        fit: How pictures of another aspect are brought to the size: crop, letterbox or stretch.
        episode_steps: Steps of an episode, about.
        offset: Time in the table of controls at the first frame of the video, in seconds.
        controls: Names of further columns of the tables that are controls, after steering and throttle.
        beams: Elevation of a LiDAR's highest and lowest beam, degrees.
    """

    fps: float | None = None
    size: tuple[int, int] | None = None
    fit: str = "crop"
    episode_steps: int = 300
    offset: float = 0.0
    controls: tuple[str, ...] = ()
    beams: tuple[float, float] = BEAMS

    def __post_init__(self) -> None:
        if (self.fps is not None and not self.fps > 0) or self.episode_steps < 2:
            raise ValueError(
                f"fps must be positive and episode_steps at least 2, got fps={self.fps}, "
                f"episode_steps={self.episode_steps}"
            )
        if self.size and any(side < SIDE or side % SIDE for side in self.size):
            raise ValueError(f"both sides of size must be multiples of {SIDE}, got {self.size[0]} x {self.size[1]}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def size_of(self, height: int, aspect: float) -> tuple[int, int]:
        """Height and width for films of some height in pixels and some aspect (width over height)."""
        if self.size:
            return self.size
        short = min(SHORT, int(min(height, height * aspect)) // SIDE * SIDE)
        if not short:
            raise ValueError(
                f"pictures must be {SIDE} pixels high and wide at least, got {height} x {height * aspect:g}"
            )
        long = max(1, round(short * max(aspect, 1 / aspect) / SIDE)) * SIDE
        return (short, long) if aspect >= 1 else (long, short)


def import_films(
    out: Path, video: Sequence[Path] = (), controls: Sequence[Path] = (), control: tuple[str, ...] = (),
    images: Path | None = None, points: Path | None = None, fps: float | None = None,
    size: tuple[int, int] | None = None, fit: Literal["crop", "letterbox", "stretch"] = "crop",
    episode_steps: int = 300, offset: float = 0.0, beams: tuple[float, float] = BEAMS, held_out: bool = False,
) -> None:  # fmt: skip
    """Writes filmed drives as a recording: --video and --controls, --points and --controls, or --images.

    A table is a CSV file with the columns time (s), steering and throttle in [-1, 1] (+1: right, -1: full brake), and
    where known speed (m/s), x and y (m), yaw (rad), reward (earned since the line before), terminated (1 where a drive
    ended) and others, which become telemetry. Pictures lie in <images>/<drive>/*.png with controls.json beside them.
    What is done to the film is said in one line.

    Args:
        out: Folder of the recording, new or empty.
        video: Video files; what their compression lost stays lost.
        controls: CSV files, one per video in the same order.
        control: Further columns of the tables that are controls, after steering and throttle.
        images: Folder of drives as pictures, instead of videos.
        points: Folder of a LiDAR's scans (.bin of KITTI, .npy, .ply; x ahead, y left, z up), instead of a video; they
            become range images. times.txt in it or beside it has a line of seconds for each.
        fps: Frames per second of the recording, at most the film's; 10 to 20 are enough to drive by; of pictures and
            scans, the rate at which they were taken; None: every frame of the film, times.txt of scans, or 10.
        size: Height and width of the recording's pictures, multiples of 16; None: 64 for the shorter side, the longer
            one by the film's aspect, so 64 x 112 for a film of 16:9; 32 x 256 for scans.
        fit: What happens to a film of another aspect than the size: its edges are cut off, it gets black bars, or it is
            distorted.
        episode_steps: Steps of an episode, about.
        offset: Time in the table at the first frame, in seconds.
        beams: Elevation of the LiDAR's highest and lowest beam, degrees.
        held_out: Whether it is kept for judging; trainers refuse such a folder.
    """
    plan = Plan(fps, size, fit, episode_steps, offset, control, beams)
    import_drives(out, video, controls, images, plan, held_out, points=points)


def import_drives(
    out: str | Path,
    videos: Sequence[str | Path] = (),
    controls: Sequence[str | Path] = (),
    images: str | Path | None = None,
    plan: Plan | None = None,
    held_out: bool = False,
    progress: bool = True,
    points: str | Path | None = None,
) -> list[Path]:
    """Writes filmed drives as a recording folder; nothing is left there if it fails.

    Args:
        out: The folder to be; it must not exist or be empty.
        videos: Video files.
        controls: Tables of controls (see `drivedit.data.exchange.control_table`), one per video.
        images: Instead of videos, a folder of drives as pictures (see `drivedit.data.exchange.pictures`).
        plan: Rate, size and cutting; None: its defaults.
        held_out: Mark the recording as kept for judging; trainers refuse it.
        progress: Show a progress bar.
        points: Instead of videos, a folder of scans (see `drivedit.data.exchange.scans`); one table belongs to it.

    Returns:
        The paths of the shards.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: A source is damaged or does not fit, or `out` holds something.
    """
    out, plan = Path(out), plan or Plan()
    _check_sources(out, videos, controls, images, points, plan)
    with work_folder(out) as work:
        if images is not None:
            fps = plan.fps or PICTURES_FPS
            episodes = _of_pictures(find_drives(images), plan, fps, progress)
        elif points is not None:
            scans = ScanDrive(points, plan.fps)
            fps, table = scans.rate, ControlTable(controls[0], 1 / scans.rate, plan.controls)
            check_clock(scans, table, plan.offset, fps)
            check_units(table)
            episodes = _of_scans(scans, table, plan, progress)
        else:
            films = [Video(path) for path in videos]
            fps = plan.fps or min(film.rate for film in films)
            tables = [ControlTable(path, 1 / fps, plan.controls) for path in controls]
            pairs = list(zip(films, tables, strict=True))
            for film, table in pairs:
                check_clock(film, table, plan.offset, fps)
                check_units(table)
            log.info("videos are compressed with loss: what they no longer show, no world can learn")
            episodes = _of_videos(pairs, plan, fps, progress)
        made_from = {"code": code_fingerprint("drivedit.data.exchange"), "recipe": asdict(plan)}
        attrs = {"held_out": held_out, "made_from": made_from}
        names, steps, count = [], 0, 0
        for number, batch in enumerate(batches(episodes)):
            names.append(shard_path("", number).name)
            write_shard(work / names[-1], batch, attrs)
            steps, count = steps + sum(map(len, batch)), count + len(batch)
        if not names:
            raise ValueError("no drive has two frames in a row")
        os.replace(work, out)
    log.info("%d episodes, %d steps (%.1f minutes at %.4g frames/s) in %s", count, steps, steps / fps / 60, fps, out)
    return [out / name for name in names]


def _check_sources(
    out: Path, videos: Sequence[str | Path], controls: Sequence[str | Path], images: str | Path | None,
    points: str | Path | None, plan: Plan,
) -> None:  # fmt: skip
    """ValueError unless there is one kind of source, with its controls, and an empty place for what it becomes."""
    kinds = bool(videos) + (images is not None) + (points is not None)
    if kinds != 1 or len(videos) + (points is not None) != len(controls):
        folders = [f"{'a' if each is not None else 'no'} folder of" for each in (points, images)]
        raise ValueError(
            "give videos and one table of controls for each, a folder of scans and one table, or a folder of pictures, "
            f"got {len(videos)} videos, {len(controls)} tables, {folders[0]} scans and {folders[1]} pictures"
        )
    if plan.controls and images is not None:
        raise ValueError(f"pictures have steering and throttle alone, got the further controls {list(plan.controls)}")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something already; choose another folder, or empty it")


def _of_videos(pairs: list[tuple[Video, ControlTable]], plan: Plan, fps: float, progress: bool) -> Iterator[Episode]:
    """Episodes of videos with their tables."""
    size = plan.size_of(pairs[0][0].size[0], pairs[0][0].aspect)
    spec = _spec(Modality((*size, 3)), fps, plan.controls, [table for _, table in pairs])
    for video, table in pairs:
        _say(video, table, plan, fps, size)
        total = round(video.seconds * fps) + 1
        frames = video.frames(fps, size, plan.fit)
        shown = tqdm(frames, video.path.name, total, unit=" frame", disable=not progress)
        yield from _driven(_known(shown, table, plan.offset), spec, table, plan, video.path.name)


def _of_scans(scans: ScanDrive, table: ControlTable, plan: Plan, progress: bool) -> Iterator[Episode]:
    """Episodes of a folder of scans with its table; they keep the times at which they were taken."""
    view = view_of(plan.size, plan.beams)
    say_scans(scans, view, table)
    spec = _spec(scan_modality(view), scans.rate, plan.controls, [table])
    spec = replace(spec, domain="scans", observations={"range": spec.observations["camera"]}, any_dt=True)
    yield from _driven(_known(scans.frames(view, progress), table, plan.offset), spec, table, plan, scans.path.name)


def _driven(
    frames: Iterable[tuple[int, float, np.ndarray]], spec: WorldSpec, table: ControlTable, plan: Plan, source: str
) -> Iterator[Episode]:
    """Episodes of the frames of a drive, with what a table knows of their times."""
    for seconds, pictures in _cut(frames, plan.episode_steps):
        times = plan.offset + seconds
        poses, route = table.poses(times), table.route(times[0], times[-1])
        start = {"source": source, "second": float(seconds[0])}
        origin = origin_of(poses, route)  # of a map projection, far from zero
        if origin.any():
            start["origin"] = origin.tolist()
        reward, steps = table.reward(times), len(times) - 1
        yield Episode(
            spec=spec,
            observations={spec.picture: pictures},
            controls=table.controls(times),
            reward=reward,
            rewards={TERM: reward.copy()},  # all of it is learned
            terminated=np.arange(steps) == (steps - 1 if table.ends(times[-1], spec.dt) else -1),
            telemetry=table.telemetry(times),
            poses=from_origin(poses, origin),
            times=seconds - seconds[0],
            route=from_origin(route, origin).astype(np.float32),
            closed=False,
            driver="filmed",
            start=start,
        )


def _spec(shown: Modality, fps: float, controls: Sequence[str] = (), tables: Sequence[ControlTable] = ()) -> WorldSpec:
    """What filmed drives are about; the unit of a value with a name of its own is its root mean square."""
    telemetry = {}
    for name in dict.fromkeys(name for table in tables for name in table.told):
        values = np.concatenate([table.columns[name] for table in tables if name in table.told])
        unit = float(np.sqrt(np.square(values).mean())) or 1.0
        telemetry[name] = SPEED if name == SPEED.name else Quantity(name, -LARGEST, LARGEST, unit)
    return WorldSpec(
        domain="film",
        observations={"camera": shown},
        controls=[Quantity(name) for name in (*NEEDED[1:], *controls)],
        telemetry=list(telemetry.values()),
        rewards={TERM: RewardTerm("learned")},
        conditions=["route"],
        dt=1 / fps,
    )


def _say(video: Video, table: ControlTable, plan: Plan, fps: float, size: tuple[int, int]) -> None:
    """Says what is done to a film, and what is left out of it."""
    every = abs(fps - video.rate) <= SAME * video.rate
    rows, columns = (100 * kept for kept in share(video.aspect, size))
    fits = {
        "crop": f"crop keeps {rows:.0f}% of the height, {columns:.0f}% of the width",
        "letterbox": f"all of the picture between black bars of {100 - min(rows, columns):.0f}%",
        "stretch": f"all of the picture, {rows / columns:.2f} times as high for its width",
    }
    log.info(
        "%s: %d x %d (height x width) at %.4g frames/s for %.1f s -> %d x %d, %s; %s",
        video.path, *video.size, video.rate, video.seconds, *size,
        "every frame" if every else f"{fps:.4g} frames/s (of {video.rate:.4g})", fits[plan.fit],
    )  # fmt: skip
    if table.told:
        log.info("%s: telemetry %s", table.path, ", ".join(table.told))
    seconds, pauses = table.left_out(plan.offset, plan.offset + video.seconds)
    for path, what, missing in ((video.path, "frames", video.left_out(fps)), (table.path, "lines", seconds)):
        if missing:
            log.warning("%s has no %s for %.2f s in all: the drive is cut there", path, what, missing)
    if pauses:
        log.warning("where a table holds lines only when something changes, add lines in between to keep the film")


def _known(
    frames: Iterable[tuple[int, float, np.ndarray]], table: ControlTable, offset: float
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Leaves out what the table knows nothing of; numbers that follow each other belong together."""
    jumps, before = 0, math.inf
    for number, second, picture in frames:
        time = offset + second
        if not table.within_hole(time):
            jumps += table.cut_between(before, time)
            before = time
            yield number + jumps, second, picture


def _of_pictures(drives: list[PictureDrive], plan: Plan, fps: float, progress: bool) -> Iterator[Episode]:
    """Episodes of folders of pictures."""
    height, width = read_picture(drives[0].frames[0]).shape[:2]
    size = plan.size_of(height, width / height)
    log.info(
        "%d drives of pictures, %d x %d (height x width), taken as %.4g frames/s -> %d x %d, %s",
        len(drives), height, width, fps, *size, plan.fit,
    )  # fmt: skip
    spec = _spec(Modality((*size, 3)), fps)
    for drive in drives:
        controls = drive.controls()[:, :2]
        if np.abs(controls).max() > 1:
            raise ValueError(
                f"controls of {drive.folder} must lie in [-1, 1], the largest is {np.abs(controls).max():g}"
            )
        bar = tqdm(drive.frames, drive.name, unit=" frame", disable=not progress)
        frames = ((number, number / fps, read_picture(path, size, plan.fit)) for number, path in enumerate(bar))
        for seconds, pictures in _cut(frames, plan.episode_steps):
            first = round(seconds[0] * fps)
            start = {"source": drive.name, "second": float(seconds[0])}
            yield Episode(
                spec=spec,
                observations={spec.picture: pictures},
                controls=controls[first : first + len(pictures) - 1],
                closed=False,
                driver="filmed",
                start=start,
            )


def _cut(frames: Iterable[tuple[int, float, np.ndarray]], steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts numbered frames into runs without holes, of about `steps` steps, half as many at least where possible.

    Yields:
        Seconds float64 `[n + 1 >= 2]`, and uint8 `[n + 1, H, W, 3]`.
    """
    run: list[tuple[float, np.ndarray]] = []
    last = 0
    for number, second, picture in frames:
        if run and number != last + 1:
            if len(run) > 1:
                yield _stacked(run)
            run = []
        last = number
        run.append((second, picture))
        if len(run) == (steps + 1) + (steps + 1) // 2:
            yield _stacked(run[: steps + 1])
            run = run[steps + 1 :]
    if len(run) > 1:
        yield _stacked(run)


def _stacked(run: list[tuple[float, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([second for second, _ in run]), np.stack([picture for _, picture in run])
