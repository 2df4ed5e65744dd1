"""The event loop: a `Session` steps in a worker thread, a `Screen` is drawn 60 times a second, keys go between them.

The dream keeps real time where the machine allows it; where it does not, the window stays as quick as ever and says so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pygame

from drivedit.utils import shown
from drivedit.utils.commands import in_words
from drivedit_env.viewer.controls import Pace, Wheel
from drivedit_env.viewer.keys import HELP, Fingers, command_of
from drivedit_env.viewer.screen import AMBER, BLUE, RED, TEXT, Screen, View
from drivedit_env.viewer.session import TOLD, Session

REDRAWS = 60  # per second
MESSAGE = 5.0  # seconds that a message stays
SLOWER = (1, 2, 4)


class Viewer:
    """A window on a session.

    Args:
        session: The drive.
        screen: The window.

    Attributes:
        open: Whether the window is open.
        paused: Whether the dream stands still. At the start of a drive, a driving key ends the pause.
    """

    def __init__(self, session: Session, screen: Screen) -> None:
        self.session, self.screen = session, screen
        self.open, self.paused = True, False
        self._fingers, self._wheel = Fingers(), Wheel()
        self._slow = 0
        self._pace = Pace(1 / session.fps)
        self._rewinding = self._help = False
        self._map = True
        self._worker = ThreadPoolExecutor(1, "dream")
        self._jobs: deque[Future[Any]] = deque()
        self._redraws = Pace(1 / REDRAWS)
        self._said, self._said_at = session.note[0], time.monotonic()
        session.say("H shows the keys.")

    def run(self) -> None:
        """Stays until the window is closed; what was recorded is then whole.

        Raises:
            OSError: The last piece of a recording could not be written.
        """
        try:
            while self.open:
                self.tick()
        finally:
            self.close()

    def tick(self) -> None:
        """One redraw: what was pressed, what came of it, what is next."""
        for event in self.screen.events():
            self._handle(event)
        self._collect()
        if not self._jobs:
            self._go_on(time.monotonic())
        self.screen.draw(self.view(time.monotonic()))
        time.sleep(self._redraws.wait(time.monotonic()))
        self._redraws.begin(time.monotonic())

    def close(self) -> None:
        """Closes the window at once, then waits for the step that is on its way and ends the session."""
        self.open = False
        self._fingers.close()
        self.screen.close()
        self._worker.shutdown(wait=True, cancel_futures=True)
        self.session.close()

    def view(self, now: float) -> View:
        """What is to be seen at time `now` (seconds)."""
        session, moment = self.session, self.session.now
        if session.note[0] != self._said:
            self._said, self._said_at = session.note[0], now
        return View(
            shown(moment.frame),
            moment.info,
            moment.action,
            session.env.world.spec.controls,
            moment.reward,
            moment.returned,
            self._pace.rate(now),
            None if moment.real is None else shown(moment.real),
            (
                *([] if session.track is None else [("Track", str(session.track))]),
                ("Time", f"{moment.steps / session.fps:.1f} s"),
                ("Driver", "you" if session.driver == "person" else session.driver),
                ("Network passes", str(session.passes)),
                ("Can go back", f"{session.seconds_back:.0f} s"),
                ("Marks", str(len(session.bookmarks))),
            ),
            self._chips(now),
            session.note[1] if now - self._said_at < MESSAGE else "",
            HELP if self._help else (),
            moment.around if self._map else (None, None),
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _chips(self, now: float) -> tuple[tuple[str, Any], ...]:
        """Words on the picture."""
        session, chips = self.session, []
        if session.recording is not None:
            chips.append((f"REC {session.recording.steps / session.fps:.0f} s", RED))
        elif session.broken:
            chips.append(("Not recording: F tries again", RED))
        if self._rewinding:
            chips.append(("Going back", BLUE))
        elif session.now.ended:
            chips.append(("The drive is over: R or Backspace", AMBER))
        elif self.paused:
            chips.append(("Paused" if session.now.steps else "Steer or accelerate to begin", AMBER))
        if self._slow:
            chips.append((f"1/{SLOWER[self._slow]} speed", TEXT))
        if session.agent_drives:
            chips.append((f"{session.driver} drives", BLUE))
        if self._pace.behind(now):
            chips.append((f"Slower than real time: {self._pace.rate(now):.0f} of {1 / self._pace.period:.0f}", AMBER))
        return tuple(chips)

    def _handle(self, event: Any) -> None:
        """One event of pygame."""
        self._fingers.see(event)
        if event.type == pygame.QUIT:
            self.open = False
        command = command_of(event)
        if command is None:
            return
        pressed = event.type in (pygame.KEYDOWN, pygame.CONTROLLERBUTTONDOWN)
        if command.name == "rewind":
            self._rewinding = pressed
            self._pace.rest()
        elif pressed:
            self._obey(command.name, event)

    def _obey(self, name: str, event: Any) -> None:
        """Does what a command asks for; what touches the dream is done by the worker, in order."""
        session = self.session
        if name == "quit":
            self.open = self._help
            self._help = False
        elif name == "help":
            self._help = not self._help
        elif name == "map":
            self._map = not self._map
        elif name == "fullscreen":
            if not self.screen.toggle_fullscreen():
                session.say("This display cannot show a window on the whole screen.")
        elif name == "pause":
            self.paused = not self.paused
        elif name == "single":
            self.paused = True
            self._drive()
        elif name == "slower":
            self._slow = (self._slow + 1) % len(SLOWER)
            self._pace = Pace(SLOWER[self._slow] / session.fps)
        else:
            commands: dict[str, Callable[[], Any]] = {
                "bookmark": session.bookmark,
                "go_to": partial(session.go_to, getattr(event, "key", pygame.K_1) - pygame.K_0),
                "restart": session.restart,
                "next_scene": session.next_scene,
                "hand_over": session.hand_over,
                "twin": session.toggle_twin,
                "record": session.toggle_recording,
                "more": partial(session.change_passes, 1),
                "fewer": partial(session.change_passes, -1),
            }
            self._do(commands[name])

    def _go_on(self, now: float) -> None:
        """Begins the next step, forwards or backwards, if it is time; who reads the help is not driven off the road."""
        if self.session.now.steps == 0 and self._fingers.held().active():
            self.paused = False
        still = self.paused or self._help or self.session.now.ended
        if still and not self._rewinding:
            self._pace.rest()
            return
        if not self._pace.due(now):
            return
        self._pace.begin(now)
        if self._rewinding:
            self._do(self.session.rewind)
        else:
            self._drive()

    def _drive(self) -> None:
        """One step under what is held down."""
        moment, session = self.session.now, self.session
        self._wheel.put(moment.action)
        speed = moment.info["telemetry"].get("speed", 0.0)
        action = self._wheel.move(self._fingers.held(), 1 / session.fps, speed)
        self._do(partial(session.step, action))

    def _do(self, job: Callable[[], Any]) -> None:
        self._jobs.append(self._worker.submit(job))

    def _collect(self) -> None:
        """Takes note of what the worker has done; what went wrong is told, and an agent that fails loses the wheel."""
        while self._jobs and self._jobs[0].done():
            try:
                self._jobs.popleft().result()
            except TOLD as error:
                if self.session.agent_drives:
                    self.session.take_back()
                self.session.say(in_words(error))
