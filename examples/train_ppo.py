"""Stable-Baselines3 learns to drive inside the dream, on latents: nothing is decoded, no simulator is needed.

python examples/train_ppo.py --steps 200000
"""

import argparse

import gymnasium as gym
from stable_baselines3 import PPO

from drivedit.agents.sb3 import SB3VecEnv, open_vector


def main(argv: list[str] | None = None) -> PPO:
    """Trains and returns the model."""
    parser = argparse.ArgumentParser(description="Train PPO in the dream.")
    parser.add_argument("--world", default="carracing")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--rollout", type=int, default=128)
    options = parser.parse_args(argv)

    envs = open_vector(
        "drivedit_env:DriveDiT-v0", options.num_envs, max_episode_steps=200, world=options.world, obs_type="latent"
    )
    flat = gym.wrappers.vector.FlattenObservation(envs)
    batch = min(256, options.rollout * options.num_envs)
    model = PPO("MlpPolicy", SB3VecEnv(flat), n_steps=options.rollout, batch_size=batch, device="cpu", seed=0)
    model.learn(options.steps, progress_bar=False)
    return model


if __name__ == "__main__":
    main()
