"""The evaluation of a world on recorded drives alone: table, pictures, plot and film."""

from __future__ import annotations

import json
import logging
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from drivedit.evaluation.held_out import Clips, HeldOut, check_fit, cut
from drivedit.evaluation.reports import pages
from drivedit.evaluation.reports.recorded_figures import calibration_table, curves, figures, lines, missing, spread
from drivedit.evaluation.reports.report import plain
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Sources
from drivedit.evaluation.suites.open_loop import Curves
from drivedit.evaluation.suites.recorded import TURNED, Measured, measure
from drivedit.evaluation.suites.speed import dream_rate
from drivedit.inference import compiled
from drivedit.models import World

logger = logging.getLogger(__name__)
NEED_SIMULATOR = (
    "branches of the simulator, drives in closed loop, hand-drawn routes, drift of long drives, speed beside it"
)


def evaluate_recorded(
    world: World,
    held: HeldOut,
    why: str,
    out: Path,
    *,
    name: str = "",
    sizes: Sizes | None = None,
    sources: Sources | None = None,
    sampling_steps: int | None = None,
    compile: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures what recorded drives allow; writes report.json, report.md and the pictures to `out`.

    Args:
        world: The world.
        held: The held-out drives.
        why: Why no simulator can be asked.
        out: Folder of the report.
        name: Name of the world in the report.
        sizes: How much is measured.
        sources: Names the environment whose speed is taken.
        sampling_steps: Network passes per frame; None: the world's own number.
        compile: Judge the world as it is stepped in environments with `compile=True`.
        quiet: Show no progress.

    Returns:
        The report: `figures`, `curves`, `calibration`, what was `left_out`, and what was measured.

    Raises:
        ValueError: The drives do not fit the world, or are too short.
    """
    sizes, sources = sizes or Sizes(), sources or Sources()
    check_fit(world, held)
    clips = cut(held, sizes.clips, sizes.horizon)
    logger.info("no simulator (%s), so without: %s", why, NEED_SIMULATOR)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with compiled(world, sampling_steps) if compile else nullcontext():
        measured = measure(world, clips, sampling_steps, quiet)
    curve = curves(measured)
    found = figures(world, clips, measured, curve)
    found |= _rates(world, clips, sources, sizes.rounds, sampling_steps, compile)
    _write_pictures(world, clips, measured, curve, out)
    report = {
        "world": name,
        **_told(world, clips, sampling_steps, compile),
        "left_out": [f"{NEED_SIMULATOR} ({why})", *missing(world, clips, found)],
        "sizes": asdict(sizes),
        "threads": torch.get_num_threads(),
        "figures": found,
        "curves": asdict(curve),
        "calibration": calibration_table(measured),
        "seconds": round(time.perf_counter() - start, 1),
    }
    (out / "report.json").write_text(json.dumps(plain(report), indent=2) + "\n")
    (out / "report.md").write_text(as_markdown(report) + "\n")
    return report


def _told(world: World, clips: Clips, sampling_steps: int | None, compile: bool) -> dict[str, Any]:
    """The part of the report that says what was measured, and on what."""
    spec, held, drives = world.spec, clips.held, clips.held.drives
    return {
        "fingerprint": world.fingerprint,
        "sampling_steps": sampling_steps or world.passes,
        "compiled": compile,
        "pictures": list(spec.observations[spec.picture].shape[:2]),
        "fps": spec.fps,
        "route": "route" in spec.conditions and any(len(line) > 1 for line in drives.routes),
        "held_out": {
            "folder": str(held.folder),
            "drives": len(drives),
            "minutes": (int(drives.first[-1]) - len(drives)) / drives.fps / 60,
            "clips": len(clips),
            "context": clips.context,
            "longest": int(clips.steps.max()),
        },
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The table for people, with what it was measured on and what was left out."""
    held, (height, width) = report["held_out"], report["pictures"]
    rows = [("held-out figure", "measured", "beside it"), *lines(report["figures"], report["fps"])]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = [
        f"| {label:<{widths[0]}} | {value:>{widths[1]}} | {beside:<{widths[2]}} |" for label, value, beside in rows
    ]
    rule = f"|{'-' * (widths[0] + 2)}|{'-' * (widths[1] + 1)}:|{'-' * (widths[2] + 2)}|"
    passes = f"{report['sampling_steps']} network pass{'es' if report['sampling_steps'] > 1 else ''} per frame"
    told = (
        f"{held['clips']} clips of {held['drives']} held-out drives ({held['minutes']:.1f} minutes, {height} x {width} "
        f"at {report['fps']:.4g} fps), dreamed on for up to {held['longest']} frames from {held['context'] + 1} true "
        f"ones, {'told the route' if report['route'] else 'told no route'}; {passes}"
        f"{', compiled' if report['compiled'] else ''}."
    )
    curve = report["curves"]
    ahead = [
        "| frames ahead | " + " | ".join(str(h) for h in curve["horizons"]) + " |",
        "|---" * (len(curve["horizons"]) + 1) + "|",
    ]
    for key, label in (
        ("dream", "dream, dB"),
        ("copy", "copying the last frame"),
        ("autoencoder", "autoencoder alone"),
    ):
        ahead.append(f"| {label} | " + " | ".join(f"{value:.1f}" for value in curve[key]) + " |")
    left_out = "Left out: " + "; ".join(report["left_out"]) + "."
    return "\n".join([told, "", table[0], rule, *table[1:], "", *ahead, "", left_out])


def _rates(
    world: World, clips: Clips, sources: Sources, rounds: int, sampling_steps: int | None, compile: bool
) -> dict[str, float]:
    """How fast the environment steps from the first clip."""
    rate = dream_rate(world, clips.scene(0, world.spec), sources, rounds, sampling_steps, compile)
    return {"steps_per_second": rate, "real_time": rate / world.spec.fps}


def _write_pictures(world: World, clips: Clips, measured: Measured, curve: Curves, out: Path) -> None:
    """The contact sheets, the plot and the moving picture."""
    shown, fps = measured.shown, world.spec.fps
    pairs = [(shown["true"][row], shown["dream"][row]) for row in sorted(shown["true"])]
    pages.write_sheet(pairs, out / "sheet.png", fps)
    title = f"{len(clips)} clips of held-out drives"
    pages.write_plot(curve, out / "horizon.png", fps, title, spread(measured, curve.horizons))
    pages.write_beside(pairs, out / "beside.webp", fps, "the film above, the dream below: same start, same controls")
    if shown["sides"]:
        rows = [(shown["true"][row][0], shown["sides"][row]) for row in sorted(shown["sides"])]
        pages.write_sides(rows, out / "steering.png", TURNED / fps)
