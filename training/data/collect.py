"""Records drives of many skills with several processes.

Every shard is a function of (seed, shard number) alone, so a recording does not depend on the number of workers, and
a run that was stopped goes on where it was: shards that exist and are whole are kept.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from drivedit.config.domains.carracing import ENV_ID, SPEC
from drivedit.data.agent_drivers import AgentDriver, AgentDrivers
from drivedit.data.domains.carracing.drivers import make_driver
from drivedit.data.domains.carracing.twin import FIRST_HELD_OUT_SEED, CarRacingTwin
from drivedit.data.geometry import CentreLine
from drivedit.data.recordings import Episode, ShardError, read_attrs, read_shard, shard_path, write_shard
from drivedit.utils import begin_worker, code_fingerprint, locked

CODE = (__name__, *(f"drivedit.data.{name}" for name in ("agent_drivers", "domains.carracing", "geometry")))
LOCK = ".collect.lock"  # in the folder of the recording
logger = logging.getLogger(__name__)

Make = Callable[[np.random.Generator], tuple["AnyDriver", dict[str, float]]]

_counter: Any = None  # frames recorded by all workers; set in each worker


class AnyDriver(Protocol):
    """Whoever drives an episode of a recording."""

    @property
    def name(self) -> str:
        """What is stored with the episode."""
        ...

    def act(self, pose: np.ndarray, telemetry: dict[str, float], line: CentreLine, frame: np.ndarray) -> np.ndarray:
        """Steering and throttle, float32 [2], from the pose, the telemetry, the centre line and the picture."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What the content of a shard depends on, beside its number.

    Attributes:
        seed: seed of the recording.
        episode_steps: steps after which an episode is cut.
        shard_steps: steps per shard.
        held_out: whether tracks come from the seeds kept for judging.
        policies: names of the agents that drive; none: the scripted drivers of `drivedit.data`.
    """

    seed: int = 0
    episode_steps: int = 300
    shard_steps: int = 6000
    held_out: bool = False
    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("episode_steps", "shard_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


def record_episode(
    env: CarRacingTwin, rng: np.random.Generator, steps: int, held_out: bool = False, make: Make = make_driver
) -> Episode:
    """Records one drive by a driver drawn from `rng`.

    Args:
        env: the twin; it is reset.
        rng: the only source of chance.
        steps: the most steps; fewer if the car leaves the playfield.
        held_out: whether the track comes from the held-out seeds.
        make: draws the driver and the start of its episode (reset options of the twin).
    """
    seed = int(rng.integers(FIRST_HELD_OUT_SEED)) + (FIRST_HELD_OUT_SEED if held_out else 0)
    driver, start = make(rng)
    frame, info = env.reset(seed=seed, options=start)
    frames, poses, telemetry = [frame], [env.pose], [info["telemetry"]]
    controls, rewards, terms = [], [], []
    line, terminated = env.centre_line, False
    while len(controls) < steps and not terminated:
        action = driver.act(poses[-1], telemetry[-1], line, frames[-1])
        frame, reward, terminated, _, info = env.step(action)
        frames.append(frame)
        poses.append(env.pose)
        telemetry.append(info["telemetry"])
        controls.append(action)
        rewards.append(reward)
        terms.append(info["reward_terms"])
    ends = [name for name in SPEC.endings if terms[-1][name]] if terminated else []
    return Episode(
        spec=SPEC,
        observations={SPEC.picture: np.stack(frames)},
        controls=np.stack(controls).astype(np.float32),
        reward=np.array(rewards, dtype=np.float32),
        rewards={name: np.array([row[name] for row in terms], np.float32) for name in SPEC.rewards},
        terminated=np.arange(len(controls)) == (len(controls) - 1 if terminated else -1),
        telemetry={name: np.array([row[name] for row in telemetry], np.float32) for name in SPEC.names("telemetry")},
        poses=np.stack(poses),
        route=env.route,
        bounds=env.bounds,
        ending=ends[0] if ends else "",
        seed=seed,
        driver=driver.name,
        start=start,
    )


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
    env, make = CarRacingTwin(), AgentDrivers(recipe.policies) if recipe.policies else make_driver
    episodes: list[Episode] = []
    left = recipe.shard_steps
    while left > 0:
        rng = np.random.default_rng([recipe.seed, index, len(episodes)])
        episode = record_episode(env, rng, min(recipe.episode_steps, left), recipe.held_out, make)
        episodes.append(episode)
        left -= len(episode)
        if tell is not None:
            tell(len(episode))
    made_from = {"code": code_fingerprint(*CODE), "recipe": asdict(recipe)}
    attrs = {"held_out": recipe.held_out, "env": ENV_ID, "made_from": made_from}
    try:
        write_shard(shard_path(folder, index), episodes, attrs)
    except OSError as error:
        reason = f"{error.strerror} and run the same command again, finished shards are kept"
        raise OSError(error.errno, reason) from error


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
) -> list[Path]:
    """Fills a folder with recordings; run it again to go on after a stop.

    Args:
        out: the folder.
        steps: steps to record, rounded up to whole shards.
        workers: processes.
        seed: seed of the recording.
        episode_steps: steps after which an episode is cut (0.06 s each).
        shard_steps: steps per shard; 20 episodes unless given.
        held_out: record tracks that are kept for judging; trainers refuse such a folder.
        policies: names of the agents that drive, see `drivedit.agents.load_agent`; none: the scripted drivers.
        progress: show a progress bar.

    Returns:
        The paths of all shards.

    Raises:
        ValueError: A number is out of range, an agent is not there, or the folder was recorded with other settings.
        RuntimeError: Another process collects into the folder.
        OSError: There is no room; finished shards are kept.
    """
    out = Path(out)
    if steps < 1 or workers < 1:
        raise ValueError(f"steps and workers must be at least 1, got steps={steps}, workers={workers}")
    recipe = Recipe(seed, episode_steps, shard_steps or 20 * episode_steps, held_out, tuple(policies))
    for policy in recipe.policies:
        AgentDriver(policy, 0.0, np.random.default_rng(0))  # is it there?
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
    if not isinstance(found, dict) or {"policies": [], **found} != asked:
        raise ValueError(
            f"{path} was recorded with {json.dumps(found)}, but {json.dumps(asked)} is asked for; use these settings "
            "or another folder"
        )
    return True
