"""Letting an agent drive an environment and saying how it went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from drivedit.agents.domains import on_road_of
from drivedit.utils.video import VideoWriter

Agent = Callable[[np.ndarray], np.ndarray]


@dataclass
class Drive:
    """What came of a drive.

    Attributes:
        steps: Steps driven.
        episodes: Episodes begun.
        returned: Sum of the rewards.
        confidence: Mean confidence of the world; NaN for an environment that tells none.
        on_road: Mean share of the car on the road, in [0, 1]; NaN for an environment that does not tell.
        seconds: Time spent in `env.step`.
    """

    steps: int
    episodes: int
    returned: float
    confidence: float
    on_road: float
    seconds: float

    @property
    def fps(self) -> float:
        """Frames per second of `env.step`, decoding included."""
        return self.steps / self.seconds

    def __str__(self) -> str:
        lines = {
            "steps": f"{self.steps} in {self.episodes} episode{'s' if self.episodes > 1 else ''}",
            "return": f"{self.returned:.1f}",
        }
        shares = {"mean confidence": self.confidence, "share on the road": self.on_road}
        lines |= {name: f"{value:.3f}" for name, value in shares.items() if not math.isnan(value)}
        lines["frames per second"] = f"{self.fps:.1f} (env.step alone, with the picture, without the agent)"
        return "\n".join(f"{name:<18} {value}" for name, value in lines.items())


def drive(
    env: gym.Env,
    agent: Agent,
    steps: int,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    on_road: str | None = None,
) -> Drive:
    """Drives; when an episode ends, the next one begins.

    Args:
        env: The environment; with `out` it needs the render mode `rgb_array`.
        agent: Chooses an action for an observation; its `reset()`, if it has one, is called before every episode.
        steps: Steps in all.
        seed: Seed of the first episode.
        options: Reset options of every episode.
        out: Video to write (mp4), or None.
        progress: Whether to show a progress bar.
        on_road: Name of the telemetry value that is the share of the car on the road; None: the domain's.

    Returns:
        The figures of the drive.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if out is not None and env.render_mode != "rgb_array":
        raise ValueError(f"a video needs gym.make(..., render_mode='rgb_array'), got {env.render_mode!r}")
    forget = getattr(agent, "reset", lambda: None)
    returned, seconds, episodes, told = 0.0, 0.0, 1, []
    share = on_road_of(env) if on_road is None else on_road
    with ExitStack() as stack:
        video = None if out is None else stack.enter_context(VideoWriter(out, env.metadata["render_fps"]))
        observation, _ = env.reset(seed=seed, options=options)
        forget()
        for _ in tqdm(range(steps), desc="driving", unit=" frame", disable=not progress):
            if video is not None:
                video.write(np.asarray(env.render()))
            action = agent(observation)
            began = time.perf_counter()
            observation, reward, terminated, truncated, info = env.step(action)
            seconds += time.perf_counter() - began
            returned += float(reward)
            on = np.clip(info.get("telemetry", {}).get(share, np.nan), 0.0, 1.0)  # dreams exceed it
            told.append((info.get("confidence", np.nan), on))
            if (terminated or truncated) and len(told) < steps:
                observation, _ = env.reset(options=options)
                forget()
                episodes += 1
    confidence, on = (float(value) for value in np.mean(told, axis=0))
    return Drive(steps, episodes, returned, confidence, on, seconds)
