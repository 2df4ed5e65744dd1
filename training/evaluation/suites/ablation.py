"""Several worlds side by side on the same held-out drives, at several numbers of sampling steps: one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drivedit.evaluation.held_out import simulator_lacking
from drivedit.evaluation.metrics.drift import drift_figures
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Arrays, Sources
from drivedit.evaluation.suites import closed_loop, control, open_loop
from drivedit.evaluation.suites.benchmark import load_world, true_drives
from drivedit.evaluation.suites.speed import dream_rate
from drivedit.evaluation.twin_drives import scenes
from drivedit.models import World
from drivedit.utils import code_fingerprint, fingerprint, load_object, package_of, write_atomically

COLUMNS = {
    "psnr_1": "PSNR 1", "psnr_10": "10", "psnr_50": "50 frames", "sharpness_1": "sharpness 1", "sharpness_50": "50",
    "steering_correlation": "steering r", "steering_slope": "slope", "branch_15": "branch told at 15",
    "frechet_300": "drift at 300", "frechet_1000": "at 1,000", "steps_per_second": "steps/s",
}  # fmt: skip


def ablate(
    worlds: dict[str, str], sampling_steps: Sequence[int], out: Path, sizes: Sizes | None = None, quiet: bool = False
) -> list[dict[str, Any]]:
    """Measures every world at every number of sampling steps; writes ablation.json and ablation.md to `out`.

    Args:
        worlds: Names for the table, and the folders (or names) of the worlds.
        sampling_steps: Network passes per frame.
        out: Folder of the report; true drives are kept there for the next time, and rows are not measured twice.
        sizes: How much is measured.
        quiet: Show no progress.

    Returns:
        One row per world and number of steps.

    Raises:
        ValueError: A world has no simulator that it can be judged beside.
    """
    sizes = sizes or Sizes()
    out.mkdir(parents=True, exist_ok=True)
    note, rows = out / "ablation.json", []
    known = {row.get("made_from"): row for row in json.loads(note.read_text())} if note.exists() else {}
    for name, folder in worlds.items():
        world = load_world(folder, Sources())
        if why := simulator_lacking(world, None, Sources()):
            raise ValueError(f"{why}: {folder} cannot be compared beside a simulator")
        sources = Sources().of(world.spec)
        simulator = package_of(load_object(sources.config.simulator).__module__)
        code = code_fingerprint("drivedit.evaluation", "drivedit.models", simulator)
        truth = true_drives(out / "true", sizes, sources, quiet=quiet)
        for count in sampling_steps:
            made_from = fingerprint(world.fingerprint, asdict(sizes), count, code)
            figures = known.get(made_from) or figures_of(world, truth, sources, sizes, count, quiet)
            rows.append({**figures, "world": name, "sampling_steps": count, "made_from": made_from})
            for path, text in ((note, json.dumps(rows, indent=1)), (out / "ablation.md", as_table(rows))):
                write_atomically(path, lambda file, text=text: file.write(f"{text}\n".encode()))
    return rows


def figures_of(
    world: World, truth: dict[str, Arrays], sources: Sources, sizes: Sizes, sampling_steps: int, quiet: bool = False
) -> dict[str, float]:
    """The figures of one row."""
    options: dict[str, Any] = {"sampling_steps": sampling_steps, "quiet": quiet}
    clips = truth["clips"]
    dreamed = open_loop.dream_clips(world, clips, **options)
    figures = open_loop.picture_figures(clips, dreamed, open_loop.curves(clips, dreamed, world))
    branches = control.dream_branches(world, truth["branches"], sources.probes, **options)
    figures |= control.steering_figures(control.Branches.true(truth["branches"]), branches, sources.probes)
    true = closed_loop.true_drives(truth["drives"])
    starts = closed_loop.scene_starts(world, scenes(truth["drives"]))
    long = closed_loop.drive_dream(world, starts, sources, sizes.drive_steps, **options)
    figures |= drift_figures(world, true.seen, long.seen, sizes.drive_steps)
    figures["steps_per_second"] = dream_rate(world, scenes(truth["drives"])[0], sources, sizes.rounds, sampling_steps)
    return figures


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| world | steps | " + " | ".join(COLUMNS.values()) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = [f"{row[name]:.3g}" if name in row else "" for name in COLUMNS]
        lines.append(f"| {row['world']} | {row['sampling_steps']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
