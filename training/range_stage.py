"""The `range` stage: a world of range images in continuous time, in one training; writes OUT/range/world."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn

from drivedit.config import DataConfig, LoopConfig, RangeStageConfig, RangeWorldConfig
from drivedit.data.clips import Drives
from drivedit.data.recordings import joint_spec, read_folder_attrs
from drivedit.evaluation.suites.scans import ScanClips, dream_scans, moments_of, scan_figures, told_figures
from drivedit.models import RangeWorld
from drivedit.models.sde.ranges import encode_range
from drivedit.training.cards import Recorded, write_card
from drivedit.training.ego import fit_ego
from drivedit.training.loop import train
from drivedit.training.methods.range import DEPTH, LEAST, RangeMethod
from drivedit.training.range_clips import RangeClips, fit_range, range_image
from drivedit.training.runs import run_folder
from drivedit.training.scenes import pick_scenes
from drivedit.training.stages import RUN, begin_with, is_main, told
from drivedit.training.steps import Figures
from drivedit.utils import extra, generator, resolve_device, seeded

with extra("train", "training"):
    from accelerate import PartialState

log = logging.getLogger(__name__)
CONTEXT = 8  # controls before a clip that is judged
SCENES = 16  # most start scenes
QUANTILES = (0.05, 0.99)  # of the errors at which confidence is 1 and 0


def range_world(
    world: RangeWorldConfig, train_: LoopConfig, data: DataConfig, loss: RangeStageConfig, out: str = RUN,
    begin: str = "", device: str = "auto",
) -> RangeWorld:  # fmt: skip
    """Trains a world of range images in continuous time and writes OUT/range/world.

    It learns from recordings that have them, at intervals of one to several recorded frames. Meant to be run with a
    preset (--config).

    Args:
        world: The world to be.
        train_: The loop.
        data: The recordings; `data.picture` names the range image where there are several.
        loss: The loss.
        out: Folder of the run; an interrupted run goes on.
        begin: A world whose weights it begins with, for instance to learn other recordings; "": none.
        device: Where it trains: auto, cpu, cuda, ...

    Raises:
        ValueError: The recordings are read as a stream, have no range image, or are too short.
    """
    where = resolve_device(device)
    if data.stream:
        raise ValueError("a world of range images learns from unpacked recordings: leave out data.stream")
    spec = joint_spec([attrs["spec"] for attrs in read_folder_attrs(data.root, held_out=False)])
    kind = range_image(spec, data.picture)
    with run_folder(out, where) as folder:
        RangeWorld.check_place(folder / "range" / "world")
        with PartialState(cpu=where.type == "cpu").main_process_first():
            drives = Drives.open(data.root, kinds=[kind])
        chosen, checked = drives.split(data.validation_fraction)
        world = fit_range(world, drives, loss.strides, kind)
        with seeded(generator(train_.seed, "weights")):
            result = RangeWorld(world).to(where)
        begin_with(result, begin)
        clips = RangeClips(drives, world, chosen, loss.context + loss.lead + loss.clip_frames - 1, loss.strides)
        held = ScanClips.of(
            drives, moments_of(drives, checked, CONTEXT, loss.horizon, loss.judged), CONTEXT, loss.horizon, world.spec
        )
        log.info("picking start scenes")
        scenes = pick_scenes(drives, checked, world, SCENES)
        if not (folder / "range" / "last.pt").exists():  # or it is there
            fit_ego(result.ego, clips.tracks, chosen, checked, loss.ego_steps, train_.seed)
        count = sum(weight.numel() for weight in result.parameters())
        log.info("range: %.2f M parameters, %d moments to learn from", count / 1e6, len(clips.ends))

        def batch(rng: torch.Generator) -> dict[str, torch.Tensor]:
            return clips.draw(train_.batch_size, rng)

        about = {"world": world.to_dict(), "loss": loss.to_dict(), "begin": begin}
        recorded = Recorded.of(drives, len(checked))
        about["data"] = {"fingerprint": recorded.fingerprint, "drives": recorded.drives,
                         "validation_fraction": data.validation_fraction}  # fmt: skip
        best = train(
            RangeMethod(result, loss), batch, train_, folder / "range", device=where, about=about,
            validate=lambda method: figures(method, held), judge=f"-chamfer_{max(held.horizons):g}s",
        )  # fmt: skip
        assert isinstance(best, RangeMethod)
        result = best.world.eval()
        log.info("calibrating the confidence on dreams of recorded drives")
        measured = calibrated(result, held)
        log.info("range: %s", told(measured))
        if is_main(where):
            result.scenes = scenes
            write_card(result, "range", about, train_, data, recorded, measured)
            result.save_pretrained(folder / "range" / "world")
    return result


@torch.no_grad()
def figures(method: nn.Module, held: ScanClips) -> Figures:
    """Held-back figures of dreams, beside copying and the moved last scan."""
    assert isinstance(method, RangeMethod)
    world, was = method.world, method.training
    method.eval()
    dreamed = dream_scans(world, held.scenes, held.controls)
    found = scan_figures(world.beams, held, dreamed, every=4) | told_figures(world.beams, held, dreamed)
    method.train(was)
    return {name: value for name, value in found.items() if np.isfinite(value)}


@torch.no_grad()
def calibrated(world: RangeWorld, held: ScanClips) -> Figures:
    """Sets the errors at which a world's confidence is 1 and 0, of what it dreams; gives its last figures."""
    dreamed = dream_scans(world, held.scenes, held.controls)
    true, found = (encode_range(torch.from_numpy(each), world.config.reach) for each in (held.scans[:, 1:],
                                                                                        dreamed.scans))  # fmt: skip
    there = (true[:, :, 1] > 0).float()
    off = ((found - true)[:, :, 0].abs() * there).sum((2, 3)) / there.sum((2, 3)).clamp(min=1) / DEPTH
    logs = off.clamp(min=LEAST).log().flatten()
    low, high = torch.quantile(logs, logs.new_tensor(QUANTILES)).tolist()
    world.error_range.copy_(torch.tensor([low, max(high, low + 1e-3)]))
    found = scan_figures(world.beams, held, dreamed, every=4) | told_figures(world.beams, held, dreamed)
    return {name: value for name, value in found.items() if np.isfinite(value)}
