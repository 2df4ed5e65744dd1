"""Readers of agents on held-out recordings: who is found, how far off, and what their samples are worth.

Ambiguous pictures are those of drives with certain attributes, and those on which others cover half of somebody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivedit.config.rooms import OPEN_DRIVES
from drivedit.evaluation.agent_frames import AgentFrames, read_states
from drivedit.evaluation.metrics.agents import (
    calibration_figures,
    drawn_figures,
    energy_scores,
    found_figures,
    set_figures,
)
from drivedit.models.sets.agents import AgentsReader
from drivedit.utils import generator, load_object, write_atomically

AMBIGUOUS = "_ambiguous"  # ends the names of figures of such pictures alone
DRAWN = 1000  # sets that are drawn of no picture
TIMED = 16  # pictures that are read at once to tell the time of one
Figures = dict[str, float]


def judge_readers(
    readers: Mapping[str, Path], held_out: str | Path, *, pictures: int = 2000, samples: int = 16, steps: int = 4,
    ambiguous: Sequence[str] = (),
) -> dict[str, Figures]:  # fmt: skip
    """Figures of readers by name, all on the same pictures.

    Args:
        readers: Their files.
        held_out: Folder of recordings that were kept for judging.
        pictures: At most so many, spread evenly over those of which it is known who is there.
        samples: Sets drawn of each.
        steps: Steps of the solver.
        ambiguous: Attributes of ambiguous drives, "name=value" each.

    Raises:
        ValueError: A reader does not fit the recordings, an attribute is none, or there is no picture to judge on.
    """
    opened = {name: AgentsReader.load(path) for name, path in readers.items()}
    drives = load_object(OPEN_DRIVES).open(held_out, held_out=True)
    unclear = [_fits(each, ambiguous, drives.spec.attributes) for each in drives.attributes]
    found, truths = {}, {}
    for name, reader in opened.items():
        wanted = json.dumps(reader.config.to_dict() | {"kind": "flow"})
        if wanted not in truths:
            truths[wanted] = AgentFrames.of(drives, reader.config)
        frames = truths[wanted]
        known = np.flatnonzero(frames.known)
        index = np.unique(known[np.linspace(0, len(known) - 1, pictures).astype(int)])
        doubt = np.array(unclear)[frames.drive[index]] | frames.hidden[index]
        found[name] = reader_figures(reader, frames, index, doubt, samples, steps)
    return found


def reader_figures(
    reader: AgentsReader, frames: AgentFrames, index: np.ndarray, doubt: np.ndarray, samples: int, steps: int
) -> Figures:
    """Figures of a reader on some states, of which some are ambiguous."""
    read = read_states(reader, frames, index, samples, steps)
    boxes, present, uncounted = (
        torch.from_numpy(each[index]) for each in (frames.boxes, frames.present, frames.uncounted)
    )
    figures = found_figures(read, boxes, present, uncounted) | set_figures(read, boxes, present)
    figures |= calibration_figures(read, boxes, present)
    energy = energy_scores(read, boxes, present)[torch.from_numpy(doubt)]
    figures[f"energy{AMBIGUOUS}"] = energy.mean().item() if len(energy) else float("nan")
    some = read.rows(torch.from_numpy(np.flatnonzero(doubt)))
    inside = calibration_figures(some, boxes[doubt], present[doubt])
    figures |= {f"{name}{AMBIGUOUS}": value for name, value in inside.items()}
    if reader.config.kind == "flow":
        drawn = reader.imagine(DRAWN, generator(0, "drawn"))
        figures |= drawn_figures(drawn, boxes, present)
    figures |= {"pictures": float(len(index)), f"pictures{AMBIGUOUS}": float(doubt.sum())}
    return figures | {"ms": milliseconds(reader, frames, index[:TIMED], samples, steps)}


def milliseconds(reader: AgentsReader, frames: AgentFrames, index: np.ndarray, samples: int, steps: int) -> float:
    """Time of a picture, of some that are read at once: the median of five."""
    took = []
    for _ in range(6):
        began = time.perf_counter()
        read_states(reader, frames, index, samples, steps)
        took.append(1e3 * (time.perf_counter() - began) / len(index))
    return float(np.median(took[1:]))


def as_table(found: Mapping[str, Figures]) -> str:
    """Figures side by side, as Markdown."""
    names = list(found)
    lines = [f"| figure | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for figure in next(iter(found.values())):
        told = (f"{found[name][figure]:.4g}" if figure in found[name] else "" for name in names)
        lines.append(f"| {figure} | {' | '.join(told)} |")
    return "\n".join(lines)


def write_report(out: Path, found: Mapping[str, Figures], about: Mapping[str, Any], tables: Sequence[str]) -> None:
    """Writes `agents.json` and `agents.md`, the tables, to a folder."""
    text = json.dumps({"about": dict(about), "figures": dict(found)}, indent=1)
    page = "\n\n".join(tables) + "\n"
    write_atomically(out / "agents.json", lambda file: file.write(text.encode()))
    write_atomically(out / "agents.md", lambda file: file.write(page.encode()))


def _fits(attributes: Mapping[str, str], wanted: Sequence[str], known: Mapping[str, Sequence[str]]) -> bool:
    """Whether a drive has one of the attributes, "name=value"."""
    pairs = [each.partition("=")[::2] for each in wanted]
    for name, value in pairs:
        if value not in known.get(name, ()):
            raise ValueError(f"ambiguous drives are told by attributes name=value of {dict(known)}, got {name}={value}")
    return any(attributes.get(name) == value for name, value in pairs)
