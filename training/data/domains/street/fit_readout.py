"""Fits what reads the street: `python -m drivedit.data.domains.street.fit_readout --recordings FOLDER`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import avg_pool2d, smooth_l1_loss
from tqdm import trange

from drivedit.data.clips import Drives
from drivedit.data.domains.street.light import WEATHERS
from drivedit.data.domains.street.readout import AHEAD, NEAR, SCALES, SENSES, Sense
from drivedit.data.domains.street.roads import draw_road, lane_middle
from drivedit.data.domains.street.truth import route, speed_limit
from drivedit.utils import write_atomically
from drivedit.utils.commands import run

FINE = 127  # steps of a unit that inputs are kept in
WIDEST = 0.5  # rad: no farther to a side are points of the lane read, and no farther points the car


def targets(drives: Drives, drive: int) -> np.ndarray:
    """What is to be read of each observation of a drive, float32 `[n + 1, len(SCALES)]` in their units."""
    attributes, at = drives.attributes[drive], drives.states(drive)
    road = draw_road(np.random.default_rng([int(drives.seeds[drive]), 0]), attributes["road"])
    weather = WEATHERS[attributes["weather"]]
    shift = drives.routes[drive][0] - route(road, int(drives.told("lane")[at.start]))[0]  # of the plane
    told = {name: drives.told(name)[at] for name in ("lane", "lateral_offset", "speed", "gap", "closing_speed")}
    rows = []
    for n, (x, y, yaw) in enumerate(drives.pose[at] - (*shift, 0.0)):
        s, _ = road.locate(float(x), float(y))
        middle = lane_middle(road.shape, float(told["lane"][n]))
        row = [told["lateral_offset"][n]]
        for ahead in AHEAD:
            tx, ty, _ = road.place(s + ahead, middle)
            angle = (yaw - math.atan2(ty - y, tx - x) + math.pi) % (2 * math.pi) - math.pi
            row.append(min(max(angle, -WIDEST), WIDEST))
        row += [told["speed"][n], NEAR / (NEAR + told["gap"][n]), told["closing_speed"][n]]
        rows.append([*row, speed_limit(road, s, weather.pace, weather.grip), weather.grip])
    return (np.array(rows) / list(SCALES.values())).astype(np.float32)


def load(recordings: str | Path, sense: Sense, every: int) -> tuple[Tensor, Tensor]:
    """Inputs, int8 of `FINE` steps a unit, and targets, of every so many steps of recordings."""
    drives = Drives.open(recordings, kinds=[sense.kind])
    inputs, wanted = [], []
    for drive in trange(len(drives), desc="reading"):
        wheels, heading = (drives.told(name)[drives.states(drive)] for name in ("wheels_on_road", "heading_error"))
        at = np.arange(1, len(wheels), every)
        at = at[(wheels[at] > 0) & (np.abs(heading[at]) < WIDEST)]
        seen = torch.from_numpy(np.array(drives.observations[sense.kind][drives.states(drive)]))
        inputs.append((FINE * sense.as_input(seen[at], seen[at - 1])).round().clamp(-127, 127).to(torch.int8))
        wanted.append(torch.from_numpy(targets(drives, drive)[at]))
    return torch.cat(inputs), torch.cat(wanted)


def _spoilt(inputs: Tensor, brightness: float, rng: torch.Generator) -> Tensor:
    """Inputs as others draw them: brighter or darker, some blurred or noisy."""
    inputs = inputs * (1.0 + brightness * (2.0 * torch.rand((len(inputs), 1, 1, 1), generator=rng) - 1.0))
    some = slice(0, len(inputs) // 3)
    inputs[some] = avg_pool2d(inputs[some], 3, 1, 1, count_include_pad=False)
    some = slice(len(inputs) // 4, len(inputs) // 2)
    inputs[some] += 0.02 * torch.randn(inputs[some].shape, generator=rng)
    return inputs


def batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Random rows without end, each as often as any other."""
    while True:
        yield from torch.randperm(count, generator=rng)[: count // size * size].split(size)


def fit_readout(recordings: str, kind: str = "camera", steps: int = 4000, size: int = 64, rate: float = 4e-3,
                every: int = 2, seed: int = 0, out: Path | None = None) -> None:  # fmt: skip
    """Fits a network that reads the street, and prints its errors on observations that it was not fitted to.

    Args:
        recordings: Folder of recordings of the street; the last twentieth of their steps is kept for the errors.
        kind: The observation that it reads: camera or range.
        steps: Steps of gradient descent.
        size: Observations of a step.
        rate: Learning rate.
        every: Every so many recorded steps are learned from.
        seed: Seed of weights and order.
        out: The file to write; None: the one that is read from.

    Raises:
        ValueError: Nothing reads observations of this kind.
    """
    if kind not in SENSES:
        raise ValueError(f"kind must be one of {', '.join(SENSES)}, got {kind!r}")
    sense = SENSES[kind]
    inputs, wanted = load(recordings, sense, every)
    kept, rng = len(inputs) - len(inputs) // 20, torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = sense.network()
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    order, bar = batches(kept, size, rng), trange(steps, desc="fitting")
    for step in bar:
        rows = next(order)
        seen = _spoilt(inputs[rows].float() / FINE, sense.brightness, rng).contiguous(memory_format=torch.channels_last)
        loss = smooth_l1_loss(network(seen), wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    with torch.inference_mode():
        network.eval()
        found = torch.cat([network(part.float() / FINE) for part in inputs[kept:].split(500)])
    for k, (name, scale) in enumerate(SCALES.items()):
        true = wanted[kept:, k].numpy() * scale
        wrong = np.abs(found[:, k].numpy() * scale - true)
        print(f"{name:15} median error {np.median(wrong):.3f}, spread of what is true {true.std():.3f}")
    weights = {name: each.detach().contiguous() for name, each in network.state_dict().items()}
    write_atomically(out or sense.weights, lambda file: file.write(save(weights)))


def main(words: list[str] | None = None) -> int:
    """Fits it by the options of a command line; returns the exit status."""
    return run(fit_readout, words, program="python -m drivedit.data.domains.street.fit_readout")


if __name__ == "__main__":
    sys.exit(main())
