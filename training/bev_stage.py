"""The `bev` stage: a world that keeps the ground around the car and renders it; writes OUT/bev/world."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from drivedit.config import BevStageConfig, BevWorldConfig, DataConfig, LoopConfig
from drivedit.config.bev import GAP
from drivedit.data.clips import Drives, clip_starts
from drivedit.data.known import Facts, known_spec, seen_spec, the_picture
from drivedit.data.recordings import joint_spec, read_folder_attrs
from drivedit.evaluation.metrics.figures import laplacian_energy, psnr, squared_error
from drivedit.models import BevWorld, Scene
from drivedit.training.bev_clips import BevClips
from drivedit.training.calibration import calibrate
from drivedit.training.cards import Recorded, write_card
from drivedit.training.ego import Tracks, fit_ego
from drivedit.training.loop import train
from drivedit.training.methods.bev import BevMethod
from drivedit.training.methods.ground import GroundMethod
from drivedit.training.runs import run_folder
from drivedit.training.scenes import pick_scenes, scene_at
from drivedit.training.stages import RUN, begin_with, is_main, told
from drivedit.training.steps import Figures
from drivedit.training.traffic import fit_traffic
from drivedit.utils import extra, generator, resolve_device, seeded

with extra("train", "training"):
    from accelerate import PartialState

log = logging.getLogger(__name__)
AHEAD = (1, 10, 20, 50)  # frames ahead that figures are told of


def bev_world(
    world: BevWorldConfig, train_: LoopConfig, data: DataConfig, loss: BevStageConfig, out: str = RUN,
    begin: str = "", device: str = "auto",
) -> BevWorld:  # fmt: skip
    """Trains a world of a camera in a car and writes OUT/bev/world.

    Meant to be run with a preset (--config): defaults alone make another network.

    Args:
        world: The world to be.
        train_: The loop.
        data: The recordings, with poses; `data.picture` names the picture where there are several.
        loss: The loss.
        out: Folder of the run; an interrupted run goes on.
        begin: A world whose weights it begins with, for instance to learn other recordings; "": none.
        device: Where it trains: auto, cpu, cuda, ...

    Raises:
        ValueError: The recordings are read as a stream, have no picture or no poses, or are too short.
    """
    where = resolve_device(device)
    if data.stream:
        raise ValueError("this kind of world learns from unpacked recordings: leave out data.stream")
    spec = joint_spec([attrs["spec"] for attrs in read_folder_attrs(data.root, held_out=False)])
    kind = the_picture(spec, world.spec.picture if world.spec.observations else data.picture)
    with run_folder(out, where) as folder:
        BevWorld.check_place(folder / "bev" / "world")
        with PartialState(cpu=where.type == "cpu").main_process_first():
            drives = Drives.open(data.root, kinds=[kind])
        world = fit_bev(world, drives.facts())
        if not np.isfinite(np.asarray(drives.pose)).all():
            raise ValueError("this kind of world learns from recordings whose poses are known in every state")
        with seeded(generator(train_.seed, "weights")):
            result = BevWorld(world).to(where)
        begin_with(result, begin)
        chosen, checked = drives.split(data.validation_fraction)
        batch = BevClips(drives, world, loss.horizon).drawing(chosen, train_.batch_size)
        held = HeldDreams(drives, checked, world, loss.shown, loss.judged)
        log.info("picking start scenes")
        scenes = pick_scenes(drives, checked, world)
        tracks = Tracks(drives, world.motion_scale)
        if not (folder / "bev" / "last.pt").exists():  # or it is there
            fit_ego(result.ego, tracks, chosen, checked, loss.ego_steps, train_.seed)
        log.info("bev: %.2f M parameters", sum(weight.numel() for weight in result.parameters()) / 1e6)
        about = {"world": world.to_dict(), "loss": loss.to_dict(), "begin": begin}
        recorded = Recorded.of(drives, len(checked))
        about["data"] = {"fingerprint": recorded.fingerprint, "drives": recorded.drives,
                         "validation_fraction": data.validation_fraction}  # fmt: skip
        pictures = train(
            BevMethod(result, loss), batch, train_, folder / "bev", device=where, about=about,
            validate=HeldPictures(drives, checked, world, loss), judge="psnr",
        )  # fmt: skip
        assert isinstance(pictures, BevMethod)
        ground = train(
            GroundMethod(pictures.world, pictures.surveyor, loss), batch, replace(train_, steps=loss.ground_steps),
            folder / "ground", device=where, about=about,
            validate=lambda method: held.figures(dreaming(pictures.world, method)), judge=f"psnr_{held.ahead[-1]}",
        )  # fmt: skip
        result = dreaming(pictures.world, ground).eval()
        if result.traffic is not None:
            foretold = fit_traffic(result, drives, chosen, checked, loss.traffic_steps, train_.seed)
            log.info("traffic: %s", told(foretold))
        log.info("calibrating the confidence on dreams of recorded drives")
        calibrate(result, drives, checked, 10)
        measured = held.figures(result)
        log.info("bev: %s", told(measured))
        if is_main(where):
            result.scenes = scenes
            write_card(result, "bev", about, train_, data, recorded, measured)
            result.save_pretrained(folder / "bev" / "world")
    return result


def fit_bev(world: BevWorldConfig, facts: Facts) -> BevWorldConfig:
    """The world that these recordings can teach: their spec with one picture, without what they do not know.

    Raises:
        ValueError: The spec that is wanted is not that of the recordings.
    """
    spec = known_spec(seen_spec(world.spec, facts), facts, facts.routed, world.others)
    ending = facts.ended > 0
    return BevWorldConfig.from_dict(world.to_dict() | {
        "spec": spec.to_dict(), "others": world.others if "layout" in spec.conditions else 0,
        "end_threshold": world.end_threshold if ending else 1.0,
    })  # fmt: skip


def dreaming(world: BevWorld, method: nn.Module) -> BevWorld:
    """A world with the flow that a method has learned."""
    assert isinstance(method, GroundMethod)
    result = copy.deepcopy(world)
    result.filler.load_state_dict(method.flow.state_dict())
    return result


class HeldPictures:
    """Clips that are only looked at, and how well a surveyed ground is rendered, the start picture far behind or not.

    Args:
        drives: The recordings.
        chosen: Numbers of the drives.
        world: The world that is to be.
        loss: The loss: how long clips are, and how many are judged.
    """

    def __init__(self, drives: Drives, chosen: np.ndarray, world: BevWorldConfig, loss: BevStageConfig) -> None:
        clips = BevClips(drives, world, loss.horizon)
        starts, _ = clip_starts(drives, chosen, loss.horizon + 1, GAP)
        if not len(starts):
            raise ValueError(f"no drive that is only looked at has {loss.horizon + GAP + 1} states; record longer")
        self.batch = clips.batch(starts[np.linspace(0, len(starts) - 1, loss.judged).astype(int)])

    @torch.no_grad()
    def __call__(self, method: nn.Module) -> Figures:
        """PSNR (dB) and sharpness (of the true pictures') of a picture some frames on."""
        assert isinstance(method, BevMethod)
        was = method.training
        method.eval()
        true, found = method.shown_of(self.batch)
        method.train(was)
        pairs = [frames.cpu().numpy() for frames in (found, true)]
        sharpness = laplacian_energy(pairs[0]) / max(laplacian_energy(pairs[1]), 1e-9)
        return {"psnr": float(psnr(squared_error(*pairs)).mean()), "sharpness": sharpness}


class HeldDreams:
    """Drives that are only looked at, and how well a world dreams them.

    Args:
        drives: The recordings.
        chosen: Numbers of the drives.
        world: The world that is to be.
        horizon: Frames of a dream, fewer where all drives are too short.
        count: Dreams, spread evenly over the drives.
    """

    def __init__(self, drives: Drives, chosen: np.ndarray, world: BevWorldConfig, horizon: int, count: int) -> None:
        longest = int(np.diff(drives.first)[chosen].max())
        self.horizon = max(1, min(horizon, longest - world.scene_states))
        before, moments = world.scene_states - 1, []
        for drive in chosen:
            states = drives.states(int(drive))
            moments += [(int(drive), now) for now in range(states.start + before, states.stop - self.horizon)]
        if not moments:
            raise ValueError(f"no drive that is only looked at has {before + self.horizon + 1} states; record longer")
        picked = [moments[index] for index in np.linspace(0, len(moments) - 1, count).astype(int)]
        self.scenes: list[Scene] = [scene_at(drives, drive, now, world) for drive, now in picked]
        after = np.array([now for _, now in picked])[:, None] + np.arange(1, self.horizon + 1)
        self.controls = torch.from_numpy(np.array(drives.control[after], np.float32))
        self.frames = np.array(drives.frames[after])
        self.poses = np.array(drives.pose[after])

    @property
    def ahead(self) -> list[int]:
        """Frames ahead that figures are told of."""
        return [each for each in AHEAD if each <= self.horizon] or [1]

    @torch.no_grad()
    def figures(self, world: BevWorld) -> Figures:
        """PSNR (dB) and sharpness (of the true pictures') after some frames, copying, and how far the car is off."""
        was = world.training
        world.eval()
        state, kind = world.start(self.scenes, list(range(len(self.scenes)))), world.spec.picture
        copied = np.stack([scene.frames[-1] for scene in self.scenes])
        figures: Figures = {}
        for step, controls in enumerate(self.controls.to(world.device).unbind(1), 1):
            state, _ = world.step(state, controls)
            if step in self.ahead:
                true, dreamed = self.frames[:, step - 1], world.observe(state, [kind])[kind].cpu().numpy()
                figures[f"psnr_{step}"] = float(psnr(squared_error(dreamed, true)).mean())
                figures[f"copy_{step}"] = float(psnr(squared_error(copied, true)).mean())
                figures[f"sharpness_{step}"] = laplacian_energy(dreamed) / max(laplacian_energy(true), 1e-9)
        poses = world.poses(state).double().cpu().numpy()
        figures["off_m"] = float(np.hypot(*(poses - self.poses[:, -1])[:, :2].T).mean())
        world.train(was)
        return figures
