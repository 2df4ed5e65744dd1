"""Semantic drift: who is there in dreamed pictures, beside who is there in the recorded ones, frame by frame.

A reader of who is where reads both, so what it overlooks it overlooks in both. How far its sets of one picture are
apart, read twice, is what no dream can be below; how far the set of the last true picture is from that of the coming
one is what a dream of nothing that moves would have.

Legend: N clips, T frames ahead, A others, K agents that are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from drivedit.evaluation.dreams import LAYOUT, dream
from drivedit.evaluation.held_out import Clips, check_fit, cut, opened
from drivedit.models import World
from drivedit.models.sets.agent_sets import ospa
from drivedit.models.sets.agents import AgentsReader
from drivedit.utils import generator
from drivedit.utils.episodes import BOX

AHEAD = (1, 5, 10, 20, 50)  # frames ahead that are read
PRESENT = 0.5  # share of the samples from which on somebody is there
Figures = dict[str, float]
Told = tuple[Tensor, Tensor]  # places `[N, K, 2]` and who is there `[N, K]`


def judge_drift(
    world: str, reader: Path, held_out: str, *, clips: int = 40, samples: int = 8, steps: int = 4, quiet: bool = False
) -> dict[int, Figures]:
    """The drift of a world on held-out drives, by frames ahead.

    Args:
        world: The world: shipped name, folder or hub:NAME/WORLD.
        reader: File of the reader.
        held_out: Recordings that were kept for judging.
        clips: How many clips, at most.
        samples: Sets that are drawn of each picture.
        steps: Steps of the solver.
        quiet: Show no progress.

    Returns:
        By frames ahead the mean OSPA distances, in metres up to 10, of the set of the true picture to that of the
        dreamed one, with the others told (`given`, where the world can be told) and without (`free`); to its own, read
        again (`again`); and to that of the last picture before the dream (`last`). And how many were read in each.

    Raises:
        FileNotFoundError: There is no such world, reader or recording.
        ValueError: They do not fit one another, or no drive is long enough.
    """
    dreamer, judge = World.from_pretrained(world), AgentsReader.load(reader)
    with opened(held_out, [dreamer.spec.picture]) as held:
        check_fit(dreamer, held)
        return semantic_drift(dreamer, judge, cut(held, clips, max(AHEAD)), samples, steps, quiet)


def semantic_drift(
    world: World, reader: AgentsReader, clips: Clips, samples: int = 8, steps: int = 4, quiet: bool = False
) -> dict[int, Figures]:
    """The drift of a world on clips, by frames ahead; see `judge_drift`.

    Raises:
        ValueError: No clip has a frame ahead.
    """
    rows = [row for row in range(len(clips)) if clips.steps[row] == clips.steps.max()]  # all as long as the longest
    controls = np.stack([clips.ahead(row, clips.held.drives.control) for row in rows]).astype(np.float32)
    pictures = np.stack([clips.ahead(row, clips.held.drives.frames, now=True) for row in rows])  # [N, T + 1, ...]
    dreams = {"free": dream(world, [clips.scene(row, world.spec, True) for row in rows], controls, quiet=quiet).frames}
    if LAYOUT in world.spec.conditions and clips.held.drives.agents_known[clips.drive[rows]].all():
        scenes = [clips.scene(row, world.spec) for row in rows]
        dreams["given"] = dream(world, scenes, controls, others=others_ahead(clips, rows), quiet=quiet).frames
    ahead = [each for each in AHEAD if each <= controls.shape[1]]
    if not ahead:
        raise ValueError("the drives have no frame ahead to be dreamed")

    def told(now: np.ndarray, before: np.ndarray, stream: str) -> Told:
        read = reader.read(now, generator(0, stream), samples, steps, before=before)
        return read.boxes[..., :2].cpu(), (read.presence > PRESENT).cpu()

    found, last = {}, told(pictures[:, 0], pictures[:, 0], "last")
    for step in ahead:
        true = told(pictures[:, step], pictures[:, step - 1], "true")
        others = {"again": told(pictures[:, step], pictures[:, step - 1], "again"), "last": last}
        for name, frames in dreams.items():
            before = frames[:, step - 2] if step > 1 else pictures[:, 0]
            others[name] = told(frames[:, step - 1], before, "dream")
        found[step] = {name: float(ospa(*true, *each).mean()) for name, each in others.items()}
        found[step] |= {f"{name}_count": float(there.sum(1).float().mean()) for name, (_, there) in others.items()}
    return found


def others_ahead(clips: Clips, rows: list[int]) -> np.ndarray:
    """Who is there in the frames to be dreamed of clips, as `dream` takes them: `[N, T, A, 7]`."""
    drives, steps, context = clips.held.drives, int(clips.steps.max()), clips.context
    agents, most = drives.agents, int(np.diff(drives.agents.first).max(initial=0))
    boxes = np.zeros((len(rows), steps, most, BOX))
    for place, row in enumerate(rows):
        now = int(clips.first[row]) + context
        for step in range(steps):
            there = agents.boxes[agents.at(now + 1 + step)].astype(np.float64)
            there[:, :2] -= drives.pose[now, :2]
            boxes[place, step, : len(there)] = there
    return boxes.astype(np.float32)


def drift_table(found: Mapping[int, Figures]) -> str:
    """The drift as Markdown."""
    names = list(next(iter(found.values())))
    lines = [f"| frames ahead | {' | '.join(names)} |", "|--:|" + "--:|" * len(names)]
    return "\n".join(
        lines + [f"| {n} | {' | '.join(f'{figures[x]:.3g}' for x in names)} |" for n, figures in found.items()]
    )
