"""Recordings as arrays that training draws clips from, unpacked once beside the recordings.

Legend: S states of all drives one after another, T frames of a clip, K width of the route code.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from tqdm import tqdm

from drivedit.config import WorldConfig
from drivedit.data.recordings import TELEMETRY, iter_episodes, read_attrs, shard_paths
from drivedit.utils import (
    UNBOUNDED,
    Route,
    RouteCoder,
    advance_pose,
    code_fingerprint,
    fingerprint,
    motion_between,
)

ARRAYS = ("frames", "control", "progress", "ended", "telemetry", "pose")
MADE_FROM = "made_from.txt"
PER_STATE = ((2,), (), (), (4,), (3,))  # of all arrays but the frames

log = logging.getLogger(__name__)


@dataclass
class Drives:
    """All drives of a recording folder; arrays of S states, memory-mapped; NaN where a recording does not know.

    Attributes:
        frames: uint8 `[S, H, W, 3]`.
        control: float32 `[S, 2]`, the control that led to the state (zero at the start of a drive).
        progress: float32 `[S]`, the reward term earned on the way to the state.
        ended: bool `[S]`.
        telemetry: float32 `[S, 4]`.
        pose: float64 `[S, 3]`.
        first: int `[E + 1]`, where each drive begins.
        routes: The centre line of every drive, `[0, 2]` where it is not known.
        closed: Whether each one is a loop.
        seeds: Track seed of every drive.
        bounds: float32 `[E, 4]`, the playfield of every drive, infinite where it is not known.
        fps: Frames per second.
        fingerprint: Name of what the arrays were made from: the shards' contents, and the code that read them.
    """

    frames: np.ndarray
    control: np.ndarray
    progress: np.ndarray
    ended: np.ndarray
    telemetry: np.ndarray
    pose: np.ndarray
    first: np.ndarray
    routes: list[np.ndarray]
    closed: np.ndarray
    seeds: np.ndarray
    bounds: np.ndarray
    fps: float
    fingerprint: str

    @classmethod
    def open(cls, root: str | Path, held_out: bool = False) -> Drives:
        """Opens a recording folder, unpacking it to `root/unpacked` when that was made from other shards or code.

        Raises:
            FileNotFoundError: There is no shard.
            ValueError: A shard is damaged, held-out where training recordings are asked for (or the reverse), or
                of another frame rate or picture size than the others.
        """
        shards = shard_paths(root)
        if bool(read_attrs(shards[0])["held_out"]) != held_out:
            raise ValueError(f"{root} holds {'training' if held_out else 'held-out'} recordings, wanted the other kind")
        rates = sorted({float(read_attrs(path).get("fps", WorldConfig.fps)) for path in shards})
        if len(rates) > 1:
            raise ValueError(f"the shards of {root} have different frame rates {rates}; keep them in different folders")
        folder = Path(root) / "unpacked"
        names = [path.relative_to(root).as_posix() for path in shards]
        source = fingerprint(names, *shards, code_fingerprint(__name__, iter_episodes.__module__))
        if not (folder / MADE_FROM).exists() or (folder / MADE_FROM).read_text() != source:
            _unpack(Path(root), folder, source, held_out)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        index = np.load(folder / "index.npz")
        routes = np.split(index["routes"], index["route_first"][1:-1])
        rest = {name: index[name] for name in ("first", "closed", "seeds", "bounds")}
        return cls(**arrays, **rest, routes=routes, fps=rates[0], fingerprint=source)

    def __len__(self) -> int:
        return len(self.first) - 1

    def states(self, drive: int) -> slice:
        """The states of one drive."""
        return slice(int(self.first[drive]), int(self.first[drive + 1]))

    def split(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the training drives and of the validation drives (the last ones, one at least).

        Raises:
            ValueError: There is a single drive.
        """
        if len(self) < 2:
            raise ValueError(
                "one drive to learn from and one to look at are needed at least, got 1; record more, or shorter ones"
            )
        kept = min(max(1, round(len(self) * (1 - fraction))), len(self) - 1)
        return np.arange(kept), np.arange(kept, len(self))

    def motion(self) -> np.ndarray:
        """Ego-motion that led to each state, float32 `[S, 3]`; zero at the start of a drive and where not known."""
        pose = torch.from_numpy(np.array(self.pose))
        motion = torch.zeros_like(pose)
        motion[1:] = motion_between(pose[:-1], pose[1:])
        motion[self.first[:-1]] = 0
        return motion.float().nan_to_num().numpy()

    def codes(self, world: WorldConfig) -> np.ndarray:
        """Route code for the frame after each state, float16 `[S, K]`, made as a dream makes it.

        The foot point is tracked, and the car is placed where its last motion would bring it. K is 0 for a world that
        is told no route, and codes of drives without a route are zero.
        """
        if not world.student.route_dim:
            return np.zeros((int(self.first[-1]), 0), np.float16)
        coder = RouteCoder(world)
        motions = torch.from_numpy(self.motion())
        lines = [line if len(line) else None for line in self.routes]
        route = Route.from_points(lines, [bool(c) for c in self.closed], list(self.bounds))
        lengths = np.diff(self.first)
        codes = np.zeros((int(self.first[-1]), world.code_widths()[0]), np.float16)
        arc = None
        for step in tqdm(range(int(lengths.max())), desc="routes", mininterval=5):
            state = torch.from_numpy(self.first[:-1] + np.minimum(step, lengths - 1))
            pose = torch.from_numpy(np.array(self.pose[state.numpy()])).float().nan_to_num()
            arc = route.foot(pose[:, :2], arc)
            alive = step < lengths
            ahead = advance_pose(pose, motions[state])
            codes[state.numpy()[alive]] = coder(route, ahead, arc).numpy()[alive]
        return codes


def suit(world: WorldConfig, drives: Drives, clip_frames: int = 1) -> WorldConfig:
    """The world that these recordings can teach: their picture and clock, without what they do not know.

    Without recorded rewards all reward is zero, without recorded endings nothing ends, without routes the world is told
    none, and telemetry that is not recorded in every state is not read. A reward without a unit (`reward_scale` 0) gets
    the root mean square of the recorded ones.

    Args:
        world: The world that is wanted.
        drives: The recordings.
        clip_frames: Frames of a clip that the dynamics shall take at once.

    Raises:
        ValueError: The pictures do not divide into tokens, or no recording could have the telemetry that is wanted.
    """
    height, width = drives.frames.shape[1:3]
    side = 8 * world.patch
    if height % side or width % side:
        raise ValueError(
            f"pictures must have sides that are multiples of {side} (8 * world.patch), got {height} x {width}"
        )
    unknown = set(world.telemetry) - set(TELEMETRY)
    if unknown:
        raise ValueError(f"recordings have the telemetry {list(TELEMETRY)}, world.telemetry names {sorted(unknown)}")
    finite = np.isfinite(np.asarray(drives.telemetry))
    known = {name: bool(finite[:, column].all()) for column, name in enumerate(TELEMETRY)}
    units = {name: scale for name, scale in zip(world.telemetry, world.telemetry_scale, strict=True) if known[name]}
    progress = np.asarray(drives.progress, np.float64)
    unit = world.reward_scale or float(np.sqrt(np.square(progress).mean()))
    rewarded = bool(np.isfinite(progress).all()) and unit > 0
    routed = world.student.route_dim > 0 and any(len(line) for line in drives.routes)
    lacking = [name for name in world.telemetry if not known[name]]
    ending = bool(np.asarray(drives.ended).any())
    lacking += [name for name, there in (("reward", rewarded), ("endings", ending), ("route", routed)) if not there]
    if lacking:
        log.info("the world will not know what these recordings lack: %s", ", ".join(lacking))
    tokens = height * width // side**2
    student = replace(
        world.student, tokens_per_frame=tokens, max_seq_len=max(world.student.max_seq_len, clip_frames * tokens)
    )
    world = replace(
        world,
        student=student,
        image_size=(height, width),
        fps=drives.fps,
        telemetry=list(units),
        telemetry_scale=list(units.values()),
        end_threshold=world.end_threshold if ending else 1.0,
    )
    if rewarded:
        world = replace(world, reward_scale=unit)
    else:
        world = replace(world, reward_scale=0.0, constant_reward={}, end_reward={})
    route_dim, map_dim = world.code_widths() if routed else (0, 0)
    return replace(world, student=replace(student, route_dim=route_dim, map_dim=map_dim))


def clip_starts(drives: Drives, chosen: np.ndarray, frames: int, history: int) -> tuple[np.ndarray, np.ndarray]:
    """First target states of all clips that fit, and of those that end with an ending.

    A clip has `frames` targets and `history` states before them.
    """
    last = drives.first[chosen + 1] - frames
    parts = [np.arange(a + history, b + 1) for a, b in zip(drives.first[chosen], last, strict=True) if b >= a + history]
    ends = last[np.asarray(drives.ended)[drives.first[chosen + 1] - 1] & (last >= drives.first[chosen] + history)]
    if not parts:
        raise ValueError(f"no drive has {frames + history} states; record longer episodes or shorten loss.clip_frames")
    return np.concatenate(parts), ends


def _unpack(root: Path, folder: Path, source: str, held_out: bool) -> None:
    work = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=root))
    try:
        index: dict[str, list] = {"length": [], "routes": [], "closed": [], "seeds": [], "bounds": []}
        files = {name: open(work / f"{name}.raw", "wb") for name in ARRAYS}
        pictures: set[tuple[int, ...]] = set()
        for episode in tqdm(iter_episodes(root, held_out), desc="unpacking", unit="drive", mininterval=5):
            zero = np.zeros(1, np.float32)
            ended = np.concatenate([[False], episode.terminated])
            control = np.concatenate([np.zeros((1, 2), np.float32), episode.controls])
            values = (
                episode.frames,
                control,
                np.concatenate([zero, episode.progress]),
                ended,
                episode.telemetry,
                episode.poses,
            )
            for name, value in zip(ARRAYS, values, strict=True):
                files[name].write(np.ascontiguousarray(value).tobytes())
            pictures.add(episode.frames.shape[1:])
            if len(pictures) > 1:
                raise ValueError(f"the recordings of {root} have pictures of different sizes: {sorted(pictures)}")
            index["length"].append(len(episode.frames))
            index["routes"].append(episode.route)
            index["closed"].append(episode.closed)
            index["seeds"].append(episode.seed)
            index["bounds"].append(UNBOUNDED if episode.bounds is None else episode.bounds)
        for file in files.values():
            file.close()
        total = sum(index["length"])
        kinds = (np.uint8, np.float32, np.float32, bool, np.float32, np.float64)
        for name, kind, rest in zip(ARRAYS, kinds, (*pictures, *PER_STATE), strict=True):
            raw = np.memmap(work / f"{name}.raw", kind, "r", shape=(total, *rest))
            array = open_memmap(work / f"{name}.npy", "w+", kind, (total, *rest))
            for at in range(0, total, 20_000):
                array[at : at + 20_000] = raw[at : at + 20_000]
            array.flush()
            (work / f"{name}.raw").unlink()
        route_first = np.cumsum([0] + [len(r) for r in index["routes"]])
        np.savez(
            work / "index.npz", first=np.cumsum([0, *index["length"]]), routes=np.concatenate(index["routes"]),
            route_first=route_first, closed=np.array(index["closed"]), seeds=np.array(index["seeds"]),
            bounds=np.array(index["bounds"], np.float32),
        )  # fmt: skip
        (work / MADE_FROM).write_text(source)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(work, folder)
    except OSError as error:
        raise OSError(
            f"could not unpack {root} ({error}); about 12.5 kB of disk per frame of 64 x 64 are needed"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
