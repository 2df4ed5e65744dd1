"""What policies are judged in, and where they begin: the same moments in reality and in the dream.

A start is found in the real environment: a seed, drawn reset options where its domain names some, and, if the
environment can tell its `scene()`, a run-up of some steps by the domain's policy after which the dream opens in that
scene. Every policy then goes on from there on every side. Without `scene()` all sides begin with the same seed and
options.

Legend: S starts, H steps (the horizon).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np

from drivedit.agents.domains import DEFAULT, SIMULATOR, domain_behind
from drivedit.agents.dreams import DREAM
from drivedit.agents.drivers.pilot import Pilot
from drivedit.config import domain_of
from drivedit.config.rooms import SHIPS

REAL, GIVEN, FREE = "real", "dream", "free"
SEEN = ("frames", "observations", "controls", "times", "poses", "attributes")  # of a scene, in a dream told nothing


@dataclass(frozen=True)
class JudgeSetup:
    """What is driven; everything that the results depend on, beside the policies.

    Attributes:
        dream: Id of the dreamed environment.
        real: Id of the real one; None: the simulator of the domain that the dream's world is about.
        world: World of the dream: shipped name, folder or hub:NAME/WORLD; None: the environment's own.
        starts: Number S of starts, where all policies begin.
        horizon: Steps H of a drive.
        first_seed: Seed of the first start; the others count on, but for those that end within the run-up. The default
            begins the held-out tracks.
        run_up: Steps driven in reality before a start whose scene the dream takes over; none where nobody is to drive.
        sampling_steps: Network passes for a dreamed frame; None: the world's own number.
        free: Whether policies drive in dreams that are told nothing as well, beside those that are told the route.
        compile: Whether the dream's steps are compiled first.
        obs_type: Kind of observation that the real environment shows; None: its own, or where its domain has several
            kinds the dream's.
    """

    dream: str = DREAM
    real: str | None = None
    world: str | None = None
    starts: int = 16
    horizon: int = 300
    first_seed: int = DEFAULT.held_out_from
    run_up: int = 12
    sampling_steps: int | None = None
    free: bool = False
    compile: bool = False
    obs_type: str | None = None

    def __post_init__(self) -> None:
        for name in ("starts", "horizon", "run_up"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the dream that were chosen."""
        given = {"world": self.world, "sampling_steps": self.sampling_steps, "compile": self.compile or None}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def dreams(self) -> list[str]:
        """The dreamed sides: `dream`, told the route where the start knows one, and maybe `free`, told nothing."""
        return [GIVEN, FREE] if self.free else [GIVEN]

    @property
    def sides(self) -> list[str]:
        """All sides, reality first."""
        return [REAL, *self.dreams]

    @property
    def reality(self) -> str:
        """Id of the real environment, once it is known."""
        if self.real is None:
            raise ValueError("which environment is real is not known yet: use resolved()")
        return self.real

    @property
    def endings(self) -> list[str]:
        """The names of the endings of the real environment's domain; none where it is of none."""
        domain = domain_of(self.reality)
        return [] if domain is None else list(domain.spec.endings)

    def resolved(self) -> JudgeSetup:
        """The same with the real environment, the default domain's where the dream has none, and what it shows."""
        env = replace(self, compile=False).open(GIVEN)
        env.close()
        domain, spec = domain_behind(env), getattr(getattr(env.unwrapped, "world", None), "spec", None)
        real = self.real or (SIMULATOR if domain is None else f"{SHIPS}:{domain.env_id}")
        theirs = domain_of(real)
        own = theirs is not None and real.rpartition(":")[2] == theirs.env_id  # public ones show what they show
        kinds = list(theirs.spec.observations) if theirs and own and len(theirs.spec.observations) > 1 else []
        if self.obs_type is not None and self.obs_type not in kinds:
            raise ValueError(f"obs_type must be one of the kinds that {real} can show, {kinds}, got {self.obs_type!r}")
        shown = spec.picture if self.obs_type is None and spec and spec.picture in kinds else self.obs_type
        return replace(self, real=real, obs_type=shown)

    def open(self, side: str, **settings: Any) -> gym.Env:
        """A new environment of one side, without a limit of steps."""
        shown = {"obs_type": self.obs_type} if self.obs_type else {}
        chosen = shown if side == REAL else self.settings
        name = self.reality if side == REAL else self.dream
        return gym.make(name, disable_env_checker=True, max_episode_steps=-1, **chosen, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for JSON, with the name of the dream's weights (empty for a dream without)."""
        env = self.open(GIVEN)
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
    options: dict[str, Any]
    actions: list[Any] = field(default_factory=list)
    scene: dict[str, Any] | None = None

    def scene_of(self, side: str) -> dict[str, Any] | None:
        """The scene that a dreamed side opens in: all of it, or only what was seen and done."""
        if self.scene is None or side != FREE:
            return self.scene
        return {name: value for name, value in self.scene.items() if name in SEEN}


def find_starts(contest: JudgeSetup) -> list[Start]:
    """Finds the starts in the real environment; seeds that end within the run-up are passed over.

    Raises:
        ValueError: More than half of the seeds do.
    """
    env = contest.open(REAL)
    domain = domain_of(contest.reality)
    own = domain is not None and contest.reality.rpartition(":")[2] == domain.env_id  # public ones begin as they do
    found: list[Start] = []
    for number in range(2 * contest.starts):
        rng, options = np.random.default_rng([contest.first_seed, number]), {}
        if domain and own:
            options = {name: float(rng.uniform(low, high)) for name, (low, high) in domain.judging_starts.items()}
            options |= {"attributes": dict(domain.judging_attributes)} if domain.judging_attributes else {}
        start = Start(number, contest.first_seed + number, options)
        observation = place(env, start, REAL)
        scene = getattr(env.unwrapped, "scene", None)
        if scene is not None:
            if domain and domain.run_up:
                pilot = Pilot(f"{domain.spec.domain}/{domain.run_up}", env.action_space, number)
                actions = _run_up(env, pilot, observation, contest.run_up)
                if len(actions) < contest.run_up:
                    continue
                start.actions.extend(actions)
            start = Start(number, start.seed, options, start.actions, scene())
        found.append(start)
        if len(found) == contest.starts:
            env.close()
            return found
    env.close()
    seeds = f"{contest.first_seed} to {contest.first_seed + 2 * contest.starts - 1}"
    raise ValueError(f"only {len(found)} of the seeds {seeds} do not end within the run-up of {contest.run_up} steps, "
                     f"{contest.starts} are needed")  # fmt: skip


def _run_up(env: gym.Env, pilot: Pilot, observation: Any, steps: int) -> list[Any]:
    """Drives to where a dream takes over; returns the actions, fewer where the episode ends."""
    actions = []
    for _ in range(steps):
        action = pilot(observation)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
        actions.append(action)
    return actions


def place(env: gym.Env, start: Start, side: str) -> Any:
    """Brings an environment to a start; returns the observation there."""
    if side != REAL and start.scene is not None:
        return env.reset(seed=start.seed, options={"scene": start.scene_of(side)})[0]
    observation, _ = env.reset(seed=start.seed, options=dict(start.options) or None)
    for action in start.actions:
        observation = env.step(action)[0]
    return observation
