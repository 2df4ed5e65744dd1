"""Recordings as arrays that training draws clips from, unpacked once beside the recordings.

Legend: S states of all drives one after another, T frames of a clip, K width of the route code.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from tqdm import tqdm

from drivedit.config import WorldConfig
from drivedit.data.recordings import iter_episodes, read_attrs, shard_paths
from drivedit.utils import UNBOUNDED, Route, RouteCoder, advance_pose, motion_between

ARRAYS = ("frames", "control", "progress", "ended", "telemetry", "pose")
PER_STATE = ((64, 64, 3), (2,), (), (), (4,), (3,))


@dataclass
class Drives:
    """All drives of a recording folder; arrays of S states, memory-mapped.

    Attributes:
        frames: uint8 `[S, 64, 64, 3]`.
        control: float32 `[S, 2]`, the control that led to the state (zero at the start of a drive).
        progress: float32 `[S]`, the reward term earned on the way to the state.
        ended: bool `[S]`.
        telemetry: float32 `[S, 4]`.
        pose: float64 `[S, 3]`.
        first: int `[E + 1]`, where each drive begins.
        routes: The centre line of every drive.
        closed: Whether each one is a loop.
        seeds: Track seed of every drive.
        bounds: float32 `[E, 4]`, the playfield of every drive, infinite where it is not known.
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

    @classmethod
    def open(cls, root: str | Path, held_out: bool = False) -> Drives:
        """Opens a recording folder, unpacking it to `root/unpacked` when that is missing or older than a shard.

        Raises:
            FileNotFoundError: There is no shard.
            ValueError: A shard is damaged, or held-out where training recordings are asked for (or the reverse).
        """
        shards = shard_paths(root)
        if bool(read_attrs(shards[0])["held_out"]) != held_out:
            raise ValueError(f"{root} holds {'training' if held_out else 'held-out'} recordings, wanted the other kind")
        folder = Path(root) / "unpacked"
        names = [path.name for path in shards]
        if not folder.exists() or (folder / "shards.txt").read_text().split() != names:
            _unpack(Path(root), folder, names, held_out)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        index = np.load(folder / "index.npz")
        routes = np.split(index["routes"], index["route_first"][1:-1])
        rest = {name: index[name] for name in ("first", "closed", "seeds", "bounds")}
        return cls(**arrays, **rest, routes=routes)

    def __len__(self) -> int:
        return len(self.first) - 1

    def states(self, drive: int) -> slice:
        """The states of one drive."""
        return slice(int(self.first[drive]), int(self.first[drive + 1]))

    def split(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the training drives and of the validation drives (the last ones)."""
        kept = max(1, round(len(self) * (1 - fraction)))
        return np.arange(kept), np.arange(kept, len(self))

    def motion(self) -> np.ndarray:
        """Ego-motion that led to each state, float32 `[S, 3]`; zero at the start of a drive."""
        pose = torch.from_numpy(np.array(self.pose))
        motion = torch.zeros_like(pose)
        motion[1:] = motion_between(pose[:-1], pose[1:])
        motion[self.first[:-1]] = 0
        return motion.float().numpy()

    def codes(self, world: WorldConfig) -> np.ndarray:
        """Route code for the frame after each state, float16 `[S, K]`, made as a dream makes it.

        The foot point is tracked, and the car is placed where its last motion would bring it.
        """
        coder = RouteCoder(world)
        motions = torch.from_numpy(self.motion())
        route = Route.from_points(self.routes, [bool(c) for c in self.closed], list(self.bounds))
        lengths = np.diff(self.first)
        codes = np.zeros((int(self.first[-1]), world.code_widths()[0]), np.float16)
        arc = None
        for step in tqdm(range(int(lengths.max())), desc="routes", mininterval=5):
            state = torch.from_numpy(self.first[:-1] + np.minimum(step, lengths - 1))
            pose = torch.from_numpy(np.array(self.pose[state.numpy()])).float()
            arc = route.foot(pose[:, :2], arc)
            alive = step < lengths
            ahead = advance_pose(pose, motions[state])
            codes[state.numpy()[alive]] = coder(route, ahead, arc).numpy()[alive]
        return codes


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


def _unpack(root: Path, folder: Path, names: list[str], held_out: bool) -> None:
    work = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=root))
    try:
        index: dict[str, list] = {"length": [], "routes": [], "closed": [], "seeds": [], "bounds": []}
        files = {name: open(work / f"{name}.raw", "wb") for name in ARRAYS}
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
            index["length"].append(len(episode.frames))
            index["routes"].append(episode.route)
            index["closed"].append(episode.closed)
            index["seeds"].append(episode.seed)
            index["bounds"].append(UNBOUNDED if episode.bounds is None else episode.bounds)
        for file in files.values():
            file.close()
        total = sum(index["length"])
        kinds = (np.uint8, np.float32, np.float32, bool, np.float32, np.float64)
        for name, kind, rest in zip(ARRAYS, kinds, PER_STATE, strict=True):
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
        (work / "shards.txt").write_text("\n".join(names) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(work, folder)
    except OSError as error:
        raise OSError(f"could not unpack {root} ({error}); about 12.5 kB of disk per frame are needed") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
