"""Figures far from what was recorded: under controls that no driver makes, against the simulator from the same state.

Legend: N states, K families of controls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from drivedit.evaluation.dreams import dream
from drivedit.evaluation.metrics.figures import correlation, slope, spearman, squared_error, turns
from drivedit.evaluation.sources import Arrays
from drivedit.evaluation.twin_drives import scenes
from drivedit.evaluation.twin_far import FAMILIES, SEEN, STEPS
from drivedit.models import World
from drivedit.utils import Probes


def far_figures(world: World, arrays: Arrays, probes: Probes, **options: Any) -> dict[str, float]:
    """Heading, speed and confidence by family, of dreams that the simulator lasts as long as.

    Args:
        world: The world.
        arrays: What `record_far` made, stacked.
        probes: What is asked of the simulator.
        options: Of `dream`.

    Returns:
        By family `far_NAME_heading`, correlation of the heading change with the true one, `far_NAME_slope`, and
        `far_NAME_speed`, mean error of the speed as a share of the top speed; and of all families the rank correlation
        of confidence with the error of the picture after 10 frames (`far_confidence`).
    """
    count, families = arrays["far_controls"].shape[:2]
    controls = arrays["far_controls"].reshape(count * families, STEPS, -1)
    dreamed = dream(world, scenes(arrays), controls, repeat=families, seed=50_000, label="far controls", **options)
    here = np.repeat(arrays["poses"][:, -1], families, 0)[:, None]
    turned = -turns(np.concatenate([here, dreamed.poses], 1)[..., 2]).sum(-1).reshape(count, families)
    speed = dreamed.telemetry[:, -1, world.spec.names("telemetry").index(probes.speed)].reshape(count, families)
    lasted, figures = arrays["far_steps"] == STEPS, {}
    for place, name in enumerate(FAMILIES):
        rows = lasted[:, place]
        true, told = arrays["far_turn"][rows, place], turned[rows, place]
        off = np.abs(speed[rows, place] - arrays["far_speed"][rows, place]) / probes.top_speed
        several = rows.sum() > 1
        figures[f"far_{name}_heading"] = correlation(true, told) if several else float("nan")
        figures[f"far_{name}_slope"] = slope(true, told) if several else float("nan")
        figures[f"far_{name}_speed"] = float(off.mean()) if rows.any() else float("nan")
    first = SEEN[0]
    seen = arrays["far_seen"][:, :, 0]
    error = squared_error(dreamed.frames[:, first - 1], seen.reshape(-1, *seen.shape[2:]))
    rows = (arrays["far_steps"] >= first).reshape(-1)
    sure = dreamed.confidence[:, :first].mean(1)
    return figures | {"far_confidence": spearman(-sure[rows], error[rows])}
