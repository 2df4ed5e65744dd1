"""The commands of `python -m drivedit.agents`, as functions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from drivedit.agents.domains import DEFAULT, PUBLIC
from drivedit.agents.dreams import DREAM, open_for
from drivedit.agents.drive import drive
from drivedit.agents.drivers.policies import policies_of
from drivedit.agents.judging.judge import judge
from drivedit.agents.judging.report import as_text, write_report
from drivedit.agents.judging.scores import Scores, score
from drivedit.agents.judging.starts import JudgeSetup
from drivedit.agents.load import load_agent
from drivedit.agents.planning.planner import Planner, Search
from drivedit.utils import one_thread, write_atomically


def drive_agent(
    agent: str = "learned", env: str = DREAM, world: str | None = None, sampling_steps: int | None = None,
    steps: int = 300, out: Path = Path("drive.mp4"), seed: int = 0, scene: int | None = None,
) -> None:  # fmt: skip
    """An agent drives and is filmed.

    Args:
        agent: PATH.safetensors (trained), PATH.zip (Stable-Baselines3), module:callable, or a name.
        env: Id of the environment.
        world: Shipped name, folder or hub:NAME/WORLD; None: the environment's; of an agent that learned on latents:
            where it was when it learned.
        sampling_steps: Network passes for a dreamed frame; None: the world's own number.
        steps: Steps to drive.
        out: The video, .mp4 or .webp.
        seed: Seed of the first episode and the agent.
        scene: Index of the start scene; None: a random one.
    """
    start = None if scene is None else {"scene": scene}
    with one_thread():
        driver = load_agent(agent, seed, world)
        opened = open_for(driver, env, render_mode="rgb_array", **_given(world=world, sampling_steps=sampling_steps))
        print(drive(opened, driver, steps, seed, start, out))
        opened.close()
    print(f"{'video':<18} {out}")


def score_agent(
    agent: str = "learned", env: str = PUBLIC, world: str | None = None, episodes: int = 100,
    seed: int = DEFAULT.held_out_from, out: Path | None = None,
) -> None:  # fmt: skip
    """An agent drives whole episodes as they are scored in public, with their own reward.

    Args:
        agent: PATH.safetensors (trained), PATH.zip (Stable-Baselines3), module:callable, or a name.
        env: Id of the environment.
        world: World of an agent that learned on latents: shipped name, folder or hub:NAME/WORLD; None: where it was
            when it learned (a zip needs it).
        episodes: Episodes to drive.
        seed: Seed of the first track; the default begins the held-out ones.
        out: JSON file for the scores of every episode.
    """
    with one_thread():
        driver = load_agent(agent, world=world)
        opened = open_for(driver, env)
        scores = score(opened, driver, episodes, seed)
        opened.close()
    _tell(scores, out, agent=agent, env=env)


def plan_ahead(
    search: Search, env: str = DREAM, dream: str = DREAM, world: str | None = None, sampling_steps: int | None = None,
    steps: int = 100, episodes: int = 0, compile: bool = False, out: Path | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """A planner drives that tries futures in the dream.

    Args:
        search: How a plan is looked for.
        env: Id of what it drives, the dream or a real environment.
        dream: Id of the dream that it plans in.
        world: World of the dream: shipped name, folder or hub:NAME/WORLD; None: the environment's.
        sampling_steps: Network passes for a dreamed frame; None: the world's own number.
        steps: Steps to drive.
        episodes: Whole episodes to drive; 0: so many steps instead.
        compile: Whether the dream's steps are compiled first.
        out: JSON file for the scores of every episode.
        seed: Seed of the first episode and the planner.
    """
    chosen = _given(world=world, sampling_steps=sampling_steps, compile=compile or None)
    dreamed = gym.make(dream, obs_type="latent", disable_env_checker=True, **chosen)
    if env == dream:
        opened, planner = dreamed, Planner.in_dream(dreamed, search, seed)
    else:
        opened = gym.make(env, disable_env_checker=True)
        planner = Planner.in_reality(opened, dreamed, search, seed)
    if episodes:
        _tell(score(opened, planner, episodes, seed), out, search=dataclasses.asdict(search), env=env)
    else:
        print(drive(opened, planner, steps, seed))
    if planner.plans:
        print(
            f"{'seconds per plan':<18} {planner.seconds / planner.plans:.2f} ({planner.plans} plans, beside env.step)"
        )
    opened.close()


def judge_policies(
    contest: JudgeSetup, policies: Sequence[str] = (), out: Path = Path("runs/judge"), workers: int = 2
) -> None:
    """Policies drive in a dream and in reality: how far can the dream be trusted to rank them?

    Args:
        contest: What is driven.
        policies: Three or more: PATH.safetensors, PATH.zip, module:callable, planner, or names; none: all names of the
            real environment's domain.
        out: Folder of the report; an interrupted run there goes on.
        workers: Processes that drive in reality.
    """
    contest = contest.resolved()
    names = policies or policies_of(contest.reality)
    result = judge(contest, names, out, workers)
    write_report(result, out / "report.html")
    print(as_text(result))
    print(f"report: {out / 'report.html'}")


def _given(**settings: Any) -> dict[str, Any]:
    """Settings of a dream that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def _tell(scores: Scores, out: Path | None, **who: Any) -> None:
    """Prints scores, and writes them where they are to be kept."""
    print(scores)
    if out is not None:
        text = json.dumps({**who, **scores.to_dict()}, indent=2) + "\n"
        write_atomically(out, lambda file: file.write(text.encode()))
