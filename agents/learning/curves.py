"""The curves of several runs of `train` in one picture."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from drivedit.agents.learning.train import CONFIG, CURVE, TrainConfig
from drivedit.utils import extra, write_atomically

PANELS = {
    "learned_in": "return of an episode while learning",
    "judged": "return where it is judged",
}


def draw_curves(runs: Sequence[str | Path], out: str | Path = "curves.png") -> Path:
    """Draws the learning curves of runs, one line each; runs that no environment judged have one panel.

    Args:
        runs: Folders that `train` made.
        out: The PNG file.

    Returns:
        The PNG file.

    Raises:
        FileNotFoundError: A folder holds no curve.
        ValueError: There is no point to draw.
    """
    with extra("agents", "drawing curves"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    curves = {}
    for run in map(Path, runs):
        if not (run / CURVE).is_file():
            raise FileNotFoundError(f"{run} holds no {CURVE}; a run of `train` writes it at its first checkpoint")
        curves[_label(run)] = [json.loads(line) for line in (run / CURVE).read_text().splitlines()]
    panels = [key for key in PANELS if any(key in point for points in curves.values() for point in points)]
    if not panels:
        raise ValueError(
            f"nothing to draw: no episode ended so far in {', '.join(curves)} and none was judged; let it learn on, or "
            "with a shorter --horizon"
        )
    figure = Figure(figsize=(6.4, 3.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for number, (name, points) in enumerate(curves.items()):
            told = [(point["steps"], point[key]) for point in points if key in point]
            if told:
                axes.plot(*zip(*told, strict=True), "o-", color=f"C{number}", markersize=3, label=name)
        axes.set(xlabel="steps", ylabel=PANELS[key])
        axes.grid(alpha=0.3)
        axes.legend()
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png")
    write_atomically(out, lambda file: file.write(data.getvalue()))
    return Path(out)


def _label(run: Path) -> str:
    """Name of a run and its seed."""
    seed = TrainConfig.from_json(run / CONFIG).seed if (run / CONFIG).is_file() else None
    return run.name if seed is None else f"{run.name}, seed {seed}"
