"""A driver that plans in the dream: it forks the world, tries many futures at once, and does what the best ones did.

The plan is found by the cross-entropy method with a warm start and kept elites (Pinneri et al. 2020, "Sample-efficient
cross-entropy method", arXiv 2008.06389). A future is worth its predicted reward, less a price for steps in which the
world says that it does not know. All futures share the world's chance, so they differ by their actions alone.

Legend: N futures, K knots (actions that are held for some steps each), A numbers of an action.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.agents.dreams import warn_without_rewards

Fork = Callable[[int], Any]  # n -> vector environment of n worlds that go on from the present moment


@dataclass(frozen=True)
class Search:
    """How a plan is looked for.

    Attributes:
        futures: Futures N tried at once.
        rounds: Times that the futures are drawn anew around the best ones.
        elites: How many are the best ones.
        knots: Actions K of a plan.
        hold: Steps for which each is held; a plan looks `knots * hold` steps ahead.
        act: Steps that are driven before the next plan is made.
        spread: Standard deviation of the first draws, as a share of half the width of the action space.
        least_spread: It does not become smaller than this.
        doubt: Reward that a step without any confidence costs; a step of full confidence costs nothing.
    """

    futures: int = 32
    rounds: int = 2
    elites: int = 6
    knots: int = 4
    hold: int = 5
    act: int = 5
    spread: float = 0.4
    least_spread: float = 0.05
    doubt: float = 5.0

    def __post_init__(self) -> None:
        for name in ("futures", "rounds", "elites", "knots", "hold", "act"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.elites > self.futures:
            raise ValueError(f"elites must be at most futures ({self.futures}), got {self.elites}")
        if self.act > self.knots * self.hold:
            raise ValueError(f"act must be at most knots * hold ({self.knots * self.hold}), got {self.act}")
        if not self.spread > 0 or not 0 < self.least_spread <= self.spread:
            raise ValueError(f"expected 0 < least_spread <= spread, got {self.least_spread} and {self.spread}")


class Planner:
    """Plans with futures of the world, and drives by its plan; a call is an action, as of every agent.

    Args:
        fork: Opens n worlds that go on from the present moment.
        space: The actions, a bounded box.
        search: How it looks for a plan.
        seed: Seed of its draws.
        wait: Steps at the beginning of an episode in which it holds the middle of the box and does not plan.

    Attributes:
        worth: What the present plan promised, NaN before the first one.
        plans: Plans made so far, over all episodes.
        seconds: Time that they took.
    """

    def __init__(
        self, fork: Fork, space: gym.spaces.Box, search: Search | None = None, seed: int = 0, wait: int = 0
    ) -> None:
        if not isinstance(space, gym.spaces.Box) or not space.is_bounded() or len(space.shape) != 1:
            raise ValueError(f"a planner needs actions in a bounded box [A], got {space}")
        self.fork, self.space, self.search, self.seed, self.wait = fork, space, search or Search(), seed, wait
        self.plans, self.seconds = 0, 0.0
        self.reset()

    @classmethod
    def in_dream(cls, env: gym.Env, search: Search | None = None, seed: int = 0) -> Planner:
        """A planner of a dream that can fork: it sees the very future, with the dream's own chance."""
        inside: Any = env.unwrapped
        warn_without_rewards(env)
        return cls(inside.fork, _box(env), search, seed)

    @classmethod
    def in_reality(cls, real: gym.Env, dream: gym.Env, search: Search | None = None, seed: int = 0) -> Planner:
        """A planner for a real environment: before every plan it opens the dream in the scene of that moment.

        A scene has a past, so it waits for one step at the beginning of an episode.

        Args:
            real: Can tell its `scene()`.
            dream: Takes a scene as a reset option and can fork; it is moved at every plan.
            search: How it looks for a plan.
            seed: Seed of its draws.
        """
        world: Any = dream.unwrapped
        warn_without_rewards(dream)
        reality: Any = real.unwrapped

        def fork(n: int) -> Any:
            dream.reset(seed=seed, options={"scene": reality.scene()})
            return world.fork(n)

        return cls(fork, _box(real), search, seed, wait=1)

    def reset(self) -> None:
        """Forgets the plan."""
        self._random = np.random.default_rng(self.seed)
        middle = (self.space.low + self.space.high) / 2
        self._mean = np.tile(middle, (self.search.knots, 1)).astype(np.float64)  # [K, A]
        self._done = 0  # steps of the plan that were driven
        self._waiting = self.wait
        self.worth = float("nan")

    def __call__(self, observation: Any = None) -> np.ndarray:
        """The next action, float32 [A]; what is observed does not matter, for the futures come from the fork."""
        search = self.search
        if self._waiting:
            self._waiting -= 1
            return self._mean[0].astype(np.float32)
        if np.isnan(self.worth) or self._done == search.act:
            began = time.perf_counter()
            self._advance()
            self._plan()
            self.plans, self.seconds = self.plans + 1, self.seconds + time.perf_counter() - began
        action = self._mean[self._done // search.hold]
        self._done += 1
        return action.astype(np.float32)

    def _advance(self) -> None:
        """Moves the plan on by the steps that were driven; its last knot is repeated at the end."""
        steps = np.minimum(np.arange(self.search.knots) * self.search.hold + self._done, self._last)
        self._mean, self._done = self._mean[steps // self.search.hold], 0

    @property
    def _last(self) -> int:
        """The last step of a plan."""
        return self.search.knots * self.search.hold - 1

    def _plan(self) -> None:
        """Looks for a better plan around the present one; it becomes the best that was tried."""
        search, half = self.search, (self.space.high - self.space.low) / 2
        spread = np.full_like(self._mean, search.spread) * half
        mean, best = self._mean, np.zeros((0, *self._mean.shape))
        worlds = self.fork(search.futures)
        beginning = worlds.get_state()
        for round_ in range(search.rounds):
            if round_:
                worlds.set_state(beginning)
            plans = mean + spread * self._random.standard_normal((search.futures, *mean.shape))
            plans[0] = mean  # what is believed now, and what was best so far, is tried again
            kept = best[: search.futures - 1]
            plans[1 : 1 + len(kept)] = kept
            plans = np.clip(plans, self.space.low, self.space.high)
            worth = self._worth(worlds, plans)
            order = np.argsort(-worth, kind="stable")[: search.elites]
            best, self.worth = plans[order], float(worth[order[0]])
            mean = best.mean(0)
            spread = np.maximum(best.std(0), search.least_spread * half)
        worlds.close()
        self._mean = best[0]

    def _worth(self, worlds: Any, plans: np.ndarray) -> np.ndarray:
        """What the futures under plans `[N, K, A]` are worth, `[N]`."""
        search = self.search
        worth, alive = np.zeros(len(plans)), np.ones(len(plans), bool)
        for step in range(search.knots * search.hold):
            _, rewards, terminated, truncated, infos = worlds.step(plans[:, step // search.hold].astype(np.float32))
            doubt = 1.0 - np.asarray(infos.get("confidence", np.ones(len(plans))))
            worth += alive * (rewards - search.doubt * doubt)
            alive &= ~(terminated | truncated)
            if not alive.any():
                break
        return worth


def _box(env: gym.Env) -> gym.spaces.Box:
    """The action space of an environment, which the planner checks."""
    return env.action_space  # type: ignore[return-value]
