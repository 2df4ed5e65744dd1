"""Which coupling, and how much equivariance? Sums of k sines, whose parameters are known, answer it.

Fields differ in their equivariance and in the coupling of noise and data that they train under; beside them a network
that tells the parameters themselves is trained. All see the same fresh signals of a seed, and are judged on the same
signals, from the same noise. A figure is the squared error of a number under the cheapest assignment of tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from drivedit.config import LoopConfig
from drivedit.data.ksin import ksin_params, make_sin
from drivedit.models.sets.cnn import SpectrumCNN
from drivedit.models.sets.ksin import EQUIVARIANCES, ksin_flow
from drivedit.models.sets.tokens import assignment_distance
from drivedit.training.loop import train
from drivedit.training.methods.sets import SetFlowMethod, SetRegression
from drivedit.training.runs import run_folder
from drivedit.utils import generator, seeded, write_atomically

COUPLINGS: dict[str, bool | str] = {"independent": False, "batch": True, "alignment": "token"}
REGRESSION, ALIGNED, PLAIN = "regression", "alignment", "independent"
SYMMETRIES = ("symmetric", "broken")
STEPS = (1, 2, 4, 8, 16, 32)  # of Heun's method, two calls each
LENGTH = 128  # samples of a signal
CHANNELS = (16, 24, 32)  # of the encoder
JUDGED = 789  # seed of the signals to judge on


@dataclass(frozen=True)
class Cell:
    """One training of the study."""

    k: int
    symmetry: str
    equivariance: str
    coupling: str
    seed: int

    def name(self) -> str:
        """Its name, which is that of its run."""
        return "-".join(map(str, asdict(self).values()))


@dataclass(frozen=True)
class Size:
    """How much is trained and judged: optimizer steps, items of a batch, items to judge on, width, layers."""

    steps: int
    batch: int
    items: int
    width: int
    layers: int


def ksin(
    ks: Sequence[int] = (2, 4, 8), symmetries: Sequence[str] = SYMMETRIES, equivariances: Sequence[str] = EQUIVARIANCES,
    couplings: Sequence[str] = (REGRESSION, *COUPLINGS), seeds: int = 3, steps: int = 1500, batch: int = 128,
    items: int = 1024, width: int = 64, layers: int = 2, out: str = "runs/ksin", quick: bool = False,
) -> str:  # fmt: skip
    """Compares couplings and equivariances on sums of sines, and says what that shows.

    Args:
        ks: Numbers of sines.
        symmetries: "symmetric", and "broken": each sine has a band of its own.
        equivariances: "exact", "learnt" and "none".
        couplings: "regression", "independent", "batch" and "alignment".
        seeds: Trainings of each.
        steps: Optimizer steps of a training.
        batch: Items of a batch.
        items: Items to judge on.
        width: Of the fields.
        layers: Of the fields.
        out: Folder of the study, which goes on where it stopped.
        quick: Whether all is tiny, to see that it runs; the figures mean nothing then.

    Raises:
        ValueError: An unknown name, or the folder holds a study of another size.
    """
    allowed = {"symmetries": SYMMETRIES, "equivariances": EQUIVARIANCES, "couplings": (REGRESSION, *COUPLINGS)}
    for name, given in {"symmetries": symmetries, "equivariances": equivariances, "couplings": couplings}.items():
        if unknown := [each for each in given if each not in allowed[name]]:
            raise ValueError(f"{name} must be among {', '.join(allowed[name])}, got {', '.join(unknown)}")
    if seeds < 1 or not ks or min(ks) < 1:
        raise ValueError(f"there must be a seed, and ks above 0; got {seeds} and {list(ks)}")
    size = Size(4, 8, 16, 16, 1) if quick else Size(steps, batch, items, width, layers)
    every = product(ks, symmetries, equivariances, couplings, range(seeds))
    chosen = list(
        dict.fromkeys(  # a regression is one and the same for all fields
            Cell(k, symmetry, "none" if coupling == REGRESSION else equivariance, coupling, seed)
            for k, symmetry, equivariance, coupling, seed in every
        )
    )
    with run_folder(out, "cpu") as folder:
        found = _study(chosen, size, folder)
        text = f"{as_table(found)}\n\n" + "\n".join(in_words(found))
        write_atomically(folder / "ksin.md", lambda file: file.write(f"{text}\n".encode()))
    return text


def _study(cells: list[Cell], size: Size, out: Path) -> dict[Cell, dict[str, float]]:
    """The figures of cells: those that are noted in `ksin.json`, and the others, each noted when it is there."""
    path = out / "ksin.json"
    noted = json.loads(path.read_text()) if path.exists() else {"size": asdict(size), "cells": {}}
    if noted["size"] != asdict(size):
        raise ValueError(f"{path} is a study of {noted['size']}, not of {asdict(size)}; take another folder")
    for cell in tqdm([each for each in cells if each.name() not in noted["cells"]], desc="k-sin", unit=" training"):
        noted["cells"][cell.name()] = run(cell, size, out)
        write_atomically(path, lambda file: file.write(json.dumps(noted, indent=1).encode()))
        shutil.rmtree(out / cell.name(), ignore_errors=True)
    return {cell: noted["cells"][cell.name()] for cell in cells}


def run(cell: Cell, size: Size, out: Path) -> dict[str, float]:
    """Trains a cell, and judges it: the cost by the number of solver steps (of a regression they are all one)."""

    def signals(params: Tensor) -> Tensor:
        return make_sin(params, LENGTH, cell.symmetry == "broken")

    def batch(rng: torch.Generator) -> dict[str, Tensor]:
        params = torch.rand(size.batch, 2 * cell.k, generator=rng) * 2 - 1
        return {"params": params, "observation": signals(params)}

    with seeded(generator(cell.seed, "weights")):
        if cell.coupling == REGRESSION:
            method = SetRegression(SpectrumCNN(LENGTH, 2 * cell.k, CHANNELS, 2 * size.width))
        else:
            flow = ksin_flow(
                cell.k, LENGTH, cell.equivariance, d_model=size.width, num_layers=size.layers, d_ff=2 * size.width,
                conditioning_dim=size.width, channels=CHANNELS, cfg_dropout_rate=0.0,
            )  # fmt: skip
            method = SetFlowMethod(flow, COUPLINGS[cell.coupling])
    loop = LoopConfig(
        steps=size.steps, lr=2e-3, batch_size=size.batch, bf16=False, seed=cell.seed, log_every=100, ema=0.99
    )
    best = train(method, batch, loop, out / cell.name(), about={"cell": asdict(cell), "size": asdict(size)}).eval()
    params = ksin_params(JUDGED, size.items, cell.k)
    noise = torch.randn(params.shape, generator=generator(0, "k-sin, judged"))
    return {str(steps): _cost(best, signals(params), noise, params, steps) for steps in STEPS}


@torch.no_grad()
def _cost(method: torch.nn.Module, observed: Tensor, noise: Tensor, params: Tensor, steps: int) -> float:
    """Mean squared error of a number, tokens being assigned."""
    if isinstance(method, SetFlowMethod):
        told = method.flow.sample(observed, noise, steps, solver="heun")
    else:
        assert isinstance(method, SetRegression)
        told = method.encoder(observed)
    return assignment_distance(told, params, 2, squared=True).mean().item() / 2


def _means(found: Mapping[Cell, Mapping[str, float]]) -> Iterator[tuple[tuple[int, str, str, str], list[list[float]]]]:
    """(k, symmetry, equivariance, coupling), and the figures of its seeds."""
    kinds = dict.fromkeys((cell.k, cell.symmetry, cell.equivariance, cell.coupling) for cell in found)
    for kind in kinds:
        rows = [list(value.values()) for c, value in found.items()
                if (c.k, c.symmetry, c.equivariance, c.coupling) == kind]  # fmt: skip
        yield kind, rows


def as_table(found: Mapping[Cell, Mapping[str, float]]) -> str:
    """Means over seeds, and the least and the largest of them at the most steps."""
    head = " | ".join(f"{steps} step{'s' * (steps > 1)}" for steps in STEPS)
    lines = [f"| k | symmetry | equivariance | trained by | {head} | range |", "|--:|---|---|---|" + "--:|" * 7]
    for (k, symmetry, equivariance, coupling), rows in _means(found):
        means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
        values = means if coupling != REGRESSION else means[-1:] + [None] * 5
        last = [row[-1] for row in rows]
        told = " | ".join("" if value is None else f"{value:.4f}" for value in values)
        kind = "" if coupling == REGRESSION else equivariance
        lines.append(f"| {k} | {symmetry} | {kind} | {coupling} | {told} | {min(last):.4f} to {max(last):.4f} |")
    return "\n".join(lines)


def in_words(found: Mapping[Cell, Mapping[str, float]]) -> list[str]:
    """What the figures show, in sentences; costs are compared seed by seed."""
    rows = dict(_means(found))
    said = []
    for k, symmetry, equivariance in dict.fromkeys(kind[:3] for kind in rows):
        own = {name: rows.get((k, symmetry, equivariance, name)) for name in COUPLINGS}
        plain, aligned = own[PLAIN], own[ALIGNED]
        if plain is None:
            continue
        where = f"k = {k}, {symmetry}, equivariance {equivariance}"
        for name, other in own.items():
            if name != PLAIN and other is not None:
                ratios = [b[-1] / a[-1] for a, b in zip(plain, other, strict=True)]
                less = sum(ratio < 1 for ratio in ratios)
                said.append(f"{where}: {name} costs {_mean(ratios):.3f} of independent coupling at {STEPS[-1]} steps; "
                            f"it is below it for {less} of {len(ratios)} seeds.")  # fmt: skip
        if aligned is not None:
            early = _mean([b[STEPS.index(4)] / a[-1] for a, b in zip(plain, aligned, strict=True)])
            said.append(f"{where}: 4 steps after alignment cost {early:.3f} of {STEPS[-1]} of independent coupling.")
        for told in [row for kind, row in rows.items() if kind[:2] == (k, symmetry) and kind[3] == REGRESSION]:
            best = aligned or plain
            ratio = _mean([a[-1] / b[-1] for a, b in zip(best, told, strict=True)])
            name = ALIGNED if aligned else PLAIN
            said.append(f"{where}: the flow ({name}) costs {ratio:.3f} of regression, which is "
                        f"{'better' if ratio < 1 else 'worse'} here.")  # fmt: skip
    return said


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
