"""Stand-ins for a world, which cost nothing: what is seen tells which way to steer."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Steer(gym.Env):
    """One latent tells which way to steer; the reward is how well it was done."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1, 2, 2), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    metadata = {"render_modes": []}

    def __init__(self, obs_type: str = "latent") -> None:
        self._way = 0.0

    def _see(self) -> np.ndarray:
        self._way = float(self.np_random.choice([-1.0, 1.0]))
        return np.full((1, 2, 2), self._way, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action: np.ndarray) -> Any:
        reward = 1.0 - abs(0.5 * self._way - float(action[0]))
        return self._see(), reward, False, False, {"confidence": 0.5 + 0.5 * float(action[1])}


class Flicker(Steer):
    """The same, seen as coloured noise."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self) -> None:
        super().__init__()

    def _see(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (64, 64, 3), np.uint8)


class Wide(Steer):
    """The same with controls of other ranges: what is best lies at a quarter or at three quarters of the first."""

    action_space = gym.spaces.Box(np.array([0.0, -2.0], np.float32), np.array([10.0, 1.0], np.float32))

    def __init__(self, obs_type: str = "latent") -> None:
        super().__init__()

    def step(self, action: np.ndarray) -> Any:
        return super().step(np.array([action[0] / 5 - 1, 0.0], np.float32))


def vector(kind: type[gym.Env], count: int = 2) -> SyncVectorEnv:
    return SyncVectorEnv([kind] * count, autoreset_mode=AutoresetMode.DISABLED)
