"""Pictures of an evaluation: a contact sheet, error against horizon, and a film of a closed-loop dream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from drivedit.evaluation.suites.open_loop import Curves
from drivedit.utils import extra, rgb
from drivedit.utils.video import VideoWriter

SHEET_HORIZONS = (1, 5, 10, 20, 50)
SHEET_ROWS = 6
TILE = 128  # px, about the width of a picture on a sheet
HEAD, SIDE, GAP = 18, 52, 6  # px: the line on top, the column of labels, the space between clips
FILM_ZOOM = 6
FILM_TILE = 192  # px, about the width of a picture in a moving one
BACK, INK, FAINT = (24, 24, 24), (255, 255, 255), (160, 160, 160)

Pair = tuple[np.ndarray, np.ndarray]


def write_sheet(
    clips: Sequence[tuple[np.ndarray, ...]], path: Path, fps: float, labels: Sequence[str] = ("true", "dream")
) -> None:
    """Writes a PNG: for each clip a row of true frames above rows of dreamed ones.

    Args:
        clips: Of each clip true frames `[T + 1, H, W, 3]` from the present on, and dreamed ones `[T, H, W, 3]`.
        path: The file.
        fps: Frames per second.
        labels: Of the rows of a clip.
    """
    clips = clips[:SHEET_ROWS]
    longest = max(len(dreamed) for _, dreamed, *_ in clips)
    horizons = [h for h in SHEET_HORIZONS if h <= longest]
    rows: list[list[tuple[str, list[np.ndarray | None]]]] = []
    for true, *dreams in clips:
        lines: list[list[np.ndarray | None]] = [[true[h] if h < len(true) else None for h in [0, *horizons]]]
        lines += [[None, *(dream[h - 1] if h <= len(dream) else None for h in horizons)] for dream in dreams]
        rows.append(list(zip(labels, lines, strict=True)))
    _write_grid(rows, ["now", *(f"+{h} ({h / fps:.2g} s)" for h in horizons)], path)


def write_sides(rows: Sequence[Pair], path: Path, seconds: float) -> None:
    """Writes a PNG of what steering does: a moment, and the dreams from it to the left, straight on and to the right.

    Args:
        rows: Of each clip the present frame `[H, W, 3]` and the dreams `[3, H, W, 3]`.
        path: The file.
        seconds: How long they were steered.
    """
    head = ["now", *(f"{seconds:.2g} s {side}" for side in ("left", "straight on", "right"))]
    _write_grid([[("", [now, *sides])] for now, sides in rows[:SHEET_ROWS]], head, path)


def write_plot(curve: Curves, path: Path, fps: float, title: str, spread: Pair | None = None) -> None:
    """Writes a PNG of PSNR against horizon.

    Args:
        curve: What is plotted.
        path: The file.
        fps: Frames per second.
        title: The title.
        spread: PSNR of the dream that a quarter of the clips stay below and a quarter exceed, at each horizon.
    """
    with extra("train", "the page of an evaluation"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = {
        "autoencoder": ("autoencoder alone (the best there is)", "#7a7a7a", ":"),
        "dream": ("dream under the true controls", "#1f5fa8", "-"),
        "copy": ("copying the last true frame", "#c8641e", "--"),
    }
    for name, (label, colour, style) in names.items():
        axes.plot(curve.horizons, getattr(curve, name), style, color=colour, marker="o", markersize=3, label=label)
    if spread is not None:
        axes.fill_between(curve.horizons, *spread, color=names["dream"][1], alpha=0.15, label="half of the clips", lw=0)
    axes.set(xlabel="frames ahead", ylabel="PSNR, dB", title=title)
    seconds = axes.secondary_xaxis(-0.16, functions=(lambda x: np.asarray(x) / fps, lambda x: np.asarray(x) * fps))
    seconds.set_xlabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


def write_film(frames: np.ndarray, path: Path, fps: float) -> None:
    """Writes uint8 frames `[T, H, W, 3]` as an mp4."""
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.write(rgb(frame).repeat(FILM_ZOOM, 0).repeat(FILM_ZOOM, 1))


def write_beside(
    clips: Sequence[tuple[np.ndarray, ...]], path: Path, fps: float, text: str, columns: int = 4, frames: int = 60
) -> None:
    """Writes a moving picture (WebP): clips beside each other, true above and dreamed below.

    Args:
        clips: Of each clip true frames `[T + 1, H, W, 3]` from the present on, and dreamed ones `[T, H, W, 3]`.
        path: The file.
        fps: Frames per second.
        text: The line on top.
        columns: Most clips.
        frames: Most frames.
    """
    longest = max(len(dreamed) for _, dreamed, *_ in clips)
    clips = [clip for clip in clips if len(clip[1]) == longest][:columns]
    zoom = max(1, round(FILM_TILE / clips[0][0].shape[2]))
    with VideoWriter(path, fps) as video:
        for step in range(min(frames, longest)):
            lines = []
            for line in zip(
                *((true[step + 1], *(dream[step] for dream in dreams)) for true, *dreams in clips), strict=True
            ):
                large = [rgb(picture).repeat(zoom, 0).repeat(zoom, 1) for picture in line]
                lines.append(np.concatenate([np.pad(part, ((0, 4), (0, 4), (0, 0))) for part in large], 1))
            label = np.zeros((HEAD, lines[0].shape[1], 3), np.uint8)
            _text(label, text, 4, HEAD - 5, INK)
            video.write(np.concatenate([label, *lines]))


def _write_grid(
    groups: Sequence[Sequence[tuple[str, list[np.ndarray | None]]]], head: Sequence[str], path: Path
) -> None:
    """Writes a PNG of groups of lines of pictures, each line with a label, each column with a head."""
    first = next(picture for _, line in groups[0] for picture in line if picture is not None)
    zoom = TILE / first.shape[1]
    zoom = max(1.0, round(zoom)) if zoom > 0.6 else zoom
    height, width = round(first.shape[0] * zoom), round(first.shape[1] * zoom)
    side = SIDE if any(label for group in groups for label, _ in group) else GAP
    right = [side + column * (width + 2) for column in range(len(head) + 1)]
    top = np.full((HEAD, right[-1], 3), BACK, np.uint8)
    for text, left in zip(head, right, strict=False):
        _text(top, text, left + 2, HEAD - 5, INK)
    bands = [top]
    for group in groups:
        for label, line in group:
            band = np.full((height + 2, right[-1], 3), BACK, np.uint8)
            _text(band, label, 4, height // 2 + 4, FAINT)
            for picture, left in zip(line, right, strict=False):
                if picture is not None:
                    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_NEAREST
                    band[:height, left : left + width] = cv2.resize(rgb(picture), (width, height), interpolation=how)
            bands.append(band)
        bands.append(np.full((GAP, right[-1], 3), BACK, np.uint8))
    _write(path, np.concatenate(bands))


def _text(picture: np.ndarray, text: str, left: int, bottom: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)


def _write(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"could not write {path}; does its folder exist, and is there room?")
