"""Letting policies drive a dream and reality from the same starts (`starts`), alone or many dreams in one batch.

Legend: P policies, S starts, H steps (the horizon).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.agents.dreams import in_own_dream
from drivedit.agents.drivers.pilot import Pilot, PolicyError
from drivedit.agents.judging.starts import GIVEN, REAL, JudgeSetup, Start, place
from drivedit.agents.planning.planner import Planner, Search
from drivedit.utils import begin_worker
from drivedit.utils.car_response import CarResponse, identify, pose_of, step_seconds

PLANNER = "planner"  # this policy tries futures in the dream, on both sides; it asks the environment where it is
EFFORT = Search(futures=16, act=10)  # of the planner: thirty plans in 300 steps, a quarter of a minute
BATCH = 32  # dreams that step together, at most (at least one policy's)
ENDED = "ended"  # of an episode that ended, where nothing tells by which of several endings


@dataclass(frozen=True)
class Drives:
    """How one policy drove on one side.

    Attributes:
        rewards: float64 `[S, H]`, 0 after the end of an episode.
        confidence: float64 `[S, H]`, NaN where none is told and after the end.
        steps: int `[S]`, steps driven until the end, at most H.
        ending: str `[S]`, by which ending it ended, `ended` where that is not told; empty: it did not.
    """

    rewards: np.ndarray
    confidence: np.ndarray
    steps: np.ndarray
    ending: np.ndarray

    @classmethod
    def empty(cls, starts: int, horizon: int) -> Drives:
        """Drives that have not begun."""
        shape = (starts, horizon)
        return cls(np.zeros(shape), np.full(shape, np.nan), np.zeros(starts, int), np.zeros(starts, "U64"))

    def returns(self, horizon: int) -> np.ndarray:
        """Sum of the first rewards, `[S]`."""
        return self.rewards[:, :horizon].sum(1)

    def ended(self, horizon: int) -> np.ndarray:
        """Whether each has ended within the first steps, bool `[S]`."""
        return (self.ending != "") & (self.steps <= horizon)


def check(contest: JudgeSetup, policies: Sequence[str], start: Start) -> None:
    """Looks for what would spoil a long run: spaces that differ, and policies that do not answer with an action.

    Raises:
        ValueError: Names everything that is wrong.
    """
    envs = {side: contest.open(side) for side in (GIVEN, REAL)}
    for name in ("observation_space", "action_space"):
        dream, real = (getattr(env, name) for env in envs.values())
        if dream != real:
            raise ValueError(f"dream and reality need the same {name}, got {dream} and {real}")
    needs = ((envs[GIVEN], "fork"), (envs[REAL], "scene"))
    if PLANNER in policies and not all(hasattr(env.unwrapped, name) for env, name in needs):
        raise ValueError(f"the planner needs a dream that can fork and a reality that tells its scene, got {contest}")
    wrong: dict[str, list[str]] = {}
    for side, env in envs.items():
        observation = place(env, start, side)
        for policy in (policy for policy in policies if policy != PLANNER):
            try:
                pilot = _pilot(contest, policy, env.action_space, start.number)
                pilot(observation, _pose(env, pilot))
            except PolicyError as error:
                wrong.setdefault(str(error), []).append(side)
        env.close()
    if wrong:
        lines = (f"{error} (at the first observation of: {', '.join(sides)})" for error, sides in wrong.items())
        raise ValueError("\n".join(lines))


def drive_alone(contest: JudgeSetup, side: str, policy: str, start: Start) -> Drives:
    """One policy drives from one start.

    Raises:
        PolicyError: It failed.
    """
    dreamed = side != REAL
    in_latents = policy == PLANNER or (dreamed and policy in latent_policies(contest, [policy]))
    latent = {"obs_type": "latent"} if in_latents else {}  # the planner looks at no picture
    drives = Drives.empty(1, contest.horizon)
    with ExitStack() as stack:
        env = stack.enter_context(closing(contest.open(side, **(latent if dreamed else {}))))
        agent = None
        if policy == PLANNER and dreamed:
            agent = Planner.in_dream(env, EFFORT, start.number)
        elif policy == PLANNER:
            dream = stack.enter_context(closing(contest.open(GIVEN, **latent)))
            agent = Planner.in_reality(env, dream, EFFORT, start.number)
        pilot = _pilot(contest, policy, env.action_space, start.number, agent)
        observation, endings = place(env, start, side), contest.endings
        for step in range(contest.horizon):
            observation, reward, terminated, truncated, info = env.step(pilot(observation, _pose(env, pilot)))
            drives.rewards[0, step], drives.steps[0] = float(reward), step + 1
            drives.confidence[0, step] = info.get("confidence", np.nan)
            if terminated or truncated:
                drives.ending[0] = _ending(info.get("reward_terms", {}), endings) if terminated else ""
                break
    return drives


def _ending(terms: Mapping[str, Any], endings: Sequence[str], row: Any = ()) -> str:
    """By which ending an episode ended, of the reward terms of its last step."""
    found = [name for name in endings if name in terms and np.asarray(terms[name])[row]]
    return found[0] if len(found) == 1 else ENDED


Outcome = tuple[str, Drives | PolicyError]


def drive_apart(
    contest: JudgeSetup, side: str, policies: Sequence[str], starts: Sequence[Start], workers: int
) -> Iterator[tuple[int, Outcome | None]]:
    """Every policy drives from every start, in several processes.

    Yields:
        How many steps are done since the last time (a drive that ended early counts as a whole one), and a policy's
        outcome once it is known.
    """
    jobs = [(policy, start) for policy in policies for start in starts]
    parts: dict[str, dict[int, Drives | PolicyError]] = {policy: {} for policy in policies}
    pool = ProcessPoolExecutor(workers, get_context("spawn"), begin_worker) if workers > 1 else None
    try:
        if pool is None:
            results = (((p, s), _alone(contest, side, p, s)) for p, s in jobs)
        else:
            futures = {pool.submit(_alone, contest, side, p, s): (p, s) for p, s in jobs}
            results = ((futures[done], done.result()) for done in as_completed(futures))
        for (policy, start), result in results:
            parts[policy][start.number] = result
            whole = len(parts[policy]) == len(starts)
            yield contest.horizon, (policy, _join([parts[policy][s.number] for s in starts])) if whole else None
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def drive_together(
    contest: JudgeSetup, policies: Sequence[str], starts: Sequence[Start], side: str = GIVEN
) -> Iterator[tuple[int, Outcome | None]]:
    """Policies drive dreams that step in one batch; needs a vector environment with `get_state` and `set_state`.

    Those that learned on the dream's latents see these, the others see frames.

    Yields:
        As `drive_apart`.
    """
    many = max(1, BATCH // len(starts))
    seeds = [start.seed for start in starts]
    told = [start.scene_of(side) for start in starts]
    scenes = {} if told[0] is None else {"options": {"scene": told}}
    latent = latent_policies(contest, policies)
    for obs_type, some in (("latent", latent), ("pixels", [p for p in policies if p not in latent])):
        if not some:
            continue
        shown = {"obs_type": obs_type} if obs_type == "latent" else {}
        seats: Any = _vector(contest, len(starts), **shown)
        first, _ = seats.reset(seed=seeds, **scenes)
        states = seats.unwrapped.get_state()
        seats.close()
        for at in range(0, len(some), many):
            yield from _batch(contest, some[at : at + many], starts, states, first, **shown)


def latent_policies(contest: JudgeSetup, policies: Sequence[str]) -> list[str]:
    """Those policies that learned on the latents of the contest's dream."""
    env, found = contest.open(GIVEN), []
    for policy in policies:
        try:
            agent = _pilot(contest, policy, env.action_space, 0).agent
        except PolicyError:  # it will be said where it is to drive
            continue
        if in_own_dream(agent, env):
            found.append(policy)
    env.close()
    return found


def batched(contest: JudgeSetup) -> bool:
    """Whether the dream can step many worlds in one pass: a vector environment of its own, with snapshots."""
    env = contest.open(GIVEN)
    env.close()
    return env.spec is not None and env.spec.vector_entry_point is not None and hasattr(env.unwrapped, "set_state")


def _batch(
    contest: JudgeSetup, policies: Sequence[str], starts: Sequence[Start], states: Any, first: np.ndarray, **shown: Any
) -> Iterator[tuple[int, Outcome | None]]:
    """Drives of some policies, all in one batch; row p S + s is policy p from start s. Yields as `drive_apart`."""
    size, count = len(starts), len(policies)
    env = _vector(contest, count * size, **shown)
    inside: Any = env.unwrapped
    rows = states.select(list(range(size)) * count)
    inside.set_state(rows)
    observations = np.concatenate([first] * count)
    outcomes: dict[str, Drives | PolicyError] = {}
    endings, pilots = contest.endings, {}
    for p, policy in enumerate(policies):
        outcomes[policy] = Drives.empty(size, contest.horizon)
        try:
            space = env.single_action_space
            pilots |= {p * size + s: _pilot(contest, policy, space, starts[s].number) for s in range(size)}
        except PolicyError as error:
            outcomes[policy] = error
    for step in range(contest.horizon):
        actions = np.zeros(env.action_space.shape or (), np.float32)  # of rows that nobody drives
        poses = inside.poses if any(pilot.plans for pilot in pilots.values()) else [None] * len(actions)
        for row, pilot in list(pilots.items()):
            try:
                actions[row] = pilot(observations[row], poses[row])
            except PolicyError as error:
                outcomes[pilot.name] = error
        pilots = {row: pilot for row, pilot in pilots.items() if isinstance(outcomes[pilot.name], Drives)}
        if not pilots:
            break
        yield count * size, None
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for row, pilot in pilots.items():
            drives, s = outcomes[pilot.name], row % size
            assert isinstance(drives, Drives)
            drives.rewards[s, step], drives.steps[s] = rewards[row], step + 1
            drives.confidence[s, step] = infos["confidence"][row] if "confidence" in infos else np.nan
            drives.ending[s] = _ending(infos.get("reward_terms", {}), endings, row) if terminated[row] else ""
        over = np.flatnonzero(terminated | truncated)
        if len(over):  # an ended row goes back to its start, and nobody drives it any more
            inside.set_state(rows.select(over.tolist()), rows=over.tolist())
            pilots = {row: pilot for row, pilot in pilots.items() if row not in over}
    env.close()
    yield from ((0, (policy, outcomes[policy])) for policy in policies)


@cache
def car_of(contest: JudgeSetup) -> tuple[CarResponse, float]:
    """How the real car answers to its controls, and the seconds of a step: what follows waypoints on all sides.

    Raises:
        ValueError: It tells no pose, or is no car; see `identify`.
    """
    with closing(contest.open(REAL)) as env:
        return identify(env.unwrapped), step_seconds(env.unwrapped)


def _pilot(contest: JudgeSetup, policy: str, space: gym.Space, seed: int, agent: Any = None) -> Pilot:
    """A policy of a contest, or PolicyError."""
    return Pilot(policy, space, seed, agent, contest.world, lambda: car_of(contest))


def _pose(env: gym.Env, pilot: Pilot) -> np.ndarray | None:
    """Where the car of an environment is; None: the policy does not need it."""
    return pose_of(env.unwrapped) if pilot.plans else None


def _vector(contest: JudgeSetup, rows: int, **shown: Any) -> gym.vector.VectorEnv:
    """A vector environment of the dream whose ended rows are brought back by hand."""
    settings: dict[str, Any] = {"max_episode_steps": contest.horizon + 1, "autoreset_mode": "Disabled"}
    return gym.make_vec(contest.dream, num_envs=rows, **settings, **contest.settings, **shown)


def _alone(contest: JudgeSetup, side: str, policy: str, start: Start) -> Drives | PolicyError:
    """`drive_alone`, with the failure of a policy as its result."""
    try:
        return drive_alone(contest, side, policy, start)
    except PolicyError as error:
        return PolicyError(str(error))


def _join(parts: Sequence[Drives | PolicyError]) -> Drives | PolicyError:
    """Drives of one policy from all starts, or its first failure."""
    good: list[Drives] = []
    for part in parts:
        if isinstance(part, PolicyError):
            return part
        good.append(part)
    columns = {name: np.concatenate([getattr(part, name) for part in good]) for name in Drives.__dataclass_fields__}
    return Drives(**columns)
