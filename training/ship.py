"""The last stage, `ship`: a trained world together with its card, ready to be published."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from drivedit.config import DEFAULT_WORLD
from drivedit.data.clips import Drives
from drivedit.models import World, find_world
from drivedit.models.finding import AGENTS
from drivedit.models.scene_files import pack_scenes
from drivedit.models.sets.agents import AgentsReader
from drivedit.training.cards import commit
from drivedit.training.scenes import pick_scenes


def ship(
    world: str = f"runs/{DEFAULT_WORLD}/student/world", report: str = "runs/evaluation", *, to: str,
    template: str = f"{DEFAULT_WORLD}_card.md", scenes: str | None = None, count: int = 24,
) -> World:  # fmt: skip
    """Writes a world with a card that says how it was made and what it was measured to do, and the reader beside it.

    Args:
        world: The trained world: folder, shipped name or hub:NAME/WORLD.
        report: Folder that `python -m drivedit.evaluation world --out` wrote for this world.
        to: Folder to write: a new one, or one with nothing but a world in it, which is replaced.
        template: Text of the card with `{report}`, `{commit}`, `{parameters}` and `{size}` in it: a file, or the name
            of a shipped preset.
        scenes: Folder of recordings from all of whose drives start scenes are picked anew; None: the world's own stay.
        count: Most of these.

    Raises:
        FileExistsError: The folder to write holds anything else than a world.
        FileNotFoundError: A folder or the report is missing.
    """
    result = World.from_pretrained(world, device="cpu")
    tables = [Path(report) / name for name in ("report.txt", "report.md")]  # beside a simulator, or on recorded drives
    there = [path for path in tables if path.is_file()]
    if not there:
        raise FileNotFoundError(
            f"there is no {tables[0]}; run: python -m drivedit.evaluation world --world {world} --out {report}"
        )
    text = max(there, key=lambda path: path.stat().st_mtime).read_text().strip()
    source = Path(template)
    if not source.is_file():
        source = Path(str(resources.files("drivedit.training") / "presets" / template))
    if scenes is not None:
        drives = Drives.open(scenes, kinds=[result.spec.picture])
        result.scenes = pick_scenes(drives, np.arange(len(drives)), result.config, count)
    size = sum(path.stat().st_size for path in find_world(world).glob("model*")) / 1e6
    size += sum(value.nbytes for value in pack_scenes(result.scenes).values()) / 1e6
    result.card = source.read_text().format(
        report=text,
        commit=commit(),
        parameters=f"{sum(p.numel() for p in result.parameters()) / 1e6:.1f}",
        size=f"{size:.1f}",
    )
    result.save_pretrained(to)
    reader = find_world(world) / AGENTS
    if reader.is_file():
        AgentsReader.load(reader).save(Path(to) / AGENTS)
    return result
