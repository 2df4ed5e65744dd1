"""Where true driving comes from, as names; work on the twin in several processes; and the cache of its results."""

from __future__ import annotations

import importlib
import logging
import sys
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from drivedit.utils import begin_worker, code_fingerprint, fingerprint, package_of, write_atomically

log = logging.getLogger(__name__)

FIRST_HELD_OUT_SEED = 1_000_000  # tracks from here on are never trained on
RECORDING = tuple(
    f"drivedit.evaluation.{name}" for name in ("twin_drives", "metrics.drift", "metrics.pictures")
)  # make all drives
MADE_FROM = "made_from"  # name beside the arrays
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sources:
    """Names of what drives, and of what is driven; "module:name" each.

    Attributes:
        twin: Gymnasium id of the real simulator.
        dream: Gymnasium id of the environment of dreamed worlds.
        recorder: Draws (driver, reset options) from a generator, for recordings of every skill.
        driver: Makes a driver that sees only pictures: `driver(frame) -> action`, `driver.reset()`.
        seed: Seed of everything drawn.
        workers: Processes that drive the twin.
    """

    twin: str = "drivedit_env:CarRacingTwin-v0"
    dream: str = "drivedit_env:DriveDiT-v0"
    recorder: str = "drivedit.data:make_driver"
    driver: str = "drivedit.agents:LaneKeeper"
    seed: int = 0
    workers: int = 2

    def make_twin(self) -> Any:
        """The simulator, without Gymnasium's wrappers."""
        return gym.make(self.twin, disable_env_checker=True).unwrapped

    def make_dream(self, world: Any, **options: Any) -> Any:
        """The environment of a world, without Gymnasium's wrappers."""
        return gym.make(self.dream, world=world, disable_env_checker=True, **options).unwrapped

    def make_driver(self) -> Any:
        """A driver at the beginning of an episode."""
        driver = load_object(self.driver)()
        driver.reset()
        return driver

    def rng(self, stream: int, index: int) -> np.random.Generator:
        """The generator of one piece of work."""
        return np.random.default_rng([self.seed, stream, index])


def load_object(name: str) -> Any:
    """Imports "module:name".

    Raises:
        ValueError: The name has another form, or there is no such thing.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f'expected "module:name", for example "drivedit.agents:LaneKeeper", got {name!r}')
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"cannot find {name!r} ({error}); give the name of an importable object") from error


def work(
    function: Callable[[Any], Arrays], jobs: Sequence[Any], workers: int, label: str, quiet: bool = False
) -> list[Arrays]:
    """Results of `function` for each job in their order, in several processes when `workers` is more than 1."""
    bar = tqdm(total=len(jobs), desc=label, disable=quiet, file=sys.stderr, mininterval=1)
    results = []
    with bar:
        if workers == 1 or len(jobs) == 1:
            for job in jobs:
                results.append(function(job))
                bar.update()
        else:
            with ProcessPoolExecutor(workers, get_context("spawn"), begin_worker) as pool:
                for result in pool.map(function, jobs):
                    results.append(result)
                    bar.update()
    return results


def stack(results: Sequence[Arrays]) -> Arrays:
    """Stacks arrays of the same name; routes (of different lengths) are padded with NaN."""
    longest = max(len(result["route"]) for result in results)
    padded = [{**r, "route": np.pad(r["route"], ((0, longest - len(r["route"])), (0, 0)), constant_values=np.nan)}
              for r in results]  # fmt: skip
    return {name: np.stack([result[name] for result in padded]) for name in padded[0]}


def unpad(route: np.ndarray) -> np.ndarray:
    """A route `[M, 2]` without the padding of `stack`."""
    return route[np.isfinite(route[:, 0])]


def cached(folder: Path, name: str, sources: Sources, sizes: dict[str, Any], build: Callable[[], Arrays]) -> Arrays:
    """Arrays of an earlier run in `folder`, or built now and kept there.

    They are kept by the sources and the sizes, and built anew when the code that they came from has changed: of the
    recording, of the simulator and of the drivers.
    """
    names = {key: value for key, value in asdict(sources).items() if key not in ("dream", "workers")}
    path = folder / f"{name}-{fingerprint(names, sizes)}.npz"
    makers = (type(sources.make_twin()), load_object(sources.recorder), load_object(sources.driver))
    code = code_fingerprint(*RECORDING, *(package_of(maker.__module__) for maker in makers))
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            if str(arrays.pop(MADE_FROM, "")) == code:
                return arrays
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s), its drives are recorded anew", path, error)
    arrays = build()
    kept = {**arrays, MADE_FROM: np.array(code)}
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **kept))
    return arrays
