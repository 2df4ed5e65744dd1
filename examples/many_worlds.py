"""Many worlds in one batched pass, as reinforcement-learning loops want them.

python examples/many_worlds.py --num-envs 64 --steps 500
"""

import argparse
import time

import gymnasium as gym
import numpy as np


def main(argv: list[str] | None = None) -> list[float]:
    """Drives all worlds at random and returns the returns of the episodes that ended."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, description="Step many dreams at once."
    )
    parser.add_argument("--world", default="carracing", help="name of a shipped world, or a folder")
    parser.add_argument("--num-envs", type=int, default=16, help="worlds stepped together")
    parser.add_argument("--steps", type=int, default=300, help="steps to drive")
    options = parser.parse_args(argv)

    envs = gym.make_vec(
        "drivedit_env:DriveDiT-v0", options.num_envs, world=options.world, obs_type="latent", max_episode_steps=100
    )
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.action_space.seed(0)
    observations, infos = envs.reset(seed=0)
    returns: list[float] = []
    begun = time.perf_counter()
    for _ in range(options.steps):
        observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        if "episode" in infos:
            returns += np.asarray(infos["episode"]["r"])[infos["_episode"]].tolist()
    rate = options.steps * options.num_envs / (time.perf_counter() - begun)
    mean = f", mean return {np.mean(returns):.1f}" if returns else ""
    print(f"{rate:.0f} steps/s, {len(returns)} episodes{mean}, latents {observations.shape}")
    return returns


if __name__ == "__main__":
    main()
