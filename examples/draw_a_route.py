"""Draw tracks by hand and let the lane keeper, who sees pixels only, drive them in the dream.

python examples/draw_a_route.py --shape hairpins --steps 300 --out route.mp4
"""

import argparse
import math

import gymnasium as gym
import numpy as np

from drivedit.agents import LaneKeeper
from drivedit.agents.drive import Drive, drive


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


def main(argv: list[str] | None = None) -> Drive:
    """Drives a drawn route and prints how it went."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Let the lane keeper drive a hand-drawn route.",
    )
    parser.add_argument("--world", default="carracing", help="name of a shipped world, or a folder")
    parser.add_argument("--shape", choices=SHAPES, default="ellipse", help="what is drawn")
    parser.add_argument("--steps", type=int, default=300, help="steps to drive")
    parser.add_argument("--out", default="route.mp4", help="the video")
    options = parser.parse_args(argv)

    draw, closed = SHAPES[options.shape]
    env = gym.make("drivedit_env:DriveDiT-v0", world=options.world, render_mode="rgb_array")
    result = drive(env, LaneKeeper(), options.steps, options={"route": draw(), "closed": closed}, out=options.out)
    env.close()
    print(f"{result}\n{'video':<18} {options.out}")
    return result


if __name__ == "__main__":
    main()
