"""`drivedit-play`: drive the dream in a window, or let an agent drive it into a film without one."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

from tqdm import trange

from drivedit.config import DEFAULT_WORLD, find_domain
from drivedit.utils import one_thread
from drivedit_env.env import DriveDiTEnv
from drivedit_env.pictures import enlarged
from drivedit_env.viewer.recorder import FILM_HEIGHT, film_writer
from drivedit_env.viewer.session import TOLD, Session, in_words


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status: 1: an error, 2: wrong arguments or no display, 130: an interrupted film."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.video is None and options.steps is not None:
        parser.error("--steps is the length of a film: give --video out.mp4 as well")
    try:
        env = DriveDiTEnv(options.world, sampling_steps=options.sampling_steps)
        folder = Path("drives") if options.drives is None else options.drives
        session = Session(env, options.scene, options.seed, options.agent, folder, world=options.world)
        if options.video is not None:
            if options.drives is not None:
                session.toggle_recording()
            with one_thread():
                film(session, options.video, 300 if options.steps is None else options.steps)
            return 0
    except TOLD as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: there is no film", file=sys.stderr)
        return 130
    controls = session.env.world.spec.controls
    if [(each.low, each.high) for each in controls] != [(-1, 1)] * 2:
        low, high = ([getattr(each, end) for each in controls] for end in ("low", "high"))
        print(
            "error: the keys drive steering and throttle, two controls from -1 to 1, and this world has "
            f"{', '.join(each.name for each in controls)} from {low} to {high}; "
            "let an agent drive: --video FILE --agent NAME", file=sys.stderr,
        )  # fmt: skip
        return 1
    from drivedit_env.viewer.screen import Screen
    from drivedit_env.viewer.viewer import Viewer

    try:
        screen = Screen(f"DriveDiT - {options.world}")
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
    except OSError as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drivedit-play", description=__doc__)
    parser.add_argument(
        "--world",
        default=DEFAULT_WORLD,
        help="shipped name, folder or hub:NAME/WORLD of a world (default: %(default)s)",
    )
    parser.add_argument(
        "--scene", type=int, default=None, help="index of the first start scene, from 0 (default: a random one)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides how the dream goes on (default: %(default)s)")
    parser.add_argument(
        "--agent", default=None,
        help="who takes the wheel when asked: a name (see `python -m drivedit.agents judge --help`), PATH.safetensors "
        "(trained), PATH.zip (Stable-Baselines3), or module:callable (default: the one that the world's domain names, "
        f"{find_domain(DEFAULT_WORLD).run_up} in {DEFAULT_WORLD})",
    )  # fmt: skip
    parser.add_argument(
        "--sampling-steps", type=int, default=None,
        help="network passes for a dreamed frame (default: the world's own number)",
    )  # fmt: skip
    parser.add_argument(
        "--drives", type=Path, default=None,
        help="folder that recordings go to (default: drives); with --video the film's drive is recorded there",
    )  # fmt: skip
    parser.add_argument(
        "--video",
        type=Path,
        default=None,
        help="the agent drives, and this mp4 is written (default: a window is opened)",
    )
    parser.add_argument("--steps", type=int, default=None, help="length of the film (default: 300)")
    return parser
