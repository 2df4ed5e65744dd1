"""Draw tracks by hand and let the lane keeper, who sees pixels only, drive them in the dream.

python examples/draw_a_route.py --shape hairpins --steps 300 --out route.mp4
"""

import math
from typing import Literal

import gymnasium as gym
import numpy as np

from drivedit.agents import LaneKeeper
from drivedit.agents.drive import Drive, drive
from drivedit.utils.commands import run


def ellipse(length: float = 260.0, width: float = 160.0) -> np.ndarray:
    """A loop in metres, driven to the left: [M, 2]."""
    angle = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    return np.stack([0.5 * length * np.cos(angle), 0.5 * width * np.sin(angle)], 1)


def pieces(*parts: tuple[float, float], step: float = 2.0) -> np.ndarray:
    """A road of pieces (length in metres, turn in degrees to the right): [M, 2]."""
    heading, points = 0.0, [np.zeros(2)]
    for length, turn in parts:
        count = max(round(length / step), 1)
        for _ in range(count):
            heading -= math.radians(turn) / count
            points.append(points[-1] + length / count * np.array([math.cos(heading), math.sin(heading)]))
    return np.array(points)


def hairpins() -> np.ndarray:
    """Straights joined by hairpins, left and right in turn: [M, 2]."""
    return pieces(*[part for turn in (180, -180) * 4 for part in ((70.0, 0.0), (70.0, turn))])


SHAPES = {"ellipse": (ellipse, True), "hairpins": (hairpins, False)}


def main(
    world: str = "carracing",
    shape: Literal["ellipse", "hairpins"] = "ellipse",
    steps: int = 300,
    out: str = "route.mp4",
) -> Drive:
    """Lets the lane keeper drive a hand-drawn route, and says how it went.

    Args:
        world: Name of a shipped world, or a folder.
        shape: What is drawn.
        steps: Steps to drive.
        out: The video.
    """
    draw, closed = SHAPES[shape]
    env = gym.make("drivedit_env:DriveDiT-v0", world=world, render_mode="rgb_array")
    result = drive(env, LaneKeeper(), steps, options={"route": draw(), "closed": closed}, out=out)
    env.close()
    print(f"{result}\n{'video':<18} {out}")
    return result


if __name__ == "__main__":
    raise SystemExit(run(main))
