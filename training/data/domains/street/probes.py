"""What the evaluation asks of the street: who drives how, which controls are held, and what is read off its pictures.

What is read is told by a small network that has learned from true pictures (`reader.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.reader import FARTHEST, read
from drivedit.data.domains.street.simulator import EYE, FIELD, FORWARD, PITCH
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.utils import Goal, OthersProbes, Probes

NEAREST = 0.3  # m before the camera from which on corners of a box are in the picture
HORIZON = 28  # rows of the picture above it
CORNERS = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])


def at_speed(start: dict[str, Any]) -> dict[str, Any]:
    """A start at 6 to 12 m/s."""
    return {**start, "speed": min(max(start.get("speed", 0.0), 6.0), 12.0)}


def can_branch(now: Mapping[str, float]) -> bool:
    """Whether the car goes along the road, with all wheels on it, neither slowly nor too fast to turn."""
    return now["wheels_on_road"] == 1.0 and 4.0 < now["speed"] < 16.0 and abs(now["heading_error"]) < 0.1


def with_traffic(start: dict[str, Any], traffic: str) -> dict[str, Any]:
    """A start among others, or alone."""
    return {**start, "attributes": {**start.get("attributes", {}), "traffic": traffic}}


def road_share(frames: np.ndarray) -> np.ndarray:
    """Share of the wheels that stand on the road, `[...]` of pictures `[..., H, W, 3]`."""
    flat = frames.reshape(-1, *frames.shape[-3:])
    return read(flat).values["wheels_on_road"].clip(0, 1).reshape(frames.shape[:-3])


def outlines(boxes: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom (pixels) of boxes `[A, >= 7]`, see `OthersProbes`."""
    height, width, _ = SPEC.observations[SPEC.picture].shape
    offset, yaw = CORNERS * boxes[:, None, 3:6], boxes[:, None, 6]
    x = boxes[:, None, 0] + offset[..., 0] * np.cos(yaw) - offset[..., 1] * np.sin(yaw) - pose[0]
    y = boxes[:, None, 1] + offset[..., 0] * np.sin(yaw) + offset[..., 1] * np.cos(yaw) - pose[1]
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    ahead, right = x * cos + y * sin - FORWARD, x * sin - y * cos
    above = boxes[:, None, 2] + offset[..., 2] - EYE
    depth = ahead * math.cos(PITCH) + above * math.sin(PITCH)
    up = above * math.cos(PITCH) - ahead * math.sin(PITCH)
    scale = width / 2 / math.tan(FIELD / 2) / np.maximum(depth, NEAREST)
    across, down = width / 2 + scale * right, height / 2 - scale * up
    found = np.stack([across.min(1), down.min(1), across.max(1), down.max(1)], 1)
    found = found.clip(0, [width, height, width, height])
    return np.where((depth.max(1) > NEAREST)[:, None], found, 0.0)


def shown(twin: StreetTwin) -> dict[int, int]:
    """How many pixels of the present picture show each of the others."""
    numbers, pixels = np.unique(twin.instances(), return_counts=True)
    return dict(zip(numbers.tolist(), pixels.tolist(), strict=True))


def turns(frames: np.ndarray) -> np.ndarray:
    """Turns to the right between pictures, found by registering what is far away: hills, clouds, houses, trees.

    Args:
        frames: uint8 `[T + 1, H, W, 3]`.

    Returns:
        Radians `[T]`.
    """
    width = frames.shape[2]
    angles = (np.arange(width) + 0.5) / width * FIELD - FIELD / 2
    columns = width / 2 * (1 + np.tan(angles) / math.tan(FIELD / 2)) - 0.5  # at equal angles
    left = np.clip(np.floor(columns).astype(int), 0, width - 2)
    far = np.sqrt(frames[:, :HORIZON].mean(-1))
    far = far[..., left] + (columns - left) * (far[..., left + 1] - far[..., left])
    far -= far.mean((1, 2), keepdims=True)
    window = np.tile(np.hanning(width), (HORIZON, 1))
    shifts = [cv2.phaseCorrelate(*pair, window)[0][0] for pair in zip(far[:-1], far[1:], strict=True)]
    return -np.array(shifts) * FIELD / width


GOALS = {
    "gain_1": Goal.over(4.0, 8.0), "gain_10": Goal.over(4.0, 7.0), "gain_20": Goal.over(3.0, 5.0),
    **{f"free_loss_{frames}": Goal.under(2.5, 1.0) for frames in (1, 10, 20)},
    "sharpness_1": Goal((0.75, 1.25), (0.9, 1.1)), "sharpness_50": Goal((0.7, 1.25), (0.9, 1.1)),
    "steering_correlation": Goal.over(0.97, 0.99), "steering_slope": Goal((0.85, 1.15), (0.95, 1.05)),
    "speed_error": Goal((0, 0.15), (0, 0.05)), "ahead_correlation": Goal.over(0.8, 0.95),
    "placed": Goal.over(0.75, 0.95), "others_ratio": Goal((0.5, 1.5), (0.8, 1.2)),
    "reappears": Goal.over(0.8, 0.8),
    "ending_auc": Goal.over(0.95, 0.99), "ending_recall": Goal.over(0.6, 0.9),
    "on_road": Goal.over(0.95, 0.99), "alive": Goal.over(0.9, 1.0),
    "free_on_road": Goal.over(0.85, 0.97), "free_alive": Goal.over(0.6, 0.9),
    "attributes_kept": Goal.over(0.9, 0.99), "confidence": Goal.over(0.5, 0.8),
    "steps_over_twin": Goal.over(3.0, 10.0), "steps_over_twin_16": Goal.over(6.0, 20.0),
}  # fmt: skip
OTHERS = OthersProbes(
    empty=lambda start: with_traffic(start, "none"),
    peopled=lambda start: with_traffic(start, "dense"),
    gap="gap",
    gap_range=(4.0, 22.0),
    gaps=lambda frames, before: read(frames, before).values["gap"],
    farthest=FARTHEST,
    speed=3.0,
    cars=lambda frames: read(frames).cars,
    outlines=outlines,
    shown=shown,
    size=(4.4, 1.8, 1.5),
    placed=(5.0, 40.0),
)
PROBES = Probes(
    good=("clean",),
    wild=("mixed", "wild"),
    leaving=("ram",),
    driver="cautious",
    steers=np.array([[-0.25, 0.0], [0.0, 0.0], [0.25, 0.0]], np.float32),
    throttles=np.array([[0.0, 1.0], [0.0, 0.0], [0.0, -1.0]], np.float32),
    speed="speed",
    road="wheels_on_road",
    top_speed=40.0,  # m/s, of the fastest on a highway
    at_speed=at_speed,
    can_branch=can_branch,
    road_share=road_share,
    hide_fixed=lambda frames: frames,
    turns=turns,
    gentle=np.array([[-0.02, 0.0], [0.02, 0.3]]),
    goals=GOALS,
    ending="collision",
    false_alarms=0.02,
    drive_steps=600,
    attributes=lambda frames: read(frames).attributes,
    filmed="time",
    others=OTHERS,
)
