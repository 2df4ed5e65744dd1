"""Plan by forking: from every moment open many futures in one batch, and take the first action of the best.

python examples/fork_and_choose.py --steps 60 --branches 32
"""

import gymnasium as gym
import numpy as np

from drivedit.utils.commands import run


def main(world: str = "carracing", steps: int = 60, branches: int = 32, horizon: int = 10) -> float:
    """Drives by trying futures in the dream, and returns the return.

    Args:
        world: Name of a shipped world, or a folder.
        steps: Steps to drive.
        branches: Futures opened at every step.
        horizon: Steps of a future.
    """
    env = gym.make("drivedit_env:DriveDiT-v0", world=world, obs_type="latent")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    total, info = 0.0, {}
    print(f"driving {steps} steps, each with {branches} futures of {horizon} steps", flush=True)
    for _ in range(steps):
        futures = env.unwrapped.fork(branches)  # type: ignore[attr-defined]
        steering = np.clip(rng.normal(0, 0.25, branches), -1, 1)  # held for the whole horizon
        throttle = rng.uniform(-0.2, 0.6, branches)
        actions = np.stack([steering, throttle], 1).astype(np.float32)
        worth, alive = np.zeros(branches), np.ones(branches, bool)
        for _ in range(horizon):
            _, rewards, ended, _, infos = futures.step(actions)
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
    raise SystemExit(run(main))
