"""Records drives of many skills with several processes.

Every shard is a function of (seed, shard number) alone, so a recording does not depend on the number of workers, and
a run that was stopped goes on where it was: shards that exist and are whole are kept.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from drivedit.config import DEFAULT_WORLD, DomainConfig, WorldSpec, find_domain
from drivedit.data.agent_drivers import AgentDriver, AgentDrivers
from drivedit.data.any_env import AnyEnv, EnvDrivers
from drivedit.data.recordings import Episode, ShardError, read_attrs, read_shard, shard_path, write_shard
from drivedit.utils import Driver, Recordable, begin_worker, code_fingerprint, load_object, locked, package_of
from drivedit.utils.episodes import Agents

CODE = (__name__, "drivedit.data.agent_drivers", "drivedit.data.geometry")
# What recipes of earlier versions meant and did not say.
EARLIER: dict[str, Any] = {
    "policies": [], "domain": DEFAULT_WORLD, "observations": [], "env": "", "policy": "", "size": None, "dt": None,
    "settings": {},
}  # fmt: skip
LOCK = ".collect.lock"  # in the folder of the recording
logger = logging.getLogger(__name__)

Make = Callable[[np.random.Generator], tuple[Driver, dict[str, Any]]]

_counter: Any = None  # frames recorded by all workers; set in each worker


@dataclass(frozen=True)
class Recipe:
    """What the content of a shard depends on, beside its number.

    Attributes:
        seed: seed of the recording.
        episode_steps: steps after which an episode is cut.
        shard_steps: steps per shard.
        held_out: whether the seeds are those kept for judging.
        policies: names of the agents that drive; none: the scripted drivers of the domain.
        domain: name of the domain.
        observations: names of those of the domain that are recorded; none: all.
        env: id of the environment that is recorded instead of a domain's simulator; empty: none is.
        policy: who drives in it, see `drivedit.data.any_env.EnvDrivers`.
        size: height and width of its pictures, see `drivedit.data.any_env.AnyEnv`.
        dt: seconds of a step of it, likewise.
        settings: arguments of the simulator, or of the environment for gymnasium.make.
    """

    seed: int = 0
    episode_steps: int = 300
    shard_steps: int = 6000
    held_out: bool = False
    policies: tuple[str, ...] = ()
    domain: str = DEFAULT_WORLD
    observations: tuple[str, ...] = ()
    env: str = ""
    policy: str = ""
    size: tuple[int, int] | None = None
    dt: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("episode_steps", "shard_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        _ = self.recorded  # is it there?
        if self.env and (self.policies or self.observations):
            raise ValueError(
                "agents by name drive in domains, and observations are chosen of domains; who drives in an env is "
                "policy, module:callable"
            )
        if not self.env and (self.policy or self.size is not None or self.dt is not None):
            raise ValueError("policy, size and dt speak of an environment: give env as well")

    @property
    def recorded(self) -> DomainConfig:
        """The domain, with the observations that are recorded."""
        domain = find_domain(self.domain)
        return replace(domain, spec=domain.spec.only(self.observations)) if self.observations else domain

    def check(self) -> None:
        """Checks that what is recorded and who drives are there, and drive a step.

        Raises:
            ValueError: They are not, or do not fit.
        """
        for policy in self.policies:
            AgentDriver(policy, find_domain(self.domain), 0.0, np.random.default_rng(0))
        if self.env:
            with closing(AnyEnv(self.env, self.size, self.dt, self.settings)) as env:
                episode = record_episode(
                    env, np.random.default_rng(0), 1, False, EnvDrivers(env, self.policy), env.domain
                )
                shape, controls = list(episode.picture.shape[1:]), episode.spec.names("controls")
                logger.info("%s: pictures %s, controls %s, %.4g s a step", self.env, shape, controls, episode.spec.dt)
                if episode.picture.min() == episode.picture.max():
                    logger.warning("%s shows pictures of one colour: can it draw here?", self.env)


def record_episode(
    env: Recordable, rng: np.random.Generator, steps: int, held_out: bool = False, make: Make | None = None,
    domain: str | DomainConfig = DEFAULT_WORLD,
) -> Episode:  # fmt: skip
    """Records one drive by a driver drawn from `rng`.

    Args:
        env: the simulator of the domain; it is reset.
        rng: the only source of chance.
        steps: the most steps; fewer if the episode ends.
        held_out: whether the seed is one of those kept for judging.
        make: draws the driver and the start of its episode (reset options of the simulator); None: as the domain does.
        domain: what is recorded, or its name.
    """
    config = find_domain(domain) if isinstance(domain, str) else domain
    spec, first = config.spec, config.held_out_from
    seed = int(rng.integers(first)) + (first if held_out else 0)
    driver, start = (make or load_object(config.drivers))(rng)
    observation, _ = env.reset(seed=seed, options=start)
    seen, true = [observation], [env.truth()]
    controls, rewards, terms, terminated, truncated = [], [], [], False, False
    while len(controls) < steps and not (terminated or truncated):
        action = driver.act(true[-1], seen[-1])
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation)
        true.append(env.truth())
        controls.append(action)
        rewards.append(reward)
        terms.append(info["reward_terms"])
    began, poses = true[0], [each.pose for each in true]
    agents = [each.agents for each in true if each.agents is not None]
    return Episode(
        spec=spec,
        observations=_by_kind(seen, spec),
        controls=np.stack(controls).astype(np.float32),
        reward=np.array(rewards, dtype=np.float32),
        rewards={name: np.array([row[name] for row in terms], np.float32) for name in spec.rewards},
        terminated=np.arange(len(controls)) == (len(controls) - 1 if terminated else -1),
        telemetry={
            name: np.array([each.telemetry[name] for each in true], np.float32) for name in spec.names("telemetry")
        },
        poses=np.zeros((0, 3)) if began.pose is None else np.stack(poses),  # type: ignore[arg-type]
        route=np.zeros((0, 2), np.float32) if began.route is None else began.route,
        closed=began.closed,
        bounds=began.bounds,
        agents=Agents.join(agents) if agents else None,
        attributes=began.attributes,
        ending=next((name for name in spec.endings if terms[-1].get(name)), "") if terminated else "",
        seed=seed,
        driver=driver.name,
        start=start,
    )


def _by_kind(seen: list[Any], spec: WorldSpec) -> dict[str, np.ndarray]:
    """Observations `[n + 1, ...]` by kind; of an environment that shows one kind they come without its name."""
    rows = [each if isinstance(each, dict) else {spec.picture: each} for each in seen]
    return {kind: np.stack([row[kind] for row in rows]) for kind in spec.observations}


def collect_shard(
    folder: str | Path,
    index: int,
    recipe: Recipe,
    tell: Callable[[int], Any] | None = None,
) -> None:
    """Records and writes one shard.

    Args:
        folder: the recording folder.
        index: number of the shard.
        recipe: what to record.
        tell: called with the number of steps after each episode.
    """
    with _opened(recipe) as (env, domain, make, code):
        episodes: list[Episode] = []
        left = recipe.shard_steps
        while left > 0:
            rng = np.random.default_rng([recipe.seed, index, len(episodes)])
            episode = record_episode(env, rng, min(recipe.episode_steps, left), recipe.held_out, make, domain)
            episodes.append(episode)
            left -= len(episode)
            if tell is not None:
                tell(len(episode))
    made_from = {"code": code_fingerprint(*CODE, *code), "recipe": asdict(recipe)}
    attrs = {"held_out": recipe.held_out, "env": domain.env_id, "made_from": made_from}
    try:
        write_shard(shard_path(folder, index), episodes, attrs)
    except OSError as error:
        reason = f"{error.strerror} and run the same command again, finished shards are kept"
        raise OSError(error.errno, reason) from error


@contextmanager
def _opened(recipe: Recipe) -> Iterator[tuple[Recordable, DomainConfig, Make, list[str]]]:
    """What is recorded, what it is, who drives, and the modules that they stand in."""
    if recipe.env:
        with closing(AnyEnv(recipe.env, recipe.size, recipe.dt, recipe.settings)) as env:
            driven = [recipe.policy.partition(":")[0]] if recipe.policy else []
            code = [AnyEnv.__module__, package_of(type(env.env.unwrapped).__module__), *driven]
            yield env, env.domain, EnvDrivers(env, recipe.policy), code
        return
    domain = recipe.recorded
    simulator, scripted = load_object(domain.simulator), load_object(domain.drivers)
    shown = (
        {"obs_type": tuple(domain.spec.observations)} if len(find_domain(recipe.domain).spec.observations) > 1 else {}
    )
    if shown and "obs_type" not in signature(simulator).parameters:
        raise ValueError(f"{domain.simulator} takes no obs_type, which says which of {[*shown['obs_type']]} it shows")
    make = AgentDrivers(recipe.policies, domain) if recipe.policies else scripted
    code = [package_of(part.__module__) for part in (simulator, scripted)]
    yield simulator(**recipe.settings, **shown), domain, make, code


def collect_recordings(
    out: str | Path,
    steps: int = 350_000,
    workers: int = 2,
    seed: int = 0,
    episode_steps: int = 300,
    shard_steps: int | None = None,
    held_out: bool = False,
    policies: Sequence[str] = (),
    progress: bool = True,
    domain: str = DEFAULT_WORLD,
    observations: Sequence[str] = (),
    env: str = "",
    policy: str = "",
    size: tuple[int, int] | None = None,
    dt: float | None = None,
    settings: dict[str, Any] | None = None,
) -> list[Path]:
    """Records drives in a simulator, or in any Gymnasium environment; run it again to go on after a stop.

    Args:
        out: Folder of the recording.
        steps: Steps to record, rounded up to whole shards.
        workers: Processes that drive at once.
        seed: Seed of tracks, starts and drivers.
        episode_steps: Steps after which an episode is cut.
        shard_steps: Steps of a shard, which is one file; None: 20 episodes.
        held_out: Whether it is kept for judging, on seeds of its own; trainers refuse such a folder.
        policies: Agents that drive, as `python -m drivedit.agents` knows them; none: the scripted drivers.
        progress: Whether to show a progress bar.
        domain: The simulator, by the name of its domain.
        observations: Names of those that are recorded of a domain; none: all.
        env: Instead of a domain: an environment with pictures and a Box of actions, as gymnasium.make takes it, for
            instance "highway_env:racetrack-v0".
        policy: Who drives in env, module:callable: a function of the observation, or of observation and environment, or
            a class of such, made anew for every episode; empty: random with memory.
        size: Height and width of the pictures of env, multiples of 8; None: near its own, in multiples of 16.
        dt: Seconds of a step of env; None: 1 / its render_fps.
        settings: Arguments of the simulator or of env, for instance '{"colors": 7}'; None: those that it has.

    Returns:
        The paths of all shards.

    Raises:
        ValueError: A number is out of range, an agent is not there, the environment has no pictures or another kind of
            actions, or the folder was recorded with other settings.
        ImportError: What is recorded needs a package that is not installed.
        gymnasium.error.Error: There is no such environment.
        RuntimeError: Another process collects into the folder.
        OSError: There is no room; finished shards are kept.
    """
    out = Path(out)
    if steps < 1 or workers < 1:
        raise ValueError(f"steps and workers must be at least 1, got steps={steps}, workers={workers}")
    shard_steps = shard_steps or 20 * episode_steps
    recipe = Recipe(
        seed,
        episode_steps,
        shard_steps,
        held_out,
        tuple(policies),
        domain,
        tuple(observations),
        env,
        policy,
        size,
        dt,
        settings or {},
    )
    recipe.check()
    paths = [shard_path(out, index) for index in range(-(-steps // recipe.shard_steps))]
    with locked(out / LOCK, f"collecting into {out}", 0):
        for left in out.glob(".shard-*.tmp"):  # of runs that were killed
            left.unlink()
        missing = [index for index, path in enumerate(paths) if not _is_done(path, recipe)]
        total = len(paths) * recipe.shard_steps
        done = total - len(missing) * recipe.shard_steps
        with tqdm(total=total, initial=done, unit=" frame", disable=not progress, smoothing=0.05) as bar:
            if workers == 1:
                for index in missing:
                    collect_shard(out, index, recipe, bar.update)
            elif missing:
                _collect_parallel(out, missing, recipe, workers, bar)
    return paths


def _collect_parallel(out: str | Path, missing: list[int], recipe: Recipe, workers: int, bar: tqdm) -> None:
    """Records the missing shards with a pool of processes."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    start = bar.n
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(counter,)) as pool:
        pending: set[Future[None]] = {pool.submit(_work, str(out), index, recipe) for index in missing}
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(start + counter.value - bar.n)
                for future in finished:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(counter: Any) -> None:
    """Begins a worker and gives it the counter that all share."""
    global _counter
    _counter = counter
    begin_worker()


def _work(out: str, index: int, recipe: Recipe) -> None:
    """One shard, in a worker."""
    collect_shard(out, index, recipe, _count)


def _count(steps: int) -> None:
    """Adds to the shared counter."""
    with _counter.get_lock():
        _counter.value += steps


def _is_done(path: Path, recipe: Recipe) -> bool:
    """Whether a shard exists and is whole; a damaged one is recorded anew, one of another recipe is an error."""
    if not path.exists():
        return False
    try:
        found = read_attrs(path)["made_from"].get("recipe", "an unknown recipe")
        read_shard(path)
    except ShardError as error:
        logger.warning("recording %s anew: %s", path, error)
        return False
    asked = json.loads(json.dumps(asdict(recipe)))
    if not isinstance(found, dict) or {**EARLIER, **found} != asked:
        raise ValueError(
            f"{path} was recorded with {json.dumps(found)}, but {json.dumps(asked)} is asked for; use these settings "
            "or another folder"
        )
    return True
