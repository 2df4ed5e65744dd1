"""A bicycle on an endless plain, with closed-form answers to its controls."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np

DT = 0.1  # s
SHARPEST = 0.1  # 1/m at full lock
GAS, BRAKES, DRAG = 4.0, 8.0, 0.1  # m/s^2, m/s^2 and 1/s
START = np.array([3.0, -2.0, 2.5])


class Bicycle(gym.Env[np.ndarray, np.ndarray]):
    """It turns by `side * SHARPEST` at full lock, -1 turns right for steering +1; an episode has `most` steps."""

    metadata = {"render_fps": 1 / DT}  # noqa: RUF012
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, side: float = -1.0, most: int = 10**6) -> None:
        self.side, self.most = side, most

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.pose, self.speed, self.steps = START.copy(), float((options or {}).get("speed", 0.0)), 0
        return np.array(self.pose), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        steering, throttle = (float(each) for each in action)
        push = throttle * (GAS if throttle > 0 else BRAKES)
        self.speed = max(self.speed + DT * (push - DRAG * self.speed), 0.0)
        turn = self.speed * DT * self.side * SHARPEST * steering
        x, y, yaw = self.pose
        middle = yaw + turn / 2
        self.pose = np.array([x + DT * self.speed * np.cos(middle), y + DT * self.speed * np.sin(middle), yaw + turn])
        self.steps += 1
        return np.array(self.pose), 1.0, self.steps >= self.most, False, {}

    def get_state(self) -> Any:
        return copy.deepcopy((self.pose, self.speed, self.steps))

    def set_state(self, state: Any) -> None:
        self.pose, self.speed, self.steps = copy.deepcopy(state)
