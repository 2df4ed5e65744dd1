"""The twin: the street behind the spaces, controls, rewards and endings of worlds that are learned from it.

An episode is a function of (seed, options, actions), bit for bit. A state is numbers alone: what was seen of it is
drawn when it is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from drivedit.config import CameraConfig
from drivedit.config.domains.street import DOMAIN, SPEC
from drivedit.data.domains.street import simulator
from drivedit.data.domains.street.car import COLLISION, GOING, OFF_ROAD, WRONG_WAY
from drivedit.data.domains.street.cars import TICK
from drivedit.data.domains.street.options import Start, check_options
from drivedit.data.domains.street.simulator import Moment, Sensors, World
from drivedit.data.domains.street.truth import Measured, StreetTruth, measure, tell
from drivedit.utils import check_seed, real_numbers, restored, stream
from drivedit.utils.episodes import Agents

HISTORY = 32  # controls that `scene` can look back on
CAMERA, RANGE = SPEC.observations
LARGE = (288, 576)  # pixels of `render`
ENDINGS = {COLLISION: "collision", OFF_ROAD: "off_road", WRONG_WAY: "wrong_way"}
STATE = {"seed", "start", "past", "controls", "random"}


@dataclass(frozen=True)
class Past:
    """The last moments of an episode, the present one last, and the controls between them."""

    moments: tuple[Moment, ...]
    controls: tuple[np.ndarray, ...]

    def then(self, moment: Moment, controls: np.ndarray) -> Past:
        """The past one step later."""
        return Past((*self.moments[-HISTORY:], moment), (*self.controls[1 - HISTORY :], controls))


class StreetTwin(gym.Env[Any, np.ndarray]):
    """A road with traffic, seen from the driver's seat and by a LiDAR, at any hour and in any weather.

    ## Description
    A car on a closed lap in a town, in the country or on a highway, among others that follow (IDM), change lanes
    (MOBIL), merge from ramps, cross, and now and then brake to a stop. They react to the car. Its tyres slip, and hold
    less beside the road, in rain and in snow. One step is 0.1 s, of ticks of 0.02 s; other multiples can be asked for.

    ## Action Space
    `Box(-1, 1, (2,), float32)`

    | Num | Action   | Min             | Max            |
    |-----|----------|-----------------|----------------|
    | 0   | steering | -1 (full left)  | 1 (full right) |
    | 1   | throttle | -1 (full brake) | 1 (full gas)   |

    The front wheels turn by at most 0.5 rad, at 0.9 rad/s. The car does not reverse. An action of another shape, or
    with NaN, raises `ValueError`; values outside the box are clipped, with one warning.

    ## Observation Space
    `obs_type="camera"`: `Box(0, 255, (64, 128, 3), uint8)`, 75 degrees wide, 1.5 m above the road, 2 x 2 rays a pixel.
    `obs_type="range"`: `Box(0, 85, (32, 256, 2), float32)`, a LiDAR on the roof, +3 to -25 degrees: metres (0 where
    nothing came back), and 1 where something did. Columns run clockwise; straight ahead is the middle one. Rain, snow
    and fog shorten it.
    `obs_type=("camera", "range")`: a `Dict` of both.

    ## Rewards
    The sum of these terms times `reward_weights` (all 1.0 unless given); `info["reward_terms"]` holds the terms.

    | Term      | Value                                                                     |
    |-----------|---------------------------------------------------------------------------|
    | progress  | metres made good along the road, divided by 10                            |
    | lane      | minus the share of the wheels outside the lanes of the direction, per 0.1 s |
    | time      | -0.05 per 0.1 s                                                           |
    | collision | -20 when the car hits another one, a house, a tree, a pole or a rail      |
    | off_road  | -20 when the car is 5 m beyond the pavement                               |
    | wrong_way | -20 when the car has turned by more than 120 degrees against the road     |

    ## Starting State
    In a lane, at 0.8 of the speed of the traffic; `options` start elsewhere (see Reset Arguments).

    ## Episode End
    Terminated by a collision, by leaving the road, or by turning against the direction. The registered environment is
    truncated after 1000 steps.

    ## Information
    `info["telemetry"]`: `speed` (m/s), `lateral_offset` (m, positive right of the middle of the nearest lane of the
    direction), `heading_error` (rad, positive when the car points right of the road), `gap` (m to the car ahead in the
    way, at most 100), `closing_speed` (m/s at which it comes nearer), `lane` (0 is the right one), `wheels_on_road`
    (share of the wheels on pavement). `info["reward_terms"]`, `info["time"]` (s), and `info["scene"]` with `seed`,
    `attributes` and the `track_position` of the start.

    ## Arguments
    - `obs_type`: see Observation Space; `"camera"` unless given.
    - `lidar`: rows and columns of range images, `(32, 256)` unless given; they divide `(64, 512)`.
    - `dt`: seconds of a step, a multiple of 0.02 up to 2; 0.1 unless given.
    - `render_mode`: `None` or `"rgb_array"` (576 x 288).
    - `reward_weights`: a dictionary with some of the terms.
    - `camera`: another camera, some of `fov` (degrees), `height` (m), `pitch` (degrees down) and `ahead` (m); what is
      left out is as `drivedit.config.CameraConfig` says.

    ## Reset Arguments
    `seed` chooses road, scenery and traffic; without it one below 1,000,000 is drawn (those from there on are held out
    for judging). What is left out of `attributes` is drawn from the seed, too.

    | Option           | Unit                | Range           | Default |
    |------------------|---------------------|-----------------|---------|
    | `attributes`     | values by name      | see below       | drawn   |
    | `track_position` | share of the lap    | [0, 1)          | drawn   |
    | `lane`           | 0 is the right one  | 0, 1 on highways | 0      |
    | `lateral_offset` | m, positive right   | [-10, 10]       | 0       |
    | `heading_error`  | rad, positive right | [-1.5, 1.5]     | 0       |
    | `speed`          | m/s                 | [0, 45]         | 0.8 of the traffic's |
    | `dt`             | s                   | [0.02, 2]       | that of the environment |

    | Attribute | Values                   |
    |-----------|--------------------------|
    | `road`    | town, rural, highway     |
    | `weather` | clear, fog, rain, snow   |
    | `time`    | day, dusk, night         |
    | `traffic` | none, light, dense       |

    ## Version History
    - v0: first version.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        obs_type: str | Sequence[str] = CAMERA,
        lidar: tuple[int, int] = (32, 256),
        dt: float = SPEC.dt,
        render_mode: str | None = None,
        reward_weights: Mapping[str, float] | None = None,
        camera: Mapping[str, float] | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        unknown = set(reward_weights or {}) - set(SPEC.rewards)
        if unknown:
            raise ValueError(f"reward_weights knows the terms {list(SPEC.rewards)}, got {sorted(unknown)}")
        kinds: tuple[str, ...] = (obs_type,) if isinstance(obs_type, str) else tuple(obs_type)
        if not kinds or set(kinds) - set(SPEC.observations) or len(set(kinds)) < len(kinds):
            raise ValueError(f"obs_type must be one of {list(SPEC.observations)}, or several, got {obs_type!r}")
        self.render_mode, self.obs_type = render_mode, obs_type if isinstance(obs_type, str) else kinds
        self.reward_weights = {name: float((reward_weights or {}).get(name, 1.0)) for name in SPEC.rewards}
        self.dt = check_options({"dt": dt}, 0).dt
        rows, columns, _ = SPEC.observations[CAMERA].shape
        self._camera = None if camera is None else CameraConfig.from_dict(dict(camera))
        self._sensors = Sensors((rows, columns), lidar, self._camera)
        self._large: Sensors | None = None
        controls = SPEC.controls
        self.action_space = spaces.Box(
            np.array([each.low for each in controls], np.float32),
            np.array([each.high for each in controls], np.float32),
        )
        boxes = {}
        for name, kind in SPEC.observations.items():
            shape = kind.shape if name == CAMERA else (*lidar, 2)
            boxes[name] = spaces.Box(kind.low, kind.high, shape, np.dtype(kind.dtype).type)  # type: ignore[arg-type]
        self._kinds: tuple[str, ...] = kinds
        chosen = {name: boxes[name] for name in kinds}
        self.observation_space = boxes[obs_type] if isinstance(obs_type, str) else spaces.Dict(chosen)
        self._past: Past | None = None
        self._shown: tuple[Moment, np.ndarray] | None = None  # instances of the pixels of a moment
        self._warned = False

    # ------------------------------------------------------------------ Gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; see the class for `seed` and `options`.

        Returns:
            The first observation, and info.

        Raises:
            ValueError: The seed is none, or an option is unknown or out of its range; nothing has changed then.
        """
        seed = check_seed(seed)
        random, random_seed = stream(seed, self._np_random, self._np_random_seed)
        chosen = int(random.integers(DOMAIN.held_out_from)) if seed is None else seed
        start = check_options(
            {"dt": self.dt, **(options or {})} if isinstance(options, Mapping | None) else options, chosen
        )
        world = simulator.make_world(chosen, start.attributes)
        shape = world.road.shape
        speed = 0.8 * float(shape.limit) if start.speed is None else start.speed
        moment = simulator.begin(
            world,
            start.track_position * float(shape.length),
            start.lane,
            start.lateral_offset,
            start.heading_error,
            speed,
        )
        self._np_random, self._np_random_seed = random, random_seed
        self._seed, self._start, self._world = chosen, start, world
        self._past = Past((moment,), ())
        return self._observe(moment), self._info(moment, measure(world, moment), dict.fromkeys(SPEC.rewards, 0.0))

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drives one step with one action [steering, throttle].

        Returns:
            Observation, reward, terminated, truncated (always False), info.
        """
        controls, past = self._check_action(action), self._need_start("step")
        moment, far, why = simulator.drive(self._world, past.moments[-1], controls, round(self._start.dt / TICK))
        share = (moment.tick - past.moments[-1].tick) * TICK / SPEC.dt
        found = measure(self._world, moment)
        terms = {"progress": far / 10, "lane": -share * found.off_lanes}
        terms["time"] = SPEC.rewards["time"].value * share
        terms |= {name: SPEC.rewards[name].value * (code == why) for code, name in ENDINGS.items()}
        self._past = past.then(moment, controls)
        reward = sum(self.reward_weights[name] * value for name, value in terms.items())
        return self._observe(moment), float(reward), why != GOING, False, self._info(moment, found, terms)

    def render(self) -> np.ndarray | None:
        """A larger picture, uint8 [288, 576, 3], in render mode `rgb_array`; else None."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make(..., render_mode='rgb_array')")
            return None
        moment = self._need_start("render").moments[-1]
        self._large = self._large or Sensors(LARGE, (1, 1), self._camera)
        return self._large.look(self._world, moment)[0]

    # ------------------------------------------------------------------ what a privileged observer may see

    @property
    def pose(self) -> np.ndarray:
        """(x, y, yaw) of the car, float64 [3]: metres, and radians counter-clockwise from +x."""
        return np.array(self._need_start("pose").moments[-1].pose, np.float64)

    def truth(self) -> StreetTruth:
        """What is true at this moment, for those who drive by it."""
        return tell(self._world, self._need_start("truth").moments[-1], self._start.attributes)

    def see(self) -> simulator.Seen:
        """All that the sensors see: picture and range image with distances, instances and classes."""
        return self._sensors.see(self._world, self._need_start("see").moments[-1])

    def instances(self) -> np.ndarray:
        """Numbers of the cars that the camera's pixels show, int32 [64, 128], 0 of all else; free if it was looked."""
        moment = self._need_start("instances").moments[-1]
        if self._shown is None or self._shown[0] is not moment:
            self._look(moment)
        assert self._shown is not None
        return self._shown[1].copy()

    def scene(self, n: int = 8) -> dict[str, Any]:
        """The scene of this moment, for `reset(options={"scene": ...})` of a dream.

        Args:
            n: Controls to look back on, at most 32; fewer are returned if fewer steps were taken.

        Returns:
            The fields of `drivedit.models.Scene` that are known, observations of the kinds of `obs_type`.

        Raises:
            ValueError: `n` is out of its range.
            RuntimeError: No step was taken yet.
        """
        if not 1 <= n <= HISTORY:
            raise ValueError(f"scene(n) looks back on 1 to {HISTORY} controls, got n={n}")
        past = self._need_start("scene")
        n = min(n, len(past.controls))
        if n == 0:
            raise RuntimeError("a scene needs at least one control: step at least once after reset, then call scene()")
        moments = past.moments[-n - 1 :]
        seen = [self._by_kind(moment) for moment in moments]
        return {
            "observations": {name: np.stack([each[name] for each in seen]) for name in self._kinds},
            "controls": np.stack(past.controls[-n:]),
            "times": TICK * np.array([moment.tick for moment in moments]),
            "route": self.truth().route,
            "closed": True,
            "poses": np.stack([moment.pose for moment in moments]).astype(np.float32),
            "agents": Agents.join([simulator.agents(self._world, moment) for moment in moments]),
            "attributes": dict(self._start.attributes),
        }

    # ------------------------------------------------------------------ states

    def get_state(self) -> dict[str, Any]:
        """Everything that the future and `scene` depend on, in numbers; some 100 kB."""
        past = self._need_start("get_state")
        return copy.deepcopy({
            "seed": self._seed, "start": self._start, "past": past.moments, "controls": past.controls,
            "random": self.np_random.bit_generator.state,
        })  # fmt: skip

    def set_state(self, state: Any) -> None:
        """Restores a state of `get_state`, bit for bit.

        Raises:
            ValueError: It is no such state; nothing has changed then.
        """
        if not isinstance(state, Mapping) or set(state) != STATE or not isinstance(state["start"], Start):
            got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"a state is what StreetTwin.get_state() gives, with {sorted(STATE)}; got {got}")
        seed, start, random = check_seed(state["seed"]), state["start"], restored(state["random"])
        moments, controls = tuple(copy.deepcopy(state["past"])), tuple(copy.deepcopy(state["controls"]))
        if seed is None or len(moments) != len(controls) + 1 or not all(isinstance(each, Moment) for each in moments):
            raise ValueError("a state of StreetTwin has a seed, and one moment more than controls")
        known = self._past is not None and (seed, start.attributes) == (self._seed, self._start.attributes)
        world: World = self._world if known else simulator.make_world(seed, start.attributes)
        vars(self).update(
            _seed=seed, _start=start, _world=world, _past=Past(moments, controls),
            _np_random=random, _np_random_seed=-1,
        )  # fmt: skip

    # ------------------------------------------------------------------ inside

    def _need_start(self, name: str) -> Past:
        """The past of the episode, or an error if there is none."""
        if self._past is None:
            raise gym.error.ResetNeeded(f"call reset() before {name}")
        return self._past

    def _by_kind(self, moment: Moment) -> dict[str, np.ndarray]:
        """Observations of the chosen kinds."""
        if len(self._kinds) == len(SPEC.observations):
            seen = self._sensors.see(self._world, moment)
            return {name: seen.camera if name == CAMERA else seen.range for name in self._kinds}
        if CAMERA in self._kinds:
            return {CAMERA: self._look(moment)}
        return {name: self._sensors.scan(self._world, moment)[0] for name in self._kinds}

    def _look(self, moment: Moment) -> np.ndarray:
        """The picture of a moment; whose pixels are whose is kept."""
        picture, _, instance, _ = self._sensors.look(self._world, moment)
        self._shown = (moment, instance)
        return picture

    def _observe(self, moment: Moment) -> Any:
        """What the agent sees."""
        seen = self._by_kind(moment)
        return seen[self.obs_type] if isinstance(self.obs_type, str) else seen

    def _info(self, moment: Moment, found: Measured, terms: dict[str, float]) -> dict[str, Any]:
        """The info of this moment."""
        start = self._start
        scene = {"seed": self._seed, "track_position": start.track_position, "attributes": dict(start.attributes)}
        return {"telemetry": found.telemetry, "reward_terms": terms, "scene": scene, "time": moment.tick * TICK}

    def _check_action(self, action: Any) -> np.ndarray:
        """A clean float32 action [2] inside the box, or ValueError."""
        expected = "an action is 2 numbers [steering, throttle] in [-1, 1]"
        numbers = real_numbers(action, expected)
        if numbers.shape != (2,) or np.isnan(numbers).any():
            raise ValueError(f"{expected}, got {numbers!r}")
        if np.abs(numbers).max() > 1.0 and not self._warned:
            self._warned = True
            gym.logger.warn(f"action {numbers} lies outside [-1, 1] and is clipped (said once)")
        return np.clip(numbers, -1.0, 1.0).astype(np.float32)
