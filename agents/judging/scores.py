"""Whole episodes of an agent, and what they say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from drivedit.agents.domains import domain_behind
from drivedit.agents.drive import Agent

DRAWS = 10_000  # of the bootstrap


@dataclass
class Scores:
    """Returns of whole episodes.

    Attributes:
        seeds: Seed of every episode.
        returns: Sum of the rewards of every episode.
        steps: Length of every episode.
        solved_from: Return from which on an episode counts as solved; None: not said.
    """

    seeds: list[int]
    returns: list[float]
    steps: list[int]
    solved_from: float | None = None

    def summary(self) -> dict[str, float]:
        """Mean return with its 95% bootstrap interval, standard deviation, median, extremes, share of the solved."""
        returns = np.array(self.returns)
        draws = np.random.default_rng(0).choice(returns, (DRAWS, len(returns))).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        solved = {} if self.solved_from is None else {"solved": float((returns >= self.solved_from).mean())}
        return {
            "episodes": len(returns),
            "mean": float(returns.mean()),
            "low": float(low),
            "high": float(high),
            "deviation": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
            "median": float(np.median(returns)),
            "worst": float(returns.min()),
            "best": float(returns.max()),
            **solved,
            "steps": float(np.mean(self.steps)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers."""
        return {"summary": self.summary(), "seeds": self.seeds, "returns": self.returns, "steps": self.steps}

    def __str__(self) -> str:
        s = self.summary()
        rows = {
            "episodes": f"{s['episodes']:.0f} of {s['steps']:.0f} steps on average",
            "mean return": f"{s['mean']:.1f} (95%: {s['low']:.1f} to {s['high']:.1f})",
            "deviation": f"{s['deviation']:.1f}",
            "worst, median, best": f"{s['worst']:.1f}, {s['median']:.1f}, {s['best']:.1f}",
        }
        if self.solved_from is not None:
            rows[f"share of {self.solved_from:.0f} or more"] = f"{s['solved']:.2f}"
        return "\n".join(f"{name:<20} {value}" for name, value in rows.items())


def score(env: gym.Env, agent: Agent, episodes: int, seed: int, progress: bool = True) -> Scores:
    """Drives whole episodes, each with its own seed.

    Args:
        env: The environment; its episodes have to end by themselves or by a time limit.
        agent: Chooses an action for an observation; its `reset()`, if it has one, is called before every episode.
        episodes: How many.
        seed: Of the first episode; the next ones count on from it.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: There is not at least one episode.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    domain = domain_behind(env)
    scores = Scores([], [], [], domain.solved if domain else None)
    bar = tqdm(range(seed, seed + episodes), desc="driving", unit=" episode", disable=not progress)
    for episode in bar:
        observation, _ = env.reset(seed=episode)
        getattr(agent, "reset", lambda: None)()
        returned, steps, over = 0.0, 0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent(observation))
            returned, steps, over = returned + float(reward), steps + 1, terminated or truncated
        scores.seeds.append(episode)
        scores.returns.append(returned)
        scores.steps.append(steps)
        bar.set_postfix(mean=f"{np.mean(scores.returns):.1f}")
    return scores
