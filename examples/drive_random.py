"""Drive the default world with random actions: the shortest use of the environment.

python examples/drive_random.py --steps 100
"""

import argparse

import gymnasium as gym


def main(argv: list[str] | None = None) -> float:
    """Drives and returns the sum of the rewards."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, description="Drive with random actions."
    )
    parser.add_argument("--world", default="carracing", help="name of a shipped world, or a folder")
    parser.add_argument("--steps", type=int, default=100, help="steps to drive")
    options = parser.parse_args(argv)

    env = gym.make("drivedit_env:DriveDiT-v0", world=options.world)
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    returned = 0.0
    for _ in range(options.steps):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        returned += float(reward)
        if terminated or truncated:
            _, info = env.reset()
    print(f"return {returned:.1f}, last telemetry {info['telemetry']}")
    env.close()
    return returned


if __name__ == "__main__":
    main()
