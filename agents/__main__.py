"""Command line of the agents: `python -m drivedit.agents drive | train | curves | test | plan | judge`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

import gymnasium as gym

from drivedit.agents.domains import DEFAULT, PUBLIC, SIMULATOR
from drivedit.agents.dreams import DREAM, open_for
from drivedit.agents.drive import drive
from drivedit.agents.drivers.policies import policies_of, policy_names
from drivedit.agents.load import load_agent
from drivedit.utils import one_thread, write_atomically

if typing.TYPE_CHECKING:
    from drivedit.agents.judging.scores import Scores

AGENT = (
    "a name (see `judge --help`), PATH.safetensors (trained), PATH.zip (Stable-Baselines3), or module:callable "
    "(default: %(default)s)"
)
SCORES = "JSON file for the scores of every episode (default: none)"
WORLD = "shipped name, folder or hub:NAME/WORLD"
FIELD = r"^    (\w+): (.*?)(?=^    \w+: |\Z)"  # of a docstring
ENV = "id of the environment (default: %(default)s)"
ENCODER = f"{WORLD} (default: the environment's; of an agent that learned on latents: where it was when it learned)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drivedit.agents", description="Agents drive, learn, are judged.")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("drive", help="an agent drives and is filmed")
    command.add_argument("--agent", default="learned", help=AGENT)
    command.add_argument("--env", default=DREAM, help=ENV)
    command.add_argument("--world", default=None, help=ENCODER)
    _add_passes(command)
    command.add_argument("--steps", type=int, default=300, help="steps to drive (default: %(default)s)")
    command.add_argument(
        "--out", type=Path, default=Path("drive.mp4"), help="the video, .mp4 or .webp (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="of the first episode and the agent (default: %(default)s)"
    )
    command.add_argument("--scene", type=int, default=None, help="index of the start scene (default: a random one)")
    command.set_defaults(run=_drive)

    command = commands.add_parser("train", help="an agent learns; an interrupted run goes on with the same command")
    command.add_argument("algorithm", choices=("ppo", "recurrent_ppo", "sac"), help="how it learns")
    command.add_argument(
        "--out", type=Path, default=Path("runs/agent"), help="folder of the run (default: %(default)s)"
    )
    _add_fields(command)
    command.set_defaults(run=_train)

    command = commands.add_parser("curves", help="draws the learning curves of runs of `train`")
    command.add_argument("runs", nargs="+", type=Path, help="their folders")
    command.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture (default: %(default)s)")
    command.set_defaults(run=_curves)

    command = commands.add_parser("test", help="whole episodes as they are scored in public, with their own reward")
    command.add_argument("--agent", default="learned", help=AGENT)
    command.add_argument("--env", default=PUBLIC, help=ENV)
    command.add_argument(
        "--world", default=None,
        help=f"of an agent that learned on latents: {WORLD} (default: where it was when it learned; a zip needs it)",
    )  # fmt: skip
    command.add_argument("--episodes", type=int, default=100, help="episodes to drive (default: %(default)s)")
    command.add_argument(
        "--seed", type=int, default=DEFAULT.held_out_from,
        help=f"of the first track; {DEFAULT.held_out_from:,} and on: held out (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--out", type=Path, default=None, help=SCORES)
    command.set_defaults(run=_test)

    _add_plan(commands.add_parser("plan", help="a planner drives that tries futures in the dream"))
    _add_judge(
        commands.add_parser(
            "judge", help="policies drive in a dream and in reality: how far can the dream be trusted to rank them?"
        )
    )
    return parser


def _add_passes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sampling-steps", type=int, default=None,
        help="network passes for a dreamed frame (default: the world's own number)",
    )  # fmt: skip


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--env", default=DREAM, help="id of what it drives, the dream or a real environment (default: %(default)s)"
    )
    command.add_argument("--dream", default=DREAM, help="id of the dream that it plans in (default: %(default)s)")
    command.add_argument("--world", default=None, help=f"of the dream: {WORLD} (default: the environment's)")
    _add_passes(command)
    command.add_argument("--steps", type=int, default=100, help="steps to drive (default: %(default)s)")
    command.add_argument("--episodes", type=int, default=0, help="whole episodes to drive (default: STEPS steps)")
    command.add_argument("--futures", type=int, default=32, help="futures tried at once (default: %(default)s)")
    command.add_argument(
        "--act", type=int, default=5, help="steps driven before the next plan is made (default: %(default)s)"
    )
    command.add_argument(
        "--compile", action="store_true", help="compile the dream's steps first (default: they are not)"
    )
    command.add_argument("--out", type=Path, default=None, help=SCORES)
    command.add_argument(
        "--seed", type=int, default=0, help="of the first episode and the planner (default: %(default)s)"
    )
    command.set_defaults(run=_plan)


def _add_judge(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dream", default=DREAM, help="id of the dreamed environment (default: %(default)s)")
    command.add_argument("--real", default=SIMULATOR, help="id of the real one (default: %(default)s)")
    command.add_argument("--world", default=None, help=f"of the dream: {WORLD} (default: the environment's)")
    _add_passes(command)
    command.add_argument(
        "--policies", nargs="+", default=None, metavar="NAME",
        help="PATH.safetensors, PATH.zip, module:callable, planner, or of "
        f"{', '.join(policy_names())} (default: all of the real one's domain)",
    )  # fmt: skip
    command.add_argument("--starts", type=int, default=16, help="where all of them start (default: %(default)s)")
    command.add_argument("--horizon", type=int, default=300, help="steps of a drive (default: %(default)s)")
    command.add_argument(
        "--first-seed", type=int, default=DEFAULT.held_out_from,
        help="of the first start (default: %(default)s, the held-out tracks)",
    )  # fmt: skip
    command.add_argument(
        "--workers", type=int, default=2, help="processes that drive in reality (default: %(default)s)"
    )
    command.add_argument(
        "--out", type=Path, default=Path("runs/judge"),
        help="folder; an interrupted run there goes on (default: %(default)s)",
    )  # fmt: skip
    command.set_defaults(run=_judge)


def _add_fields(command: argparse.ArgumentParser) -> None:
    """One option for every field of `TrainConfig`; `none` stands for None, a bare name of a bool for True."""
    from drivedit.agents.learning.train import TrainConfig

    types, told = typing.get_type_hints(TrainConfig), _attributes(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        option, kind = f"--{field.name.replace('_', '-')}", types[field.name]
        if field.name == "algorithm":
            continue
        default = str(field.default).lower() if field.default in (None, True, False) else field.default
        text = f"{told[field.name]} (default: {default})".replace("%", "%%")
        if kind is bool:
            command.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default, help=text)
            continue
        convert = kind if kind in (int, float, str) else _text_or_none
        command.add_argument(option, type=convert, default=field.default, help=text)


def _attributes(kind: type) -> dict[str, str]:
    """What the docstring of a class says about its attributes."""
    text = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    return {name: " ".join(said.split()).rstrip(".") for name, said in re.findall(FIELD, text, re.M | re.S)}


def _text_or_none(text: str) -> str | None:
    return None if text == "none" else text


def _drive(options: argparse.Namespace) -> None:
    start = None if options.scene is None else {"scene": options.scene}
    with one_thread():
        agent = load_agent(options.agent, options.seed, options.world)
        env = open_for(agent, options.env, render_mode="rgb_array", **_chosen(options))
        print(drive(env, agent, options.steps, options.seed, start, options.out))
        env.close()
    print(f"{'video':<18} {options.out}")


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of a dream that were given."""
    given = {name: getattr(options, name) for name in ("world", "sampling_steps")}
    return {name: value for name, value in given.items() if value is not None}


def _train(options: argparse.Namespace) -> None:
    from drivedit.agents.learning.train import AGENT as FILE
    from drivedit.agents.learning.train import TrainConfig, train

    values: dict[str, Any] = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    train(TrainConfig.from_dict(values), options.out)
    print(f"{'agent':<18} {options.out / FILE}")


def _curves(options: argparse.Namespace) -> None:
    from drivedit.agents.learning.curves import draw_curves

    draw_curves(options.runs, options.out)
    print(f"{'curves':<18} {options.out}")


def _test(options: argparse.Namespace) -> None:
    from drivedit.agents.judging.scores import score

    with one_thread():
        agent = load_agent(options.agent, world=options.world)
        env = open_for(agent, options.env)
        scores = score(env, agent, options.episodes, options.seed)
        env.close()
    _tell(scores, options, agent=options.agent)


def _tell(scores: Scores, options: argparse.Namespace, **who: Any) -> None:
    """Prints scores, and writes them where `--out` says."""
    print(scores)
    if options.out is not None:
        text = json.dumps({**who, "env": options.env, **scores.to_dict()}, indent=2) + "\n"
        write_atomically(options.out, lambda file: file.write(text.encode()))


def _plan(options: argparse.Namespace) -> None:
    from drivedit.agents.planning.planner import Planner, Search

    search = Search(futures=options.futures, act=options.act)
    chosen = _chosen(options) | ({"compile": True} if options.compile else {})
    dream = gym.make(options.dream, obs_type="latent", disable_env_checker=True, **chosen)
    if options.env == options.dream:
        env, planner = dream, Planner.in_dream(dream, search, options.seed)
    else:
        env = gym.make(options.env, disable_env_checker=True)
        planner = Planner.in_reality(env, dream, search, options.seed)
    if options.episodes:
        from drivedit.agents.judging.scores import score

        _tell(score(env, planner, options.episodes, options.seed), options, search=dataclasses.asdict(search))
    else:
        print(drive(env, planner, options.steps, options.seed))
    if planner.plans:
        print(
            f"{'seconds per plan':<18} {planner.seconds / planner.plans:.2f} ({planner.plans} plans, beside env.step)"
        )
    env.close()


def _judge(options: argparse.Namespace) -> None:
    from drivedit.agents.judging.judge import judge
    from drivedit.agents.judging.report import as_text, write_report
    from drivedit.agents.judging.trials import JudgeSetup

    names = ("dream", "real", "world", "starts", "horizon", "first_seed", "sampling_steps")
    contest = JudgeSetup(**{name: getattr(options, name) for name in names})
    policies = options.policies or policies_of(options.real)
    verdict = judge(contest, policies, options.out, options.workers)
    write_report(verdict, options.out / "report.html")
    print(as_text(verdict))
    print(f"report: {options.out / 'report.html'}")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError, RuntimeError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
