"""A contact sheet of a recording: one row per clip, so that people can look at what was recorded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from drivedit.data.recordings import read_shard, shard_paths
from drivedit.utils import rgb


def write_sheet(
    folder: str | Path, out: str | Path = "sheet.png", rows: int = 16, every: int = 4, seed: int = 0, columns: int = 12
) -> Path:
    """Draws random clips of a recording, each named by its driver and start step.

    Args:
        folder: Folder of the recording.
        out: Picture to write, PNG.
        rows: Clips, one below the other.
        every: Steps between two frames of a clip.
        seed: Seed of which clips are drawn.
        columns: Frames of a clip.

    Returns:
        The path of the PNG.
    """
    rng = np.random.default_rng(seed)
    paths = shard_paths(folder)
    chosen = [paths[int(i)] for i in rng.choice(len(paths), size=min(4, len(paths)), replace=False)]
    episodes = [episode for path in chosen for episode in read_shard(path)]
    lines = []
    for number in rng.choice(len(episodes), size=rows, replace=len(episodes) < rows):
        episode = episodes[int(number)]
        span = every * (columns - 1)
        first = int(rng.integers(max(1, len(episode) - span)))
        picked = np.minimum(first + every * np.arange(columns), len(episode))
        frames = np.concatenate(list(rgb(episode.picture[picked])), axis=1)  # [H, W columns, 3]
        label = np.zeros((14, frames.shape[1], 3), dtype=np.uint8)
        text = f"{episode.driver}  seed {episode.seed}  step {first}"
        for each in episode.spec.telemetry:
            value = episode.told(each.name)[picked].mean()
            text += "" if np.isnan(value) else f"  {each.name} {value:.3g} {each.unit}"
        cv2.putText(label, text, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
        lines += [label, frames]
    image = np.concatenate(lines, axis=0)
    out = Path(out)
    if not cv2.imwrite(str(out), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise OSError(f"could not write {out}; does its folder exist, and does the name end in .png?")
    return out
