"""Where true driving comes from, as names; work on the simulator in several processes; and the cache of its results."""

from __future__ import annotations

import logging
import sys
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from drivedit.config import DomainConfig, WorldSpec, find_domain
from drivedit.config.rooms import SHIPS
from drivedit.utils import (
    Probes,
    Simulator,
    begin_worker,
    code_fingerprint,
    fingerprint,
    load_object,
    package_of,
    write_atomically,
)

log = logging.getLogger(__name__)

RECORDING = tuple(
    f"drivedit.evaluation.{name}"
    for name in ("twin_drives", "twin_far", "twin_others", "metrics.drift", "metrics.others")
)  # make all drives
MADE_FROM = "made_from"  # name beside the arrays
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sources:
    """Names of what drives, and of what is driven.

    Attributes:
        domain: Name of the domain whose simulator is driven; empty: that of the world that is judged.
        dream: Gymnasium id of the environment of dreamed worlds.
        driver: Who drives in closed loop and sees only pictures, `driver(frame) -> action`: a policy of the domain by
            its name, or "module:name" of what makes one; empty: the policy that the domain's probes name.
        seed: Seed of everything drawn.
        workers: Processes that drive the simulator.
    """

    domain: str = ""
    dream: str = f"{SHIPS}:DriveDiT-v0"
    driver: str = ""
    seed: int = 0
    workers: int = 2

    def of(self, spec: WorldSpec) -> Sources:
        """These, with the domain of a world's spec and that domain's driver where none is named."""
        named = replace(self, domain=self.domain or spec.domain)
        return replace(named, driver=named.driver or named.probes.driver)

    @property
    def config(self) -> DomainConfig:
        """The domain."""
        return find_domain(self.domain)

    @property
    def probes(self) -> Probes:
        """What is asked of the simulator."""
        return load_object(self.config.probes)

    @property
    def policies(self) -> dict[str, Callable[[int], Any]]:
        """The policies of the domain by name, each made from a seed."""
        return load_object(self.config.policies) if self.config.policies else {}

    def make_twin(self, shown: str | None = None) -> Simulator:
        """The simulator, without Gymnasium's wrappers; where it has several, it shows one kind of observation."""
        several = shown is not None and len(self.config.spec.observations) > 1
        return load_object(self.config.simulator)(**{"obs_type": shown} if several else {})

    def make_dream(self, world: Any, **options: Any) -> Any:
        """The environment of a world, without Gymnasium's wrappers."""
        return gym.make(self.dream, world=world, disable_env_checker=True, **options).unwrapped

    def make_dreams(self, world: Any, count: int, **options: Any) -> Any:
        """An environment of several dreams at once."""
        return gym.make_vec(self.dream, num_envs=count, world=world, **options).unwrapped

    def find_driver(self) -> Callable[..., Any]:
        """What makes the driver: a policy of the domain from a seed, what stands at "module:name" from nothing.

        Raises:
            ValueError: There is no such driver.
        """
        if self.driver in self.policies:
            return self.policies[self.driver]
        if ":" not in self.driver:
            names = ", ".join(self.policies)
            raise ValueError(f'a driver in {self.domain} is one of {names} or "module:name", got {self.driver!r}')
        return load_object(self.driver)

    def make_driver(self) -> Any:
        """A driver at the beginning of an episode."""
        make = self.find_driver()
        return restarted(make(0) if self.driver in self.policies else make())

    def rng(self, stream: int, index: int) -> np.random.Generator:
        """The generator of one piece of work."""
        return np.random.default_rng([self.seed, stream, index])


def restarted(driver: Any) -> Any:
    """A driver that begins an episode; one that remembers nothing has no `reset`."""
    getattr(driver, "reset", lambda: None)()
    return driver


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
    config = sources.config
    makers = [load_object(config.simulator), load_object(config.drivers), sources.find_driver()]
    made = [package_of(module) for module in (config.probes.partition(":")[0], *(each.__module__ for each in makers))]
    code = code_fingerprint(*RECORDING, *made)
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
