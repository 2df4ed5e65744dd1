"""Teaches the reader from the twin: `python -m drivedit.data.domains.street.teach`, half an hour of one core.

It learns from true pictures of seeds that no judgement uses; half of them are blurred a little, as dreams are.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from drivedit.config.domains.street import DOMAIN, SPEC
from drivedit.data.domains.street.drivers import make_driver
from drivedit.data.domains.street.reader import (
    ATTRIBUTES,
    HALF_NEAR,
    UNITS,
    VALUES,
    WEIGHTS,
    Reader,
    as_input,
    new_reader,
)
from drivedit.data.domains.street.truth import StreetTruth
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.utils import generator, seeded, write_atomically
from drivedit.utils.commands import run

Lessons = dict[str, np.ndarray]
STEPS, EVERY = 28, 4
FIRST, APART = 500_000, 7919  # seeds
WEIGHT_OF_CARS = 8.0
IMPORTANCE = (4.0, 1.0, 1.0, 1.0, 3.0, 0.5)  # of the values


def lessons(episodes: int, first: int, seed: int, quiet: bool = False) -> Lessons:
    """Pictures in pairs, and what is true of the second one of each.

    Args:
        episodes: Short drives, each from somewhere else.
        first: Seed of the first; the others count on.
        seed: Of drivers and starts.
        quiet: Show no progress.

    Returns:
        `pictures` and `before` uint8 `[N, H, W, 3]`, `cars` bool `[N, H, W]`, `values` `[N, V]` in their units, and a
        number for each of `ATTRIBUTES`, `[N, 3]`.
    """
    twin, rng, found = StreetTwin(), np.random.default_rng(seed), []
    for episode in trange(episodes, desc="lessons", disable=quiet, mininterval=5):
        driver, start = make_driver(rng)
        if rng.random() < 0.5:
            start["attributes"]["traffic"] = "dense"
        astray = rng.random() < 0.4
        if astray:
            start |= {"lateral_offset": float(rng.normal(0, 2.0)), "heading_error": float(rng.normal(0, 0.2))}
        picture, _ = twin.reset(seed=(first + APART * episode) % DOMAIN.held_out_from, options=start)
        shake = np.zeros(2)
        for step in range(STEPS):
            shake = 0.9 * shake + rng.normal(0, (0.05, 0.3)) * (0.44 if astray else 0.1)
            was, before = twin.truth(), picture
            action = np.clip(driver.act(was, before) + shake, -1, 1).astype(np.float32)
            picture, _, ended, _, _ = twin.step(action)
            if ended:
                break
            if step % EVERY == EVERY - 1:
                found.append({"pictures": picture, "before": before, **_told(twin, was)})
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


def _told(twin: StreetTwin, was: StreetTruth) -> Lessons:
    """What is true of a moment, the one before it given."""
    truth = twin.truth()
    assert truth.pose is not None and was.pose is not None
    turn = (was.pose[2] - truth.pose[2] + math.pi) % (2 * math.pi) - math.pi
    told = {**truth.telemetry, "nearness": 1 / (1 + truth.telemetry["gap"] / HALF_NEAR), "turn": turn}
    return {
        "cars": twin.instances() > 0,
        "values": np.array([told[name] for name in VALUES], np.float32) / np.array(UNITS, np.float32),
        "attributes": np.array([SPEC.attributes[name].index(truth.attributes[name]) for name in ATTRIBUTES]),
    }


def teach(taught: Lessons, reader: Reader, steps: int, batch: int = 32, rate: float = 4e-3, seed: int = 0) -> Reader:
    """A reader that has learned from lessons."""
    rng = np.random.default_rng(seed)
    reader.train()
    optimizer = torch.optim.AdamW(reader.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    bar = trange(steps, desc="teaching", mininterval=5)
    for step in bar:
        rows = rng.integers(len(taught["pictures"]), size=batch)
        now, before = as_input(taught["pictures"][rows]), as_input(taught["before"][rows])
        alone = torch.from_numpy(rng.random(batch) < 0.25)
        before = torch.where(alone[:, None, None, None], now, before)
        now, before = (each.to(memory_format=torch.channels_last) for each in _worse(now, before, rng))
        lost = loss(reader, now, before, {name: taught[name][rows] for name in ("cars", "values", "attributes")}, alone)
        optimizer.zero_grad()
        lost.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"{float(lost):.3f}")
    return reader.eval()


def loss(reader: Reader, now: Tensor, before: Tensor, true: Lessons, alone: Tensor) -> Tensor:
    """How wrong a reader is; turn and speed do not count where pictures are `alone` `[N]`."""
    cars, values, kinds = reader(now, before)
    weight = torch.tensor(IMPORTANCE).repeat(len(values), 1)
    weight[:, [VALUES.index("turn"), VALUES.index("speed")]] *= 1.0 - alone.float()[:, None]
    wrong = (weight * F.smooth_l1_loss(values, torch.from_numpy(true["values"]), reduction="none", beta=0.5)).mean()
    seen = torch.from_numpy(true["cars"]).float()
    where = F.binary_cross_entropy_with_logits(cars, seen, pos_weight=torch.tensor(2.0))
    parts = kinds.split([len(SPEC.attributes[name]) for name in ATTRIBUTES], 1)
    pairs = zip(parts, torch.from_numpy(true["attributes"]).T, strict=True)
    return 2 * wrong + WEIGHT_OF_CARS * where + 0.2 * sum(F.cross_entropy(part, truth) for part, truth in pairs)


def _worse(now: Tensor, before: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of pictures, half of them blurred, with a little noise."""
    pair = torch.cat([now, before])
    if rng.random() < 0.5:
        side = float(rng.uniform(0.05, 0.25))
        kernel = torch.tensor([side, 1 - 2 * side, side])
        kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
        pair = F.conv2d(F.pad(pair, (1, 1, 1, 1), "replicate"), kernel, groups=3)
    return tuple((pair + 0.01 * torch.randn_like(pair)).chunk(2))  # type: ignore[return-value]


def teach_reader(episodes: int = 2000, steps: int = 4000, out: Path = WEIGHTS) -> None:
    """Teaches the reader of the street's pictures from true ones, and writes its weights.

    Args:
        episodes: Short drives to learn from.
        steps: Steps of gradient descent.
        out: The file to write.
    """
    taught = lessons(episodes, FIRST, 0)
    with seeded(generator(0, "reader")):
        reader = teach(taught, new_reader(), steps)
    weights = {name: value.half().contiguous() for name, value in reader.state_dict().items()}
    write_atomically(out, lambda file: file.write(save(weights)))
    print(f"{out}: {sum(value.numel() for value in reader.parameters())} weights")


def main(words: list[str] | None = None) -> int:
    """Teaches it by the options of a command line; returns the exit status."""
    return run(teach_reader, words, program="python -m drivedit.data.domains.street.teach")


if __name__ == "__main__":
    raise SystemExit(main())
