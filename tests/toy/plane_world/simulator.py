"""A point that is pushed, turned and braked over a plane of 32 x 16 m, seen from above in grey, 16 x 32.

What it takes, tells and rewards is picked by name in `plane_world.domain`, out of what it knows.
"""

import math
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.config import WorldSpec
from drivedit.utils import Truth
from plane_world import domain

HALF = np.array([16.0, 8.0])  # metres from the middle to the edges
TARGET = np.array([6.0, 0.0])  # where the reward is highest
HISTORY = 16  # controls that a scene can look back on


def named(controls: np.ndarray, spec: WorldSpec) -> dict[str, float]:
    return dict(zip(spec.names("controls"), controls.tolist(), strict=True))


class Plane(gym.Env[np.ndarray, np.ndarray]):
    """The simulator; an episode is a function of (seed, options, actions)."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.spec_ = render_mode, domain.DOMAIN.spec
        low, high = np.array([(q.low, q.high) for q in self.spec_.controls], np.float32).T
        self._low, self._high = low, high
        self.action_space = gym.spaces.Box(low, high)
        self.observation_space = gym.spaces.Box(0, 255, (16, 32, 1), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        x, y, yaw = self.np_random.uniform(-1, 1, 3) * (10, 5, math.pi)
        self._at = np.array([x, y, yaw, (options or {}).get("speed", 1.0)])
        self._past = deque([(self._at, self._see(), np.zeros(len(self._low), np.float32))], HISTORY + 1)
        return self._see(), {"telemetry": self.truth().telemetry}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        held = np.clip(np.asarray(action, np.float64), self._low, self._high)
        told = {"push": 0.0, "turn": 0.0, "brake": 0.0, "drag": 0.0, **named(held, self.spec_)}
        x, y, yaw, speed = self._at
        speed = max(0.0, speed + 0.2 * (told["push"] - (0.3 + told["drag"]) * speed - 4 * told["brake"] * (speed > 0)))
        yaw = (yaw + 0.3 * told["turn"] + math.pi) % (2 * math.pi) - math.pi
        self._at = np.array([x + 0.2 * speed * math.cos(yaw), y + 0.2 * speed * math.sin(yaw), yaw, speed])
        self._past.append((self._at, self._see(), np.array(action, np.float32)))
        known = self._known()
        terms = {name: known[name] for name in self.spec_.rewards}
        info = {"telemetry": self.truth().telemetry, "reward_terms": terms}
        return self._see(), sum(terms.values()), bool(known["out"]), False, info

    def truth(self) -> Truth:
        known = self._known()
        return Truth({name: known[name] for name in self.spec_.names("telemetry")}, self._at[:3].copy())

    def _known(self) -> dict[str, float]:
        x, y, _, speed = self._at
        far = float(np.hypot(*(self._at[:2] - TARGET)))
        out = bool((np.abs(self._at[:2]) > HALF).any())
        return {
            "speed": speed,
            "height": y,
            "far": far,
            "near": math.exp(-far / 6),
            "calm": -speed / 10,
            "out": -5.0 * out,
        }

    def scene(self, n: int = 8) -> dict[str, Any]:
        at, seen, controls = zip(*list(self._past)[-n - 1 :], strict=True)
        poses = np.stack(at)[:, :3].astype(np.float32)
        return {"frames": np.stack(seen), "controls": np.stack(controls[1:]), "poses": poses}

    def get_state(self) -> Any:
        return self._at.copy(), self._past.copy()

    def set_state(self, state: Any) -> None:
        self._at, self._past = state[0].copy(), state[1].copy()

    def render(self) -> np.ndarray:
        return self._see().repeat(8, 0).repeat(8, 1).repeat(3, 2)

    def _see(self) -> np.ndarray:
        """A soft dot where the point is, darker behind it, over a faint target."""
        rows, columns = np.mgrid[0:16, 0:32]
        x, y = columns + 0.5 - HALF[0], HALF[1] - rows - 0.5
        picture = 40 + 60 * np.exp(-np.hypot(x - TARGET[0], y - TARGET[1]) / 3)
        for ahead, light in ((0.0, 150), (1.5, -40)):
            px, py = self._at[:2] - ahead * np.array([math.cos(self._at[2]), math.sin(self._at[2])])
            picture = picture + light * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2)
        return np.clip(picture, 0, 255).astype(np.uint8)[..., None]
