"""Held-out drives from disk, cut into clips that a world dreams on from.

Legend: N clips, c context controls (c + 1 context frames), T further steps of a clip.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from drivedit.config import WorldSpec, all_domains
from drivedit.config.rooms import IMPORT_MINARI, OPEN_DRIVES
from drivedit.evaluation.sources import Sources
from drivedit.evaluation.twin_drives import CONTEXT
from drivedit.models import Scene, World
from drivedit.utils import Probes, find_files, from_origin, load_object
from drivedit.utils.shards import read_attrs

LEAST = 20  # steps of a clip where drives are long enough


@dataclass
class HeldOut:
    """A recording that no world was trained on.

    Attributes:
        folder: Where it lies.
        env: Gymnasium id of the simulator that it was recorded in; empty for filmed drives.
        kinds: Names of the observations that are looked at; none: all.
    """

    folder: Path
    env: str
    kinds: tuple[str, ...] = ()

    @cached_property
    def drives(self) -> Any:
        """The `drivedit.data.clips.Drives`, unpacked when they are first asked for."""
        drives = load_object(OPEN_DRIVES).open(self.folder, held_out=True)
        return drives.only(self.kinds) if self.kinds else drives


@contextmanager
def opened(where: str | Path, kinds: Iterable[str] = ()) -> Iterator[HeldOut]:
    """Opens a folder of held-out shards, or a Minari dataset, as long as the block lasts.

    Args:
        where: The folder, or the id of a local Minari dataset that `python -m drivedit.data export-minari` wrote.
        kinds: See `HeldOut`.

    Raises:
        FileNotFoundError: There is neither.
        ImportError: It is a Minari dataset, and Minari is not installed.
        ValueError: It is a training recording, or damaged.
    """
    if Path(where).is_dir():
        yield _open(Path(where), tuple(kinds))
        return
    if not re.search(r"-v\d+$", str(where)):
        raise FileNotFoundError(f"there is no folder {where}, and it is no name of a Minari dataset (drivedit/mine-v0)")
    with TemporaryDirectory(prefix="drivedit-held-out-") as folder:
        load_object(IMPORT_MINARI)(str(where), Path(folder) / "shards")
        yield _open(Path(folder) / "shards", tuple(kinds))


def _open(folder: Path, kinds: tuple[str, ...]) -> HeldOut:
    shards = find_files(folder, "shard-*.h5")
    if not shards:
        raise FileNotFoundError(f"{folder} holds no shard-*.h5; {how_to_record()}")
    attrs = read_attrs(shards[0])
    if not attrs["held_out"]:
        raise ValueError(
            f"{folder} is a training recording, which says nothing about what a world can do where it has not learned; "
            f"{how_to_record()}"
        )
    return HeldOut(folder, str(attrs["env"]), kinds)


def how_to_record(domain: str = "") -> str:
    """What to do where there are no held-out drives, of a domain if it is known."""
    name = domain if domain in all_domains() else "NAME"
    return f"record some: python -m drivedit.data collect --domain {name} --held-out, or import --held-out (your film)"


def check_fit(world: World, held: HeldOut) -> None:
    """Raises ValueError if the drives show or tell something else than the world dreams; both are named."""
    spec, drives = world.spec, held.drives
    size, shown = tuple(drives.frames.shape[1:]), spec.observations[spec.picture].shape
    wanted, told = spec.names("telemetry"), drives.spec.names("telemetry")
    pairs = [
        ("pictures of", "{0[0]} x {0[1]} x {0[2]}", shown, size, size == shown),
        ("frames per second:", "{:.4g}", spec.fps, drives.fps, math.isclose(spec.fps, drives.fps, rel_tol=0.01)),
        ("telemetry:", "{}", wanted, told, set(wanted) <= set(told)),
    ]
    wrong = [
        f"{what} {shown.format(wanted)}, the recording {shown.format(there)}"
        for what, shown, wanted, there, fits in pairs
        if not fits
    ]
    if wrong:
        raise ValueError(
            f"{held.folder} does not fit the world: the world has {'; the world has '.join(wrong)}; import or record "
            "the drives as the world's own were, with --held-out"
        )


def simulator_lacking(world: World, held: HeldOut | None, sources: Sources) -> str:
    """Why the world cannot be judged beside the simulator of its domain; empty if it can."""
    name = sources.domain or world.spec.domain
    domain = all_domains().get(name)
    if held is not None and not held.env:
        return "the drives were filmed"
    if domain is None:
        return f"there is no simulator of the domain {name!r}"
    if not domain.probes:
        return f"the domain {name} says nothing to judge a dream beside its simulator by (it has no probes)"
    if held is not None and held.env != domain.env_id:
        return f"the drives were recorded in {held.env}"
    spec, theirs = world.spec, domain.spec
    shown, size = (each.observations[each.picture].shape for each in (spec, theirs))
    if size != shown or not math.isclose(theirs.fps, spec.fps, rel_tol=0.01):
        seen = (f"{s[0]} x {s[1]} at {f:.4g} fps" for s, f in ((size, theirs.fps), (shown, spec.fps)))
        return "{} shows {}, the world {}".format(domain.env_id, *seen)
    if spec.names("controls") != theirs.names("controls"):
        return f"{domain.env_id} is driven by {theirs.names('controls')}, the world by {spec.names('controls')}"
    probes: Probes = load_object(domain.probes)
    lacking = [value for value in (probes.speed, probes.road) if value not in spec.names("telemetry")]
    lacking += [] if "route" in spec.conditions else ["the route"]
    return f"the world knows nothing of {', '.join(lacking)}" if lacking else ""


def scene_of(drives: Any, number: int, states: slice, spec: WorldSpec, free: bool = False) -> Scene:
    """The scene of some states of a drive for a world of a spec; the car is at (0, 0).

    It has its route if the world is told one, unless `free`, and its place is known.
    """
    scene = Scene(**drives.moments(number, states, spec))
    if scene.poses is None:
        return scene
    here, route, bounds = scene.poses[-1, :2].copy(), drives.routes[number], drives.bounds[number]
    scene.poses = from_origin(scene.poses, here).astype(np.float32)
    if scene.agents is not None:
        scene.agents.boxes = from_origin(scene.agents.boxes, here).astype(np.float32)
    if free or "route" not in spec.conditions or len(route) < 2:
        return scene
    bounds = from_origin(bounds, here).astype(np.float32) if np.isfinite(bounds).any() else None
    return scene.with_route(from_origin(route, here).astype(np.float32), bool(drives.closed[number]), bounds)


@dataclass
class Clips:
    """Clips of held-out drives; the row of a clip is its number.

    Attributes:
        held: Where they come from.
        first: First state of each clip's context, `[N]`.
        steps: Frames to dream of each, `[N]`, at least 1.
        drive: Number of each one's drive, `[N]`.
        context: Context controls c.
    """

    held: HeldOut
    first: np.ndarray
    steps: np.ndarray
    drive: np.ndarray
    context: int

    def __len__(self) -> int:
        return len(self.first)

    def scene(self, row: int, spec: WorldSpec, free: bool = False) -> Scene:
        """The context of a clip for a world of a spec (`scene_of`)."""
        states = slice(int(self.first[row]), int(self.first[row]) + self.context + 1)
        return scene_of(self.held.drives, int(self.drive[row]), states, spec, free)

    def ahead(self, row: int, array: np.ndarray, now: bool = False) -> np.ndarray:
        """An array of `Drives` in the states that are to be dreamed, `[T, ...]`; with the present one if `now`."""
        at = int(self.first[row]) + self.context + 1
        return np.array(array[at - now : at + int(self.steps[row])])


def cut(held: HeldOut, count: int, horizon: int) -> Clips:
    """Cuts the drives into clips of `horizon` steps, or into shorter ones where they are short.

    A drive is cut from its end on, so that endings are seen. What is left at its beginning is a clip as well if it has
    `LEAST` steps, or if there is nothing else. From many clips `count` are taken evenly; long ones come first.

    Args:
        held: The drives.
        count: Most clips.
        horizon: Most steps of a clip.

    Raises:
        ValueError: No drive has two steps.
    """
    first = np.asarray(held.drives.first)
    lengths = np.diff(first) - 1  # steps
    if not len(lengths) or lengths.max() < 2:
        raise ValueError(f"no drive of {held.folder} has two steps or more; record longer ones")
    context = min(CONTEXT, int(lengths.max()) // 2)
    found: list[tuple[int, int, int]] = []  # first state, steps, drive
    for drive, length in enumerate(lengths):
        end = int(length)
        while end - context >= (min(LEAST, horizon) if end < length else 1):
            steps = min(horizon, end - context)
            found.append((int(first[drive]) + end - context - steps, steps, drive))
            end -= context + steps
    long = [clip for clip in found if clip[1] == horizon]
    rest = sorted((clip for clip in found if clip[1] < horizon), key=lambda clip: -clip[1])
    if len(long) >= count:
        long = [long[index] for index in np.linspace(0, len(long) - 1, count).round().astype(int)]
    rows = sorted(long + rest[: max(0, count - len(long))])
    first_states, steps, drive = (np.array(column) for column in zip(*rows, strict=True))
    return Clips(held, first_states, steps, drive, context)
