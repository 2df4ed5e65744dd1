"""`drivedit-play`: drive the dream in a window, or let an agent drive it into a film without one."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import trange

from drivedit.config import DEFAULT_WORLD
from drivedit.utils import one_thread
from drivedit.utils.commands import in_words, run

if TYPE_CHECKING:
    from drivedit_env.viewer.session import Session


def main(words: list[str] | None = None) -> int:
    """The command; returns the exit status: 1: an error, 2: no display, 130: an interrupted film."""
    return run(play, words, program="drivedit-play")


def play(
    world: str = DEFAULT_WORLD, scene: int | None = None, seed: int = 0, agent: str | None = None,
    sampling_steps: int | None = None, drives: Path | None = None, video: Path | None = None, steps: int | None = None,
    adapter: Path | None = None, layout: str | None = None, readout: str | None = None,
) -> int:  # fmt: skip
    """Drive the dream in a window, or let an agent drive it into a film without one.

    Args:
        world: Shipped name, folder or hub:NAME/WORLD of a world.
        scene: Index of the first start scene, from 0; None: a random one.
        seed: Decides how the dream goes on.
        agent: Who takes the wheel when asked: a name (see `python -m drivedit.agents drive --help`), PATH.safetensors
            (trained), PATH.zip (Stable-Baselines3), or module:callable; None: the one that the world's domain names.
        sampling_steps: Network passes for a dreamed frame; None: the world's own number.
        drives: Folder that recordings go to; with --video the film's drive is recorded there; None: drives.
        video: The agent drives, and this mp4 is written; None: a window is opened.
        steps: Length of the film; None: 300.
        adapter: File of an adapter of the world; None: the world as it is.
        layout: A world that can be told of others is told who is there at the start, "scene": those of its start scene,
            "random": those of another one; None: it dreams them.
        readout: Reader of agents, whose boxes are drawn in the picture and on the map: "world": the one beside the
            world; or its file; None: nobody is read.

    Returns:
        The exit status: 2: there is no display, 130: the film was interrupted.
    """
    from drivedit_env.env import DriveDiTEnv
    from drivedit_env.viewer.session import TOLD, Session

    if video is None and steps is not None:
        raise argparse.ArgumentError(None, "--steps is the length of a film: give --video out.mp4 as well")
    try:
        reader = True if readout == "world" else readout or False
        env = DriveDiTEnv(world, sampling_steps=sampling_steps, adapter=adapter, readout=reader)
        session = Session(
            env, scene, seed, agent, Path("drives") if drives is None else drives, world=world, layout=layout
        )
        if video is not None:
            if drives is not None:
                session.toggle_recording()
            with one_thread():
                film(session, video, 300 if steps is None else steps)
            return 0
    except TOLD as error:
        raise RuntimeError(in_words(error)) from error
    except KeyboardInterrupt:
        print("stopped: there is no film", file=sys.stderr)
        return 130
    return drive_in_window(session, f"DriveDiT - {world}")


def drive_in_window(session: Session, title: str) -> int:
    """Opens a window in which a person drives; the exit status, 2 without a display.

    Raises:
        ValueError: The world has other controls than the keys.
    """
    controls = session.env.world.spec.controls
    if [(each.low, each.high) for each in controls] != [(-1, 1)] * 2:
        low, high = ([getattr(each, end) for each in controls] for end in ("low", "high"))
        raise ValueError(
            "the keys drive steering and throttle, two controls from -1 to 1, and this world has "
            f"{', '.join(each.name for each in controls)} from {low} to {high}; "
            "let an agent drive: --video FILE --agent NAME"
        )
    from drivedit_env.viewer.screen import Screen
    from drivedit_env.viewer.viewer import Viewer

    try:
        screen = Screen(title)
    except RuntimeError as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    try:
        with one_thread():  # also for the thread that the viewer begins
            viewer = Viewer(session, screen)
            viewer.paused = True  # until the person is ready
            viewer.run()
    except KeyboardInterrupt:
        pass
    return 0


def film(session: Session, path: str | Path, steps: int) -> None:
    """Lets the session's agent drive, films it, and prints how it went; an ended drive starts again.

    Args:
        session: The drive.
        path: The mp4 to write; it appears when it is complete.
        steps: Steps in all.

    Raises:
        ValueError: `steps` is less than 1, there is no such agent, or the film is named otherwise than a video.
        FileNotFoundError: There is no such file of an agent.
        OSError: The film could not be written.
    """
    from drivedit.utils.pictures import enlarged
    from drivedit_env.viewer.recorder import FILM_HEIGHT, film_writer

    if steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps}")
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    session.hand_over()
    returned = 0.0
    with film_writer(path, session.fps) as video:
        for _ in trange(steps, desc="driving", unit=" frame", mininterval=1.0):
            if session.now.ended:
                session.restart()
            moment = session.step(session.now.action)  # the agent decides
            returned += moment.reward
            video.write(enlarged(moment.frame, FILM_HEIGHT))
    session.close()
    print(f"{session.agent_name} drove {steps} steps, return {returned:.1f}: {path}")
