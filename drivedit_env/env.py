"""`DriveDiT-v0`: a learned driving world as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.config import DEFAULT_WORLD, find_domain
from drivedit.inference.layouts import Source, with_functions
from drivedit.inference.starts import check_options, draw_start, enter, follow
from drivedit.models import RowState, StepOutput, World
from drivedit.utils import check_seed, restored, stream
from drivedit.utils.pictures import enlarged
from drivedit_env.base import RENDER_HEIGHT, DreamSettings, Observations, rows_of
from drivedit_env.readout import make_readout
from drivedit_env.state import EnvState
from drivedit_env.vector import DriveDiTVectorEnv, fork
from drivedit_env.window import Window


class DriveDiTEnv(DreamSettings, gym.Env[Observations, np.ndarray]):
    """A driving world that is a neural network, learned from recordings and stepped one generated frame at a time.

    ## Description
    The default world `carracing` is learned from recordings of Gymnasium's `CarRacing-v3`: a car on a track, seen from
    above, one step every 0.06 s. What the car does and what is seen - the picture, the dynamics, the reward, the ending
    - is dreamed by the network. The centre line of the road is not: a scene carries the route of a recorded track (or a
    hand-drawn one), and the network is told the part of it around the car, which it draws and drives on. The agent
    neither sees nor sets the route. `CarRacingTwin-v0` is the simulator itself behind the same spaces.

    What a world is told, `world.spec.conditions`, can be given or dreamed, each on its own: the `route` that of the
    scene or one that is drawn, and for worlds that have learned it the `layout` of others on the road. Without a
    `layout` others are dreamed, too. `info["given"]` says what is told.

    ## Action Space
    `Box(-1, 1, (2,), float32)`

    | Num | Action   | Min             | Max            |
    |-----|----------|-----------------|----------------|
    | 0   | steering | -1 (full left)  | 1 (full right) |
    | 1   | throttle | -1 (full brake) | 1 (full gas)   |

    An action of another shape, or with NaN, raises `ValueError`; values outside the box are clipped, with one warning.

    ## Observation Space
    `obs_type="pixels"`: `Box(0, 255, (64, 64, 3), uint8)`, the generated frame (the size is the world's).
    `obs_type="latent"`: `Box(-inf, inf, (C, h, w), float32)`, the frame's latent, about unit variance; nothing is
    decoded, so stepping is faster. The first observation is the last frame of the start scene, as the world encodes it.

    ## Rewards
    The sum of these terms times `reward_weights` (all 1.0 unless given); `info["reward_terms"]` holds the terms. The
    names and values are the world's; those of `carracing`:

    | Term     | Value                                                                              |
    |----------|------------------------------------------------------------------------------------|
    | progress | what the network expects of 1000 / N for every newly touched tile of the N tiles   |
    | time     | -0.3 per step                                                                      |
    | left     | -100 when the network says that the car has left the playfield                     |

    ## Starting State
    A start scene of the world: some recorded frames with the controls between them, drawn at random unless
    `options` name one (see Reset Arguments).

    ## Episode End
    Terminated when the network's ending head says so (`carracing`: the car leaves the playfield). The registered
    environment is truncated after 1000 steps.

    ## Information
    - `telemetry`: what the network reads off its own dream; for `carracing` `speed` (signed forward speed, m/s),
      `lateral_offset` (m, positive right of the centre line), `heading_error` (rad, positive when the car points right
      of the route), `wheels_on_road` (share of the wheels).
    - `reward_terms`: the terms of the reward.
    - `confidence`: in [0, 1]; 1 where the world expects to be as right as it ever is.
    - `scene`: index of the start scene, -1 for one that was handed over.
    - `given`: for each of the world's conditions whether it is told (True) or dreamed (False).
    - `time`: seconds since the start.
    - `agents`: with `readout`, at every n-th step, who is where as a reader tells it of the picture alone
      (`drivedit_env.readout`): `boxes` float32 [K, 8] of x (ahead), y (to the left), z, length, width, height (m), yaw
      (rad to the left) and speed (m/s) in the car's own frame, their `spread` [K, 8] and `presence` [K] in [0, 1];
      and, lowered by their spread, `clearance` (m) and `time_to_collision` (s).

    After `reset`, telemetry and confidence are what the network reads off the last frame of the start scene.

    ## Arguments
    - `world`: name of a shipped world (it goes before a folder of that name, which is `./carracing`); a folder;
      `hub:NAME/WORLD`, which is downloaded from the Hugging Face hub; or a `drivedit.models.World`. Environments of the
      same world and device share its weights.
    - `render_mode`: `None`, `"rgb_array"` (the frame enlarged to a height of 512 pixels), or `"human"`: a window is
      drawn at every `reset` and `step`, at the world's pace. To drive by hand: `drivedit-play`.
    - `obs_type`: `"pixels"`, `"latent"`, another kind of observation of the world's spec, or a list of several: then
      the observation space is a `Dict` with these names.
    - `sampling_steps`: passes of the network for one frame; `None` is the world's own number.
    - `reward_weights`: a dictionary with some of the names of the reward terms.
    - `device`: `"auto"`, `"cpu"`, `"cuda"`, ...; a `World` object stays where it is.
    - `compile`: steps several times faster on a CPU; needs a C++ compiler, and some seconds the first time (see
      `compile_step`). Without a compiler there is a warning, and the world goes on uncompiled.
    - `guidance`: scale of classifier-free guidance on the controls, for worlds that have learned to dream without them
      (`loss.drop_control`); 1 is none, more obeys them more. It takes twice the passes, and no compiled step has it.
    - `adapter`: file of an adapter of this world (`python -m drivedit.training adapt`), which is merged into its
      weights; it may bring start scenes of its own.
    - `readout`: True: the reader of agents beside the world; a path or an `AgentsReader`: that one; False: none. The
      picture is then decoded whatever `obs_type` is.
    - `readout_every`: steps from one read-out to the next.

    ## Reset Arguments
    `seed` decides which scene is drawn and how the dream goes on: the same seed, options and actions give the same
    frames.

    | Option       | Value                                                                                           |
    |--------------|-------------------------------------------------------------------------------------------------|
    | `scene`      | an index; `"random"` (default); or a scene of your own (`drivedit.models.Scene` or a dictionary |
    |              | of its fields): `frames` uint8 [n+1, 64, 64, 3] and `controls` [n, 2], `controls[i]` led from   |
    |              | `frames[i]` to `frames[i+1]`, n >= 1; if known `route`, `closed`, `poses` and `bounds`, and for |
    |              | worlds that have them `observations` (by kind, for `frames`), `conditions`, `times`, `agents`   |
    |              | and `attributes`                                                                                |
    | `route`      | a hand-drawn route: [M, 2] points in metres, a few metres apart, in driving direction. Its      |
    |              | place does not matter: it goes on where the road ends that the start picture shows (45 m        |
    |              | ahead). `"random"`: 2 km of straights, and bends as sharp as CarRacing's, drawn by the seed     |
    | `closed`     | whether the hand-drawn route is a loop (default False)                                          |
    | `layout`     | who else is on the road, in the places of the scene (m, rad, m/s). Boxes [A, 8] of x, y, z of   |
    |              | the middle, length, width, height, yaw and speed drive on at their speed along the road. A log  |
    |              | is replayed: an array [A, 8] for each step from the start on, or                                |
    |              | `drivedit.utils.episodes.Agents`, or a list of those; when it is over, they drive on. A         |
    |              | function (seconds since the start, pose [x, y, yaw]) -> boxes [A, 8] is asked after the reset   |
    |              | and after every step. `"scene"`: those whom the scene's `agents` have at its end. `"random"`:   |
    |              | those of another of the world's scenes, drawn of the ones most alike, brought to this road.     |
    |              | [0, 8] is an empty road                                                                         |
    | `dt`         | seconds of a step of this episode, for worlds whose `spec.any_dt` says that they take any;      |
    |              | default: `spec.dt`. `drivedit_env.intervals` has wrappers for it                                |
    | `attributes` | what the scene is like, by names of `world.spec.attributes`: with `{"weather": "rain"}` the     |
    |              | seed draws one of the world's scenes that are so                                                |

    The world is told the boxes that are nearest to the car at that time, as many as it has learned to be told. A layout
    is refused when boxes stand inside each other or the car, are all behind it (those of a log or a function may be),
    are beyond the field of the scene or more than 100 m from its route, or have no size; of a log and of a function
    this is checked at the start.

    ## Copies, forked processes, errors
    A copy (`copy.deepcopy`, `pickle`) goes on exactly from where its original is; it shares the world, or finds it
    again by its name. In forked processes (`vectorization_mode="async"`) torch computes with one thread. What is no
    action, state, seed or option raises `ValueError`. A call that is refused has changed nothing; one that is broken
    off (Ctrl-C) leaves the environment as it was before it or as it is after it. `sampling_steps` and `guidance`
    may be set at any time.

    ## Version History
    - v0: first version.
    """

    render_modes = ("human", "rgb_array")
    metadata = {"render_modes": list(render_modes), "render_fps": find_domain(DEFAULT_WORLD).spec.fps}

    def __init__(
        self,
        world: str | Path | World = DEFAULT_WORLD,
        render_mode: str | None = None,
        obs_type: str | Sequence[str] = "pixels",
        sampling_steps: int | None = None,
        reward_weights: dict[str, float] | None = None,
        device: str = "auto",
        compile: bool = False,
        guidance: float = 1.0,
        adapter: str | Path | None = None,
        readout: Any = False,
        readout_every: int = 1,
    ) -> None:
        self.observation_space, self.action_space = self._configure(
            world, render_mode, obs_type, sampling_steps, reward_weights, device, compile, guidance, adapter
        )
        self._read_by(make_readout(readout, readout_every, world, device))
        self.metadata = {**type(self).metadata, "render_fps": self.world.spec.fps}
        self._state: RowState | None = None
        self._frame: np.ndarray | None = None  # the picture of this moment, once somebody has asked for it
        self._scene, self._ended, self._elapsed = -1, False, 0
        self._others: Source = None
        self._window = self._make_window()

    # -- Gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts a dream; see the class for `seed` and `options`.

        Returns:
            The first observation and info.

        Raises:
            ValueError: The seed is none, or an option is unknown or has a value that does not fit the world; nothing
                has changed then.
        """
        options = check_options(options)
        dt = self._intervals(options.get("dt"), 1)
        random, seeded = stream(check_seed(seed), self._np_random, self._np_random_seed)
        start = draw_start(self.world, options, random)
        state, out = enter(self.world, start)
        frame = self._look(state)
        info = {**self._info(out, state, start.index, 0), "reward_terms": dict.fromkeys(self.reward_weights, 0.0)}
        info |= self._agents(frame, None, start.index, 0)
        self._change(
            _np_random=random, _np_random_seed=seeded, _state=state, _frame=frame, _scene=start.index,
            _ended=False, _others=start.others, _elapsed=0, _dt=dt,
        )  # fmt: skip
        if self._window is not None:
            self._window.begin(self._picture("reset"), info)
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Dreams one frame under an action, by default [steering, throttle].

        Returns:
            Observation, reward, terminated, truncated (always False), info.

        Raises:
            ValueError: The action is not of the action space's shape, holds NaN, or anything but real numbers.
        """
        state = self._need_state("step")
        if self._ended:
            self._warn_once("step() was called although the episode has ended; call reset() (said once)")
        action = self._check_actions(action)
        elapsed = self._elapsed + 1
        before = self._picture("step") if self._reads(elapsed) else None
        state, out = self._dream(state, action[None])
        state = follow(self.world, state, [self._others], [elapsed])
        frame = self._look(state)
        info = {**self._info(out, state, self._scene, elapsed), **self._agents(frame, before, self._scene, elapsed)}
        reward, ended = float(self._reward(info)), bool(out.ended)
        self._change(_state=state, _frame=frame, _ended=ended, _elapsed=elapsed)
        if self._window is not None:
            self._window.show(self._picture("step"), info, action, reward)
        return self._observe(), reward, ended, False, info

    def render(self) -> np.ndarray | None:
        """The frame of this moment, enlarged: uint8 [512, 512, 3] in render mode `rgb_array`; else None.

        In render mode `human` the window shows this moment already.
        """
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make(..., render_mode='rgb_array')")
            return None
        picture = self._picture("render")
        return None if self._window is not None else enlarged(picture, RENDER_HEIGHT)

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._window is not None:
            self._window.close()

    @property
    def pose(self) -> np.ndarray:
        """Where the car is, float64 [3]: x, y (m) and yaw (rad to the left), from wherever its scene began."""
        return self.world.poses(self._need_state("pose"))[0].double().cpu().numpy()

    # -- snapshots -----------------------------------------------------------------------------------------------

    def get_state(self) -> EnvState:
        """Everything that the future depends on, as a copy; `to_bytes()` of it can be stored.

        A log of others is part of it, with the step that it has come to. A function that says where others are is, too,
        but its bytes have not got it. What wrappers know, such as when they cut an episode, is not part of it.
        """
        state = self._need_state("get_state").clone()
        random = dict(self.np_random.bit_generator.state)
        lists = [self._scene], [self._ended], [self._elapsed], [self.dt], [self._others]
        return EnvState(state, self._world_fingerprint(), [random], *lists)

    def set_state(self, state: EnvState | bytes) -> None:
        """Goes back to a state of `get_state`, bit for bit; the state given stays as it is.

        The bytes of a state whose others a function places need an environment that was reset with that function.

        Raises:
            ValueError: It is no state, is damaged, belongs to another world, holds several, or lacks its function;
                nothing has changed then.
        """
        state = self._check_state(state)
        if len(state) != 1:
            raise ValueError(f"a state of one world is needed, got {len(state)}; take one row: state.select([row])")
        (others,) = with_functions(state.others, [self._others])
        self._change(
            _np_random=restored(state.random[0]), _np_random_seed=-1, _state=state.world.clone(), _frame=None,
            _scene=state.scene[0], _ended=state.ended[0], _others=others, _elapsed=state.elapsed[0],
            _dt=self._intervals(state.dt[0], 1),
        )  # fmt: skip

    def fork(self, n: int, seeds: Sequence[int] | None = None) -> DriveDiTVectorEnv:
        """Opens n worlds that go on from this moment; see `DriveDiTVectorEnv.fork`."""
        return fork(self, self.get_state(), n, seeds)

    # -- inside --------------------------------------------------------------------------------------------------

    def __setstate__(self, kept: dict[str, Any]) -> None:
        super().__setstate__(kept)
        self._window = self._make_window()

    def _make_window(self) -> Window | None:
        """The window of render mode `human`, which is not shared with copies."""
        return Window(self.metadata["render_fps"], self.world.spec.controls) if self.render_mode == "human" else None

    def _look(self, state: RowState) -> np.ndarray | None:
        """The frame of a state, uint8 [H, W, 3], if each moment is seen."""
        seen = self.world.spec.picture in self._kinds.values() or self._window is not None
        seen = seen or self._readout is not None
        return self._pictures(state)[0] if seen else None

    def _picture(self, caller: str) -> np.ndarray:
        """The frame of this moment, uint8 [H, W, 3], decoded when first asked for."""
        state, frame = self._need_state(caller), self._frame
        if frame is None:
            frame = self._frame = self._pictures(state)[0]
        return frame

    def _observe(self) -> Observations:
        """The observation of this moment, the caller's to keep."""
        frame = None if self._frame is None else self._frame[None]
        return rows_of(self._observations(self._need_state("step"), frame), 0)

    def _info(self, out: StepOutput, state: RowState, scene: int, elapsed: int) -> dict[str, Any]:
        """The info of a step, in Python's own numbers."""
        infos = self._infos(out, state, np.array([elapsed]))
        single = {
            name: {key: array[0].item() for key, array in value.items()} if isinstance(value, dict) else value[0].item()
            for name, value in infos.items()
        }
        return {**single, "scene": scene}

    def _agents(
        self, frame: np.ndarray | None, before: np.ndarray | None, scene: int, elapsed: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """What info tells of agents, read off a frame and the one before it; nothing, where it is not time."""
        if self._readout is None or frame is None or not self._reads(elapsed):
            return {}
        last = None if before is None else before[None]
        told = self._readout.read(frame[None], last, None, [(scene, elapsed)])
        return {"agents": {name: value[0] for name, value in told.items()}}

    def _need_state(self, name: str) -> RowState:
        """The state of this moment, or an error if there is no episode yet."""
        if self._state is None:
            raise gym.error.ResetNeeded(f"call reset() before {name}()")
        return self._state
