"""Snapshots: keep a moment, drive on, come back and drive another way.

The future is the same until the actions differ.

python examples/go_back.py --steps 40
"""

import gymnasium as gym
import numpy as np

from drivedit.utils.commands import run


def main(world: str = "carracing", steps: int = 40) -> float:
    """Drives twice from one moment; returns how far the two last pictures are apart, in levels of 255.

    Args:
        world: Name of a shipped world, or a folder.
        steps: Steps to drive.
    """
    env = gym.make("drivedit_env:DriveDiT-v0", world=world)
    frame, _ = env.reset(seed=0)
    moment = env.unwrapped.get_state().to_bytes()  # type: ignore[attr-defined]

    def drive(steering: float) -> np.ndarray:
        env.unwrapped.set_state(moment)  # type: ignore[attr-defined]
        picture = frame
        for _ in range(steps):
            picture, *_ = env.step(np.array([steering, 0.2], np.float32))
        return picture.astype(int)

    left, right, again = drive(-0.2), drive(0.2), drive(-0.2)
    assert np.array_equal(left, again), "the same actions from the same moment give the same frames, bit for bit"
    apart = float(np.abs(left - right).mean())
    print(f"a moment is {len(moment) / 1e6:.2f} MB as bytes")
    print(f"left and right are {apart:.1f} levels apart after {steps} steps")
    return apart


if __name__ == "__main__":
    raise SystemExit(run(main))
