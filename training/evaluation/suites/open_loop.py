"""Figures of dreams under the controls of true held-out drives: pictures, sharpness, reward, ending, confidence.

Legend: N clips, T frames ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivedit.evaluation.dreams import Dream, dream, reconstruct
from drivedit.evaluation.metrics.figures import (
    auc,
    calibration,
    correlation,
    laplacian_energy,
    psnr,
    recall_at,
    spearman,
    squared_error,
)
from drivedit.evaluation.sources import Arrays
from drivedit.evaluation.twin_drives import CONTEXT, scene, scenes
from drivedit.models import World

HORIZONS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)
SHORT = 10  # frames of the short dreams that reward and confidence are judged by
TABLED = (1, 10, 20)  # frames after which the dream is compared with copying, and with dreaming freely
SHARP_AT = (1, 50)  # frames after which sharpness is told
LONGEST_FREE = 50  # frames of a free dream
CALIBRATION_BINS = 5


@dataclass
class Curves:
    """Mean PSNR (dB) at each horizon.

    Attributes:
        horizons: Frames ahead.
        dream: Of the dream.
        copy: Of the last true frame, kept.
        autoencoder: Of the true frames through the autoencoder.
    """

    horizons: list[int]
    dream: list[float]
    copy: list[float]
    autoencoder: list[float]

    def at(self, horizon: int) -> float:
        """The dream's PSNR at a horizon; NaN where it was not measured."""
        return self.dream[self.horizons.index(horizon)] if horizon in self.horizons else float("nan")


def dream_clips(
    world: World, clips: Arrays, sampling_steps: int | None = None, quiet: bool = False, free: bool = False
) -> Dream:
    """Dreams all clips to their end, or for `LONGEST_FREE` frames if it is told nothing."""
    controls, others = clips["controls"][:, CONTEXT:], clips["others"][:, CONTEXT + 1 :]
    if free:
        controls, others = controls[:, :LONGEST_FREE], None
    label = "open loop" + free * ", free"
    return dream(
        world, scenes(clips, free), controls, others=others, sampling_steps=sampling_steps, label=label, quiet=quiet
    )


def free_figures(clips: Arrays, given: Dream, free: Dream) -> dict[str, float]:
    """PSNR where nothing is told, how much is lost by that, and how sharp it is."""
    figures = {}
    for frames in TABLED:
        told = alone = float("nan")
        if frames <= free.frames.shape[1]:
            true = clips["frames"][:, CONTEXT + frames]
            told, alone = (float(psnr(squared_error(each.frames[:, frames - 1], true)).mean())
                           for each in (given, free))  # fmt: skip
        figures |= {f"free_psnr_{frames}": alone, f"free_loss_{frames}": told - alone}
    return figures | {f"free_sharpness_{frames}": sharpness(clips, free, frames) for frames in SHARP_AT}


def curves(clips: Arrays, dreamed: Dream, world: World | None) -> Curves:
    """PSNR against horizon of the dream and of its two yardsticks (the autoencoder's is left out without a world)."""
    true = clips["frames"][:, CONTEXT:]  # [N, T + 1, ...], the first one is the last of the context
    horizons = [h for h in HORIZONS if h <= dreamed.frames.shape[1]]
    rows = []
    for horizon in horizons:
        now = true[:, horizon]
        alone = now if world is None else reconstruct(world, now)
        pictures = (dreamed.frames[:, horizon - 1], true[:, 0], alone)
        rows.append([float(psnr(squared_error(picture, now)).mean()) for picture in pictures])
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Curves(horizons, *columns)


def sharpness(clips: Arrays, dreamed: Dream, horizon: int) -> float:
    """Laplacian energy of the dreamed pictures over that of the true ones; NaN where these show nothing."""
    if horizon > dreamed.frames.shape[1]:
        return float("nan")
    true = laplacian_energy(clips["frames"][:, CONTEXT + horizon])
    return laplacian_energy(dreamed.frames[:, horizon - 1]) / true if true else float("nan")


def picture_figures(clips: Arrays, dreamed: Dream, curve: Curves) -> dict[str, float]:
    """PSNR and sharpness at the horizons of the table."""
    figures = {f"psnr_{h}": curve.at(h) for h in (1, 10, 20, 50, 100)}
    copied = dict(zip(curve.horizons, curve.copy, strict=True))
    figures |= {f"gain_{h}": curve.at(h) - copied.get(h, float("nan")) for h in TABLED}
    return figures | {f"sharpness_{h}": sharpness(clips, dreamed, h) for h in SHARP_AT}


def short_starts(clips: Arrays, per_clip: int) -> list[tuple[int, int]]:
    """Rows and frames at which short dreams begin, spread over every clip."""
    last = clips["controls"].shape[1] - SHORT
    return [(row, int(now)) for row in range(len(clips["frames"])) for now in np.linspace(CONTEXT, last, per_clip)]


def dream_short(
    world: World, clips: Arrays, starts: list[tuple[int, int]], sampling_steps: int | None = None, quiet: bool = False
) -> Dream:
    """Dreams `SHORT` frames from each start."""
    begins = [scene(clips, row, now) for row, now in starts]
    controls = np.stack([clips["controls"][row, now : now + SHORT] for row, now in starts])
    others = np.stack([clips["others"][row, now + 1 : now + 1 + SHORT] for row, now in starts])
    return dream(
        world, begins, controls, others=others, sampling_steps=sampling_steps, seed=10_000, label="short dreams",
        quiet=quiet,
    )  # fmt: skip


def short_errors(clips: Arrays, starts: list[tuple[int, int]], dreamed: Dream) -> np.ndarray:
    """Mean squared error of each short dream."""
    true = np.stack([clips["frames"][row, now + 1 : now + 1 + SHORT] for row, now in starts])
    return squared_error(dreamed.frames, true).mean(1)


def calibration_table(clips: Arrays, starts: list[tuple[int, int]], dreamed: Dream) -> dict[str, list[float]]:
    """Bins of confidence against true error, over the short dreams."""
    return calibration(dreamed.confidence.mean(1), short_errors(clips, starts, dreamed), CALIBRATION_BINS)


def short_figures(clips: Arrays, starts: list[tuple[int, int]], dreamed: Dream) -> dict[str, float]:
    """Learned reward of ten frames against the simulator's, and confidence against true error."""
    error = short_errors(clips, starts, dreamed)
    reward = np.array([clips["reward"][row, now : now + SHORT].sum() for row, now in starts])
    return {
        "reward_10": correlation(dreamed.reward.sum(1), reward),
        "confidence": spearman(-dreamed.confidence.mean(1), error),
        "confidence_first_frame": spearman(-dreamed.confidence[:, 0], error),
        "confidence_mean": float(dreamed.confidence.mean()),
    }


def dream_endings(world: World, endings: Arrays, sampling_steps: int | None = None, quiet: bool = False) -> Dream:
    """Dreams drives that end to their ending."""
    controls, others = endings["controls"][:, CONTEXT:], endings["others"][:, CONTEXT + 1 :]
    return dream(
        world, scenes(endings), controls, others=others, sampling_steps=sampling_steps, seed=20_000, label="endings",
        quiet=quiet,
    )  # fmt: skip


def ending_figures(
    endings: Arrays, dreamed: Dream, calm: np.ndarray, threshold: float, false_alarms: float = 0.01
) -> dict[str, float]:
    """How well the dreamed ending tells the true one, step by step.

    Args:
        endings: True drives whose last step is the ending.
        dreamed: Their dreams.
        calm: Ending probabilities of dreams of drives that do not end.
        threshold: Probability from which on the world ends a dream.
        false_alarms: Share of the steps without an ending that may alarm where recall is told.
    """
    labels = endings["ended"][:, CONTEXT:]  # [N, T]
    scores = np.concatenate([dreamed.ended.ravel(), calm.ravel()])
    truth = np.concatenate([labels.ravel(), np.zeros(calm.size, bool)])
    last = labels.shape[1] - 1
    first = np.where((dreamed.ended > threshold).any(1), (dreamed.ended > threshold).argmax(1), 10 * last + 10)
    return {
        "ending_auc": auc(scores, truth),
        "ending_recall": recall_at(scores, truth, false_alarms),
        "ending_within_2_steps": float((np.abs(first - last) <= 2).mean()),
        "ending_false_alarms": float((calm > threshold).mean()),
    }
