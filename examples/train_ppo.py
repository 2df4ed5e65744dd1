"""Stable-Baselines3 learns to drive inside the dream, on latents: nothing is decoded, no simulator is needed.

python examples/train_ppo.py --steps 200000 --out ppo.zip
python -m drivedit.agents drive --agent ppo.zip
python -m drivedit.agents test --agent ppo.zip --world carracing --episodes 10

A zip does not say in which world it learned: where frames are seen, `--world` names it, and its encoder makes latents.
"""

import argparse

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from drivedit.agents.learning.sb3 import SB3VecEnv, open_vector


def main(argv: list[str] | None = None) -> PPO:
    """Trains, saves and returns the model."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, description="Train PPO in the dream."
    )
    parser.add_argument("--world", default="carracing", help="name of a shipped world, or a folder")
    parser.add_argument("--num-envs", type=int, default=16, help="worlds stepped together")
    parser.add_argument("--steps", type=int, default=200_000, help="steps of all worlds")
    parser.add_argument("--rollout", type=int, default=128, help="steps of every world between two updates")
    parser.add_argument("--out", default="ppo.zip", help="where the model is saved")
    options = parser.parse_args(argv)

    envs = open_vector(
        "drivedit_env:DriveDiT-v0", options.num_envs, max_episode_steps=200, world=options.world, obs_type="latent"
    )
    batch = min(256, options.rollout * options.num_envs)
    venv = VecMonitor(SB3VecEnv(envs))
    model = PPO("MlpPolicy", venv, n_steps=options.rollout, batch_size=batch, device="cpu", seed=0)
    model.learn(options.steps, progress_bar=False)
    model.save(options.out)
    returns = [episode["r"] for episode in model.ep_info_buffer or ()]
    learned = (
        f"mean return of the last {len(returns)} episodes {np.mean(returns):.1f}" if returns else "no episode ended"
    )
    print(f"{model.num_timesteps} steps, {learned}: {options.out}")
    return model


if __name__ == "__main__":
    main()
