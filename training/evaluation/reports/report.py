"""The table of held-out figures: what each must be, as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INF = math.inf
Range = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        key: Name of the figure.
        label: What it says.
        least: The range that it must be in.
        reach: The range to reach for.
        digits: Decimals shown.
    """

    key: str
    label: str
    least: Range | None = None
    reach: Range | None = None
    digits: int = 3


def _over(key: str, label: str, least: float, reach: float, digits: int = 3) -> Row:
    return Row(key, label, (least, INF), (reach, INF), digits)


TABLE = (
    _over("psnr_1", "PSNR after 1 frame, dB", 32.5, 35.0, 1),
    _over("psnr_10", "PSNR after 10 frames, dB", 26.5, 30.0, 1),
    _over("psnr_20", "PSNR after 20 frames, dB", 24.0, 27.0, 1),
    Row("psnr_50", "PSNR after 50 frames, dB", digits=1),
    Row("psnr_100", "PSNR after 100 frames, dB", digits=1),
    Row("sharpness_1", "sharpness after 1 frame (Laplacian energy, dreamed / true)", (0.80, 1.25), (0.95, 1.10)),
    Row("sharpness_50", "sharpness after 50 frames", (0.70, 1.25), (0.90, 1.10)),
    _over("steering_correlation", "steering, 15 frames: heading change against the twin's, r", 0.98, 0.995),
    Row("steering_slope", "steering: slope", (0.90, 1.10), (0.97, 1.03)),
    _over("steering_picture_correlation", "steering, told from the pictures alone: r", 0.98, 0.995),
    Row("steering_picture_slope", "steering, told from the pictures alone: slope", (0.90, 1.10), (0.97, 1.03)),
    _over("branch_5", "left, straight or right, told from the picture after 5 frames (chance .33)", 1.0, 1.0),
    _over("branch_15", "the same after 15 frames", 0.75, 0.95),
    Row("speed_error", "speed after 20 frames of gas, some gas or brake: error / top speed", (0, 0.20), (0, 0.05)),
    _over("reward_10", "reward of 10 frames against the twin's, r", 0.95, 0.99),
    _over("ending_auc", "ending: AUC", 0.99, 0.999),
    _over("ending_recall", "ending: recall at 1% false alarms", 0.80, 0.95),
    _over("on_road", "closed loop: share of steps on the road (told from the picture)", 0.95, 0.98),
    Row("on_road_telemetry", "closed loop: share of steps on the road (told by the telemetry)"),
    _over("still_driving", "closed loop: still driving at the end", 0.90, 1.0),
    Row("median_life", "closed loop: median life, steps", digits=0),
    Row("steer_ratio", "bends: mean |steering| / the twin's", (0.7, 1.3), (0.9, 1.1)),
    Row("bends_ratio", "bends: share of |steering| > .15 / the twin's", (0.7, 1.3), (0.9, 1.1)),
    _over("confidence", "confidence: rank correlation with the error of the next 10 frames", 0.5, 0.8),
    _over("steps_over_twin", "steps/s, one dream, decoded / the twin's", 1.0, 2.0, 2),
    Row("steps_over_stock", "steps/s / the stock simulator's, as long a step", digits=2),
    _over("route_agreement", "route agreement: heading change of car and route over 20 frames, r", 0.93, 0.97),
    Row("ellipse_on_road", "hand-drawn ellipse, 300 steps: on the road"),
    Row("ellipse_route_agreement", "hand-drawn ellipse: route agreement"),
    Row("hairpins_on_road", "hand-drawn straights and hairpins, 300 steps: on the road"),
    Row("hairpins_route_agreement", "hand-drawn straights and hairpins: route agreement"),
    Row("frechet_10", "drift: Frechet distance of pictures to the twin's, own encoder, after 10 steps"),
    *(Row(f"frechet_{steps}", f"drift after {steps} steps") for steps in (50, 100, 300, 1000)),
    Row("frechet_true", "drift: the twin's pictures after 300 steps to those after 1000"),
    Row("twin_on_road", "the twin under the same driver: on the road"),
    Row("twin_still_driving", "the twin: still driving at the end"),
    Row("twin_route_agreement", "the twin: route agreement"),
)


def mark(row: Row, value: float | None) -> str:
    """How a figure stands: `reached`, `pass`, `below`, `missing`, or nothing where no bound is set."""
    if value is None or math.isnan(value):
        return "missing"
    if row.least is None or row.reach is None:
        return ""
    if row.reach[0] <= value <= row.reach[1]:
        return "reached"
    return "pass" if row.least[0] <= value <= row.least[1] else "below"


def as_text(report: dict[str, Any]) -> str:
    """The table for people."""
    figures, width = report["figures"], max(len(row.label) for row in TABLE)
    lines = [f"{'held-out figure':<{width}}  {'measured':>9}  {'at least':>11}  {'reach for':>11}"]
    for row in TABLE:
        value = figures.get(row.key)
        shown = "-" if value is None or math.isnan(value) else f"{value:.{row.digits}f}"
        bounds = (_range(row.least, row.digits), _range(row.reach, row.digits))
        end = f"  {bounds[0]:>11}  {bounds[1]:>11}  {mark(row, value)}"
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
    return "\n".join(lines)


def write_json(report: dict[str, Any], path: Path) -> None:
    """The report for programs; what could not be measured is null."""
    bounds = {row.key: {"at_least": plain(row.least), "reach_for": plain(row.reach)} for row in TABLE if row.least}
    marks = {row.key: mark(row, report["figures"].get(row.key)) for row in TABLE if row.least}
    path.write_text(json.dumps(plain({**report, "bounds": bounds, "marks": marks}), indent=2) + "\n")


def _range(bound: Range | None, digits: int) -> str:
    if bound is None:
        return ""
    low, high = bound
    if high == INF:
        return f"{low:.{digits}f}"
    return f"<= {high:.{digits}f}" if low == 0 else f"{low:.2f}-{high:.2f}"


def plain(value: Any) -> Any:
    """Only what JSON knows: infinities and NaN become null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
