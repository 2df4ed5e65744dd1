"""Other frame intervals: for worlds that take any, and for simulators that do."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.utils import real_numbers


class FrameInterval(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Steps of another length, in every episode.

    Args:
        env: Takes the reset option `dt`, as `DriveDiTEnv` with a world whose `spec.any_dt` says so, and the street.
        dt: Seconds of a step, above 0.

    Raises:
        ValueError: `dt` is none.
    """

    def __init__(self, env: gym.Env[Any, Any], dt: float) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, dt=dt)
        super().__init__(env)
        self.interval = _seconds(dt, "dt")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, see the environment; an option `dt` goes before the wrapper's."""
        return self.env.reset(seed=seed, options={"dt": self.interval, **(options or {})})


class RandomFrameInterval(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Steps of random length, drawn anew for each; `info["time"]` says how much time has passed.

    Args:
        env: A `DriveDiTEnv` with a world whose `spec.any_dt` says that it takes any interval.
        shortest: Seconds, above 0.
        longest: Seconds, not below.
        seed: Of the intervals; the same seed gives the same ones after every reset.

    Raises:
        ValueError: An interval is none, or the environment takes none.
    """

    def __init__(self, env: gym.Env[Any, Any], shortest: float, longest: float, seed: int = 0) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, shortest=shortest, longest=longest, seed=seed)
        super().__init__(env)
        self.shortest, self.longest = _seconds(shortest, "shortest"), _seconds(longest, "longest")
        if self.shortest > self.longest or not hasattr(env.unwrapped, "dt"):
            raise ValueError(
                f"intervals go from shortest to longest, in an environment whose dt can be set; got {shortest}, "
                f"{longest} and {env}"
            )
        self._seed, self._rng = seed, np.random.default_rng(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, see the environment."""
        self._rng = np.random.default_rng(self._seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step whose length is drawn."""
        self.env.unwrapped.dt = float(self._rng.uniform(self.shortest, self.longest))  # type: ignore[attr-defined]
        return self.env.step(action)


def _seconds(value: Any, name: str) -> float:
    """A number of seconds above 0, or ValueError."""
    wanted = f"{name} is a number of seconds above 0"
    number = real_numbers(value, wanted)
    if isinstance(value, bool) or number.shape != () or not (np.isfinite(number) and number > 0):
        raise ValueError(f"{wanted}, got {value!r}")
    return float(number)
