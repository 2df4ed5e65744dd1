"""Drive the default world with random actions: the shortest use of the environment.

python examples/drive_random.py --steps 100
"""

import gymnasium as gym

from drivedit.utils.commands import run


def main(world: str = "carracing", steps: int = 100) -> float:
    """Drives with random actions, and returns the sum of the rewards.

    Args:
        world: Name of a shipped world, or a folder.
        steps: Steps to drive.
    """
    env = gym.make("drivedit_env:DriveDiT-v0", world=world)
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    returned = 0.0
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        returned += float(reward)
        if terminated or truncated:
            _, info = env.reset()
    print(f"return {returned:.1f}, last telemetry {info['telemetry']}")
    env.close()
    return returned


if __name__ == "__main__":
    raise SystemExit(run(main))
