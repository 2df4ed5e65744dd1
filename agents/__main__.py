"""Command line of the agents: `python -m drivedit.agents drive | train | test`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import typing
from pathlib import Path
from typing import Any

import gymnasium as gym

from drivedit.agents.drive import drive
from drivedit.agents.load import load_agent

AGENT = "lane_keeper, PATH.safetensors (trained), PATH.zip (Stable-Baselines3), or module:callable"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drivedit.agents", description="Let an agent drive or learn.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("drive", help="an agent drives and is filmed")
    command.add_argument("--agent", default="lane_keeper", help=AGENT)
    command.add_argument("--env", default="drivedit_env:DriveDiT-v0", help="id of the environment")
    command.add_argument("--world", default=None, help="name, folder or hub id of a world; default: the environment's")
    command.add_argument("--steps", type=int, default=300)
    command.add_argument("--out", type=Path, default=Path("drive.mp4"), help="the video")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--scene", type=int, default=None, help="index of the start scene; default: a random one")

    command = commands.add_parser("train", help="an agent learns; an interrupted run goes on with the same command")
    command.add_argument("algorithm", choices=("ppo", "recurrent_ppo", "sac"))
    command.add_argument("--out", type=Path, default=Path("runs/agent"), help="folder of the run")
    _add_fields(command)

    command = commands.add_parser("test", help="whole episodes of CarRacing-v3: 1,000 ticks, its own reward")
    command.add_argument("--agent", default="lane_keeper", help=AGENT)
    command.add_argument("--env", default="drivedit_env:CarRacingReal-v0", help="id of the environment")
    command.add_argument("--episodes", type=int, default=100)
    command.add_argument("--seed", type=int, default=1_000_000, help="of the first track; 1,000,000 and on: held out")
    command.add_argument("--out", type=Path, default=None, help="JSON file for the scores of every episode")
    return parser


def _add_fields(command: argparse.ArgumentParser) -> None:
    """One option for every field of `TrainConfig`; `none` stands for None, a bare name of a bool for True."""
    from drivedit.agents.train import TrainConfig

    types = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        option, kind = f"--{field.name.replace('_', '-')}", types[field.name]
        if field.name == "algorithm":
            continue
        if kind is bool:
            command.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default)
            continue
        convert = kind if kind in (int, float, str) else _text_or_none
        command.add_argument(option, type=convert, default=field.default, help=f"default: {field.default}")


def _text_or_none(text: str) -> str | None:
    return None if text == "none" else text


def _drive(options: argparse.Namespace) -> None:
    chosen = {} if options.world is None else {"world": options.world}
    agent = load_agent(options.agent, options.seed)
    env = gym.make(options.env, render_mode="rgb_array", **chosen)
    start = None if options.scene is None else {"scene": options.scene}
    print(drive(env, agent, options.steps, options.seed, start, options.out))
    env.close()
    print(f"{'video':<18} {options.out}")


def _train(options: argparse.Namespace) -> None:
    from drivedit.agents.train import AGENT as FILE
    from drivedit.agents.train import TrainConfig, train

    values: dict[str, Any] = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    train(TrainConfig.from_dict(values), options.out)
    print(f"{'agent':<18} {options.out / FILE}")


def _test(options: argparse.Namespace) -> None:
    from drivedit.agents.policy import write_whole
    from drivedit.agents.scores import score

    env = gym.make(options.env)
    scores = score(env, load_agent(options.agent), options.episodes, options.seed)
    env.close()
    print(scores)
    if options.out is not None:
        told = {"agent": options.agent, "env": options.env, **scores.to_dict()}
        write_whole(options.out, (json.dumps(told, indent=2) + "\n").encode())


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        {"drive": _drive, "train": _train, "test": _test}[options.command](options)
    except (ValueError, OSError, RuntimeError, ImportError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
