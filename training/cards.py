"""CARD.md of a trained world: what it was made from, how, and what its stages measured."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from drivedit.config import DataConfig, LoopConfig
from drivedit.data.clips import Drives
from drivedit.evaluation.reports.card import without_figures
from drivedit.models import World

HEAD = """\
# A driving world

Trained with DriveDiT. Open it with `gym.make("drivedit_env:DriveDiT-v0", world=FOLDER)`.

Licence: to be filled in by whoever has the rights to the recordings.
"""


class Recorded(NamedTuple):
    """How much was recorded.

    Attributes:
        drives: How many.
        minutes: Of them all.
        size: Height and width of the picture.
        fps: Frames per second.
        fingerprint: Name of them.
        looked_at: Drives that are only looked at.
    """

    drives: int
    minutes: float
    size: tuple[int, ...]
    fps: float
    fingerprint: str
    looked_at: int

    @classmethod
    def of(cls, drives: Drives, looked_at: int) -> Recorded:
        """Of drives, so many of which are only looked at."""
        minutes = (int(drives.first[-1]) - len(drives)) / drives.fps / 60
        return cls(len(drives), minutes, drives.frames.shape[1:3], drives.fps, drives.fingerprint, looked_at)


def write_card(
    world: World, stage: str, about: Mapping[str, Any], loop: LoopConfig, data: DataConfig, recorded: Recorded,
    figures: Mapping[str, float],
) -> None:  # fmt: skip
    """Tells in a world's card how a stage made it; what the card told of that stage before is replaced.

    Held-out figures of the world before are taken out.

    Args:
        world: Its `card` is set.
        stage: Name of the stage.
        about: The stage's options, in plain values, by group.
        loop: Options of the loop.
        data: Where the recordings are.
        recorded: The recordings.
        figures: What was measured on the drives that were only looked at.
    """
    height, width = recorded.size
    options = {"train": loop.to_dict(), **about}
    told = "\n".join(f"    {group}: {json.dumps(values)}" for group, values in options.items())
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    section = f"""
## Stage `{stage}`

- Recordings: `{data.root}`, {recorded.drives} drives, {recorded.minutes:.1f} minutes, {height} x {width} pixels at
  {recorded.fps:.4g} frames per second, fingerprint `{recorded.fingerprint}`. The last {recorded.looked_at} of the
  drives were only looked at.
- Recipe: `python -m drivedit.training {stage}`, seed {loop.seed}, drivedit {version("drivedit")}, commit {commit()},
  with the options

{told}

| on the drives that were only looked at | |
|---|---|
{measured}
"""
    card = without_figures(world.card) or HEAD
    card = re.sub(rf"\n## Stage `{stage}`\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    world.card = card.rstrip() + "\n" + section


def commit() -> str:
    """The commit that this code is at, or a word that there is none."""
    here = Path(__file__)
    try:
        for command in (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"]):
            found = subprocess.run(
                ["git", *command], cwd=here.parent, capture_output=True, text=True, check=True
            )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "not under version control"
    return found.stdout.strip()
