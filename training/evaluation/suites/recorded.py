"""What a world makes of held-out drives, clip by clip: no simulator is needed, only drives that it has not seen.

It dreams on from moments of true drives, under the controls that were recorded and under others: what it makes of the
true ones must be nearer to the truth than what it makes of another drive's, or of the same steering mirrored.

Legend: N clips, T frames ahead.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from drivedit.evaluation.dreams import Dream, dream, reconstruct
from drivedit.evaluation.held_out import Clips
from drivedit.evaluation.metrics.figures import laplacian_energy, squared_error, turns
from drivedit.evaluation.suites.open_loop import HORIZONS, SHORT
from drivedit.models import World

AHEAD = 20  # frames of the dreams under other controls, and of the turns
TURNED = 15  # frames of the dreams that are steered to a side
SIDES = ("left", "straight", "right")
BATCH = 16  # clips at a time
SHOWN = 8  # clips whose pictures are kept
ALIKE = 0.02  # mean difference of controls that are taken for the same
SHARP_AT = (1, 10, 20, 50)


@dataclass
class Measured:
    """What was measured of each clip; NaN where the clip is too short, or the recording does not know.

    Attributes:
        errors: Mean squared errors `[N, T]` of `dream` and `copy`; of `autoencoder` at `HORIZONS`; for `AHEAD` frames
            of `other` controls, of `mirrored` steering, and of the dream that is `free` of the route, if there is one.
        energy: Laplacian energy `[N, T]` of the `true` and the `dream`'s pictures, at `SHARP_AT`.
        ended: Probability `[N, T]` that the `dream` ends there, and whether the `true` drive does.
        dreamed: By name `[N]`: `reward` and mean `confidence` of `SHORT` frames, `turn` (rad) and `distance` (m) of
            `AHEAD`, `turn_left`, ... of `TURNED`, every telemetry value after `SHORT`.
        true: The same of the recording, as far as it knows.
        kept: Every telemetry value of the present moment.
        apart: Root mean squared difference of pictures `[N]` after `SHORT` frames: of the dreams to the `sides`, and of
            two `futures` under the same controls.
        shown: Pictures of some clips: `true` `[T + 1, H, W, 3]` from the present on, `dream` `[T, H, W, 3]`, and the
            dreams to the `sides` `[3, H, W, 3]` after `TURNED` frames.
    """

    errors: dict[str, np.ndarray]
    energy: dict[str, np.ndarray]
    ended: dict[str, np.ndarray]
    dreamed: dict[str, np.ndarray]
    true: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]
    apart: dict[str, np.ndarray]
    shown: dict[str, dict[int, np.ndarray]]

    @classmethod
    def empty(cls, clips: int, horizon: int, telemetry: list[str]) -> Measured:
        """Nothing measured yet."""

        def table(*names: str) -> dict[str, np.ndarray]:
            return {name: np.full((clips, horizon), np.nan) for name in names}

        def column(*names: str) -> dict[str, np.ndarray]:
            return {name: np.full(clips, np.nan) for name in names}

        names = ("reward", "confidence", "turn", "distance", *(f"turn_{side}" for side in SIDES), *telemetry)
        return cls(
            errors=table("dream", "copy", "autoencoder", "other", "mirrored", "free"),
            energy=table("true", "dream"),
            ended=table("true", "dream"),
            dreamed=column(*names),
            true=column(*names),
            kept=column(*telemetry),
            apart=column("sides", "futures"),
            shown={name: {} for name in ("true", "dream", "sides")},
        )


def largest_steering(clips: Clips) -> float:
    """How far the recorded drives steer to a side: the 95th percentile of |steering|; 0 where no control steers."""
    steering = clips.held.drives.spec.steers()
    if steering is None:
        return 0.0
    return float(np.quantile(np.abs(np.asarray(clips.held.drives.control)[:, steering]), 0.95))


def measure(world: World, clips: Clips, sampling_steps: int | None = None, quiet: bool = False) -> Measured:
    """Dreams all clips on, and measures them.

    Args:
        world: The world.
        clips: The clips.
        sampling_steps: Network passes per frame; None: the world's own number.
        quiet: Show no progress.
    """
    found = Measured.empty(len(clips), int(clips.steps.max()), world.spec.names("telemetry"))
    shown = set(np.linspace(0, len(clips) - 1, min(SHOWN, len(clips))).round().astype(int).tolist())
    with tqdm(total=len(clips), desc="dreaming", unit=" clip", disable=quiet, file=sys.stderr, mininterval=1) as bar:
        for at in range(0, len(clips), BATCH):
            rows = list(range(at, min(at + BATCH, len(clips))))
            dreams = Dreams(world, clips, rows, sampling_steps)
            _under_true_controls(dreams, found, shown)
            _under_other_controls(dreams, found)
            _to_the_sides(dreams, found, shown)
            bar.update(len(rows))
    return found


class Dreams:
    """Dreams of some clips of a world.

    Args:
        world: The world.
        clips: All clips.
        rows: The ones to dream.
        sampling_steps: Network passes per frame; None: the world's own number.
    """

    def __init__(self, world: World, clips: Clips, rows: list[int], sampling_steps: int | None) -> None:
        self.world, self.clips, self.rows, self.sampling_steps = world, clips, rows, sampling_steps
        self.controls = [clips.ahead(row, clips.held.drives.control) for row in rows]
        self.scenes = [clips.scene(row, world.spec) for row in rows]

    def under(self, controls: list[np.ndarray], seed: int = 0, free: bool = False) -> Dream:
        """Dreams under controls `[T, C]` of each clip; shorter ones go on as they end, which is not to be looked at."""
        longest = max(len(part) for part in controls)
        padded = np.stack([np.pad(part, ((0, longest - len(part)), (0, 0)), mode="edge") for part in controls])
        scenes = [self.clips.scene(row, self.world.spec, True) for row in self.rows] if free else self.scenes
        return dream(
            self.world, scenes, padded.astype(np.float32), seed=seed + self.rows[0],
            sampling_steps=self.sampling_steps, batch=len(scenes), quiet=True,
        )  # fmt: skip


def _under_true_controls(dreams: Dreams, found: Measured, shown: set[int]) -> None:
    """The long dream, against the recording, against its last frame kept, and against the autoencoder."""
    clips, names = dreams.clips, dreams.world.spec.names("telemetry")
    drives = clips.held.drives
    dreamed = dreams.under(dreams.controls)
    for place, row in enumerate(dreams.rows):
        steps = int(clips.steps[row])
        true, seen = clips.ahead(row, drives.frames, now=True), dreamed.frames[place, :steps]
        found.errors["dream"][row, :steps] = squared_error(seen, true[1:])
        found.errors["copy"][row, :steps] = squared_error(true[:1], true[1:])
        at = np.array([horizon for horizon in HORIZONS if horizon <= steps])
        found.errors["autoencoder"][row, at - 1] = squared_error(reconstruct(dreams.world, true[at]), true[at])
        for horizon in (horizon for horizon in SHARP_AT if horizon <= steps):
            found.energy["true"][row, horizon - 1] = laplacian_energy(true[horizon])
            found.energy["dream"][row, horizon - 1] = laplacian_energy(seen[horizon - 1])
        found.ended["dream"][row, :steps] = dreamed.ended[place, :steps]
        found.ended["true"][row, :steps] = clips.ahead(row, drives.ended)
        if row in shown:
            found.shown["true"][row], found.shown["dream"][row] = true, seen
        if steps >= SHORT:
            earned = [clips.ahead(row, drives.earned(name))[:SHORT].sum() for name in dreams.world.spec.learned()]
            found.dreamed["reward"][row], found.true["reward"][row] = dreamed.reward[place, :SHORT].sum(), sum(earned)
            found.dreamed["confidence"][row] = dreamed.confidence[place, :SHORT].mean()
            for column, name in enumerate(names):
                found.dreamed[name][row] = dreamed.telemetry[place, SHORT - 1, column]
                told = clips.ahead(row, drives.telemetry[name], now=True)
                found.true[name][row], found.kept[name][row] = told[SHORT], told[0]
        if steps >= AHEAD:
            here = dreams.scenes[place].poses_or_start()[-1:]
            moved = (
                np.concatenate([here, dreamed.poses[place, :AHEAD]]),
                clips.ahead(row, drives.pose, now=True)[: AHEAD + 1],
            )
            for side, poses in zip((found.dreamed, found.true), moved, strict=True):
                side["turn"][row] = turns(poses[:, 2]).sum()
                side["distance"][row] = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1).sum()


def _under_other_controls(dreams: Dreams, found: Measured) -> None:
    """Short dreams from the same moments with the same noise: of another clip's controls, mirrored, without a route."""
    clips, count = dreams.clips, len(dreams.clips)
    drives = clips.held.drives
    short = [part[:AHEAD] for part in dreams.controls]
    others = [clips.ahead((row + (count + 1) // 2) % count, drives.control)[:AHEAD] for row in dreams.rows]
    steers = np.arange(len(drives.spec.controls)) == drives.spec.steers()
    mirror = np.where(steers, -1, 1).astype(np.float32)
    kinds = {"other": others, "mirrored": [part * mirror for part in short]}
    kinds |= {"free": short} if any(scene.route is not None for scene in dreams.scenes) else {}
    for name, controls in kinds.items():
        dreamed = dreams.under(controls, free=name == "free")
        for place, row in enumerate(dreams.rows):
            steps = min(len(controls[place]), len(short[place]))
            if name != "free" and np.abs(controls[place][:steps] - short[place][:steps]).mean() < ALIKE:
                continue  # controls that are nearly the same tell nothing
            true = clips.ahead(row, drives.frames)[:steps]
            found.errors[name][row, :steps] = squared_error(dreamed.frames[place, :steps], true)


def _to_the_sides(dreams: Dreams, found: Measured, shown: set[int]) -> None:
    """Dreams to the left, straight on and to the right from the same moments, and another future straight on."""
    steer = largest_steering(dreams.clips)
    if not steer:
        return
    steering = dreams.clips.held.drives.spec.steers()
    usual = np.stack([part[:TURNED].mean(0) for part in dreams.controls])

    def held(side: float) -> list[np.ndarray]:
        controls = np.repeat(usual[:, None], TURNED, 1)
        controls[..., steering] = side
        return list(controls)

    left, straight, right = (dreams.under(held(side * steer)) for side in (-1, 0, 1))
    again = dreams.under(held(0.0), seed=10_000)
    pairs = {"sides": (left, right), "futures": (straight, again)}
    for place, row in enumerate(dreams.rows):
        for name, (one, two) in pairs.items():
            error = squared_error(one.frames[place, SHORT - 1], two.frames[place, SHORT - 1])
            found.apart[name][row] = np.sqrt(error)
        here = dreams.scenes[place].poses_or_start()[-1, 2]
        for side, dreamed in zip(SIDES, (left, straight, right), strict=True):
            found.dreamed[f"turn_{side}"][row] = turns(np.append(here, dreamed.poses[place, :, 2])).sum()
        if row in shown:
            found.shown["sides"][row] = np.stack([d.frames[place, -1] for d in (left, straight, right)])
