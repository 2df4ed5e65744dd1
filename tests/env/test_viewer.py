"""A scripted person in a window: pygame events in, pictures out."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pygame
import pytest

import drivedit_env.viewer.viewer as viewer_module
from drivedit.data import iter_episodes, read_shard
from drivedit.models import DiTWorld
from drivedit_env.env import DriveDiTEnv
from drivedit_env.viewer.keys import COMMANDS
from drivedit_env.viewer.screen import SIZE, SMALLEST, Screen, arrange, column_height, wrapped
from drivedit_env.viewer.session import Session
from drivedit_env.viewer.viewer import Viewer

GAS = np.array([0.0, 0.4], np.float32)


def broken(frame: np.ndarray) -> np.ndarray:
    raise ValueError("this agent has lost its map")


@pytest.fixture
def session(tiny_world: DiTWorld, tmp_path: Path) -> Session:
    return Session(DriveDiTEnv(tiny_world), scene=0, folder=tmp_path / "drives")


@pytest.fixture
def viewer(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Viewer]:
    monkeypatch.setattr(viewer_module, "REDRAWS", 1e6)  # redraw as fast as it goes
    session.fps = 200.0  # and let the dream's seconds be short
    made = Viewer(session, Screen())
    yield made
    if made.open:
        made.close()


def press(key: int) -> None:
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))


def release(key: int) -> None:
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))


def until(viewer: Viewer, true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Lets the window live until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        viewer.tick()


def settle(viewer: Viewer) -> None:
    """Lets the window live until the worker has nothing to do; the viewer must be paused."""
    viewer.tick()
    until(viewer, lambda: not viewer._jobs)


def tap(viewer: Viewer, key: int) -> None:
    press(key)
    release(key)
    settle(viewer)


# -- the window --------------------------------------------------------------------------------------------------------


def test_a_person_drives_pauses_goes_back_branches_records_and_quits(viewer: Viewer, tiny_world: DiTWorld):
    session = viewer.session
    press(pygame.K_f)
    press(pygame.K_UP)
    press(pygame.K_RIGHT)
    until(viewer, lambda: session.now.steps >= 12)
    assert session.now.action[0] > 0.02 and session.now.action[1] > 0.05
    release(pygame.K_RIGHT)
    until(viewer, lambda: session.now.action[0] == 0.0)
    press(pygame.K_SPACE)
    settle(viewer)
    steps = session.now.steps
    for _ in range(10):
        viewer.tick()
    assert session.now.steps == steps, "paused"
    tap(viewer, pygame.K_PERIOD)
    tap(viewer, pygame.K_PERIOD)
    assert session.now.steps == steps + 2
    tap(viewer, pygame.K_b)
    marked = session.now
    press(pygame.K_BACKSPACE)
    until(viewer, lambda: session.now.steps <= steps - 5)
    release(pygame.K_BACKSPACE)
    settle(viewer)
    assert session.recording is not None
    assert session.recording.steps == steps + 2, "going back is not recorded"
    release(pygame.K_UP)
    press(pygame.K_SPACE)
    until(viewer, lambda: session.now.steps >= steps)
    press(pygame.K_SPACE)
    settle(viewer)
    tap(viewer, pygame.K_1)
    assert session.now is marked
    press(pygame.K_LEFT)
    for _ in range(3):
        tap(viewer, pygame.K_PERIOD)
    assert session.now.action[0] < 0
    recorded = session.recording.steps
    press(pygame.K_x)  # no key of ours
    press(pygame.K_q)
    viewer.run()
    assert not viewer.open and pygame.display.get_surface() is None and session.recording is None
    episodes = list(iter_episodes(session.folder))
    assert len(episodes) == 3 and sum(len(e) for e in episodes) == recorded
    env = DriveDiTEnv(tiny_world)
    env.reset(seed=9)
    for path in session.folder.glob("shard-*.h5"):
        (episode,) = read_shard(path)
        env.set_state(episode.extra["state"].tobytes())
        again = [env.step(control)[0] for control in episode.controls]
        assert np.array_equal(again, episode.picture[1:]), "bit for bit"


def test_a_key_changes_the_frame_within_two_frames(tmp_path: Path):
    """In the shipped world, at its own pace: what is pressed while a frame is dreamed is in the frame after it."""
    session = Session(DriveDiTEnv(device="cpu"), scene=3, folder=tmp_path)
    viewer = Viewer(session, Screen())
    until(viewer, lambda: session.now.steps >= 3)
    press(pygame.K_DOWN)
    steps = session.now.steps
    until(viewer, lambda: session.now.action[1] < 0)
    with_brake = session.now
    assert with_brake.steps <= steps + 2
    viewer.close()
    session.rewind()
    without = session.step(np.zeros(2, np.float32))
    assert without.steps == with_brake.steps
    assert np.abs(without.frame.astype(int) - with_brake.frame).max() > 3


class Gate:
    """Holds a step up until it is opened."""

    def __init__(self, session: Session) -> None:
        self.entered, self.opened, self._step = threading.Event(), threading.Event(), session.step
        session.step = self  # type: ignore[method-assign]

    def __call__(self, action: np.ndarray) -> Any:
        self.entered.set()
        assert self.opened.wait(20)
        return self._step(action)


def test_a_slow_dream_leaves_the_window_quick_and_says_so(viewer: Viewer):
    session, step = viewer.session, viewer.session.step

    def slow(action: np.ndarray) -> Any:
        time.sleep(0.03)
        return step(action)

    session.step = slow  # type: ignore[method-assign]
    redraws = 0
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        viewer.tick()
        redraws += 1
    assert redraws > 2 * session.now.steps
    assert any("Slower than real time" in text for text, _ in viewer.view(time.monotonic()).chips)


def test_the_window_answers_and_closes_in_the_middle_of_a_step(viewer: Viewer):
    session = viewer.session
    session.toggle_recording()
    until(viewer, lambda: session.now.steps >= 3)
    gate = Gate(session)
    until(viewer, gate.entered.is_set)
    press(pygame.K_h)
    viewer.tick()
    assert viewer.view(time.monotonic()).help, "the help opens while the dream is busy"
    before = session.now.steps
    threading.Timer(0.3, gate.opened.set).start()
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    viewer.run()
    assert session.now.steps == before + 1 and session.recording is None
    assert sum(len(e) for e in iter_episodes(session.folder)) == before + 1


def test_what_goes_wrong_is_told_and_the_drive_goes_on(viewer: Viewer, tmp_path: Path):
    session = viewer.session
    session.agent_name = "nobody"
    press(pygame.K_g)
    until(viewer, lambda: "module:callable" in session.note[1])
    session.agent_name = f"{__name__}:broken"
    press(pygame.K_g)
    until(viewer, lambda: "lost its map" in session.note[1])
    until(viewer, lambda: not session.agent_drives and session.now.steps > 3)
    (tmp_path / "file").write_text("")
    session.folder = tmp_path / "file"
    press(pygame.K_f)
    until(viewer, lambda: "recording has stopped" in session.note[1])
    assert viewer.view(time.monotonic()).message == session.note[1]
    later = viewer.view(time.monotonic() + 60)
    assert not later.message and any("Not recording" in text for text, _ in later.chips), "that is not to be missed"
    steps = session.now.steps
    until(viewer, lambda: session.now.steps > steps)


def test_the_screen_at_every_size(viewer: Viewer):
    """Pictures and panel lie inside the window and apart; the frame is seen, enlarged; all keys are in the help."""
    for size in (SMALLEST, SIZE, (1000, 420), (600, 1100), (2560, 1440)):
        for pictures in (1, 2):
            places, panel, scale = arrange(size, pictures, 1.0)
            window = pygame.Rect((0, 0), size)
            assert all(window.contains(place) for place in [*places, panel])
            assert all(not place.colliderect(other) for place in places for other in [panel, *places] if other != place)
            assert places[0].w == places[0].h > 0.3 * min(size) and scale >= 0.7
    press(pygame.K_SPACE)
    settle(viewer)
    viewer.tick()
    surface = pygame.display.get_surface()
    assert surface is not None
    place = arrange(surface.get_size(), 1, 1.0)[0][0]
    shown = pygame.surfarray.array3d(surface).transpose(1, 0, 2)[place.top : place.bottom, place.left : place.right]
    small = pygame.transform.smoothscale(pygame.surfarray.make_surface(shown.transpose(1, 0, 2)), (64, 64))
    seen = pygame.surfarray.array3d(small).transpose(1, 0, 2)[10:50]
    assert np.abs(seen.astype(int) - viewer.session.now.frame[10:50]).mean() < 4
    before = pygame.surfarray.array3d(surface)
    press(pygame.K_F1)
    settle(viewer)
    after = pygame.surfarray.array3d(surface)
    assert (after.sum(-1) < before.sum(-1)).mean() > 0.5, "the help lies over everything"
    assert [k for k, _ in viewer.view(0.0).help][2:] == [command.shown for command in COMMANDS]
    press(pygame.K_ESCAPE)
    viewer.tick()
    assert viewer.open and not viewer.view(0.0).help, "Esc closes the help first"


def test_the_whole_screen_and_back(viewer: Viewer, monkeypatch: pytest.MonkeyPatch):
    def size() -> tuple[int, int]:
        surface = pygame.display.get_surface()
        assert surface is not None
        return surface.get_size()

    pygame.display.set_mode((700, 500), pygame.RESIZABLE)  # as a person pulls at its corner
    press(pygame.K_F11)
    viewer.tick()
    assert size() == pygame.display.get_desktop_sizes()[0] and pygame.display.is_fullscreen()
    press(pygame.K_F11)
    viewer.tick()
    assert size() == (700, 500) and not pygame.display.is_fullscreen()

    def cannot(*_: Any) -> None:
        raise pygame.error("no such mode")

    monkeypatch.setattr(pygame.display, "set_mode", cannot)
    press(pygame.K_F11)
    until(viewer, lambda: "whole screen" in viewer.session.note[1])


def test_a_drive_waits_for_the_person_and_stands_still_under_the_help(viewer: Viewer):
    session = viewer.session
    viewer.paused = True

    def chips() -> str:
        return " ".join(text for text, _ in viewer.view(time.monotonic()).chips)

    for _ in range(10):
        viewer.tick()
    assert session.now.steps == 0 and "to begin" in chips()
    press(pygame.K_UP)
    until(viewer, lambda: session.now.steps >= 5)
    press(pygame.K_h)
    settle(viewer)
    steps = session.now.steps
    for _ in range(10):
        viewer.tick()
    assert session.now.steps == steps and viewer.view(time.monotonic()).rate == 0.0
    press(pygame.K_ESCAPE)
    until(viewer, lambda: session.now.steps > steps)
    press(pygame.K_SPACE)
    settle(viewer)
    assert "Paused" in chips(), "a held key ends the pause at the start alone"


def test_the_panel_uses_its_columns_evenly():
    assert column_height([70, 48, 48, 48], 1, 500) == 214
    assert column_height([70, 48, 48, 48], 2, 500) == 118
    assert column_height([70, 48, 48, 48], 2, 100) == 100, "what does not fit is left out"


def test_long_words_are_wrapped():
    pygame.font.init()
    text = "could not write " + "x" * 200 + " (1 MB): No space left on device"
    lines = wrapped(text, 20, 300)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(pygame.font.Font(None, 20).size(line)[0] <= 300 for line in lines) and len(lines) > 3
