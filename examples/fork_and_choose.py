"""Plan by forking: from every moment open many futures in one batch, and take the first action of the best.

python examples/fork_and_choose.py --steps 60 --branches 32
"""

import argparse

import gymnasium as gym
import numpy as np


def main(argv: list[str] | None = None) -> float:
    """Drives by random shooting and returns the return."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, description="Drive by trying futures in the dream."
    )
    parser.add_argument("--world", default="carracing", help="name of a shipped world, or a folder")
    parser.add_argument("--steps", type=int, default=60, help="steps to drive")
    parser.add_argument("--branches", type=int, default=32, help="futures opened at every step")
    parser.add_argument("--horizon", type=int, default=10, help="steps of a future")
    options = parser.parse_args(argv)

    env = gym.make("drivedit_env:DriveDiT-v0", world=options.world, obs_type="latent")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    total, info = 0.0, {}
    print(f"driving {options.steps} steps, each with {options.branches} futures of {options.horizon} steps", flush=True)
    for _ in range(options.steps):
        branches = env.unwrapped.fork(options.branches)  # type: ignore[attr-defined]
        steering = np.clip(rng.normal(0, 0.25, options.branches), -1, 1)  # held for the whole horizon
        throttle = rng.uniform(-0.2, 0.6, options.branches)
        actions = np.stack([steering, throttle], 1).astype(np.float32)
        worth, alive = np.zeros(options.branches), np.ones(options.branches, bool)
        for _ in range(options.horizon):
            _, rewards, ended, _, infos = branches.step(actions)
            worth += alive * (rewards + infos["telemetry"]["wheels_on_road"])
            alive &= ~ended
        _, reward, terminated, truncated, info = env.step(actions[worth.argmax()])
        total += float(reward)
        if terminated or truncated:
            break
    told = info["telemetry"]
    print(f"return {total:.1f}, speed {told['speed']:.1f} m/s, wheels on road {told['wheels_on_road']:.2f}")
    return total


if __name__ == "__main__":
    main()
