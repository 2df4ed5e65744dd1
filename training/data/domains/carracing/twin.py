"""The twin: the real CarRacing simulator behind the spaces, timing, control meaning and reward of `DriveDiT-v0`.

It is the source of recordings and the judge of the dream. An episode is a function of (seed, start, actions), bit for
bit, so a state is stored as just these three and restored by replaying them without drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from drivedit.config.domains.carracing import DOMAIN
from drivedit.data.domains.carracing.past import BOUNDS, FRAME_SIZE, Past
from drivedit.data.domains.carracing.replayed import ReplayedEnv
from drivedit.data.domains.carracing.simulator import TICK, Simulator
from drivedit.data.geometry import CentreLine, Projection, RoadTruth, wrap_angle
from drivedit.utils import check_seed, real_numbers, restored, stream

TICKS_PER_STEP = 3
REWARD_TERMS = tuple(DOMAIN.spec.rewards)
START_LIMITS = {
    "track_position": (0.0, 1.0),
    "lateral_offset": (-60.0, 60.0),
    "heading_error": (-math.pi, math.pi),
    "speed": (0.0, 120.0),
}
MOST_STEPS = 10_000_000  # of a stored state, which is replayed


class CarRacingTwin(ReplayedEnv):
    """CarRacing-v3 (Box2D) as a true-to-life counterpart of the dreamed world `DriveDiT-v0`.

    ## Description
    A car on a closed, randomly generated track, seen from above. The physics and the picture are those of Gymnasium's
    `CarRacing-v3`; spaces, frame rate, controls and reward are those of `DriveDiT-v0`, so a policy runs unchanged in
    both. One step is 3 ticks of the simulator, 0.06 s. The score painted on the dashboard is frozen at 0, and there
    is no opening zoom.

    ## Action Space
    `Box(-1, 1, (2,), float32)`

    | Num | Action   | Min             | Max            |
    |-----|----------|-----------------|----------------|
    | 0   | steering | -1 (full left)  | 1 (full right) |
    | 1   | throttle | -1 (full brake) | 1 (full gas)   |

    The front wheels turn by at most 0.4 rad, so steering beyond +-0.4 holds them at their stop; full brake locks the
    wheels. An action of another shape, or with NaN, raises `ValueError`; values outside the box are clipped, with one
    warning.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`: the simulator's picture; the car points up, about 37 m of road are seen ahead,
    the lowest 8 rows are the dashboard (speed, wheel speeds, steering, rate of turn).

    ## Rewards
    The sum of these terms times `reward_weights` (all 1.0 unless given); `info["reward_terms"]` holds the terms.

    | Term     | Value                                                                                     |
    |----------|-------------------------------------------------------------------------------------------|
    | progress | 1000 / N for every newly touched tile of the N tiles of the track                         |
    | time     | -0.1 per tick, so -0.3 per step                                                           |
    | left     | -100 when the car leaves the playfield                                                    |

    A tile pays again once the car has moved on by half a track, so every lap pays. The tiles under the car at the
    start do not pay.

    ## Starting State
    At rest at the start of the track; `options` start anywhere (see Reset Arguments).

    ## Episode End
    Terminated when the car leaves the playfield (333 m from the middle, far off the track). Finishing a lap does not
    end the episode. The registered environment is truncated after 1000 steps.

    ## Information
    `info["telemetry"]`: `speed` (signed forward speed, m/s), `lateral_offset` (m, positive right of the centre line),
    `heading_error` (rad, positive when the car points right of the route), `wheels_on_road` (share of the wheels).
    `info["reward_terms"]`, and `info["scene"]` with the track's `seed` and the `track_position` of the start.

    ## Arguments
    - `render_mode`: `None` or `"rgb_array"` (600 x 480).
    - `reward_weights`: a dictionary with some of the keys `progress`, `time`, `left`.
    - `colors`: seed of other colours of road and ground, drawn as CarRacing's `domain_randomize` draws them.

    ## Reset Arguments
    `seed` chooses the track; without it one below 1,000,000 is drawn (tracks from there on are held out for judging).

    | Option           | Unit               | Range        | Default |
    |------------------|--------------------|--------------|---------|
    | `track_position` | share of the lap   | [0, 1)       | 0       |
    | `lateral_offset` | m, positive right  | [-60, 60]    | 0       |
    | `heading_error`  | rad, positive right| [-pi, pi]    | 0       |
    | `speed`          | m/s                | [0, 120]     | 0       |

    ## Version History
    - v1: first version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1.0 / (TICKS_PER_STEP * TICK)}

    def __init__(
        self, render_mode: str | None = None, reward_weights: dict[str, float] | None = None, colors: int | None = None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        super().__init__()
        unknown = set(reward_weights or {}) - set(REWARD_TERMS)
        if unknown:
            raise ValueError(f"reward_weights knows the terms {list(REWARD_TERMS)}, got {sorted(unknown)}")
        self.colors = check_seed(colors)
        self.render_mode = render_mode
        self.reward_weights = {name: float((reward_weights or {}).get(name, 1.0)) for name in REWARD_TERMS}
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self._simulator = Simulator(self.colors)

    # ------------------------------------------------------------------ Gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; see the class for `seed` and `options`.

        Returns:
            The first frame, uint8 [64, 64, 3], and info.

        Raises:
            ValueError: The seed is none, or an option is unknown or out of its range; nothing has changed then.
        """
        placement, seed = _check_options(options), check_seed(seed)
        random, random_seed = stream(seed, self._np_random, self._np_random_seed)
        track_seed = int(random.integers(DOMAIN.held_out_from)) if seed is None else seed
        self._begin(track_seed, placement, [], random, random_seed)
        return self._past.latest, self._info(dict.fromkeys(REWARD_TERMS, 0.0))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Drives 3 ticks with one action [steering, throttle].

        Returns:
            Frame uint8 [64, 64, 3], reward, terminated, truncated (always False), info.
        """
        self._need_start("step")
        terms = self._take(self._check_action(action))
        reward = sum(self.reward_weights[name] * value for name, value in terms.items())
        return self._past.latest, float(reward), terms["left"] < 0.0, False, self._info(terms)

    # ------------------------------------------------------------------ what a privileged observer may see

    @property
    def pose(self) -> np.ndarray:
        """(x, y, yaw) of the car, float64 [3]: metres, and radians counter-clockwise from +x."""
        self._need_start("pose")
        return self._simulator.pose

    @property
    def route(self) -> np.ndarray:
        """The closed centre line in driving direction, float32 [M, 2], in metres."""
        return self.centre_line.points.astype(np.float32)

    @property
    def bounds(self) -> np.ndarray:
        """The playfield, float32 [4]: x and y at least, x and y at most; beyond it an episode ends."""
        return BOUNDS.copy()

    @property
    def centre_line(self) -> CentreLine:
        """The centre line with its geometry."""
        self._need_start("centre_line")
        return self._simulator.centre_line

    @property
    def telemetry(self) -> dict[str, float]:
        """The car's state relative to the road, with the names of `drivedit.config.domains.carracing.SPEC`."""
        x, y, yaw = self.pose
        return self._telemetry(self._simulator.centre_line.project(x, y), yaw)

    def truth(self) -> RoadTruth:
        """What is true at this moment, for those who drive by it."""
        return RoadTruth(self.telemetry, self.pose, self.route, True, self.bounds, line=self.centre_line)

    # ------------------------------------------------------------------ states

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on: seed, start, actions so far, and the random stream of `reset`."""
        self._need_start("get_state")
        return {
            "seed": self._seed,
            "placement": None if self._placement is None else dict(self._placement),
            "actions": np.array(self._actions, dtype=np.float32).reshape(-1, 2),
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state of `get_state`, bit for bit, by replaying its actions (drawing only the last frames).

        Raises:
            ValueError: It is no such state; nothing has changed then.
        """
        self._begin(*_check_state(state), random_seed=-1)

    def fork(self) -> CarRacingTwin:
        """A second environment in the same state; the two then live apart."""
        twin = CarRacingTwin(self.render_mode, self.reward_weights, self.colors)
        twin.set_state(self.get_state())
        return twin

    # ------------------------------------------------------------------ inside

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._simulator = Simulator(self.colors)

    def _start(self) -> None:
        self._simulator.start(self._seed, self._placement)
        self._past = Past(self._simulator)

    def _drive(self, action: np.ndarray) -> dict[str, float]:
        """The physics of one step, without drawing; returns the reward terms."""
        simulator = self._simulator
        controls = (float(action[0]), float(action[1]))
        ticks, left = 0, False
        while ticks < TICKS_PER_STEP and not left:
            simulator.tick(controls)
            ticks, left = ticks + 1, simulator.has_left
        self._past.drove(action)
        touched = simulator.collect_touched()
        x, y, _ = simulator.pose
        simulator.rearm(simulator.centre_line.project(x, y).index)
        return {
            "progress": 1000.0 * touched / len(simulator.track),
            "time": -0.1 * ticks,
            "left": -100.0 if left else 0.0,
        }

    def _telemetry(self, foot: Projection, yaw: float) -> dict[str, float]:
        """Telemetry of the car standing over `foot` with direction `yaw`."""
        car = self._simulator.body
        velocity = car.hull.linearVelocity
        return {
            "speed": float(velocity[0] * math.cos(yaw) + velocity[1] * math.sin(yaw)),
            "lateral_offset": foot.offset,
            "heading_error": wrap_angle(foot.yaw - yaw),
            "wheels_on_road": sum(bool(wheel.tiles) for wheel in car.wheels) / 4.0,
        }

    def _info(self, terms: dict[str, float]) -> dict[str, Any]:
        """The info of this moment."""
        position = 0.0 if self._placement is None else self._placement["track_position"]
        return {
            "telemetry": self.telemetry,
            "reward_terms": terms,
            "scene": {"seed": self._seed, "track_position": position},
        }


def _check_state(state: Any) -> tuple[int, dict[str, float] | None, list[np.ndarray], np.random.Generator]:
    """Seed, placement, actions and random stream of a state, or ValueError."""
    if not isinstance(state, Mapping):
        raise ValueError(f"a state is what CarRacingTwin.get_state() gives, got {type(state).__name__}")
    missing = {"seed", "placement", "actions", "random"} - set(state)
    if missing:
        raise ValueError(f"not a state of CarRacingTwin.get_state: it lacks {sorted(missing)}")
    seed = check_seed(state["seed"])
    if seed is None:
        raise ValueError("the seed of a state is a whole number, got None")
    placement = _check_options(state["placement"])
    if state["placement"] is not None and set(state["placement"]) != set(START_LIMITS):
        raise ValueError(f"the placement of a state is None or names {list(START_LIMITS)}, got {state['placement']}")
    expected = f"the actions of a state are [n <= {MOST_STEPS}, 2] in [-1, 1]"
    actions = real_numbers(state["actions"], expected)
    if actions.ndim != 2 or actions.shape[1] != 2 or len(actions) > MOST_STEPS or not (np.abs(actions) <= 1).all():
        raise ValueError(f"{expected}, got shape {list(actions.shape)}")
    return seed, placement, list(actions.astype(np.float32)), restored(state["random"])


def _check_options(options: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The full placement asked for by reset's `options`, or None for the simulator's own start."""
    if not isinstance(options, (Mapping, type(None))):
        raise ValueError(f"reset options are a dictionary with the keys {list(START_LIMITS)}, got {options!r}")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    unknown = set(options or {}) - set(START_LIMITS)
    if unknown:
        raise ValueError(f"reset options are {list(START_LIMITS)}, got {sorted(map(str, unknown))}")
    if not given:
        return None
    placement = dict.fromkeys(START_LIMITS, 0.0)
    for name, value in given.items():
        low, high = START_LIMITS[name]
        number = real_numbers(value, f"reset option {name!r} is a number")
        if number.ndim:
            raise ValueError(f"reset option {name!r} is a number, got shape {list(number.shape)}")
        value = float(number)
        inside = low <= value < high if name == "track_position" else low <= value <= high
        if not inside:
            end = ")" if name == "track_position" else "]"
            raise ValueError(f"reset option {name!r} lies in [{low:g}, {high:g}{end}, got {value}")
        placement[name] = value
    return placement
