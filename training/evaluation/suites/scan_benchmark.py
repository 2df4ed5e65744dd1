"""The evaluation of a world of range images: beside recorded or driven clips, and beside its simulator.

Legend: N clips, T steps, K futures, H W rows and columns of a scan.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from drivedit.config import all_domains
from drivedit.evaluation.held_out import HeldOut, how_to_record
from drivedit.evaluation.metrics import scans as metrics
from drivedit.evaluation.metrics.drift import frechet_distance
from drivedit.evaluation.reports.report import plain
from drivedit.evaluation.sizes import Sizes
from drivedit.evaluation.sources import Sources
from drivedit.evaluation.suites.scan_twin import branch, branch_figures, drive_clips
from drivedit.evaluation.suites.scans import (
    ScanClips,
    ScanDream,
    cloud,
    dream_scans,
    moments_of,
    scan_figures,
    told_figures,
)
from drivedit.evaluation.suites.speed import dream_rate, speed_figures
from drivedit.evaluation.twin_drives import CONTEXT
from drivedit.models import RangeWorld
from drivedit.models.sde.ranges import encode_range
from drivedit.utils import load_object, shown

logger = logging.getLogger(__name__)
FUTURES = 16
LONGEST = 3.0  # seconds of a clip
DRIFT = (30, 300)  # steps that the drift is told after
SPAN, EVERY = 20, 2  # steps up to one of them that stand for it, and of how many one is looked at
UNTRAINED = (0.6, 1.4, 2.6)  # intervals, in units of the spec's, that are not among the trained ones
SHEET = (0.5, 1.0, 2.0, 3.0)  # seconds of the sheet's columns


def evaluate_scans(
    world: RangeWorld, held: HeldOut | None, out: Path, *, name: str = "", sizes: Sizes | None = None,
    sources: Sources | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measures a world of range images; writes report.json, report.md and sheet.png to `out`.

    Args:
        world: The world.
        held: Held-out drives that clips are cut from; None: the simulator is driven.
        out: Folder of the report.
        name: Name of the world in the report.
        sizes: How much is measured.
        sources: Who drives what.
        quiet: Log nothing.

    Returns:
        The report: `figures`, what was `left_out`, and what was measured.

    Raises:
        ValueError: There are neither drives nor a simulator, or they do not fit the world.
    """
    sizes, sources = sizes or Sizes(), sources or Sources()
    why = _simulator_lacking(world, sources)
    if held is None and why:
        raise ValueError(f"{why}; give --held-out: {how_to_record(world.spec.domain)}")
    sources = sources if why else sources.of(world.spec)
    out.mkdir(parents=True, exist_ok=True)
    begun, steps = time.perf_counter(), min(round(LONGEST / world.spec.dt), sizes.horizon)
    clips = _clips(world, held, sources, sizes, steps)
    _say(quiet, "dreaming %d clips of %.1f s", len(clips), steps * clips.dt)
    dreamed = dream_scans(world, clips.scenes, clips.controls)
    found = scan_figures(world.beams, clips, dreamed) | told_figures(world.beams, clips, dreamed)
    found |= law_figures(world, clips, dreamed) | future_figures(world, clips, max(1, len(clips) // 4))
    beside = "controls and speed beside the simulator, intervals that were not trained, and long dreams"
    left_out = [f"{beside} ({why})"] if why else []
    if not why:
        _say(quiet, "forking the simulator")
        found |= branch_figures(world, branch(sources, world, sizes.states), sources)
        _say(quiet, "driving at other intervals")
        found |= interval_figures(world, sources, max(2, len(clips) // 4))
        _say(quiet, "dreaming on for long")
        long = min(DRIFT[1], sizes.drive_steps)
        found |= drift_figures(world, sources, max(2, sizes.drives), max(long, DRIFT[0] + SPAN + 1))
        _say(quiet, "measuring speed")
        found |= speed_figures(world, clips.scenes[0], sources, sizes.rounds)
        del found["threads"]  # told in words
    else:
        found["steps_per_second_dream"] = dream_rate(world, clips.scenes[0], sources, sizes.rounds)
    found["snapshot_kilobytes"] = world.start(clips.scenes[:1], [0]).size() / 1e3
    _sheet(clips, dreamed, out / "sheet.png")
    report = {
        "kind": "scans", "world": name, "fingerprint": world.fingerprint, "left_out": left_out, "sizes": asdict(sizes),
        "held_out": str(held.folder) if held else "driven on the fly", "clips": len(clips),
        "seconds_ahead": steps * clips.dt,
        "threads": torch.get_num_threads(), "figures": found, "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(plain(report), indent=2) + "\n")
    (out / "report.md").write_text(as_markdown(report) + "\n")
    return report


def _clips(world: RangeWorld, held: HeldOut | None, sources: Sources, sizes: Sizes, steps: int) -> ScanClips:
    """Clips of held-out drives, or of the simulator's."""
    if held is None:
        return drive_clips(sources, world, sizes.clips, steps, world.spec.dt)
    drives, kind = held.drives, world.spec.picture
    wanted, there = world.spec.observations[kind].shape, drives.observations[kind].shape[1:]
    if there != wanted or not math.isclose(drives.spec.dt, world.spec.dt, rel_tol=0.01):
        raise ValueError(
            f"{held.folder} does not fit the world: the world has scans {list(wanted)} every {world.spec.dt:g} s, the "
            f"recording {list(there)} every {drives.spec.dt:g} s"
        )
    longest = int(np.diff(drives.first).max()) - 1
    context = min(CONTEXT, longest // 2)
    steps = min(steps, longest - context)
    now = moments_of(drives, np.arange(len(drives)), context, steps, sizes.clips)
    return ScanClips.of(drives, now, context, steps, world.spec)


def _simulator_lacking(world: RangeWorld, sources: Sources) -> str:
    """Why the simulator cannot be asked; empty if it can."""
    name, kind = sources.domain or world.spec.domain, world.spec.picture
    domain = all_domains().get(name)
    if domain is None or not domain.probes:
        return f"there is no simulator of the domain {name!r} that can be asked"
    theirs, speed = domain.spec.observations.get(kind), load_object(domain.probes).speed
    if theirs is None or theirs.shape != world.spec.observations[kind].shape:
        return f"{domain.env_id} does not show such a {kind}"
    if domain.spec.names("controls") != world.spec.names("controls") or not domain.spec.any_dt:
        return f"{domain.env_id} is driven in another way, or at one interval only"
    return "" if speed in world.spec.names("telemetry") else f"the world knows nothing of {speed}"


def law_figures(world: RangeWorld, clips: ScanClips, dreamed: ScanDream) -> dict[str, float]:
    """How alike dreams and truth are as a whole, at each horizon: seen from above, and in the motion encoder's eyes.

    `jsd` is the mean divergence of the points of a clip from above; `mmd` compares these views of all clips, dreamed
    and true; `frechet_own_encoder` compares features of the world's own encoder, so only figures of one world with
    each other.
    """
    view, found = world.beams.view, {}
    for seconds, step in clips.horizons.items():
        pair = clips.scans[:, step], dreamed.scans[:, step - 1]
        true, made = ([metrics.from_above(view.unproject(scan)) for scan in scans] for scans in pair)
        found[f"jsd_{seconds:g}s"] = float(
            np.mean([metrics.jensen_shannon(*each) for each in zip(true, made, strict=True)])
        )
        if len(clips) > 1:
            found[f"mmd_{seconds:g}s"] = metrics.mmd(*(np.stack(each).reshape(len(clips), -1) for each in (true, made)))
            found[f"frechet_own_encoder_{seconds:g}s"] = frechet_distance(*(features(world, scans) for scans in pair))
    return found


@torch.no_grad()
def features(world: RangeWorld, scans: np.ndarray) -> np.ndarray:
    """Features `[N, 2 M]` of scans `[N, H, W, 2]`, each alone: mean and spread of the motion encoder's channels."""
    parts = []
    for some in torch.from_numpy(scans).split(64):
        seen = encode_range(some.to(world.device), world.config.reach)
        read = world.motion.motion_encoder(torch.cat([seen, torch.zeros_like(seen)], 1)).flatten(2)
        parts.append(torch.cat([read.mean(-1), read.std(-1)], 1).double().cpu().numpy())
    return np.concatenate(parts)


def future_figures(world: RangeWorld, clips: ScanClips, count: int, futures: int = FUTURES) -> dict[str, float]:
    """Several futures of some clips after a second: whether they are worth more than their mean, and how far apart.

    `crps_ratio` is the score of the futures over that of their mean as a point, below 1 where they are; `spread_ratio`
    is their spread over the error of their mean, 1 where they are as uncertain as they should be. Cells count where
    something came back in truth and in all futures.
    """
    step = min(round(1.0 / clips.dt), clips.scans.shape[1] - 1)
    rows = np.unique(np.linspace(0, len(clips) - 1, count).astype(int))
    points, scores, spreads, errors = [], [], [], []
    for row in rows.tolist():
        controls = np.repeat(clips.controls[row : row + 1, :step], futures, 0)
        made = dream_scans(world, [clips.scenes[row]] * futures, controls, seed=1000 * row).scans[:, -1]
        true = clips.scans[row, step]
        there = (true[..., 1] > 0.5) & (made[..., 1] > 0.5).all(0)
        if not there.any():
            continue
        samples, truth = made[..., 0][:, there], true[..., 0][there]
        scores.append(metrics.crps(samples, truth))
        points.append(float(np.abs(samples.mean(0) - truth).mean()))
        spreads.append(float(samples.var(0, ddof=1).mean()) * (1 + 1 / futures))
        errors.append(float(np.square(samples.mean(0) - truth).mean()))
    if not scores:
        return {}
    return {
        "crps": float(np.mean(scores)),
        "crps_ratio": float(np.mean(scores) / max(np.mean(points), 1e-9)),
        "spread_ratio": math.sqrt(np.mean(spreads) / max(float(np.mean(errors)), 1e-12)),
    }


def interval_figures(world: RangeWorld, sources: Sources, count: int) -> dict[str, float]:
    """Chamfer distance after a second in steps of intervals that were not trained, over that in trained ones."""
    found: dict[str, float] = {}
    for share in (1.0, *UNTRAINED):
        dt = round(share * world.spec.dt, 2)
        clips = drive_clips(sources, world, count, max(1, round(1.0 / dt)), dt)
        dreamed = dream_scans(world, clips.scenes, clips.controls, dt)
        pairs = zip(dreamed.scans[:, -1], clips.scans[:, -1], strict=True)
        apart = [metrics.chamfer(*(cloud(world.beams, scan, 2) for scan in pair)) for pair in pairs]
        found[f"chamfer_after_steps_of_{dt:g}s"] = float(np.nanmean(apart))
    trained = found[f"chamfer_after_steps_of_{world.spec.dt:g}s"]
    worst = max(found.values())
    return found | {"untrained_interval_ratio": worst / max(trained, 1e-9)}


def drift_figures(world: RangeWorld, sources: Sources, drives: int, steps: int = DRIFT[1]) -> dict[str, float]:
    """How far scans of long dreams are from true ones as a whole, in the world's own encoder's eyes, late over early.

    The true ones are all scans of drives on held-out roads. Dreams go on from the beginnings of these, told their
    controls, which lead them elsewhere by and by. Few scans have a distance even from their like: that of true ones,
    as many and as late, is told beside.

    Args:
        world: The world.
        sources: Names the simulator.
        drives: How many, two at least.
        steps: Of each, more than `DRIFT[0] + SPAN`.
    """
    clips = drive_clips(sources, world, drives, steps, world.spec.dt)
    dreamed = dream_scans(world, clips.scenes, clips.controls).scans

    def seen(scans: np.ndarray, after: int) -> np.ndarray:
        some = scans[:, after - SPAN : after : EVERY]
        return features(world, some.reshape(-1, *some.shape[2:]))

    true = features(world, clips.scans[:, 1 :: 2 * EVERY].reshape(-1, *clips.scans.shape[2:]))
    early, late = (frechet_distance(seen(dreamed, after), true) for after in (DRIFT[0], steps))
    return {
        f"frechet_own_encoder_{DRIFT[0]}_steps": early, f"frechet_own_encoder_{steps}_steps": late,
        "frechet_own_encoder_true": frechet_distance(seen(clips.scans[:, 1:], steps), true),
        "drift_ratio": late / max(early, 1e-9),
    }  # fmt: skip


def _sheet(clips: ScanClips, dreamed: ScanDream, path: Path, rows: int = 3) -> None:
    """True scans above dreamed ones, as people see them, of some clips."""
    steps = [step for step in (round(seconds / clips.dt) for seconds in SHEET) if step < clips.scans.shape[1]] or [1]
    lines = []
    for row in range(min(rows, len(clips))):
        pair = [clips.scans[row, step] for step in steps], [dreamed.scans[row, step - 1] for step in steps]
        lines += [np.concatenate([shown(scan) for scan in scans], 1) for scans in pair]
    cv2.imwrite(str(path), np.concatenate(lines)[..., ::-1])


def as_markdown(report: dict[str, Any]) -> str:
    """The table for people: each figure, with that of copying and of the moved last scan beside it."""
    figures = report["figures"]
    told = (
        f"{report['clips']} held-out clips ({report['held_out']}), dreamed on for {report['seconds_ahead']:.1f} s; "
        f"{report['threads']} threads."
    )
    lines = ["| held-out figure | dream | copying | last scan moved by true ego-motion |", "|---|--:|--:|--:|"]
    for name, value in figures.items():
        if name.endswith(("_copy", "_moved")):
            continue
        beside = [figures.get(f"{name}_{rival}") for rival in ("copy", "moved")]
        lines.append(f"| {name} | {_number(value)} | {' | '.join(map(_number, beside))} |")
    left_out = [f"\nLeft out: {'; '.join(report['left_out'])}."] if report["left_out"] else []
    return "\n".join([told, "", *lines, *left_out])


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _say(quiet: bool, words: str, *values: Any) -> None:
    if not quiet:
        logger.info(words, *values)
