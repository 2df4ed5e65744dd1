"""What the evaluation asks of CarRacing: who drives how, which controls are held, and what is read off its pictures.

The pictures are those at 64 x 64: the car stands at row 48 of column 32 and points up, one column is 0.96 m wide, one
row 0.77 m high, and the lowest 8 rows are the dashboard. Nothing of the simulator is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import gymnasium as gym
import numpy as np

from drivedit.config.domains.carracing import DOMAIN
from drivedit.utils import Goal, Probes

DASHBOARD = 8  # rows
BESIDE_CAR = (slice(44, 53), (28, 29, 30, 34, 35, 36))  # rows and columns of the ground around the car
ROW_STRETCH = 80  # columns that make a picture's pixels square
CAR = (40.0, 48.0)  # centre of rotation in the stretched picture
TRIED_TURNS = np.radians([0.0, -7.0, 7.0])  # rad around the last turn
STOCK = "CarRacing-v3"


def at_speed(start: dict[str, Any]) -> dict[str, Any]:
    """A start at 20 m/s or more."""
    return {**start, "speed": max(start.get("speed", 0.0), 20.0)}


def can_branch(now: Mapping[str, float]) -> bool:
    """Whether the car goes along the road, with all wheels on it, neither slowly nor at its limit."""
    return now["wheels_on_road"] == 1.0 and 15.0 < now["speed"] < 70.0 and abs(now["heading_error"]) < 0.3


def hide_dashboard(frames: np.ndarray) -> np.ndarray:
    """Frames `[..., H, W, 3]` without the dashboard."""
    return frames[..., :-DASHBOARD, :, :]


def road_share(frames: np.ndarray) -> np.ndarray:
    """Share of the ground beside the car that is road or kerb and not grass or void, `[...]` of `[..., 64, 64, 3]`."""
    rows, columns = BESIDE_CAR
    ground = frames[..., rows, :, :][..., columns, :].astype(np.int32)
    green = ground[..., 1] - np.maximum(ground[..., 0], ground[..., 2])
    return ((green < 40) & (ground.max(-1) > 60)).mean((-2, -1))


def picture_turns(frames: np.ndarray) -> np.ndarray:
    """Turn of the car to the right between pictures, found by registering each one with the next.

    The dashboard and the car are hidden; rotation and shift of the ground are fitted by enhanced correlation
    (Evangelidis and Psarakis 2008).

    Args:
        frames: uint8 `[T + 1, 64, 64, 3]`.

    Returns:
        Radians `[T]`.
    """
    ground = [_ground(frame) for frame in frames]
    mask = np.full(ground[0].shape, 255, np.uint8)
    mask[43:54, 36:45] = 0
    found, last = np.zeros(len(ground) - 1), (0.0, 3.0)
    for index, (before, after) in enumerate(zip(ground[:-1], ground[1:], strict=True)):
        fits = [_register(before, after, mask, last[0] + turn, last[1]) for turn in TRIED_TURNS]
        score, turn, shift = max(fits)
        last = (turn, shift) if score > 0 else last
        found[index] = last[0]
    return found


def stock() -> Callable[[np.ndarray], Any]:
    """Opens Gymnasium's own environment; gives a function of one action of ours, which takes a step of ours."""
    env = gym.make(STOCK, disable_env_checker=True).unwrapped
    env.reset(seed=DOMAIN.held_out_from)
    ticks = round(DOMAIN.spec.dt * env.metadata["render_fps"])

    def run(action: np.ndarray) -> None:
        controls = np.array([action[0], max(action[1], 0.0), max(-action[1], 0.0)])
        for _ in range(ticks):
            env.step(controls)

    return run


def _ground(frame: np.ndarray) -> np.ndarray:
    """Green of a picture in square pixels without the dashboard: bright grass, dark road."""
    green = cv2.resize(frame[..., 1], (ROW_STRETCH, frame.shape[0]), interpolation=cv2.INTER_LINEAR)
    return green[:-DASHBOARD]


def _register(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, turn: float, shift: float
) -> tuple[float, float, float]:
    """Fits a turn (rad, to the right) and a shift of the ground (px, down): score, turn, shift; score -1: no fit."""
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = CAR
    warp = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y + shift]], np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-4)
    try:
        score, warp = cv2.findTransformECC(before, after, warp, cv2.MOTION_EUCLIDEAN, stop, mask, 3)
    except cv2.error:  # the pictures do not overlap from this start
        return -1.0, turn, shift
    turned = float(-np.arctan2(warp[1, 0], warp[0, 0]))
    moved = float(warp[1, 0] * x + warp[1, 1] * y + warp[1, 2] - y)
    return float(score), turned, moved


GOALS = {
    "psnr_1": Goal.over(32.5, 35.0), "psnr_10": Goal.over(26.5, 30.0), "psnr_20": Goal.over(24.0, 27.0),
    "sharpness_1": Goal((0.80, 1.25), (0.95, 1.10)), "sharpness_50": Goal((0.70, 1.25), (0.90, 1.10)),
    "steering_correlation": Goal.over(0.98, 0.995), "steering_slope": Goal((0.90, 1.10), (0.97, 1.03)),
    "steering_picture_correlation": Goal.over(0.98, 0.995),
    "steering_picture_slope": Goal((0.90, 1.10), (0.97, 1.03)),
    "branch_5": Goal.over(1.0, 1.0), "branch_15": Goal.over(0.75, 0.95),
    "speed_error": Goal((0, 0.20), (0, 0.05)), "reward_10": Goal.over(0.95, 0.99),
    "ending_auc": Goal.over(0.99, 0.999), "ending_recall": Goal.over(0.80, 0.95),
    "on_road": Goal.over(0.95, 0.98), "still_driving": Goal.over(0.90, 1.0),
    "steer_ratio": Goal((0.7, 1.3), (0.9, 1.1)), "bends_ratio": Goal((0.7, 1.3), (0.9, 1.1)),
    "confidence": Goal.over(0.5, 0.8), "steps_over_twin": Goal.over(1.0, 2.0),
    "route_agreement": Goal.over(0.93, 0.97),
}  # fmt: skip
PROBES = Probes(
    good=("clean",),
    wild=("mixed", "wild"),
    leaving=("run_away",),
    driver="lane_keeper",
    steers=np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32),
    throttles=np.array([[0.0, 1.0], [0.0, 0.3], [0.0, -1.0]], np.float32),
    speed="speed",
    road="wheels_on_road",
    top_speed=100.0,  # m/s, about what the car reaches on a long straight
    at_speed=at_speed,
    can_branch=can_branch,
    road_share=road_share,
    hide_fixed=hide_dashboard,
    turns=picture_turns,
    gentle=np.array([[-0.1, 0.0], [0.1, 0.2]]),
    stock=stock,
    goals=GOALS,
    drawings=("ellipse", "hairpins"),
)
