"""The `pixel` stage: a generator of start scenes, learned from recordings; writes OUT/pixel/scenes.safetensors.

Legend: S states, n frames of a scene, A attributes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from drivedit.config import DataConfig, LoopConfig, SceneGeneratorConfig, ScenesStageConfig, WorldSpec
from drivedit.data.clips import Drives
from drivedit.evaluation.metrics.figures import laplacian_energy
from drivedit.models.pixel.generator import OPEN, SceneGenerator
from drivedit.training.loop import Batch, train
from drivedit.training.methods.scenes import ScenesMethod
from drivedit.training.runs import run_folder
from drivedit.training.sources import Unpacked, check_recordings, open_source
from drivedit.training.stages import RUN, is_main, told
from drivedit.training.steps import Figures
from drivedit.utils import generator, motion_between, resolve_device, seeded

log = logging.getLogger(__name__)
SCENES = "scenes.safetensors"  # in the folder of the stage
PARTS = ("observations", "attributes", "dt")  # of a spec that a generator knows
AT_ONCE = 32  # scenes of which figures are told


def pixel(
    scenes: SceneGeneratorConfig, train_: LoopConfig, data: DataConfig, loss: ScenesStageConfig, out: str = RUN,
    device: str = "auto",
) -> SceneGenerator:  # fmt: skip
    """Trains a generator of start scenes and writes OUT/pixel/scenes.safetensors.

    Meant to be run with a preset (--config).

    Args:
        scenes: The generator; a spec of its own must be that of the recordings.
        train_: The loop.
        data: The recordings.
        loss: What is withheld, and what figures are told of.
        out: Folder of the run; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...

    Raises:
        FileNotFoundError: There is no recording.
        ValueError: The recordings are read as a stream, are of another spec than is wanted, their pictures do not
            divide into patches, or all drives are too short.
    """
    where = resolve_device(device)
    if data.stream:
        raise ValueError("a generator of scenes learns from unpacked recordings: leave out data.stream")
    check_recordings(data)
    with run_folder(out, where) as folder:
        source = open_source(data, where, data.picture)
        assert isinstance(source, Unpacked)
        spec = pictured_spec(source.drives.spec)
        if scenes.spec.observations:
            scenes.spec.check_same(spec, "scenes.spec", "the recordings", PARTS)
        config = replace(scenes, spec=spec)
        with seeded(generator(train_.seed, "weights")):
            network = SceneGenerator(config)
        moments = Moments.of(source.drives, network)
        batch, held = batches(moments, source.looked_at[1], train_.batch_size, loss.judged)
        count = sum(weight.numel() for weight in network.parameters())
        log.info("pixel: %.2f M parameters, %d moments to learn from", count / 1e6, len(moments.last))
        about = {"scenes": config.to_dict(), "loss": loss.to_dict(), "data": source.about(data)}
        best = train(
            ScenesMethod(network, loss), batch, train_, folder / "pixel", device=where, about=about,
            validate=lambda method: held_figures(method, held),  # type: ignore[arg-type]
            judge="-velocity",
        )  # fmt: skip
        assert isinstance(best, ScenesMethod)
        if is_main(where):
            best.scenes.save(folder / "pixel" / SCENES)
            log.info("pixel: %s", told(held_figures(best, held)))
    return best.scenes


def pictured_spec(spec: WorldSpec) -> WorldSpec:
    """What a generator has of the spec of recordings: the picture, the attributes and the time of a step."""
    return WorldSpec(spec.domain, spec.only([spec.picture]).observations, attributes=spec.attributes, dt=spec.dt)


@dataclass(frozen=True)
class Moments:
    """What recordings show of every state that has enough others before it.

    Attributes:
        frames: The pictures of all states, uint8 `[S, H, W, C]`, memory-mapped.
        last: The states, each the last frame of a scene, `[M]`.
        back: Steps from the last frame of a scene to each of its frames `[n]`, zero at the end.
        values: What `SceneGenerator.values` tells of each drive, `[E, A]`.
        speeds: Of the car along its heading at every state, m/s, float32 `[S]`; NaN where it is not known.
        drive: The number of the drive of every state, `[S]`.
    """

    frames: np.ndarray
    last: np.ndarray
    back: np.ndarray
    values: np.ndarray
    speeds: np.ndarray
    drive: np.ndarray

    @classmethod
    def of(cls, drives: Drives, scenes: SceneGenerator) -> Moments:
        """Looks through drives, whose spec is the generator's.

        Raises:
            ValueError: No drive is long enough.
        """
        config, lengths = scenes.config, np.diff(drives.first)
        drive = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(drive)) - drives.first[drive]
        last = np.flatnonzero(place >= max(config.steps_back, 1))
        if not len(last):
            raise ValueError(
                f"a scene spans {max(config.steps_back, 1)} steps (scenes.frames, scenes.apart), the longest drive has "
                f"{lengths.max() - 1}"
            )
        pose, times, speeds = np.asarray(drives.pose), np.asarray(drives.times), np.full(len(drive), np.nan, np.float32)
        forward = motion_between(torch.from_numpy(pose[last - 1]), torch.from_numpy(pose[last]))[:, 0].numpy()
        speeds[last] = forward / (times[last] - times[last - 1])
        values = np.array([scenes.values(told) for told in drives.attributes], np.int64).reshape(len(lengths), -1)
        back = config.apart * np.arange(config.frames - 1, -1, -1)
        return cls(drives.frames, last, back, values, speeds, drive)

    def batch(self, last: np.ndarray) -> Batch:
        """The scenes that end at some states."""
        arrays: dict[str, Any] = {
            "frames": np.array(self.frames[last[:, None] - self.back]), "values": self.values[self.drive[last]],
            "speeds": self.speeds[last],
        }  # fmt: skip
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def batches(
    moments: Moments, checked: np.ndarray, rows: int, judged: int
) -> tuple[Callable[[torch.Generator], Batch], Batch]:
    """What draws batches of scenes to learn from, and scenes that are only looked at.

    Raises:
        ValueError: There is no moment to learn from, or none to look at.
    """
    held_back = np.isin(moments.drive[moments.last], checked)
    learned, held = moments.last[~held_back], moments.last[held_back]
    if not len(learned) or not len(held):
        raise ValueError(f"scenes of drives to learn from and to look at are needed, got {len(learned)} and "
                         f"{len(held)}; record longer drives")  # fmt: skip

    def batch(rng: torch.Generator) -> Batch:
        index = torch.randint(len(learned), (rows,), generator=rng).numpy()
        return moments.batch(np.sort(learned[index]))

    return batch, moments.batch(np.unique(held[np.linspace(0, len(held) - 1, judged).astype(int)]))


@torch.no_grad()
def held_figures(method: ScenesMethod, held: Batch) -> Figures:
    """Figures of scenes that are only looked at.

    Returns:
        `velocity`: squared error of the velocity, told everything; `untold`: told nothing, with the same noise;
        `sharpness` and `motion`: of scenes that are drawn, told what as many of these are, over that of these: energy
        of edges, and how much brightness changes from the first frame to the last.
    """
    scenes, was = method.scenes, method.training
    method.eval()
    device, errors = scenes.no_speed.device, np.zeros(2)
    for at in range(0, len(held["speeds"]), AT_ONCE):
        frames, values, speeds = (each[at : at + AT_ONCE].to(device) for each in held.values())
        nothing = torch.full_like(values, OPEN), torch.full_like(speeds, torch.nan)
        for place, known in enumerate(((values, speeds), nothing)):
            rng = generator(0, "scenes, judged", at)
            errors[place] += len(frames) * float(method.error(frames, *known, rng)["vloss"])
    figures: Figures = dict(zip(("velocity", "untold"), errors / len(held["speeds"]), strict=True))
    chosen = np.linspace(0, len(held["speeds"]) - 1, method.config.drawn).astype(int)
    drawn = scenes.draw(held["values"][chosen], held["speeds"][chosen], generator(0, "scenes, drawn"))
    true = held["frames"][chosen].numpy()
    for name, measure in (("sharpness", laplacian_energy), ("motion", _moved)):
        made, real = (measure(each) for each in (drawn, true))
        figures[name] = made / max(real, 1e-9)
    method.train(was)
    return figures


def _moved(frames: np.ndarray) -> float:
    """Mean change of brightness from the first frame to the last, of `[B, n, H, W, C]`."""
    return float(np.abs(frames[:, -1].astype(np.float32) - frames[:, 0]).mean())
