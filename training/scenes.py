"""Choice of the start scenes that a world ships."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from drivedit.config import BevWorldConfig, RangeWorldConfig, WorldConfig, all_domains
from drivedit.data.clips import Drives
from drivedit.models import Scene, check_scene

SPEED = "speed"  # telemetry, where it is known, that scenes are spread over


def pick_scenes(
    drives: Drives, chosen: np.ndarray, world: WorldConfig | RangeWorldConfig | BevWorldConfig, count: int = 48
) -> list[Scene]:
    """The scenes of the moments that `pick_moments` gives, as far as a world looks back."""
    moments = pick_moments(drives, chosen, world.scene_states, count)
    return [scene_at(drives, drive, now, world) for drive, now in moments]


def pick_moments(drives: Drives, chosen: np.ndarray, context: int, count: int = 48) -> list[tuple[int, int]]:
    """Picks moments that a dream can begin in, as their domain says, spread evenly over attributes and over speeds.

    Every drive gives one, or more where there are few drives; without telemetry they are spread over time.

    Args:
        drives: The recordings.
        chosen: Numbers of the drives to pick from.
        context: States that a scene has at least, this one included.
        count: Most moments.

    Returns:
        Drive and state of each.

    Raises:
        ValueError: No drive has such a moment.
    """
    domain = all_domains().get(drives.spec.domain)
    ranges = domain.steady if domain else {}
    most = max(1, count // len(chosen))  # per drive
    found: dict[tuple[tuple[str, str], ...], list[tuple[float, int, int]]] = {}  # by attributes
    for drive in chosen:
        states = drives.states(int(drive))
        speeds, steady = drives.told(SPEED)[states], np.ones(states.stop - states.start, bool)
        for name, (low, high) in ranges.items():  # what is not known hinders nothing
            steady &= ~((drives.told(name)[states] < low) | (drives.told(name)[states] > high))
        steady[: context - 1] = False
        for index in np.flatnonzero(steady)[:: max(1, steady.sum() // (3 * most))]:
            speed = float(np.nan_to_num(speeds[index]))
            kind = tuple(sorted(drives.attributes[drive].items()))
            found.setdefault(kind, []).append((speed, int(drive), states.start + int(index)))
    if not found:
        raise ValueError(f"no drive has {context} steady states to begin a dream with; record more")
    sizes = [min(len(alike), most * len({drive for _, drive, _ in alike})) for alike in found.values()]
    shares = _shares([dict(kind) for kind in found], sizes, count)
    picked = [each for alike, share in zip(found.values(), shares, strict=True) for each in _spread(alike, share, most)]
    return [(drive, now) for _, drive, now in sorted(picked)]


def _shares(kinds: Sequence[Mapping[str, str]], sizes: Sequence[int], count: int) -> list[int]:
    """How many of `count` moments each kind gives, of so many: next comes the one whose attributes were least seen."""
    shares, seen = [0] * len(kinds), Counter[tuple[str, str]]()
    for _ in range(min(count, sum(sizes))):
        left = (index for index, size in enumerate(sizes) if shares[index] < size)
        rarest = min(left, key=lambda index: (sum(seen[each] for each in kinds[index].items()), shares[index]))
        shares[rarest] += 1
        seen.update(kinds[rarest].items())
    return shares


def _spread(found: list[tuple[float, int, int]], count: int, most: int) -> list[tuple[float, int, int]]:
    """At most `count` of the moments (speed, drive, state), `most` of each drive, spread evenly over the speeds."""
    found = sorted(found)
    picked: list[tuple[float, int, int]] = []
    used: dict[int, int] = {}
    for index in dict.fromkeys(np.linspace(0, len(found) - 1, 4 * count).astype(int).tolist()):
        drive = found[index][1]
        if used.get(drive, 0) < most and len(picked) < count:
            used[drive] = used.get(drive, 0) + 1
            picked.append(found[index])
    return picked


def scene_at(drives: Drives, drive: int, now: int, world: WorldConfig | RangeWorldConfig | BevWorldConfig) -> Scene:
    """The scene of a moment: the state `now` of a drive and what came before it, as far as the world looks back."""
    first = max(now - world.scene_states + 1, drives.states(drive).start)
    scene = Scene(**drives.moments(drive, slice(first, now + 1), world.spec))
    if world.route_dim:
        route, bounds = drives.routes[drive], drives.bounds[drive]
        bounds = bounds if np.isfinite(bounds).any() else None
        scene = scene.with_route(route if len(route) else None, bool(drives.closed[drive]), bounds)
    return check_scene(scene, world.spec)
