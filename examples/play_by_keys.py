"""Gymnasium's own `play`: the dream in a plain window, driven by the keys W, A, S and D.

`play` wants a whole number of frames per second, and a world has its recordings' own rate (16.67). `drivedit-play` does
more: it goes back in time, records, and shows the simulator beside the dream.

python examples/play_by_keys.py
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pygame
from gymnasium.utils.play import play

from drivedit.utils.commands import run

STEERING, THROTTLE = {"": 0.0, "a": -0.3, "d": 0.3}, {"": 0.0, "w": 0.5, "s": -0.6}


def main(world: str = "carracing", steps: int = 0) -> float:
    """Lets a person drive by keys until the window is closed; returns the sum of the rewards.

    Args:
        world: Name of a shipped world, or a folder.
        steps: The window closes after so many; 0: when you close it.
    """
    env = gym.make("drivedit_env:DriveDiT-v0", world=world, render_mode="rgb_array")
    actions = {
        turn + pedal: np.array([STEERING[turn], THROTTLE[pedal]], np.float32)
        for turn in STEERING
        for pedal in THROTTLE
        if turn + pedal
    }
    rewards: list[float] = []

    def note(before: Any, after: Any, action: Any, reward: float, terminated: bool, truncated: bool, info: Any) -> None:
        rewards.append(float(reward))
        if len(rewards) == steps:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    fps = round(env.metadata["render_fps"])
    play(env, fps=fps, callback=note, keys_to_action=actions, noop=np.zeros(2, np.float32), seed=0)  # type: ignore[arg-type]
    print(f"{len(rewards)} steps at {fps} frames per second, return {sum(rewards):.1f}")
    return sum(rewards)


if __name__ == "__main__":
    raise SystemExit(run(main))
