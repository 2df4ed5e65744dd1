"""Many worlds in one batched pass, as reinforcement-learning loops want them.

python examples/many_worlds.py --num-envs 64 --steps 500
"""

import time

import gymnasium as gym
import numpy as np

from drivedit.utils.commands import run


def main(world: str = "carracing", num_envs: int = 16, steps: int = 300) -> list[float]:
    """Drives many worlds at once, at random, and returns the returns of the episodes that ended.

    Args:
        world: Name of a shipped world, or a folder.
        num_envs: Worlds stepped together.
        steps: Steps to drive.
    """
    envs = gym.make_vec("drivedit_env:DriveDiT-v0", num_envs, world=world, obs_type="latent", max_episode_steps=100)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.action_space.seed(0)
    observations, infos = envs.reset(seed=0)
    returns: list[float] = []
    begun = time.perf_counter()
    for _ in range(steps):
        observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        if "episode" in infos:
            returns += np.asarray(infos["episode"]["r"])[infos["_episode"]].tolist()
    rate = steps * num_envs / (time.perf_counter() - begun)
    mean = f", mean return {np.mean(returns):.1f}" if returns else ""
    print(f"{rate:.0f} steps/s, {len(returns)} episodes{mean}, latents {observations.shape}")
    return returns


if __name__ == "__main__":
    raise SystemExit(run(main))
