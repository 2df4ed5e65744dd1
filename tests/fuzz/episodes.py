"""Episodes that tests write and read: of the shipped domain, and one that has everything the format can hold."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from drivedit.config import Modality, Quantity, RewardTerm, WorldSpec
from drivedit.config.domains.carracing import SPEC
from drivedit.data.recordings import Agents, Episode

EVERYTHING = WorldSpec(
    domain="plane",
    observations={"picture": Modality((16, 32, 1)), "range": Modality((4, 8, 2), "float32", 0, 100, "m")},
    controls=[Quantity("left"), Quantity("right"), Quantity("lamp", 0, 1)],
    telemetry=[Quantity("speed", -9, 9, 3, "m/s"), Quantity("charge", 0, 1)],
    rewards={"near": RewardTerm("learned", 2.0), "charge": RewardTerm("telemetry", 0.5)},
    attributes={"weather": ["clear", "fog"], "hour": ["day", "night"]},
    dt=0.1,
    any_dt=True,
    endings={"hit": "it hit something"},
)


def spec_of(height: int, width: int, telemetry: list[str] | None = None, **changes: Any) -> WorldSpec:
    """The shipped domain's spec with pictures of another size, or telemetry of other names."""
    known = {quantity.name: quantity for quantity in SPEC.telemetry}
    names = list(known) if telemetry is None else telemetry
    values = [known.get(name) or Quantity(name, -1e9, 1e9) for name in names]
    return replace(SPEC, observations={"camera": Modality((height, width, 3))}, telemetry=values, **changes)


def made_up(steps: int = 20, seed: int = 0, spec: WorldSpec = SPEC, **changes: Any) -> Episode:
    """An episode of random numbers."""
    rng, n = np.random.default_rng(seed), steps

    def seen(kind: Modality) -> np.ndarray:
        values = rng.uniform(kind.low, kind.high, (n + 1, *kind.shape))
        return values.astype(kind.dtype)

    told: dict[str, Any] = {
        "spec": spec,
        "observations": {name: seen(kind) for name, kind in spec.observations.items()},
        "controls": rng.uniform(-1, 1, (n, len(spec.controls))).astype(np.float32),
        "reward": rng.normal(size=n).astype(np.float32),
        "rewards": {name: rng.random(n).astype(np.float32) for name in spec.rewards},
        "terminated": np.arange(n) == n - 1,
        "telemetry": {name: rng.normal(size=n + 1).astype(np.float32) for name in spec.names("telemetry")},
        "poses": rng.normal(size=(n + 1, 3)),
        "route": rng.normal(size=(30, 2)).astype(np.float32),
        "seed": seed,
        "driver": "test",
        "start": {"speed": 3.0},
        "bounds": np.array([-1, -2, 3, 4], np.float32) if seed % 2 else None,
    }
    return Episode(**{**told, **changes})


def with_everything(steps: int = 5, seed: int = 0) -> Episode:
    """An episode with all that the format can hold."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, steps + 1)
    total = int(counts.sum())
    agents = Agents(
        first=np.cumsum([0, *counts]),
        ids=np.concatenate([rng.permutation(9)[:count] for count in counts]).astype(np.int64),
        boxes=rng.normal(size=(total, 7)).astype(np.float32),
        kinds=rng.integers(0, 2, total),
        names=("car", "bicycle"),
    )
    return made_up(
        steps, seed, EVERYTHING, times=np.cumsum(rng.uniform(0.05, 0.2, steps + 1)), agents=agents, closed=False,
        attributes={"weather": "fog", "hour": "night"}, ending="hit",
    )  # fmt: skip


def same(first: Episode, second: Episode) -> bool:
    """Whether two episodes are equal in everything, NaN for NaN."""
    try:
        np.testing.assert_equal(asdict(first), asdict(second))
    except AssertionError:
        return False
    return True
