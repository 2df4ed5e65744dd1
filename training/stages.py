"""The stages that make a world: `vae`, then `student`; `teacher` and `distill` for fewer passes, `decoder` for speed.

Each trains in a folder of the run and leaves a world there, with a card that says how it was made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivedit.config import (
    DEFAULT_WORLD,
    ClipConfig,
    DataConfig,
    DistillConfig,
    LoopConfig,
    StudentStageConfig,
    VAEStageConfig,
    WorldConfig,
)
from drivedit.data.clips import fit_config
from drivedit.models import DiTTeacher, DiTWorld, World
from drivedit.training.calibration import calibrate
from drivedit.training.cards import write_card
from drivedit.training.latents import encoder_fingerprint, frames_of, moments
from drivedit.training.loop import train
from drivedit.training.methods import METHODS
from drivedit.training.methods.clip_matching import ClipDistributionMatching
from drivedit.training.methods.decoder import DecoderMethod, prune_decoder
from drivedit.training.methods.dynamics import DynamicsMethod, dynamics_figures
from drivedit.training.methods.energy import ForcingThenEnergy
from drivedit.training.methods.teacher import TeacherMethod, teacher_figures
from drivedit.training.methods.vae import VAEMethod, vae_figures
from drivedit.training.runs import run_folder
from drivedit.training.scenes import pick_scenes
from drivedit.training.sources import Source, Unpacked, check_recordings, open_source
from drivedit.utils import extra, fingerprint, generator, load_object, resolve_device, seeded

with extra("train", "training"):
    from accelerate import PartialState

log = logging.getLogger(__name__)

RUN, TRAINED = f"runs/{DEFAULT_WORLD}", f"runs/{DEFAULT_WORLD}/student/world"
WASHED_OUT = 0.1  # of the true pictures' sharpness


def vae(
    world: WorldConfig, train_: LoopConfig, data: DataConfig, loss: VAEStageConfig, out: str = RUN, device: str = "auto"
) -> DiTWorld:
    """Trains the autoencoder and writes OUT/vae/world, a world whose dynamics are still untrained.

    Meant to be run with a preset (--config): defaults alone make another network.

    Args:
        world: The world to be.
        train_: The loop.
        data: The recordings.
        loss: The loss.
        out: Folder of the run; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...
    """
    where = resolve_device(device)
    check_recordings(data)
    with run_folder(out, where) as folder:
        DiTWorld.check_place(folder / "vae" / "world")
        source = open_source(data, where, world.spec.picture if world.spec.observations else data.picture)
        world = fit_config(world, source.facts)
        held = source.held_pictures().to(where)
        with seeded(generator(train_.seed, "weights")):
            result = DiTWorld(world).to(where)
        about = {"world": world.to_dict(), "loss": loss.to_dict(), "data": source.about(data)}
        best = train(
            VAEMethod(result.vae, loss), source.pictures(train_), train_, folder / "vae", device=where, about=about,
            validate=lambda s: vae_figures(s.vae, held), judge="psnr",  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(best, VAEMethod)
        result.vae.load_state_dict(best.vae.state_dict())
        result.eval()
        log.info("measuring mean and spread of the latents")
        mean, spread, _ = moments(result, source.sample(4096))
        result.latent_mean.copy_(mean)
        result.latent_std.copy_(spread)
        figures = vae_figures(result.vae, held)
        if figures["sharpness"] < WASHED_OUT:
            log.warning(
                "the autoencoder shows washed-out pictures (%.2g of the true ones' sharpness; it may rest at the mean "
                "picture): train it longer before the student learns from it", figures["sharpness"],
            )  # fmt: skip
        log.info("autoencoder: %s", told(figures))
        write_card(result, "vae", about, train_, data, source.recorded, figures)
        save_world(result, folder / "vae" / "world")
    return result


def decoder(
    world: str = TRAINED, *, inner: list[int], train_: LoopConfig, data: DataConfig, loss: VAEStageConfig,
    out: str = RUN, device: str = "auto",
) -> DiTWorld:  # fmt: skip
    """Gives a trained world a narrower decoder for the same latents; writes OUT/decoder/world.

    Args:
        world: The trained world: folder, shipped name or hub:NAME/WORLD.
        inner: Widths inside the decoder's residual blocks, at its four sizes: [16, 16, 32, 32].
        train_: The loop.
        data: The recordings.
        loss: The loss.
        out: Folder of the run; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...
    """
    where = resolve_device(device)
    check_recordings(data)
    with run_folder(out, where) as place:
        DiTWorld.check_place(place / "decoder" / "world")
        trained = DiTWorld.from_pretrained(world, device=where)
        source = open_source(data, where, trained.spec.picture)
        if not isinstance(source, Unpacked):
            raise ValueError("the decoder learns from unpacked recordings: leave out data.stream")
        drives, latents, held = source.drives, source.latents(trained, place), source.held_pictures().to(where)
        sample = source.picked(1024)
        uncertain = moments(trained, frames_of(drives, sample))[2]
        known = torch.from_numpy(latents[sample].astype(np.float32)).to(where)
        with seeded(generator(train_.seed, "weights")):
            small = prune_decoder(trained.vae, inner, known * trained.latent_std + trained.latent_mean)
            result = DiTWorld(replace(trained.config, vae=small.config), trained.scenes, trained.card)

        def batch(rng: torch.Generator) -> dict[str, Tensor]:
            index = np.sort(torch.randint(source.states, (train_.batch_size,), generator=rng).numpy())
            return {"latents": torch.from_numpy(latents[index].astype(np.float32)), "frames": frames_of(drives, index)}

        about = {
            "world": {"folder": world, "fingerprint": trained.fingerprint, "inner": inner},
            "loss": loss.to_dict(),
            "data": source.about(data),
        }
        best = train(
            DecoderMethod(small, loss, (trained.latent_mean, trained.latent_std, uncertain)), batch, train_,
            place / "decoder", device=where, about=about,
            validate=lambda s: vae_figures(s.vae, held), judge="psnr",  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(best, DecoderMethod)
        figures = vae_figures(best.vae, held)
        log.info("decoder: %s; before: %s", told(figures), told(vae_figures(trained.vae, held)))
        rest = {name: value for name, value in trained.state_dict().items() if not name.startswith("vae.")}
        result.load_state_dict(rest | {f"vae.{name}": value for name, value in best.vae.state_dict().items()})
        write_card(result, "decoder", about, train_, data, source.recorded, figures)
        save_world(result, place / "decoder" / "world")
    return result


def student(
    world: WorldConfig, train_: LoopConfig, data: DataConfig, loss: StudentStageConfig, out: str = RUN,
    device: str = "auto",
) -> DiTWorld:  # fmt: skip
    """Trains dynamics and heads on the latents of OUT/vae/world and writes OUT/student/world.

    Meant to be run with a preset (--config): defaults alone make another network.

    Args:
        world: The world to be.
        train_: The loop.
        data: The recordings.
        loss: The loss.
        out: Folder of the run, in which `vae` has ended; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...
    """
    where = resolve_device(device)
    check_recordings(data)
    if not (Path(out) / "vae" / "world").is_dir():
        raise FileNotFoundError(
            f"there is no autoencoder in {out}/vae/world: run the vae stage first, python -m drivedit.training vae "
            f"--out {out} ..., or name its folder with --out"
        )
    with run_folder(out, where) as folder:
        coder = DiTWorld.from_pretrained(folder / "vae" / "world", device=where)
        source = open_source(data, where, coder.spec.picture)
        world = fit_config(world, source.facts, loss.clip_frames)
        if coder.config.vae != world.vae:
            raise ValueError(
                f"{out}/vae/world was trained with {coder.config.vae}, the student's preset says {world.vae}"
            )
        with seeded(generator(train_.seed, "weights")):
            result = DiTWorld(world, card=coder.card).to(where)
        result.vae.load_state_dict(coder.vae.state_dict())
        result.latent_mean.copy_(coder.latent_mean)
        result.latent_std.copy_(coder.latent_std)
        about = {"world": world.to_dict()}
        return _train_dynamics(result, ForcingThenEnergy(result, loss), source, train_, data, folder, "student", about)


def distill(
    teacher: str = "runs/base/student/world", *, train_: LoopConfig, data: DataConfig, loss: DistillConfig,
    out: str = RUN, device: str = "auto", real_score: str | None = None,
) -> DiTWorld:  # fmt: skip
    """Makes a student that is right in few passes out of a trained world; writes OUT/METHOD/world.

    Args:
        teacher: The trained world, whose autoencoder makes the latents: folder, shipped name or hub:NAME/WORLD.
        train_: The loop.
        data: The recordings.
        loss: The loss, and with it the method.
        out: Folder of the run; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...
        real_score: File of a bidirectional teacher that tells the real score under `matching`; None: the trained world.

    Raises:
        ValueError: There is no such method.
    """
    where = resolve_device(device)
    if loss.method not in METHODS:
        raise ValueError(f"loss.method must be one of {', '.join(METHODS)}, got {loss.method!r}")
    check_recordings(data)
    with run_folder(out, where) as folder:
        result = DiTWorld.from_pretrained(teacher, device=where)
        about: dict[str, Any] = {"teacher": {"folder": teacher, "fingerprint": result.fingerprint}}
        if result.dynamics.window is not None:  # its length bounds clips only, and long rollouts need long clips
            needed = loss.clip_frames * result.dynamics.tokens_per_frame
            result.dynamics.max_seq_len = max(result.dynamics.max_seq_len, needed)
        source = open_source(data, where, result.spec.picture)
        if real_score is None:
            stage = load_object(METHODS[loss.method])(result, loss)
        else:
            stage = ClipDistributionMatching(result, loss, DiTTeacher.load(real_score).to(where))
            about["real_score"] = {"file": real_score, "fingerprint": fingerprint(Path(real_score))}
        return _train_dynamics(result, stage, source, train_, data, folder, loss.method, about)


def teacher(
    world: str = TRAINED, *, train_: LoopConfig, data: DataConfig, loss: ClipConfig, out: str = RUN,
    device: str = "auto",
) -> DiTTeacher:  # fmt: skip
    """Trains a bidirectional teacher of whole clips; writes OUT/teacher/teacher.safetensors.

    Args:
        world: The trained world whose tokens it learns, and whose student it is as wide and deep as: folder, shipped
            name or hub:NAME/WORLD.
        train_: The loop.
        data: The recordings.
        loss: The clips.
        out: Folder of the run; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...
    """
    where = resolve_device(device)
    check_recordings(data)
    with run_folder(out, where) as place:
        trained = DiTWorld.from_pretrained(world, device=where)
        source = open_source(data, where, trained.spec.picture)
        sizes = trained.config.student
        with seeded(generator(train_.seed, "weights")):
            network = DiTTeacher(
                sizes.latent_dim, sizes.d_model, sizes.n_layers, sizes.n_heads, sizes.d_ff,
                max_seq_len=loss.clip_frames * sizes.tokens_per_frame, tokens_per_frame=sizes.tokens_per_frame,
                control_dim=sizes.control_dim, history=sizes.history, route_dim=sizes.route_dim,
                map_dim=sizes.map_dim,
            ).to(where)  # fmt: skip
        about = {"world": trained.config.to_dict(), "loss": loss.to_dict(), "data": source.about(data)}
        about["encoder"] = {"fingerprint": encoder_fingerprint(trained)}
        batch, held = source.clips(trained, loss.clip_frames, train_, place)
        held = {name: value.to(where) for name, value in held.items()}
        best = train(
            TeacherMethod(trained, network, loss), batch, train_, place / "teacher", device=where, about=about,
            validate=lambda s: teacher_figures(s, held), judge="-mse_0.5",
        )  # fmt: skip
        assert isinstance(best, TeacherMethod)
        if is_main(where):
            best.teacher.save(place / "teacher" / "teacher.safetensors")
    return best.teacher


def _train_dynamics(
    world: DiTWorld, stage: DynamicsMethod, source: Source, train_: LoopConfig, data: DataConfig, run: Path, name: str,
    about: dict[str, Any],
) -> DiTWorld:  # fmt: skip
    """Trains a stage on clips of latents; writes `run/NAME/world`."""
    DiTWorld.check_place(run / name / "world")
    drives, checked = source.looked_at
    log.info("picking start scenes")
    world.scenes = pick_scenes(drives, checked, world.config)
    about |= {
        "encoder": {"fingerprint": encoder_fingerprint(world)},
        "loss": stage.config.to_dict(),
        "data": source.about(data),
    }
    figures = learn_dynamics(world, stage, source, train_, run, run / name, about)
    log.info("calibrating the confidence on dreams of recorded drives")
    calibrate(world, drives, checked, stage.config.rollout + 1)
    if is_main(world.device):
        write_card(world, name, about, train_, data, source.recorded, figures)
    save_world(world.eval(), run / name / "world")
    return world


def learn_dynamics(
    world: DiTWorld, stage: DynamicsMethod, source: Source, loop: LoopConfig, run: Path, out: Path,
    about: Mapping[str, Any],
) -> dict[str, float]:  # fmt: skip
    """Trains the dynamics and heads of a world by a method, in a folder of a run.

    Returns:
        Figures of clips that are only looked at.
    """
    batch, held = source.clips(world, stage.config.clip_frames, loop, run)
    held = {name: value.to(world.device) for name, value in held.items()}
    moved = torch.tensor(source.facts.moved, device=world.device) / source.facts.states
    stage.spread(moved.sqrt() / world.motion_scale.abs())
    best = train(
        stage, batch, loop, out, device=world.device, about=about, validate=lambda s: dynamics_figures(s, held)
    )
    assert isinstance(best, DynamicsMethod)
    for part, module in best.trained().items():
        setattr(world, part, module)  # those that were trained are perhaps in shards
    world.config = replace(world.config, null_control=stage.config.drop_control > 0)
    return dynamics_figures(best, held)


def begin_with(world: nn.Module, begin: str) -> None:
    """Gives a world the weights of another one of its kind: a folder, a shipped name, or hub:NAME/WORLD; "": none.

    Raises:
        ValueError: That one has other networks.
    """
    if not begin:
        return
    assert isinstance(world, World)
    weights = type(world).from_pretrained(begin, device=world.device).state_dict()
    own = {name: tuple(weight.shape) for name, weight in world.state_dict().items()}
    for name in sorted(own.keys() | weights.keys()):
        got = tuple(weights[name].shape) if name in weights else None
        if got != own.get(name):
            raise ValueError(f"{begin} has other networks: {name} is {got} there, {own.get(name)} here")
    world.load_state_dict(weights)


def told(figures: Mapping[str, float]) -> str:
    """Figures for a line of the log."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def is_main(device: torch.device) -> bool:
    """Whether this is the process that writes."""
    return PartialState(cpu=device.type == "cpu").is_main_process


def save_world(world: DiTWorld, path: Path) -> None:
    """Writes a world, once for all processes."""
    if is_main(world.device):
        world.save_pretrained(path)
