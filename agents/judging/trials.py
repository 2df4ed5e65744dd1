"""Letting policies drive a dream and reality from the same starts.

A start is found in the real environment: a seed, drawn reset options where its domain names some, and, if the
environment can tell its `scene()`, a run-up of some steps by the domain's policy after which the dream opens in that
scene. Every policy then goes on from there on both sides. Without `scene()` both sides begin with the same seed and
options.

Legend: P policies, S starts, H steps (the horizon).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.agents.domains import DEFAULT, SIMULATOR
from drivedit.agents.dreams import DREAM, in_own_dream
from drivedit.agents.drivers.pilot import Pilot, PolicyError
from drivedit.agents.planning.planner import Planner, Search
from drivedit.config import domain_of
from drivedit.utils import begin_worker

SIDES = ("dream", "real")
PLANNER = "planner"  # this policy tries futures in the dream, on both sides; it asks the environment where it is
EFFORT = Search(futures=16, act=10)  # of the planner: thirty plans in 300 steps, a quarter of a minute
BATCH = 32  # dreams that step together, at most (at least one policy's)


@dataclass(frozen=True)
class JudgeSetup:
    """What is driven; everything that the results depend on, beside the policies.

    Attributes:
        dream: Id of the dreamed environment.
        real: Id of the real one.
        world: World of the dream: shipped name, folder or hub:NAME/WORLD; None: the environment's own.
        starts: Number S of starts, where all policies begin.
        horizon: Steps H of a drive.
        first_seed: Seed of the first start; the others count on. The default begins the held-out tracks.
        run_up: Steps driven in reality before a start whose scene the dream takes over; none where nobody is to drive.
        sampling_steps: Network passes for a dreamed frame; None: the world's own number.
    """

    dream: str = DREAM
    real: str = SIMULATOR
    world: str | None = None
    starts: int = 16
    horizon: int = 300
    first_seed: int = DEFAULT.held_out_from
    run_up: int = 12
    sampling_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("starts", "horizon", "run_up"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the dream that were chosen."""
        given = {"world": self.world, "sampling_steps": self.sampling_steps}
        return {name: value for name, value in given.items() if value is not None}

    def open(self, side: str, **settings: Any) -> gym.Env:
        """A new environment of one side, without a limit of steps."""
        chosen = self.settings if side == "dream" else {}
        name = self.dream if side == "dream" else self.real
        return gym.make(name, disable_env_checker=True, max_episode_steps=-1, **chosen, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for JSON, with the name of the dream's weights (empty for a dream without)."""
        env = self.open("dream")
        env.close()
        return {**asdict(self), "weights": getattr(getattr(env.unwrapped, "world", None), "fingerprint", "")}


@dataclass(frozen=True)
class Start:
    """Where drives begin.

    Attributes:
        number: It is also the seed of every policy's own chance.
        seed: Of the real environment's reset, and of the dream's future.
        options: Of the real environment's reset.
        actions: The run-up.
        scene: The scene after it, for the dream; None if reality cannot tell one.
    """

    number: int
    seed: int
    options: dict[str, float]
    actions: list[Any] = field(default_factory=list)
    scene: dict[str, Any] | None = None


@dataclass(frozen=True)
class Drives:
    """How one policy drove on one side.

    Attributes:
        rewards: float64 `[S, H]`, 0 after the end of an episode.
        confidence: float64 `[S, H]`, NaN where none is told and after the end.
        steps: int `[S]`, steps driven until the end, at most H.
    """

    rewards: np.ndarray
    confidence: np.ndarray
    steps: np.ndarray

    @classmethod
    def empty(cls, starts: int, horizon: int) -> Drives:
        """Drives that have not begun."""
        shape = (starts, horizon)
        return cls(np.zeros(shape), np.full(shape, np.nan), np.zeros(starts, int))

    def returns(self, horizon: int) -> np.ndarray:
        """Sum of the first rewards, `[S]`."""
        return self.rewards[:, :horizon].sum(1)


def check(contest: JudgeSetup, policies: Sequence[str], start: Start) -> None:
    """Looks for what would spoil a long run: spaces that differ, and policies that do not answer with an action.

    Raises:
        ValueError: Names everything that is wrong.
    """
    envs = {side: contest.open(side) for side in SIDES}
    for name in ("observation_space", "action_space"):
        dream, real = (getattr(envs[side], name) for side in SIDES)
        if dream != real:
            raise ValueError(f"dream and reality need the same {name}, got {dream} and {real}")
    needs = ((envs["dream"], "fork"), (envs["real"], "scene"))
    if PLANNER in policies and not all(hasattr(env.unwrapped, name) for env, name in needs):
        raise ValueError(f"the planner needs a dream that can fork and a reality that tells its scene, got {contest}")
    wrong: dict[str, list[str]] = {}
    for side, env in envs.items():
        observation = place(env, start, side)
        for policy in (policy for policy in policies if policy != PLANNER):
            try:
                Pilot(policy, env.action_space, start.number, world=contest.world)(observation)
            except PolicyError as error:
                wrong.setdefault(str(error), []).append(side)
        env.close()
    if wrong:
        lines = (f"{error} (at the first observation of: {', '.join(sides)})" for error, sides in wrong.items())
        raise ValueError("\n".join(lines))


def find_starts(contest: JudgeSetup) -> list[Start]:
    """Finds the starts in the real environment.

    Raises:
        ValueError: An episode ended within the run-up.
    """
    env = contest.open("real")
    domain = domain_of(contest.real)
    own = domain is not None and contest.real.rpartition(":")[2] == domain.env_id  # public ones begin as they do
    ranges = domain.judging_starts if domain and own else {}
    found = []
    for number in range(contest.starts):
        rng = np.random.default_rng([contest.first_seed, number])
        options = {name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()}
        start = Start(number, contest.first_seed + number, options)
        observation = place(env, start, "real")
        scene = getattr(env.unwrapped, "scene", None)
        if scene is not None:
            if domain and domain.run_up:
                pilot = Pilot(f"{domain.spec.domain}/{domain.run_up}", env.action_space, number)
                start.actions.extend(_run_up(env, pilot, observation, start.seed, contest.run_up))
            start = Start(number, start.seed, options, start.actions, scene())
        found.append(start)
    env.close()
    return found


def _run_up(env: gym.Env, pilot: Pilot, observation: Any, seed: int, steps: int) -> Iterator[Any]:
    """Drives to where a dream takes over, and yields the actions.

    Raises:
        ValueError: The episode ended.
    """
    for _ in range(steps):
        action = pilot(observation)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            raise ValueError(f"seed {seed} ends within the run-up of {steps} steps")
        yield action


def place(env: gym.Env, start: Start, side: str) -> Any:
    """Brings an environment to a start; returns the observation there."""
    if side == "dream" and start.scene is not None:
        return env.reset(seed=start.seed, options={"scene": start.scene})[0]
    observation, _ = env.reset(seed=start.seed, options=dict(start.options) or None)
    for action in start.actions:
        observation = env.step(action)[0]
    return observation


def drive_alone(contest: JudgeSetup, side: str, policy: str, start: Start) -> Drives:
    """One policy drives from one start.

    Raises:
        PolicyError: It failed.
    """
    in_latents = policy == PLANNER or (side == "dream" and policy in latent_policies(contest, [policy]))
    latent = {"obs_type": "latent"} if in_latents else {}  # the planner looks at no picture
    drives = Drives.empty(1, contest.horizon)
    with ExitStack() as stack:
        env = stack.enter_context(closing(contest.open(side, **(latent if side == "dream" else {}))))
        agent = None
        if policy == PLANNER and side == "dream":
            agent = Planner.in_dream(env, EFFORT, start.number)
        elif policy == PLANNER:
            dream = stack.enter_context(closing(contest.open("dream", **latent)))
            agent = Planner.in_reality(env, dream, EFFORT, start.number)
        pilot = Pilot(policy, env.action_space, start.number, agent, contest.world)
        observation = place(env, start, side)
        for step in range(contest.horizon):
            observation, reward, terminated, truncated, info = env.step(pilot(observation))
            drives.rewards[0, step], drives.steps[0] = float(reward), step + 1
            drives.confidence[0, step] = info.get("confidence", np.nan)
            if terminated or truncated:
                break
    return drives


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
    contest: JudgeSetup, policies: Sequence[str], starts: Sequence[Start]
) -> Iterator[tuple[int, Outcome | None]]:
    """Policies drive dreams that step in one batch; needs a vector environment with `get_state` and `set_state`.

    Those that learned on the dream's latents see these, the others see frames.

    Yields:
        As `drive_apart`.
    """
    many = max(1, BATCH // len(starts))
    seeds = [start.seed for start in starts]
    scenes = {} if starts[0].scene is None else {"options": {"scene": [start.scene for start in starts]}}
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
    env, found = contest.open("dream"), []
    for policy in policies:
        try:
            agent = Pilot(policy, env.action_space, 0, world=contest.world).agent
        except PolicyError:  # it will be said where it is to drive
            continue
        if in_own_dream(agent, env):
            found.append(policy)
    env.close()
    return found


def batched(contest: JudgeSetup) -> bool:
    """Whether the dream can step many worlds in one pass: a vector environment of its own, with snapshots."""
    env = contest.open("dream")
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
    pilots: dict[int, Pilot] = {}
    for p, policy in enumerate(policies):
        outcomes[policy] = Drives.empty(size, contest.horizon)
        try:
            space, world = env.single_action_space, contest.world
            pilots |= {p * size + s: Pilot(policy, space, starts[s].number, world=world) for s in range(size)}
        except PolicyError as error:
            outcomes[policy] = error
    for step in range(contest.horizon):
        actions = np.zeros(env.action_space.shape or (), np.float32)  # of rows that nobody drives
        for row, pilot in list(pilots.items()):
            try:
                actions[row] = pilot(observations[row])
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
        over = np.flatnonzero(terminated | truncated)
        if len(over):  # an ended row goes back to its start, and nobody drives it any more
            inside.set_state(rows.select(over.tolist()), rows=over.tolist())
            pilots = {row: pilot for row, pilot in pilots.items() if row not in over}
    env.close()
    yield from ((0, (policy, outcomes[policy])) for policy in policies)


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
