"""Small Gymnasium environments in which a dot is pushed about: seen in its observations, or where it is rendered."""

from typing import Any

import gymnasium as gym
import numpy as np

FAR = 10.0


class Dot(gym.Env[np.ndarray, np.ndarray]):
    """Two numbers push a dot over a plane; near the middle is rewarded, and beyond an edge it is over."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None, sees: bool = False, kind: str = "box") -> None:
        self.render_mode, self._sees = render_mode, sees
        self.observation_space = (
            gym.spaces.Box(0, 255, (24, 40), np.uint8) if sees else gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        )
        spaces = {
            "box": gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 3], np.float32)),
            "discrete": gym.spaces.Discrete(3), "endless": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "square": gym.spaces.Box(-1, 1, (2, 2), np.float32),
        }  # fmt: skip
        self.action_space: Any = spaces[kind]

    def _observe(self) -> np.ndarray:
        return self.draw()[..., 0] if self._sees else self._at.astype(np.float32)

    def draw(self) -> np.ndarray:
        rows, columns = np.mgrid[0:24, 0:40]
        light = 200 * np.exp(-((columns - 20 - 2 * self._at[0]) ** 2 + (rows - 12 - self._at[1]) ** 2) / 12)
        return np.repeat((40 + light).astype(np.uint8)[..., None], 3, 2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._at = self.np_random.uniform(-5, 5, 2)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self._at = self._at + [action[0], action[1] - 1.5]
        far = float(np.abs(self._at).max())
        return self._observe(), -far / FAR, far > FAR, False, {}

    def render(self) -> np.ndarray:
        assert self.render_mode == "rgb_array"
        return self.draw().repeat(4, 0).repeat(4, 1)


class Unseen(Dot):
    """It can be drawn for nobody, and does not say how fast it goes."""

    metadata = {"render_modes": ["human"]}


class Timeless(Dot):
    """It does not say how fast it goes."""

    metadata = {"render_modes": ["rgb_array"]}


gym.register("Dot-v0", f"{__name__}:Dot", max_episode_steps=12)
gym.register("SeenDot-v0", f"{__name__}:Dot", kwargs={"sees": True})
gym.register("UnseenDot-v0", f"{__name__}:Unseen")
gym.register("TimelessDot-v0", f"{__name__}:Timeless")
for kind in ("discrete", "endless", "square"):
    gym.register(f"{kind.title()}Dot-v0", f"{__name__}:Dot", kwargs={"kind": kind})


def to_the_middle(observation: np.ndarray) -> np.ndarray:
    return np.clip(np.array([0, 1.5]) - 0.3 * observation, [-1, 0], [1, 3])


def with_the_env(observation: np.ndarray, env: gym.Env) -> np.ndarray:
    assert isinstance(env.unwrapped, Dot) and np.allclose(env.unwrapped._at, observation, atol=1e-5)
    return to_the_middle(observation)


class Patient:
    """Waits a step before it goes to the middle; made anew for every episode."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(self, observation: np.ndarray, greedy: bool = True) -> np.ndarray:
        self._steps += 1
        return to_the_middle(observation) if self._steps > 1 else np.array([0.0, 1.5])


def wrong(observation: np.ndarray) -> list[float]:
    return [0.0]


NOTHING = 3
