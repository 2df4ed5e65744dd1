"""Command line of the agents: `python -m drivedit.agents drive --env drivedit_env:DriveDiT-v0 --out drive.mp4`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gymnasium as gym

from drivedit.agents.drive import drive
from drivedit.agents.lane_keeper import LaneKeeper


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drivedit.agents", description="Let an agent drive.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("drive", help="the lane keeper, which sees pixels only, drives and is filmed")
    command.add_argument("--env", default="drivedit_env:DriveDiT-v0", help="id of the environment")
    command.add_argument("--world", default=None, help="name, folder or hub id of a world; default: the environment's")
    command.add_argument("--steps", type=int, default=300)
    command.add_argument("--out", type=Path, default=Path("drive.mp4"), help="the video")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--scene", type=int, default=None, help="index of the start scene; default: a random one")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        chosen = {} if options.world is None else {"world": options.world}
        env = gym.make(options.env, render_mode="rgb_array", **chosen)
        start = None if options.scene is None else {"scene": options.scene}
        print(drive(env, LaneKeeper(seed=options.seed), options.steps, options.seed, start, options.out))
        env.close()
    except (ValueError, OSError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'video':<18} {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
