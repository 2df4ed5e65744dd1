"""A person at the wheel of the dream, without any window: drive, go back, branch, compare, record, hand over.

A `Session` has one moment, `now`, and a bounded past. Everything that the window can do is one method here; each one
is short and may be called from a worker thread, one at a time. `now` is replaced whole: a window reads it any time.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.config.rooms import LOAD_AGENT
from drivedit.utils import load_object
from drivedit.utils.commands import in_words
from drivedit_env.domains import domain_of_world
from drivedit_env.env import DriveDiTEnv
from drivedit_env.state import EnvState
from drivedit_env.viewer.reality import Reality
from drivedit_env.viewer.recorder import Moment, Recording
from drivedit_env.viewer.surroundings import Surroundings, surroundings_of_dream, with_read

Agent = Callable[[np.ndarray], Any]
MEMORY = 256e6  # bytes of snapshots to go back through
BOOKMARKS = 9
MOST_PASSES = 16
# What a command or an agent may raise: people are told so, in a line.
TOLD = (
    ImportError, OSError, ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError,
    gym.error.Error,
)  # fmt: skip


class Session:
    """A drive.

    Args:
        env: The dream, with `obs_type="pixels"`.
        scene: Index of the first start scene; None: a random one.
        seed: Decides how the dream goes on and which scenes are drawn.
        agent: Who can be handed the wheel: a name, PATH.safetensors, PATH.zip or `module:callable`, see
            `drivedit.agents.load_agent`; None: the policy that the world's domain names, if it does.
        folder: Where recordings go.
        memory: Bytes of snapshots to go back through.
        world: Where the world is whose latents the agent may have learned on; None: where it was when it learned.
        layout: Reset option `layout` of every start: who else is on the road; None: they are dreamed.

    Attributes:
        now: The present moment.
        recording: The recording that goes on, or None.
        broken: Whether the last recording could not go on.
        agent_drives: Whether the agent has the wheel.
        note: (number, text) of the last thing to say to the person.
        bookmarks: Moments that were marked.
    """

    def __init__(
        self,
        env: DriveDiTEnv,
        scene: int | None = None,
        seed: int = 0,
        agent: str | None = None,
        folder: str | Path = "drives",
        memory: float = MEMORY,
        world: str | None = None,
        layout: Any = None,
    ) -> None:
        self.env, self.folder, self.agent_name = env, Path(folder), agent or _own_agent(env)
        self.fps: float = env.metadata["render_fps"]
        controls = env.world.spec.controls
        self._limits = np.array([(each.low, each.high) for each in controls], np.float32).T
        self.recording: Recording | None = None
        self.broken = False
        self.agent_drives = False
        self.note = (0, "")
        self.bookmarks: list[Moment] = []
        self._agent: Agent | None = None
        self._reality: Reality | None = None
        self._track, self._seed, self._memory, self._world = seed, seed, memory, world
        self._layout = layout
        self._past: deque[Moment] = deque()
        self._env_at: Moment | None = None
        self.now = self._begin("random" if scene is None else scene, seed)

    # -- driving ---------------------------------------------------------------------------------------------------

    def step(self, action: np.ndarray) -> Moment:
        """Dreams on by a frame; the agent decides if it has the wheel. An episode that has ended stays as it is.

        Raises:
            RuntimeError: The agent has failed.
        """
        before = self.now
        if before.ended:
            return before
        self._arrive(before)
        if self.agent_drives and self._agent is not None:
            try:
                action = np.asarray(self._agent(before.frame), np.float32)
            except TOLD as error:
                raise RuntimeError(f"{self.agent_name} failed: {in_words(error)}") from error
        frame, reward, ended, _, info = self.env.step(action)
        action = np.clip(np.asarray(action, np.float32), *self._limits)
        real, reality, around = None, before.reality, None
        if self._reality is not None and reality is not None:
            real, reality = self._reality.step(reality, action)
            real = before.real if real is None else real
            around = self._reality.around()
        state = self.env.get_state()
        returned = before.returned + float(reward)
        after = Moment(
            state, frame, action, float(reward), returned, before.steps + 1, ended, info, real, reality,
            (self._around(state, info), around),
        )  # fmt: skip
        self._env_at = after
        self._keep(after)
        if self.recording is not None:
            self._record(self.recording, before, after)
        if ended:
            self.say("The drive is over: the car has left the playfield. R starts again, Backspace goes back.")
        return after

    def restart(self) -> None:
        """Starts the same scene again."""
        if self._reality is not None:
            self._start_both()
        else:
            scene = self.now.info["scene"]
            self._begin(scene if scene >= 0 else "random", self._seed)

    def next_scene(self) -> None:
        """Starts the next scene; beside the simulator, the next track."""
        if self._reality is not None:
            self._track += 1
            self._start_both()
        else:
            self._begin((self.now.info["scene"] + 1) % max(len(self.env.world.scenes), 1), self._seed)

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def seconds_back(self) -> float:
        """How far one can go back."""
        return (len(self._past) - 1) / self.fps

    def rewind(self) -> bool:
        """Goes back by a frame; False where the past ends."""
        if len(self._past) < 2:
            self.say("This is as far back as it goes.")
            return False
        self._past.pop()
        self.now = self._past[-1]
        return True

    def bookmark(self) -> None:
        """Marks this moment; after nine, the oldest mark goes."""
        self.bookmarks = [*self.bookmarks, self.now][-BOOKMARKS:]
        self.say(f"Marked: {len(self.bookmarks)} brings you back here.")

    def go_to(self, number: int) -> None:
        """Comes back to a bookmark (from 1). Going back from there leads to where one came from."""
        if not 1 <= number <= len(self.bookmarks):
            self.say(f"There is no mark {number} yet: B makes one.")
            return
        self._keep(self.bookmarks[number - 1])
        self.say(f"Back at mark {number}: drive another way.")

    # -- who drives, and how ---------------------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Gives the wheel to the agent, or takes it back.

        Raises:
            ValueError: There is no such agent, or none was named.
            FileNotFoundError: There is no such file.
        """
        if self.agent_drives:
            self.take_back()
            self.say("You drive.")
            return
        if self._agent is None:
            if not self.agent_name:
                raise ValueError("nobody is there to take the wheel: name an agent (--agent)")
            self._agent = load_object(LOAD_AGENT)(self.agent_name, self._seed, self._world)
        getattr(self._agent, "reset", lambda: None)()
        self.agent_drives = True
        self.say(f"{self.driver} drives.")

    def take_back(self) -> None:
        """Takes the wheel from the agent."""
        self.agent_drives = False

    @property
    def driver(self) -> str:
        """Who has the wheel."""
        name = self.agent_name.split(":")[-1]
        return Path(name).name if self.agent_drives else "person"

    @property
    def passes(self) -> int:
        """Network passes per frame."""
        return self.env.sampling_steps or self.env.world.passes

    def change_passes(self, by: int) -> None:
        """More or fewer network passes per frame."""
        self.env.sampling_steps = min(max(self.passes + by, 1), MOST_PASSES)
        trained = self.env.world.passes
        self.say(
            f"{self.passes} network pass{'es' if self.passes > 1 else ''} per frame"
            f"{'.' if self.passes == trained else f'; this world is at its best with {trained}.'}"
        )

    @property
    def with_twin(self) -> bool:
        """Whether the simulator drives along."""
        return self._reality is not None

    @property
    def track(self) -> int | None:
        """Number of the simulator's track, if it drives along."""
        return self._track if self.with_twin else None

    def toggle_twin(self) -> None:
        """Begins a new drive on a track of the simulator, side by side with it; or leaves it.

        Raises:
            ImportError: The simulator is not installed.
            ValueError: The world has none.
        """
        if self._reality is not None:
            self._leave_twin()
            self._begin("random", self._seed)
            self.say("The dream alone.")
            return
        self._reality = Reality(self.env.world)
        self._start_both()
        self.say("Left the dream, right the simulator: the same track, the same controls.")

    # -- recording -------------------------------------------------------------------------------------------------

    def toggle_recording(self) -> None:
        """Begins a recording, or ends it.

        Raises:
            OSError: Its last piece could not be written.
        """
        if self.recording is None:
            self.broken = False
            self.recording = Recording(self.folder, self.env.world)
            self.say(f"Recording to {self.folder}.")
        else:
            self._stop_recording()

    def close(self) -> None:
        """Ends the drive; a recording is written to its end.

        Raises:
            OSError: The last piece of a recording could not be written.
        """
        self._leave_twin()
        if self.recording is not None:
            self._stop_recording()

    def say(self, text: str) -> None:
        """Says something to the person."""
        self.note = (self.note[0] + 1, text)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _begin(self, scene: Any, seed: int) -> Moment:
        """Starts a drive."""
        frame, info = self.env.reset(seed=seed, options={"scene": scene, "layout": self._layout})
        still = np.array(self.env.world.spec.rest, np.float32)
        state = self.env.get_state()
        around = self._around(state, info), None
        moment = Moment(state, frame, still, 0.0, 0.0, 0, False, info, around=around)
        self._env_at = moment
        self._keep(moment)
        getattr(self._agent, "reset", lambda: None)()
        return moment

    def _around(self, state: EnvState, info: dict[str, Any]) -> Surroundings | None:
        """What is known around the car in the dream, with those who were read off its picture."""
        known = surroundings_of_dream(self.env.world, state.world)
        read = self.env.readout
        return known if read is None or "agents" not in info else with_read(known, info["agents"], read.reader.config)

    def _start_both(self) -> None:
        """Starts dream and simulator at the same moment of the track."""
        assert self._reality is not None
        scene, real, reality = self._reality.start(self._track)
        moment = self._begin(scene, self._seed)
        around = moment.around[0], self._reality.around()
        both = replace(moment, real=real, reality=reality, around=around)
        self._past[-1] = self.now = self._env_at = both

    def _leave_twin(self) -> None:
        if self._reality is not None:
            self._reality.close()
            self._reality = None

    def _keep(self, moment: Moment) -> None:
        """Makes a moment the present; what is too long ago is forgotten."""
        self._past.append(moment)
        size = moment.state.world.size()
        while len(self._past) > max(2, self._memory // size):
            self._past.popleft()
        self.now = moment

    def _arrive(self, moment: Moment) -> None:
        """Brings the environment to a moment, if it is not there already; what the agent remembers does not return."""
        if self._env_at is not moment:
            self.env.set_state(moment.state)
            self._env_at = moment
            getattr(self._agent, "reset", lambda: None)()

    def _record(self, recording: Recording, before: Moment, after: Moment) -> None:
        """Records a step; a recording that cannot go on ends, and says why."""
        try:
            recording.add(before, after, self.driver, self.passes)
        except (OSError, ImportError) as error:
            self.recording, self.broken = None, True
            with contextlib.suppress(OSError):  # said already
                recording.close()
            self.say(f"The recording has stopped: {in_words(error)}")

    def _stop_recording(self) -> None:
        recording, self.recording = self.recording, None
        assert recording is not None
        recording.close()
        if recording.steps:
            self.say(f"Recorded {recording.steps / self.fps:.1f} s: {recording.film}")
        else:
            self.say("Nothing was driven, so nothing was recorded.")


def _own_agent(env: DriveDiTEnv) -> str:
    """Name of the policy that the domain of a dream's world lets drive; empty: there is none."""
    domain = domain_of_world(env.world)
    return f"{domain.spec.domain}/{domain.run_up}" if domain and domain.run_up else ""
