"""Stable-Baselines3 learns to drive inside the dream, on latents: nothing is decoded, no simulator is needed.

python examples/train_ppo.py --steps 200000 --out ppo.zip
python -m drivedit.agents drive --agent ppo.zip
python -m drivedit.agents test --agent ppo.zip --world carracing --episodes 10

A zip does not say in which world it learned: where frames are seen, `--world` names it, and its encoder makes latents.
"""

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from drivedit.agents.learning.sb3 import SB3VecEnv, open_vector
from drivedit.utils.commands import run


def main(
    world: str = "carracing", num_envs: int = 16, steps: int = 200_000, rollout: int = 128, out: str = "ppo.zip"
) -> PPO:
    """Trains PPO in the dream; saves and returns the model.

    Args:
        world: Name of a shipped world, or a folder.
        num_envs: Worlds stepped together.
        steps: Steps of all worlds.
        rollout: Steps of every world between two updates.
        out: Where the model is saved.
    """
    envs = open_vector("drivedit_env:DriveDiT-v0", num_envs, max_episode_steps=200, world=world, obs_type="latent")
    batch = min(256, rollout * num_envs)
    venv = VecMonitor(SB3VecEnv(envs))
    model = PPO("MlpPolicy", venv, n_steps=rollout, batch_size=batch, device="cpu", seed=0)
    model.learn(steps, progress_bar=False)
    model.save(out)
    returns = [episode["r"] for episode in model.ep_info_buffer or ()]
    learned = (
        f"mean return of the last {len(returns)} episodes {np.mean(returns):.1f}" if returns else "no episode ended"
    )
    print(f"{model.num_timesteps} steps, {learned}: {out}")
    return model


if __name__ == "__main__":
    raise SystemExit(run(main))
