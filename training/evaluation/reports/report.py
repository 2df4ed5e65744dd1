"""The table of held-out figures: what each must be, as text and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivedit.utils import Goal


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        key: Name of the figure.
        label: What it says.
        digits: Decimals shown.
    """

    key: str
    label: str
    digits: int = 3


FAR = {
    "square": "square waves of the wheel", "locked": "full lock", "stabs": "stabs at the brake",
    "to_and_fro": "gas and brake in turns", "random_fast": "random controls, .1 s", "random": "random, .5 s",
    "random_slow": "random, 2 s",
}  # fmt: skip
TABLE = (
    Row("psnr_1", "PSNR after 1 frame, dB", 1),
    Row("psnr_10", "PSNR after 10 frames, dB", 1),
    Row("psnr_20", "PSNR after 20 frames, dB", 1),
    Row("psnr_50", "PSNR after 50 frames, dB", 1),
    Row("psnr_100", "PSNR after 100 frames, dB", 1),
    *(Row(f"gain_{n}", f"PSNR after {n} frame{'s' * (n > 1)} above copying the last one, dB", 1) for n in (1, 10, 20)),
    *(Row(f"free_psnr_{n}", f"PSNR after {n}, told nothing (free), dB", 1) for n in (1, 10, 20)),
    *(Row(f"free_loss_{n}", f"PSNR after {n}, told nothing: what is lost, dB", 1) for n in (1, 10, 20)),
    Row("sharpness_1", "sharpness after 1 frame (Laplacian energy, dreamed / true)"),
    Row("sharpness_50", "sharpness after 50 frames"),
    Row("free_sharpness_1", "sharpness after 1 frame, free"),
    Row("free_sharpness_50", "sharpness after 50 frames, free"),
    Row("steering_correlation", "steering, 15 frames: heading change against the twin's, r"),
    Row("steering_slope", "steering: slope"),
    Row("steering_picture_correlation", "steering, told from the pictures alone: r"),
    Row("steering_picture_slope", "steering, told from the pictures alone: slope"),
    Row("branch_5", "left, straight or right, told from the picture after 5 frames (chance .33)"),
    Row("branch_15", "the same after 15 frames"),
    Row("speed_error", "speed after 20 frames of gas, less gas or brake: error / top speed"),
    *(Row(f"far_{name}_heading", f"{told}: heading change, r") for name, told in FAR.items()),
    *(Row(f"far_{name}_slope", f"{told}: slope") for name, told in FAR.items()),
    *(Row(f"far_{name}_speed", f"{told}: speed error / top speed") for name, told in FAR.items()),
    Row("far_confidence", "controls that no driver makes: confidence, rank correlation with the error after 10 frames"),
    Row("reward_10", "reward of 10 frames against the twin's, r"),
    Row("ending_auc", "ending: AUC"),
    Row("ending_recall", "ending: recall at the share of false alarms that is allowed"),
    Row("on_road", "closed loop: share of steps on the road (told from the picture)"),
    Row("on_road_telemetry", "closed loop: share of steps on the road (told by the telemetry)"),
    Row("still_driving", "closed loop: still driving at the end"),
    Row("alive", "closed loop: not ended"),
    Row("median_life", "closed loop: median life, steps", 0),
    Row("free_on_road", "closed loop, told nothing (free): share of steps on the road (from the picture)"),
    Row("free_still_driving", "closed loop, free: still driving at the end"),
    Row("free_alive", "closed loop, free: not ended"),
    Row("free_median_life", "closed loop, free: median life, steps", 0),
    Row("steer_ratio", "bends: mean |steering| / the twin's"),
    Row("bends_ratio", "bends: share of |steering| > .15 / the twin's"),
    Row("attributes_kept", "attributes that are what they were up to 300 steps on, free (told from the picture)"),
    Row("attributes_told", "attributes of true pictures that are told right"),
    Row("ahead_correlation", "the car ahead, 20 frames of gas, less and brake: gap in the picture, free, r"),
    Row("ahead_given_correlation", "the same, told who is there"),
    Row("ahead_probe_correlation", "the same, read off the twin's pictures"),
    Row("ahead_error", "the car ahead: mean error of its gap, free, m", 1),
    Row("ahead_given_error", "the same, told who is there, m", 1),
    Row("ahead_probe_error", "the same, read off the twin's pictures, m", 1),
    Row("placed", "one placed ahead is seen there (IoU of its box above .5)"),
    Row("placed_probe", "the same of the twin's pictures"),
    Row("others_free", "others seen per frame after 150 to 250 steps, free", 2),
    Row("others_twin", "the same of the twin's pictures", 2),
    Row("others_ratio", "others seen, free / the twin's"),
    Row("reappears", "one that is hidden for 5 frames and should reappear, does"),
    Row("reappears_probe", "the same of the twin's pictures"),
    Row("reappears_count", "how many were hidden", 0),
    Row("confidence", "confidence: rank correlation with the error of the next 10 frames"),
    Row("steps_per_second_dream", "steps/s, one dream, decoded", 1),
    Row("steps_per_second_dream_16", "steps/s, 16 dreams at once, decoded", 1),
    Row("steps_per_second_twin", "steps/s, the twin", 1),
    Row("steps_over_twin", "steps/s, one dream, decoded / the twin's", 2),
    Row("steps_over_twin_16", "steps/s, 16 dreams at once, decoded / the twin's", 2),
    Row("steps_over_stock", "steps/s / the stock simulator's, as long a step", 2),
    Row("route_agreement", "route agreement: heading change of car and route over 20 frames, r"),
    Row("ellipse_on_road", "hand-drawn ellipse, 300 steps: on the road"),
    Row("ellipse_route_agreement", "hand-drawn ellipse: route agreement"),
    Row("hairpins_on_road", "hand-drawn straights and hairpins, 300 steps: on the road"),
    Row("hairpins_route_agreement", "hand-drawn straights and hairpins: route agreement"),
    Row("frechet_10", "drift: Frechet distance of pictures to the twin's, own encoder, after 10 steps"),
    *(Row(f"frechet_{steps}", f"drift after {steps} steps") for steps in (50, 100, 300, 1000)),
    Row("frechet_true", "drift: the twin's pictures after 300 steps to those after 1000"),
    Row("twin_on_road", "the twin under the same driver: on the road"),
    Row("twin_still_driving", "the twin: still driving at the end"),
    Row("twin_alive", "the twin: not ended"),
    Row("twin_median_life", "the twin: median life, steps", 0),
    Row("twin_route_agreement", "the twin: route agreement"),
)


def rows_of(figures: Mapping[str, float | None], goals: Mapping[str, Goal]) -> list[Row]:
    """The lines of the table that a domain has: what was measured, and what has a goal."""
    return [row for row in TABLE if row.key in figures or row.key in goals]


def mark(goal: Goal | None, value: float | None) -> str:
    """How a figure stands: `reached`, `pass`, `below`, `missing`, or nothing where it has no goal."""
    if value is None or math.isnan(value):
        return "missing"
    if goal is None:
        return ""
    if goal.reach[0] <= value <= goal.reach[1]:
        return "reached"
    return "pass" if goal.least[0] <= value <= goal.least[1] else "below"


def as_text(report: dict[str, Any]) -> str:
    """The table for people."""
    figures, goals = report["figures"], report["goals"]
    rows = rows_of(figures, goals)
    width = max(len(row.label) for row in rows)
    lines = [f"{'held-out figure':<{width}}  {'measured':>9}  {'at least':>11}  {'reach for':>11}"]
    for row in rows:
        value, goal = figures.get(row.key), goals.get(row.key)
        shown = "-" if value is None or math.isnan(value) else f"{value:.{row.digits}f}"
        bounds = [_range(bound, row.digits) for bound in goal or (None, None)]
        end = f"  {bounds[0]:>11}  {bounds[1]:>11}  {mark(goal, value)}"
        lines.append(f"{row.label:<{width}}  {shown:>9}{end}".rstrip())
    curve = report["curves"]
    lines.append("")
    lines.append("PSNR by frames ahead  " + " ".join(f"{h:>5}" for h in curve["horizons"]))
    for name in ("dream", "copy", "autoencoder"):
        lines.append(f"{name:<20}  " + " ".join(f"{value:5.1f}" for value in curve[name]))
    table = report["calibration"]
    lines.append("")
    lines.append("calibration, 10 frames: bins from the least confident to the most")
    lines.append(f"{'mean confidence':<20}  " + " ".join(f"{value:5.2f}" for value in table["confidence"]))
    lines.append(f"{'RMSE, levels of 255':<20}  " + " ".join(f"{255 * value:5.1f}" for value in table["rmse"]))
    lines += ["", _how(report)] if "seconds" in report else []
    return "\n".join(lines)


def _how(report: dict[str, Any]) -> str:
    """How the world was stepped, and where the time went."""
    passes, parts = report["sampling_steps"], report["seconds"]
    told = f"{passes} pass{'es' * (passes > 1)} a frame, {'' if report['compiled'] else 'not '}compiled, "
    spent = ", ".join(f"{part} {seconds:.0f}" for part, seconds in parts.items())
    return f"{told}{report['threads']} threads; {sum(parts.values()):.0f} s: {spent}"


def write_json(report: dict[str, Any], path: Path) -> None:
    """The report for programs; what could not be measured is null."""
    goals, kept = report["goals"], {name: value for name, value in report.items() if name != "goals"}
    bounds = {key: {"at_least": plain(goal.least), "reach_for": plain(goal.reach)} for key, goal in goals.items()}
    marks = {key: mark(goal, report["figures"].get(key)) for key, goal in goals.items()}
    path.write_text(json.dumps(plain({**kept, "bounds": bounds, "marks": marks}), indent=2) + "\n")


def _range(bound: tuple[float, float] | None, digits: int) -> str:
    if bound is None:
        return ""
    low, high = bound
    if high == math.inf:
        return f"{low:.{digits}f}"
    return f"<= {high:.{digits}f}" if low in (0, -math.inf) else f"{low:.2f}-{high:.2f}"


def plain(value: Any) -> Any:
    """Only what JSON knows: infinities and NaN become null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
