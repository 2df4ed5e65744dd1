"""CarRacing-v3 as it is scored in public: 1,000 ticks, its own reward and endings, behind the spaces of `DriveDiT-v0`.

Only the border is changed: controls, frame rate and the size of the frames. The rest is Gymnasium's own code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from drivedit.data.domains.carracing.past import FRAME_SIZE, Past
from drivedit.data.domains.carracing.replayed import ReplayedEnv
from drivedit.data.domains.carracing.simulator import TICK, Simulator
from drivedit.data.domains.carracing.twin import TICKS_PER_STEP
from drivedit.utils import check_seed, stream

EPISODE_TICKS = 1000


class _Stock(Simulator):
    """Gymnasium's `reset` and `step`, with the fast picture, drawn when it is asked for instead of every tick."""

    def _create_track(self) -> bool:
        created = super()._create_track()
        if created:
            self.survey()
        return created

    def _render(self, mode: str) -> None:
        """Draws nothing; see `picture`."""


class CarRacingReal(ReplayedEnv):
    """Standard CarRacing-v3, for agents that see and steer as in `DriveDiT-v0`.

    ## Description
    Track, physics, reward and endings are those of Gymnasium's `CarRacing-v3` (continuous, lap complete at 95% of the
    tiles): the sum of the rewards of an episode is its score. One step holds an action [steering, throttle] for 3 ticks
    of the simulator: gas is the positive part of the throttle, brake the negative one. The last step of a full
    episode has one tick, so an episode has 1,000 ticks, in 334 steps.

    The standard observation is 96 x 96; this one is the twin's picture at 64 x 64. As in the recordings, it is drawn
    without the zoom of the first second and with the score on the dashboard frozen at 0; the car can be driven during
    that second as in the standard environment, and its ticks count.

    ## Action Space
    `Box(-1, 1, (2,), float32)`: steering (right positive) and throttle (negative: brake). Values outside are clipped,
    with one warning; NaN and other shapes raise `ValueError`.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`.

    ## Rewards
    1000 / N for every tile of the N tiles of the track that is touched for the first time, -0.1 per tick; the tick in
    which the car leaves the playfield gives -100 instead.

    ## Starting State
    At rest at the start of the track; `reset(seed=...)` gives the track of `CarRacing-v3` with that seed.

    ## Episode End
    Terminated when the lap is complete or the car leaves the playfield; truncated after 1,000 ticks.

    ## Information
    `ticks` so far, and `lap_finished` at an ending.

    ## Arguments
    - `render_mode`: `None` or `"rgb_array"` (600 x 480).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1.0 / (TICKS_PER_STEP * TICK)}

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        super().__init__()
        self.render_mode = render_mode
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self._ticks = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; there are no options.

        Returns:
            The first frame, uint8 [64, 64, 3], and info.

        Raises:
            ValueError: The seed is none, or there are options; nothing has changed then.
        """
        if options not in (None, {}):
            raise ValueError(f"CarRacingReal knows no reset options, got {options!r}")
        seed = check_seed(seed)
        random, random_seed = stream(seed, self._np_random, self._np_random_seed)
        self._begin(int(random.integers(2**31)) if seed is None else seed, None, [], random, random_seed)
        return self._past.latest, {"ticks": 0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Drives up to 3 ticks with one action [steering, throttle].

        Returns:
            Frame uint8 [64, 64, 3], reward, terminated, truncated, info.
        """
        self._need_start("step")
        reward, terminated, told = self._take(self._check_action(action))
        return self._past.latest, reward, terminated, self._ticks >= EPISODE_TICKS, {"ticks": self._ticks, **told}

    def _start(self) -> None:
        self._simulator = _Stock()  # a used one would remember
        self._simulator.reset(seed=self._seed)
        self._ticks, self._past = 0, Past(self._simulator)

    def _drive(self, action: np.ndarray) -> tuple[float, bool, dict[str, Any]]:
        """The ticks of one step, without drawing; returns reward, terminated and what the simulator says."""
        steering, throttle = action
        controls = np.array([steering, max(throttle, 0.0), max(-throttle, 0.0)], np.float32)
        reward, terminated, told = 0.0, False, {}
        for _ in range(min(TICKS_PER_STEP, EPISODE_TICKS - self._ticks)):
            _, earned, terminated, _, told = self._simulator.step(controls)
            reward, self._ticks = reward + float(earned), self._ticks + 1
            if terminated:
                break
        self._past.drove(action)
        return reward, terminated, told
