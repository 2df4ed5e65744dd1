"""How quick the window is: `python -m drivedit_env.viewer.responsiveness` opens it, presses keys and prints figures.

They are what a person feels: generated frames per second, redraws per second (also while the dream is too slow), and
how long it takes from a pressed key to a picture that obeys it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import pygame

from drivedit.config import DEFAULT_WORLD
from drivedit.utils import one_thread
from drivedit.utils.commands import in_words, run
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.recorder import Moment
from drivedit_env.viewer.screen import Screen
from drivedit_env.viewer.session import TOLD, Session
from drivedit_env.viewer.viewer import Viewer

SLOWNESS = 3  # times the frame's own time that a laboured one takes
PAUSE = (0.2, 0.5)  # seconds between two key presses


class LabouredSession(Session):
    """A session that can be made too slow, by real work: it dreams the same frame again and again.

    Attributes:
        laboured: Whether it is slow now.
    """

    laboured = False

    def step(self, action: np.ndarray) -> Moment:
        """Dreams on by a frame."""
        end = time.monotonic() + SLOWNESS / self.fps
        while self.laboured and time.monotonic() < end:
            self.env.set_state(self.now.state)
            self.env.step(action)
            self._env_at = None
        return super().step(action)


def measure(viewer: Viewer, session: LabouredSession, seconds: float, presses: int) -> dict[str, float]:
    """Measures an open window.

    Args:
        viewer: The window.
        session: Its session.
        seconds: Length of each of the two drives without a key.
        presses: How often a key is pressed.

    Returns:
        Figures by name.
    """
    _until(viewer, lambda: session.now.steps >= 3, 30.0)
    found = dict(zip(("generated frames/s", "redraws/s"), _rates(viewer, seconds), strict=True))
    frames, waits = zip(*(_press(viewer, press) for press in range(presses)), strict=True)
    found |= {
        "frames from key to change, median": float(np.median(frames)),
        "frames from key to change, most": float(max(frames)),
        "ms from key to change on the screen, median": 1e3 * float(np.median(waits)),
        "ms from key to change on the screen, most": 1e3 * max(waits),
    }
    session.laboured = True
    _until(viewer, lambda: False, SLOWNESS / session.fps)
    slow = _rates(viewer, seconds)
    return found | dict(zip(("a slow dream: generated frames/s", "a slow dream: redraws/s"), slow, strict=True))


def main(words: list[str] | None = None) -> int:
    """The command; returns the exit status: 1 where the window was closed too early, 2 where there is no display."""
    return run(responsiveness, words, program="python -m drivedit_env.viewer.responsiveness")


def responsiveness(world: str = DEFAULT_WORLD, seconds: float = 8.0, presses: int = 20) -> int:
    """How quick the window is: opens it, presses keys and prints figures.

    Args:
        world: Shipped name, folder or hub:NAME/WORLD of a world.
        seconds: Seconds of each drive without a key.
        presses: How often a key is pressed, at least once.

    Returns:
        The exit status: 2: there is no display.

    Raises:
        RuntimeError: The window was closed before everything was measured.
    """
    try:
        session = LabouredSession(DriveDiTEnv(world), scene=0)
        viewer = Viewer(session, Screen(f"DriveDiT - {world}"))
    except TOLD as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    with one_thread():
        found = measure(viewer, session, seconds, max(presses, 1))
    complete = viewer.open
    viewer.close()
    if not complete:
        raise RuntimeError("the window was closed before everything was measured")
    for name, value in found.items():
        print(f"{name:<44} {value:6.1f}")
    return 0


def _rates(viewer: Viewer, seconds: float) -> tuple[float, float]:
    """Generated frames and redraws per second of a drive from the start."""
    session, redraws = viewer.session, 0
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_r))
    _until(viewer, lambda: session.now.steps < 3, 5.0)
    first = session.now.steps

    def count() -> bool:
        nonlocal redraws
        redraws += 1
        return False

    begin = time.monotonic()
    _until(viewer, count, seconds)
    spent = time.monotonic() - begin
    return (session.now.steps - first) / spent, redraws / spent


def _press(viewer: Viewer, number: int) -> tuple[int, float]:
    """Presses a key at any time; returns the generated frames and the seconds until the screen shows what it did."""
    session = viewer.session
    _until(viewer, lambda: False, float(np.random.default_rng(number).uniform(*PAUSE)))
    key, side = ((pygame.K_LEFT, -1), (pygame.K_RIGHT, 1))[number % 2]
    before, begin = session.now.steps, time.monotonic()
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
    shown = session.now
    while shown.action[0] * side <= 0.0 and time.monotonic() < begin + 5.0:
        shown = session.now
        viewer.tick()  # draws what is present now, or a later moment
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))
    return shown.steps - before, time.monotonic() - begin


def _until(viewer: Viewer, true: Callable[[], bool], seconds: float) -> None:
    """Lets the window live until something is true, or time is up."""
    end = time.monotonic() + seconds
    while viewer.open and time.monotonic() < end and not true():
        viewer.tick()


if __name__ == "__main__":
    sys.exit(main())
