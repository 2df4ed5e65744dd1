"""The whole evaluation of a world against its simulator, part by part."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from drivedit.evaluation.dreams import Dream
from drivedit.evaluation.held_out import how_to_record, opened, simulator_lacking
from drivedit.evaluation.metrics import drift
from drivedit.evaluation.metrics.figures import road_threshold
from drivedit.evaluation.reports import pages
from drivedit.evaluation.reports.report import as_text, write_json
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Arrays, Sources, cached, stack, work
from drivedit.evaluation.suites import closed_loop, control, far_controls, open_loop, others, speed
from drivedit.evaluation.suites.recorded_benchmark import evaluate_recorded
from drivedit.evaluation.suites.scan_benchmark import evaluate_scans
from drivedit.evaluation.twin_drives import (
    CONTEXT,
    Job,
    read_recordings,
    record_branches,
    record_clip,
    record_drive,
    record_ending,
    scenes,
)
from drivedit.evaluation.twin_far import record_far
from drivedit.evaluation.twin_others import record_ahead, record_empty, record_hidden
from drivedit.inference import compiled
from drivedit.models import RangeWorld, World
from drivedit.utils import Route, extra

PLACED_STEPS = 10  # of a drive on an empty road
LATEST = 300  # steps after which attributes must be what they were
SHOWN = ("true", "given", "free")  # lines of the contact sheet
logger = logging.getLogger(__name__)


def load_world(name: str, sources: Sources, adapter: str | Path | None = None) -> World:
    """Loads the world that its environment would play under this name, and as fast as it is played there."""
    return sources.make_dream(name, adapter=adapter).world


def evaluate_world(
    world: World,
    out: Path,
    *,
    name: str = "",
    held_out: str | Path | None = None,
    sizes: Sizes | None = None,
    sources: Sources | None = None,
    sampling_steps: int | None = None,
    compile: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures a world: against its simulator if the drives come from there, else against recorded drives alone.

    Either way report.json, sheet.png, horizon.png and beside.webp are written to `out`, and with them report.txt and
    dream.mp4 or, without a simulator, report.md and steering.png. Worlds of range images have a suite of their own
    (`evaluate_scans`).

    Args:
        world: The world.
        out: Folder of the report; the simulator's drives are kept there for the next time.
        name: Name of the world in the report.
        held_out: Folder or Minari dataset of held-out drives to take the clips from; None: the simulator is driven now.
        sizes: How much is measured.
        sources: Who drives what.
        sampling_steps: Network passes per frame; None: the world's own number.
        compile: Judge the world as it is stepped in environments with `compile=True`.
        quiet: Show no progress.

    Returns:
        The report: `figures`, `curves`, `calibration`, `seconds`, and what was measured; without a simulator what was
        `left_out` as well.

    Raises:
        FileNotFoundError: There are no such drives.
        ImportError: An extra is not installed.
        ValueError: The drives are not held out or do not fit the world, or it has neither simulator nor drives.
    """
    _need_extras()
    sizes, sources = sizes or Sizes(), sources or Sources()
    world.eval()
    options: dict[str, Any] = {"name": name, "sizes": sizes, "sources": sources, "sampling_steps": sampling_steps}
    options |= {"compile": compile, "quiet": quiet}
    with nullcontext() if held_out is None else opened(held_out, world.spec.observations) as held:
        if isinstance(world, RangeWorld):
            return evaluate_scans(world, held, out, name=name, sizes=sizes, sources=sources, quiet=quiet)
        why = simulator_lacking(world, held, sources)
        if why and held is None:
            raise ValueError(
                f"{why}: it cannot be judged there; give --held-out, drives that it has not learned from. "
                f"{how_to_record(world.spec.domain)}"
            )
        if held is not None and why:
            return evaluate_recorded(world, held, why, out, **options)
        options["sources"] = sources = sources.of(world.spec)
        options["sizes"] = replace(sizes, drive_steps=min(sizes.drive_steps, sources.probes.drive_steps))
        return _against_simulator(world, out, held.folder if held else None, **options)


def _against_simulator(
    world: World,
    out: Path,
    held_out: Path | None,
    *,
    name: str,
    sizes: Sizes,
    sources: Sources,
    sampling_steps: int | None,
    compile: bool,
    quiet: bool,
) -> dict[str, Any]:
    """All figures beside the simulator."""
    out.mkdir(parents=True, exist_ok=True)
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)  # its threads only get in each other's way on pictures this small
    seconds: dict[str, float] = {}
    options: dict[str, Any] = {"sampling_steps": sampling_steps, "quiet": quiet}
    try:
        with _timed("true drives", seconds):
            truth = true_drives(out / "true", sizes, sources, held_out, quiet)
        figures: dict[str, float] = {}
        with compiled(world, sampling_steps) if compile else nullcontext():
            with _timed("open loop", seconds):
                curve, calibration = _open_loop(world, truth, sizes, sources, out, figures, options)
            with _timed("control", seconds):
                true, probes = control.Branches.true(truth["branches"]), sources.probes
                dreamed = control.dream_branches(world, truth["branches"], probes, **options)
                figures |= control.steering_figures(true, dreamed, probes)
                figures |= control.speed_figures(true, dreamed, probes.top_speed)
                if "far" in truth:
                    figures |= far_controls.far_figures(world, truth["far"], probes, **options)
            with _timed("others", seconds):
                figures |= _others(world, truth, sources, options)
            with _timed("closed loop", seconds):
                _closed_loop(world, truth, sizes, sources, out, figures, options)
        with _timed("speed", seconds):
            scene = scenes(truth["drives"])[0]
            figures |= speed.speed_figures(world, scene, sources, sizes.rounds, sampling_steps, compile)
    finally:
        cv2.setNumThreads(cv_threads)
    report = {
        "world": name,
        "fingerprint": getattr(world, "fingerprint", ""),
        "sampling_steps": sampling_steps or world.passes,
        "compiled": compile,
        "sizes": asdict(sizes),
        "sources": asdict(sources),
        "held_out": str(held_out or "driven on the fly"),
        "threads": threads,
        "figures": figures,
        "goals": sources.probes.goals,
        "curves": asdict(curve),
        "calibration": calibration,
        "seconds": seconds,
    }
    write_json(report, out / "report.json")
    (out / "report.txt").write_text(as_text(report) + "\n")
    return report


def true_drives(
    folder: Path, sizes: Sizes, sources: Sources, held_out: Path | None = None, quiet: bool = False
) -> dict[str, Arrays]:
    """Clips, endings, branches and closed-loop drives of the simulator, from `folder` where they are there already."""
    steps = CONTEXT + sizes.horizon

    def clips() -> Arrays:
        jobs = [Job(sources, index, steps, good=index % 2 == 0) for index in range(sizes.clips)]
        return stack(work(record_clip, jobs, sources.workers, "clips", quiet))

    def endings() -> Arrays:
        jobs = [Job(sources, index, CONTEXT + sizes.ending_steps) for index in range(sizes.endings)]
        return stack(work(record_ending, jobs, sources.workers, "endings", quiet))

    def branches() -> Arrays:
        jobs = [Job(sources, index, 30) for index in range(sizes.states)]
        return stack(work(record_branches, jobs, sources.workers, "branches", quiet))

    def drives() -> Arrays:
        jobs = [Job(sources, index, sizes.drive_steps) for index in range(sizes.drives)]
        return stack(work(record_drive, jobs, sources.workers, "twin's drives", quiet))

    if held_out is None:
        clip_arrays = cached(folder, "clips", sources, {"clips": sizes.clips, "steps": steps}, clips)
    else:
        clip_arrays = stack(read_recordings(held_out, sizes.clips, steps, sources))
    ending_sizes = {"endings": sizes.endings, "steps": sizes.ending_steps}
    drive_sizes = {"drives": sizes.drives, "steps": sizes.drive_steps}

    def others(record: Callable[[Job], Arrays], count: int, steps: int) -> Callable[[], Arrays]:
        jobs = [Job(sources, index, steps) for index in range(count)]
        return lambda: stack(work(record, jobs, sources.workers, record.__name__.partition("_")[2], quiet))

    asked = {} if sources.probes.others is None else {
        "ahead": (record_ahead, sizes.ahead, 0),
        "empty": (record_empty, sizes.empty, CONTEXT + PLACED_STEPS),
        "hidden": (record_hidden, sizes.hidden, 200),
    }  # fmt: skip
    if sources.config.spec.steers() is not None:
        asked["far"] = (record_far, sizes.far, 0)
    more = {name: cached(folder, name, sources, {"count": call[1], "steps": call[2]}, others(*call))
            for name, call in asked.items()}  # fmt: skip
    return more | {
        "clips": clip_arrays,
        "endings": cached(folder, "endings", sources, ending_sizes, endings),
        "branches": cached(folder, "branches", sources, {"states": sizes.states}, branches),
        "drives": cached(folder, "drives", sources, drive_sizes, drives),
    }


def _open_loop(
    world: World,
    truth: dict[str, Arrays],
    sizes: Sizes,
    sources: Sources,
    out: Path,
    figures: dict[str, float],
    options: dict[str, Any],
) -> tuple[open_loop.Curves, dict[str, list[float]]]:
    """Figures of dreams under true controls, the contact sheet and the plot; returns the curves and the calibration."""
    clips = truth["clips"]
    dreamed = open_loop.dream_clips(world, clips, **options)
    curve = open_loop.curves(clips, dreamed, world)
    figures |= open_loop.picture_figures(clips, dreamed, curve)
    free = open_loop.dream_clips(world, clips, free=True, **options)
    figures |= open_loop.free_figures(clips, dreamed, free)
    starts = open_loop.short_starts(clips, sizes.short_dreams)
    short = open_loop.dream_short(world, clips, starts, **options)
    figures |= open_loop.short_figures(clips, starts, short)
    endings = open_loop.dream_endings(world, truth["endings"], **options)
    threshold = world.end_threshold
    figures |= open_loop.ending_figures(
        truth["endings"], endings, dreamed.ended, threshold, sources.probes.false_alarms
    )
    _show(clips, dreamed, free, sources, out, world.spec.fps)
    pages.write_plot(curve, out / "horizon.png", world.spec.fps, "Held-out drives")
    return curve, open_loop.calibration_table(clips, starts, short)


def _show(clips: Arrays, given: Dream, free: Dream, sources: Sources, out: Path, fps: float) -> None:
    """The contact sheet, and the moving pictures: one of all, and one of each value of the attribute that is filmed."""
    true, length = clips["frames"][:, CONTEXT:], free.frames.shape[1]
    pages.write_sheet(list(zip(true, given.frames, free.frames, strict=True)), out / "sheet.png", fps, SHOWN)
    text = "the simulator above, then the dream on its road, and told nothing: same start, same controls"
    lines = list(zip(true[:, : length + 1], given.frames[:, :length], free.frames, strict=True))
    pages.write_beside(lines[::2], out / "beside.webp", fps, text)
    filmed, spec = sources.probes.filmed, sources.config.spec
    if filmed:
        told = clips["attributes"][:, sorted(spec.attributes).index(filmed)]
        for value in np.unique(told):
            rows = [lines[row] for row in np.flatnonzero(told == value)]
            pages.write_beside(rows, out / f"beside-{value}.webp", fps, f"{value}: {text}", columns=2)


def _others(world: World, truth: dict[str, Arrays], sources: Sources, options: dict[str, Any]) -> dict[str, float]:
    """Figures of others on the road, where there are any."""
    asked = sources.probes.others
    if asked is None:
        return {}
    return (
        others.ahead_figures(world, truth["ahead"], asked, **options)
        | others.placed_figures(world, truth["empty"], asked, **options)
        | others.hidden_figures(world, truth["hidden"], asked, **options)
        | others.probe_figures(truth["clips"], asked)
    )


def _free_loop(
    world: World, truth: dict[str, Arrays], sizes: Sizes, sources: Sources, threshold: float, options: dict[str, Any]
) -> dict[str, float]:
    """Figures of the same long drives with nothing told, and of what the pictures show then."""
    arrays, probes, names = truth["drives"], sources.probes, sorted(sources.config.spec.attributes)
    true = closed_loop.true_drives(arrays)
    begin = closed_loop.scene_starts(world, scenes(arrays, free=True))
    drives = closed_loop.drive_dream(world, begin, sources, sizes.drive_steps, label="closed loop, free", **options)
    figures = closed_loop.driving_figures(drives, None, None, threshold, "free_")
    told = [steps for horizon, steps in drift.windows(sizes.drive_steps).items() if horizon <= LATEST]
    if names and probes.attributes and told:
        seen = drives.seen[:, np.searchsorted(drift.sampled(sizes.drive_steps), told[-1])]
        figures["attributes_kept"] = closed_loop.attributes_kept(probes, names, arrays["attributes"], seen)
        clips = truth["clips"]
        figures["attributes_told"] = closed_loop.attributes_kept(
            probes, names, clips["attributes"], clips["frames"][:, CONTEXT:][:, ::10]
        )
    return figures | (others.count_figures(drives, true) if probes.others else {})


def _closed_loop(
    world: World,
    truth: dict[str, Arrays],
    sizes: Sizes,
    sources: Sources,
    out: Path,
    figures: dict[str, float],
    options: dict[str, Any],
) -> None:
    """Figures of long drives on held-out tracks and on hand-drawn ones, and the film."""
    clips, probes = truth["clips"], sources.probes
    told = clips["telemetry"][..., sources.config.spec.names("telemetry").index(probes.road)]
    threshold, agreement = road_threshold(probes.road_share(clips["frames"]), told >= 0.5)
    figures |= {"road_threshold": threshold, "road_threshold_agreement": agreement}
    true, starts = closed_loop.true_drives(truth["drives"]), scenes(truth["drives"])
    begin = closed_loop.scene_starts(world, starts)
    twin = closed_loop.driving_figures(true, begin.route, begin.arc, threshold, "twin_")
    drives = closed_loop.drive_dream(world, begin, sources, sizes.drive_steps, **options)
    dreamed = closed_loop.driving_figures(drives, begin.route, begin.arc, threshold)
    figures |= twin | dreamed | closed_loop.ratios(dreamed, twin)
    figures |= drift.drift_figures(world, true.seen, drives.seen, sizes.drive_steps)
    pages.write_film(drives.film, out / "dream.mp4", world.spec.fps)
    figures |= _free_loop(world, truth, sizes, sources, threshold, options)
    drawings = {name: line for name, line in closed_loop.hand_drawn_routes().items() if name in probes.drawings}
    if not drawings:
        return
    turned = np.abs(true.poses[:, : min(20, sizes.drive_steps), 2] - true.poses[:, :1, 2]).max(1)
    straight = [starts[row] for row in np.argsort(turned)[: sizes.drawn]]
    begin = closed_loop.drawn_starts(world, straight, list(drawings.values()), sources)
    drives = closed_loop.drive_dream(world, begin, sources, sizes.drawn_steps, label="drawn routes", **options)
    for number, name in enumerate(drawings):
        rows = slice(number * len(straight), (number + 1) * len(straight))
        route = Route(**{name: value[rows] for name, value in vars(begin.route).items()})
        part = closed_loop.some(drives, rows)
        figures |= closed_loop.driving_figures(part, route, begin.arc[rows], threshold, f"{name}_")


def _need_extras() -> None:
    """Fails now rather than after minutes of driving."""
    with extra("data,train", "an evaluation"):
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401


@contextmanager
def _timed(part: str, seconds: dict[str, float]) -> Iterator[None]:
    """Notes how long a part takes."""
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 1)
    logger.info("%s: %.0f s", part, seconds[part])
