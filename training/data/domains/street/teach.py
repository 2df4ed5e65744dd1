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
    FARTHEST,
    NEAR,
    SKY,
    UNITS,
    VALUES,
    WEIGHTS,
    Reader,
    as_input,
    new_reader,
    the_reader,
)
from drivedit.data.domains.street.truth import StreetTruth
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.utils import generator, seeded, write_atomically
from drivedit.utils.commands import run

Lessons = dict[str, np.ndarray]
STEPS, EVERY = 28, 4
FOLLOWING = ("clean", "close")  # plans of those who drive behind others
PEDALS = (1.0, 0.0, -1.0)  # that they hold now and then
NEARER = (math.log(2.0), math.log(60.0))  # logs of gaps (m) that the one ahead is moved to
HALF_LONG = 2.2  # m, of the driven car
FIRST, APART = 500_000, 7919  # seeds
WEIGHT_OF_CARS = 8.0
WEIGHT_OF_PLACES = 0.3
WIDE, SELDOM = 0.4, 100  # ranges of log_gap, in its unit, that are drawn equally often; fewer lessons are not
TRUE = ("cars", "ahead", "values", "attributes")  # of lessons
IMPORTANCE = (4.0, 1.0, 1.0, 1.0, 3.0, 0.5)  # of the values


def lessons(episodes: int, first: int, seed: int, quiet: bool = False, behind: bool = False) -> Lessons:
    """Pictures in pairs, and what is true of the second one of each.

    Args:
        episodes: Short drives, each from somewhere else.
        first: Seed of the first; the others count on.
        seed: Of drivers and starts.
        quiet: Show no progress.
        behind: Whether all keep to their lane, among many others, and hold a pedal now and then.

    Returns:
        `pictures` and `before` uint8 `[N, H, W, 3]`, `cars` bool `[N, H, W]`, `ahead` bool of the same shape, the
        pixels of the one ahead, `values` `[N, V]` in their units, and a number for each of `ATTRIBUTES`, `[N, 3]`.
    """
    twin, rng, found = StreetTwin(), np.random.default_rng(seed), []
    for episode in trange(episodes, desc="lessons", disable=quiet, mininterval=5):
        driver, start = make_driver(rng)
        while behind and driver.plan not in FOLLOWING:
            driver, start = make_driver(rng)
        if behind or rng.random() < 0.5:
            start["attributes"]["traffic"] = "dense"
        astray = not behind and rng.random() < 0.4
        held = float(rng.choice(PEDALS)) if behind and rng.random() < 0.6 else None
        if astray:
            start |= {"lateral_offset": float(rng.normal(0, 2.0)), "heading_error": float(rng.normal(0, 0.2))}
        picture, _ = twin.reset(seed=(first + APART * episode) % DOMAIN.held_out_from, options=start)
        shake = np.zeros(2)
        for step in range(STEPS):
            if behind and step in (0, STEPS // 2):
                _come_near(twin, math.exp(rng.uniform(*NEARER)))
            shake = 0.9 * shake + rng.normal(0, (0.05, 0.3)) * (0.44 if astray else 0.1)
            was, before = twin.truth(), picture
            action = np.clip(driver.act(was, before) + shake, -1, 1).astype(np.float32)
            if held is not None and step >= STEPS // 3:
                action[1] = held
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
    told = {**truth.telemetry, "turn": turn}
    told["log_gap"] = math.log1p(min(truth.telemetry["gap"], FARTHEST) / NEAR)
    shown = twin.instances()
    return {
        "cars": shown > 0,
        "ahead": (shown == _ahead(truth)) & (shown > 0),
        "values": np.array([told[name] for name in VALUES], np.float32) / np.array(UNITS, np.float32),
        "attributes": np.array([SPEC.attributes[name].index(truth.attributes[name]) for name in ATTRIBUTES]),
    }


def _come_near(twin: StreetTwin, gap: float) -> None:
    """Moves the one ahead, if there is one, so that the gap to it is what is asked for (m)."""
    truth, state = twin.truth(), twin.get_state()
    cars = state["past"][-1].cars
    row = cars["id"] == _ahead(truth)
    if _ahead(truth) and row.any():
        cars["s"][row] += (gap - truth.telemetry["gap"]) * cars["way"][row]
        twin.set_state(state)


def _ahead(truth: StreetTruth) -> int:
    """The number of the car that the gap is to; 0 where nobody is ahead."""
    gap = truth.telemetry["gap"]
    if truth.agents is None or gap >= FARTHEST:
        return 0
    lengths = dict(zip(truth.agents.ids.tolist(), truth.agents.boxes[:, 3].tolist(), strict=True))
    off = {each.id: abs(each.ahead - gap - HALF_LONG - lengths.get(each.id, math.inf) / 2)
           for each in truth.neighbours if each.ahead > 0}  # fmt: skip
    nearest = min(off, key=lambda number: off[number], default=0)
    return nearest if nearest and off[nearest] < 1.0 else 0


def teach(
    taught: Lessons, reader: Reader, steps: int, batch: int = 32, rate: float = 4e-3, seed: int = 0,
    gap_alone: bool = False,
) -> Reader:  # fmt: skip
    """A reader that has learned from lessons; all of it, or what tells the gap while the rest stays as it is."""
    rng = np.random.default_rng(seed)
    reader.train(not gap_alone).requires_grad_(not gap_alone)
    reader.ahead.requires_grad_(True)
    optimizer = torch.optim.AdamW(filter(lambda each: each.requires_grad, reader.parameters()), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    bar, chances = trange(steps, desc="teaching", mininterval=5), _chances(taught) if gap_alone else None
    for step in bar:
        rows = rng.choice(len(taught["pictures"]), size=batch, p=chances)
        now, before = as_input(taught["pictures"][rows]), as_input(taught["before"][rows])
        alone = torch.from_numpy(rng.random(batch) < 0.25)
        before = torch.where(alone[:, None, None, None], now, before)
        now, before = (each.to(memory_format=torch.channels_last) for each in _worse(now, before, rng))
        lost = loss(reader, now, before, {name: taught[name][rows] for name in TRUE}, alone)
        optimizer.zero_grad()
        lost.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"{float(lost.detach()):.3f}")
    return reader.eval()


def _chances(taught: Lessons) -> np.ndarray:
    """How often each lesson is to be drawn `[N]`, so that all gaps are about as frequent; most drives keep far away."""
    ranges = (taught["values"][:, 0] / WIDE).astype(int)
    often = 1.0 / np.maximum(np.bincount(ranges), SELDOM)[ranges]
    return often / often.sum()


def loss(reader: Reader, now: Tensor, before: Tensor, true: Lessons, alone: Tensor) -> Tensor:
    """How wrong a reader is; turn and speed do not count where pictures are `alone` `[N]`."""
    cars, values, kinds, places = reader(now, before)
    weight = torch.tensor(IMPORTANCE).repeat(len(values), 1)
    weight[:, [VALUES.index("turn"), VALUES.index("speed")]] *= 1.0 - alone.float()[:, None]
    wanted = torch.from_numpy(true["values"])
    wrong = (weight * F.smooth_l1_loss(values, wanted, reduction="none", beta=0.5)).mean()
    seen = torch.from_numpy(true["cars"]).float()
    where = F.binary_cross_entropy_with_logits(cars, seen, pos_weight=torch.tensor(2.0))
    parts = kinds.split([len(SPEC.attributes[name]) for name in ATTRIBUTES], 1)
    pairs = zip(parts, torch.from_numpy(true["attributes"]).T, strict=True)
    told = 0.2 * sum(F.cross_entropy(part, truth) for part, truth in pairs)
    return 2 * wrong + WEIGHT_OF_CARS * where + told + WEIGHT_OF_PLACES * _misplaced(places, true)


def _misplaced(places: Tensor, true: Lessons) -> Tensor:
    """How unlikely the places that show the one ahead are, or nobody where nobody is; who is hidden does not count."""
    shown = F.max_pool2d(torch.from_numpy(true["ahead"])[:, None, SKY:].float(), 2).flatten(1)
    nobody = torch.from_numpy(true["values"])[:, :1] * UNITS[0] >= math.log1p(FARTHEST / NEAR) - 1e-4
    wanted = torch.cat([shown > 0, nobody], 1)
    found = places.log_softmax(1).masked_fill(~wanted, -math.inf)[wanted.any(1)]
    return -found.logsumexp(1).sum() / len(places)


def _worse(now: Tensor, before: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of pictures, half of them blurred, with a little noise."""
    pair = torch.cat([now, before])
    if rng.random() < 0.5:
        side = float(rng.uniform(0.05, 0.25))
        kernel = torch.tensor([side, 1 - 2 * side, side])
        kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
        pair = F.conv2d(F.pad(pair, (1, 1, 1, 1), "replicate"), kernel, groups=3)
    return tuple((pair + 0.01 * torch.randn_like(pair)).chunk(2))  # type: ignore[return-value]


def teach_reader(episodes: int = 2000, steps: int = 4000, gap_alone: bool = False, out: Path = WEIGHTS) -> None:
    """Teaches the reader of the street's pictures from true ones, and writes its weights.

    Args:
        episodes: Short drives to learn from.
        steps: Steps of gradient descent.
        gap_alone: Whether the reader of the package learns the gap to the one ahead anew, from drives behind others,
            and the rest stays as it is.
        out: The file to write.
    """
    taught = lessons(episodes, FIRST, 0, behind=gap_alone)
    with seeded(generator(0, "reader")):
        reader = the_reader() if gap_alone else new_reader()
        teach(taught, reader, steps, gap_alone=gap_alone)
    weights = {name: value.half().contiguous() for name, value in reader.state_dict().items()}
    write_atomically(out, lambda file: file.write(save(weights)))
    print(f"{out}: {sum(value.numel() for value in reader.parameters())} weights")


def main(words: list[str] | None = None) -> int:
    """Teaches it by the options of a command line; returns the exit status."""
    return run(teach_reader, words, program="python -m drivedit.data.domains.street.teach")


if __name__ == "__main__":
    raise SystemExit(main())
