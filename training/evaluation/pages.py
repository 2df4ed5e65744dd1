"""Pictures of an evaluation: a contact sheet, error against horizon, and a film of a closed-loop dream."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from drivedit.evaluation.dreams import Dream
from drivedit.evaluation.open_loop import Curves
from drivedit.evaluation.sources import Arrays
from drivedit.evaluation.twin_drives import CONTEXT
from drivedit.utils.video import VideoWriter

SHEET_HORIZONS = (1, 5, 10, 20, 50)
ZOOM = 2
FILM_ZOOM = 6


def write_sheet(clips: Arrays, dreamed: Dream, path: Path, rows: int = 8) -> None:
    """Writes a PNG: for each clip a row of true frames above a row of dreamed ones."""
    horizons = [h for h in SHEET_HORIZONS if h <= dreamed.frames.shape[1]]
    lines = [_label([f"+{h}" for h in horizons], clips["frames"].shape[3] * ZOOM)]
    for row in range(min(rows, len(dreamed.frames))):
        true = clips["frames"][row, CONTEXT:]
        for pictures in (true[horizons], dreamed.frames[row, [h - 1 for h in horizons]]):
            line = np.concatenate(list(pictures), 1)  # [H, W horizons, 3]
            lines.append(line.repeat(ZOOM, 0).repeat(ZOOM, 1))
        lines.append(np.zeros((4, lines[-1].shape[1], 3), np.uint8))
    _write(path, np.concatenate(lines))


def write_plot(curve: Curves, path: Path) -> None:
    """Writes a PNG of PSNR against horizon."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = {"autoencoder": "autoencoder alone", "dream": "dream, true controls", "copy": "copy the last frame"}
    for name, label in names.items():
        axes.plot(curve.horizons, getattr(curve, name), marker="o", markersize=3, label=label)
    axes.set(xlabel="frames ahead (0.06 s each)", ylabel="PSNR, dB", title="Held-out drives")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def write_film(frames: np.ndarray, path: Path, fps: float) -> None:
    """Writes uint8 frames `[T, H, W, 3]` as an mp4."""
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.write(frame.repeat(FILM_ZOOM, 0).repeat(FILM_ZOOM, 1))


def write_beside(
    clips: Arrays, dreamed: Dream, path: Path, columns: int = 4, frames: int = 60, fps: float = 16.7
) -> None:
    """Writes a moving picture (WebP): well-driven clips beside each other, true above and dreamed below."""
    rows, zoom = range(0, min(2 * columns, len(dreamed.frames)), 2), 3
    label = _label(["the simulator above, the dream below: same start, same controls"], (64 * zoom + 4) * len(rows))
    true, dream = clips["frames"][:, CONTEXT + 1 :], dreamed.frames
    with VideoWriter(path, fps) as video:
        for step in range(min(frames, dream.shape[1])):
            large = [source[rows, step].repeat(zoom, 1).repeat(zoom, 2) for source in (true, dream)]
            framed = [np.pad(part, ((0, 0), (0, 4), (0, 4), (0, 0))) for part in large]
            video.write(np.concatenate([label, *(np.concatenate(list(part), 1) for part in framed)]))


def _label(texts: list[str], width: int) -> np.ndarray:
    """A dark line with a text above each column of pictures."""
    line = np.zeros((18, width * len(texts), 3), np.uint8)
    for column, text in enumerate(texts):
        place = (column * width + 4, 13)
        cv2.putText(line, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return line


def _write(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"could not write {path}; does its folder exist, and is there room?")
