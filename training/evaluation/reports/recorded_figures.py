"""The table of a world that was judged on recorded drives: its figures, and what each is to be compared with.

Legend: N clips, T frames ahead.
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.evaluation.held_out import Clips
from drivedit.evaluation.metrics.figures import auc, calibration, correlation, psnr, slope, spearman
from drivedit.evaluation.suites.open_loop import CALIBRATION_BINS, HORIZONS, SHORT, Curves
from drivedit.evaluation.suites.recorded import AHEAD, SHARP_AT, SIDES, TURNED, Measured, largest_steering
from drivedit.models import World

PSNR_AT = (1, 10, 20, 50, 100)
FEWEST = 4  # clips of a correlation


def curves(measured: Measured) -> Curves:
    """Mean PSNR by horizon, as far as half of the clips go."""
    dream, copy = measured.errors["dream"], measured.errors["copy"]
    reached = np.isfinite(dream).mean(0)
    horizons = [h for h in HORIZONS if h <= dream.shape[1] and reached[h - 1] >= 0.5]
    columns = [_psnr(error, horizons) for error in (dream, copy, measured.errors["autoencoder"])]
    return Curves(horizons, *columns)


def spread(measured: Measured, horizons: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """PSNR of the dream that a quarter of the clips stay below, and that a quarter exceed, at each horizon."""
    values = psnr(measured.errors["dream"][:, np.array(horizons) - 1])
    low, high = np.nanquantile(values, [0.25, 0.75], axis=0)
    return low, high


def figures(world: World, clips: Clips, measured: Measured, curve: Curves) -> dict[str, float]:
    """All figures by name; what could not be measured is left out."""
    found: dict[str, float] = {"clips": len(clips), "drives": len(np.unique(clips.drive)), "context": clips.context}
    found["steered"] = largest_steering(clips)
    for horizon in PSNR_AT:
        if horizon in curve.horizons:
            at = curve.horizons.index(horizon)
            found[f"clips_{horizon}"] = float(np.isfinite(measured.errors["dream"][:, horizon - 1]).sum())
            for name in ("dream", "copy", "autoencoder"):
                found[f"psnr_{horizon}" if name == "dream" else f"{name}_psnr_{horizon}"] = getattr(curve, name)[at]
    for horizon in SHARP_AT:
        if horizon in curve.horizons:
            dreamed, true = (np.nanmean(measured.energy[name][:, horizon - 1]) for name in ("dream", "true"))
            found[f"sharpness_{horizon}"] = float(dreamed / true) if true > 0 else math.nan
    found |= _control_figures(measured) | _road_figures(measured) | _told_figures(world, measured)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _control_figures(measured: Measured) -> dict[str, float]:
    """How much the controls decide what is dreamed."""
    found: dict[str, float] = {}
    error = measured.errors["dream"]
    for name in ("other", "mirrored"):
        wrong = measured.errors[name][:, :AHEAD]
        both = np.isfinite(wrong).any(1)
        if not both.any():
            continue
        known = np.isfinite(wrong[both])
        sums = [(np.where(known, e[both][:, : wrong.shape[1]], 0).sum(1) / known.sum(1)) for e in (error, wrong)]
        right, false = psnr(np.array(sums))
        found[f"{name}_clips"], found[f"{name}_gain"] = float(both.sum()), float((right - false).mean())
        found[f"{name}_told"] = float((right > false).mean())
    apart, futures = (np.sqrt(np.nanmean(np.square(measured.apart[n]))) if np.isfinite(measured.apart[n]).any() else
                      math.nan for n in ("sides", "futures"))  # fmt: skip
    found["sides_apart"], found["futures_apart"] = 255 * float(apart), 255 * float(futures)
    return found


def _road_figures(measured: Measured) -> dict[str, float]:
    """Turns and distances where the recording knows positions, and the dream without a route where it has one."""
    found: dict[str, float] = {}
    free, routed = measured.errors["free"], measured.errors["dream"]
    for horizon in (1, 10, 20):
        if horizon <= free.shape[1] and np.isfinite(free[:, horizon - 1]).any():
            found[f"free_psnr_{horizon}"] = _psnr(free, [horizon])[0]
            found[f"routed_psnr_{horizon}"] = _psnr(np.where(np.isfinite(free), routed, np.nan), [horizon])[0]
    for name in ("turn", "distance"):
        true, dreamed = _both(measured.true[name], measured.dreamed[name])
        if len(true) >= FEWEST:
            found |= {f"{name}_correlation": correlation(true, dreamed), f"{name}_slope": slope(true, dreamed)}
    if np.isfinite(measured.true["turn"]).any():  # a world without positions has never seen a turn told
        found |= {f"turn_{side}": float(np.degrees(_mean(measured.dreamed[f"turn_{side}"]))) for side in SIDES}
    return found


def _told_figures(world: World, measured: Measured) -> dict[str, float]:
    """Telemetry, reward, ending and confidence, as far as world and recording know them."""
    found: dict[str, float] = {}
    for name in world.spec.names("telemetry"):
        true, dreamed = _both(measured.true[name], measured.dreamed[name])
        _, kept = _both(measured.true[name], measured.kept[name])
        if len(true):
            found[f"told_{name}"] = float(np.abs(dreamed - true).mean())
            found[f"kept_{name}"] = float(np.abs(kept - true).mean())
    true, dreamed = _both(measured.true["reward"], measured.dreamed["reward"])
    if _rewarded(world) and len(true) >= FEWEST:
        found["reward"] = correlation(true, dreamed)
    ended, scores = _both(measured.ended["true"].ravel(), measured.ended["dream"].ravel())
    if world.end_threshold < 1:
        found["endings"], found["ending_auc"] = float(ended.sum()), auc(scores, ended > 0)
        found["false_alarms"] = float((scores > world.end_threshold)[ended == 0].mean())
    sure, error = _confidence(measured)
    if len(sure) >= FEWEST:
        found["confidence"] = spearman(sure, -error)
    return found


def calibration_table(measured: Measured) -> dict[str, list[float]] | None:
    """Bins of confidence against the true error of `SHORT` frames; None of too few clips."""
    sure, error = _confidence(measured)
    return calibration(sure, error, CALIBRATION_BINS) if len(sure) >= 2 * CALIBRATION_BINS else None


def lines(found: dict[str, float], fps: float) -> list[tuple[str, str, str]]:
    """The table: what was measured, its value, and what it is to be compared with."""
    rows: list[tuple[str, str, str]] = []

    def show(name: str, digits: int) -> str:
        return f"{found[name]:.{digits}f}" if name in found else "-"

    def add(label: str, name: str, digits: int, beside: str = "") -> None:
        if name in found:
            rows.append((label, show(name, digits), beside))

    for horizon in PSNR_AT:
        kept, alone = show(f"copy_psnr_{horizon}", 1), show(f"autoencoder_psnr_{horizon}", 1)
        beside = f"copying the last frame {kept}, the autoencoder alone {alone}"
        if found.get(f"clips_{horizon}", 0) < found["clips"]:
            beside += f" ({show(f'clips_{horizon}', 0)} clips)"
        unit = f"frame{'s' if horizon > 1 else ''} ({horizon / fps:.2g} s)"
        add(f"PSNR after {horizon} {unit}, dB", f"psnr_{horizon}", 1, beside)
    for horizon in (1, 10, 20):
        label = f"told no route: PSNR after {horizon}, dB"
        add(label, f"free_psnr_{horizon}", 1, f"told it {show(f'routed_psnr_{horizon}', 1)}")
    for horizon in SHARP_AT:
        add(f"sharpness after {horizon}: Laplacian energy, dreamed / true", f"sharpness_{horizon}", 2, "as sharp: 1")
    share = "share of these clips that the true ones come nearer in"
    add(f"true controls over another clip's: PSNR of {AHEAD} frames, dB", "other_gain", 2,
        f"controls decide nothing: 0 ({show('other_clips', 0)} clips)")  # fmt: skip
    add(share, "other_told", 2, "chance .5")
    add(f"true steering over mirrored: PSNR of {AHEAD} frames, dB", "mirrored_gain", 2,
        f"steering decides nothing: 0 ({show('mirrored_clips', 0)} clips that steer)")  # fmt: skip
    add(share, "mirrored_told", 2, "chance .5")
    add(f"left against right ({show('steered', 2)}), {SHORT} frames: RMS difference of 255", "sides_apart", 1,
        f"two futures under the same controls {show('futures_apart', 1)}")  # fmt: skip
    add(f"turn in {AHEAD} frames, dreamed against recorded: r", "turn_correlation", 3, f"slope {show('turn_slope', 2)}")
    add(f"distance in {AHEAD} frames, dreamed against recorded: r", "distance_correlation", 3,
        f"slope {show('distance_slope', 2)}")  # fmt: skip
    add(f"turn in {TURNED} frames steered to the right, degrees", "turn_right", 1,
        f"straight on {show('turn_straight', 1)}, to the left {show('turn_left', 1)}")  # fmt: skip
    for name in [key.removeprefix("told_") for key in found if key.startswith("told_")]:
        add(f"{name} after {SHORT} frames: mean error", f"told_{name}", 3, f"keeping it {show(f'kept_{name}', 3)}")
    add(f"reward of {SHORT} frames, dreamed against recorded: r", "reward", 3)
    add("ending: AUC", "ending_auc", 3, f"chance .5 ({show('endings', 0)} endings)")
    add("ending: false alarms per frame", "false_alarms", 4)
    add(f"confidence: rank correlation with the error of {SHORT} frames", "confidence", 2, "chance 0")
    add("steps/s, one dream, decoded", "steps_per_second", 0, f"{show('real_time', 1)} times real time")
    return rows


def missing(world: World, clips: Clips, found: dict[str, float]) -> list[str]:
    """What the recording, or the world, did not allow to measure."""
    lacking: list[str] = []
    longest = int(clips.steps.max())
    if longest < AHEAD:
        lacking.append(f"anything beyond {longest} frames (the drives are too short)")
    if "turn_correlation" not in found:
        lacking.append("turns and distances (no positions, or too few clips)")
    if "reward" not in found:
        lacking.append(f"reward ({'the recording' if _rewarded(world) else 'the world'} knows none)")
    if "ending_auc" not in found:
        lacking.append(f"ending ({'no drive ends' if world.end_threshold < 1 else 'the world never ends'})")
    if "other_gain" not in found:
        lacking.append("response to the controls (they hardly differ between clips)")
    if clips.held.drives.spec.steers() is None:
        lacking.append("response to steering (which control turns is not known: `steering` of the spec)")
    lacking += [f"{name} (not recorded)" for name in world.spec.names("telemetry") if f"told_{name}" not in found]
    return lacking


def _rewarded(world: World) -> bool:
    """Whether the world has learned a reward."""
    return any(world.spec.rewards[name].value for name in world.spec.learned())


def _confidence(measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    return _both(measured.dreamed["confidence"], measured.errors["dream"][:, :SHORT].mean(1))


def _psnr(error: np.ndarray, horizons: list[int]) -> list[float]:
    return [float(np.nanmean(psnr(error[:, horizon - 1]))) for horizon in horizons]


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _both(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where both are known."""
    known = np.isfinite(first) & np.isfinite(second)
    return first[known], second[known]
