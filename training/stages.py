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
from torch import Tensor

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
from drivedit.data.clips import Drives, fit_config, the_picture
from drivedit.data.recordings import joint_spec, read_folder_attrs
from drivedit.models import DiTTeacher, DiTWorld
from drivedit.training.calibration import calibrate
from drivedit.training.cards import write_card
from drivedit.training.latents import Clips, batches, encode_drives, encoder_fingerprint, frames_of, moments
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
    read_folder_attrs(data.root, held_out=False)
    with run_folder(out, where) as folder:
        DiTWorld.check_place(folder / "vae" / "world")
        drives = _open(data, where, world.spec.picture if world.spec.observations else data.picture)
        world = fit_config(world, drives)
        states, held = _pictures(drives, data, where)

        def batch(rng: torch.Generator) -> dict[str, Tensor]:
            index = torch.randint(states, (train_.batch_size,), generator=rng).numpy()
            return {"frames": frames_of(drives, np.sort(index))[:, None]}

        with seeded(generator(train_.seed, "weights")):
            result = DiTWorld(world).to(where)
        about = {"world": world.to_dict(), "loss": loss.to_dict(), "data": _about(data, drives)}
        best = train(
            VAEMethod(result.vae, loss), batch, train_, folder / "vae", device=where, about=about,
            validate=lambda s: vae_figures(s.vae, held), judge="psnr",  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(best, VAEMethod)
        result.vae.load_state_dict(best.vae.state_dict())
        result.eval()
        log.info("measuring mean and spread of the latents")
        sample = np.sort(np.random.default_rng(0).choice(states, min(4096, states), replace=False))
        mean, spread, _ = moments(result, drives, sample)
        result.latent_mean.copy_(mean)
        result.latent_std.copy_(spread)
        figures = vae_figures(result.vae, held)
        if figures["sharpness"] < WASHED_OUT:
            log.warning(
                "the autoencoder shows washed-out pictures (%.2g of the true ones' sharpness; it may rest at the mean "
                "picture): train it longer before the student learns from it", figures["sharpness"],
            )  # fmt: skip
        log.info("autoencoder: %s", _told(figures))
        write_card(result, "vae", about, train_, data, drives, figures)
        _save(result, folder / "vae" / "world")
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
    read_folder_attrs(data.root, held_out=False)
    with run_folder(out, where) as place:
        DiTWorld.check_place(place / "decoder" / "world")
        trained = DiTWorld.from_pretrained(world, device=where)
        drives = _open(data, where, trained.spec.picture)
        latents = _latents(trained, drives, place)
        states, held = _pictures(drives, data, where)
        sample = np.sort(np.random.default_rng(0).choice(states, min(1024, states), replace=False))
        uncertain = moments(trained, drives, sample)[2]
        known = torch.from_numpy(latents[sample].astype(np.float32)).to(where)
        with seeded(generator(train_.seed, "weights")):
            small = prune_decoder(trained.vae, inner, known * trained.latent_std + trained.latent_mean)
            result = DiTWorld(replace(trained.config, vae=small.config), trained.scenes, trained.card)

        def batch(rng: torch.Generator) -> dict[str, Tensor]:
            index = np.sort(torch.randint(states, (train_.batch_size,), generator=rng).numpy())
            return {"latents": torch.from_numpy(latents[index].astype(np.float32)), "frames": frames_of(drives, index)}

        about = {
            "world": {"folder": world, "fingerprint": trained.fingerprint, "inner": inner},
            "loss": loss.to_dict(),
            "data": _about(data, drives),
        }
        best = train(
            DecoderMethod(small, loss, (trained.latent_mean, trained.latent_std, uncertain)), batch, train_,
            place / "decoder", device=where, about=about,
            validate=lambda s: vae_figures(s.vae, held), judge="psnr",  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(best, DecoderMethod)
        figures = vae_figures(best.vae, held)
        log.info("decoder: %s; before: %s", _told(figures), _told(vae_figures(trained.vae, held)))
        rest = {name: value for name, value in trained.state_dict().items() if not name.startswith("vae.")}
        result.load_state_dict(rest | {f"vae.{name}": value for name, value in best.vae.state_dict().items()})
        write_card(result, "decoder", about, train_, data, drives, figures)
        _save(result, place / "decoder" / "world")
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
    read_folder_attrs(data.root, held_out=False)
    _need_autoencoder(out)
    with run_folder(out, where) as folder:
        coder = DiTWorld.from_pretrained(folder / "vae" / "world", device=where)
        drives = _open(data, where, coder.spec.picture)
        world = fit_config(world, drives, loss.clip_frames)
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
        return _train_dynamics(result, ForcingThenEnergy(result, loss), drives, train_, data, folder, "student", about)


def distill(
    teacher: str = "runs/base/student/world", *, train_: LoopConfig, data: DataConfig, loss: DistillConfig,
    out: str = RUN, device: str = "auto", real_score: str | None = None,
) -> DiTWorld:  # fmt: skip
    """Makes a student that is right in few passes out of a trained world; writes OUT/METHOD/world.

    Args:
        teacher: The trained world, whose autoencoder is that of OUT/vae/world: folder, shipped name or hub:NAME/WORLD.
        train_: The loop.
        data: The recordings.
        loss: The loss, and with it the method.
        out: Folder of the run; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...
        real_score: File of a bidirectional teacher that tells the real score under `matching`; None: the trained world.

    Raises:
        ValueError: There is no such method, or the trained world has another encoder.
    """
    where = resolve_device(device)
    if loss.method not in METHODS:
        raise ValueError(f"loss.method must be one of {', '.join(METHODS)}, got {loss.method!r}")
    read_folder_attrs(data.root, held_out=False)
    _need_autoencoder(out)
    with run_folder(out, where) as folder:
        result = DiTWorld.from_pretrained(teacher, device=where)
        coder = DiTWorld.from_pretrained(folder / "vae" / "world", device=where)
        if encoder_fingerprint(result) != encoder_fingerprint(coder):
            raise ValueError(f"{teacher} has another encoder than {out}/vae/world, which made the latents")
        about: dict[str, Any] = {"teacher": {"folder": teacher, "fingerprint": result.fingerprint}}
        if result.dynamics.window is not None:  # its length bounds clips only, and long rollouts need long clips
            needed = loss.clip_frames * result.dynamics.tokens_per_frame
            result.dynamics.max_seq_len = max(result.dynamics.max_seq_len, needed)
        drives = _open(data, where, result.spec.picture)
        if real_score is None:
            stage = load_object(METHODS[loss.method])(result, loss)
        else:
            stage = ClipDistributionMatching(result, loss, DiTTeacher.load(real_score).to(where))
            about["real_score"] = {"file": real_score, "fingerprint": fingerprint(Path(real_score))}
        return _train_dynamics(result, stage, drives, train_, data, folder, loss.method, about)


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
    read_folder_attrs(data.root, held_out=False)
    with run_folder(out, where) as place:
        trained = DiTWorld.from_pretrained(world, device=where)
        drives = _open(data, where, trained.spec.picture)
        sizes = trained.config.student
        with seeded(generator(train_.seed, "weights")):
            network = DiTTeacher(
                sizes.latent_dim, sizes.d_model, sizes.n_layers, sizes.n_heads, sizes.d_ff,
                max_seq_len=loss.clip_frames * sizes.tokens_per_frame, tokens_per_frame=sizes.tokens_per_frame,
                control_dim=sizes.control_dim, history=sizes.history, route_dim=sizes.route_dim,
                map_dim=sizes.map_dim,
            ).to(where)  # fmt: skip
        about = {"world": trained.config.to_dict(), "loss": loss.to_dict(), "data": _about(data, drives)}
        about["encoder"] = {"fingerprint": encoder_fingerprint(trained)}
        clips = Clips(drives, _latents(trained, drives, place), trained.config, loss.clip_frames, where)
        batch, held = batches(clips, drives, data, train_.batch_size)
        held = {name: value.to(where) for name, value in held.items()}
        best = train(
            TeacherMethod(trained, network, loss), batch, train_, place / "teacher", device=where, about=about,
            validate=lambda s: teacher_figures(s, held), judge="-mse_0.5",
        )  # fmt: skip
        assert isinstance(best, TeacherMethod)
        if _is_main(where):
            best.teacher.save(place / "teacher" / "teacher.safetensors")
    return best.teacher


def _train_dynamics(
    world: DiTWorld, stage: DynamicsMethod, drives: Drives, train_: LoopConfig, data: DataConfig, run: Path, name: str,
    about: dict[str, Any],
) -> DiTWorld:  # fmt: skip
    """Trains a stage on clips of latents; writes `run/NAME/world`."""
    DiTWorld.check_place(run / name / "world")
    checked = drives.split(data.validation_fraction)[1]
    log.info("picking start scenes")
    world.scenes = pick_scenes(drives, checked, world.config)
    about |= {
        "encoder": {"fingerprint": encoder_fingerprint(world)},
        "loss": stage.config.to_dict(),
        "data": _about(data, drives),
    }
    clips = Clips(drives, _latents(world, drives, run), world.config, stage.config.clip_frames, world.device)
    batch, held = batches(clips, drives, data, train_.batch_size)
    held = {name: value.to(world.device) for name, value in held.items()}
    best = train(
        stage, batch, train_, run / name, device=world.device, about=about,
        validate=lambda s: dynamics_figures(s, held),
    )  # fmt: skip
    assert isinstance(best, DynamicsMethod)
    for part, module in best.trained().items():
        setattr(world, part, module)  # those that were trained are perhaps in shards
    world.config = replace(world.config, null_control=stage.config.drop_control > 0)
    log.info("calibrating the confidence on dreams of recorded drives")
    calibrate(world, drives, checked, stage.config.rollout + 1)
    if _is_main(world.device):
        write_card(world, name, about, train_, data, drives, dynamics_figures(best, held))
    _save(world.eval(), run / name / "world")
    return world


def _need_autoencoder(run: str) -> None:
    """Raises FileNotFoundError if no `vae` stage has ended in the folder of a run."""
    if not (Path(run) / "vae" / "world").is_dir():
        raise FileNotFoundError(
            f"there is no autoencoder in {run}/vae/world: run the vae stage first, python -m drivedit.training vae "
            f"--out {run} ..., or name its folder with --out"
        )


def _told(figures: Mapping[str, float]) -> str:
    """Figures for a line of the log."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _open(data: DataConfig, device: torch.device, picture: str | None) -> Drives:
    """Opens one picture of recordings, which unpacks them where that was not done before: one process at a time."""
    spec = joint_spec([attrs["spec"] for attrs in read_folder_attrs(data.root, held_out=False)])
    kinds = [the_picture(spec, picture)] if len(spec.observations) > 1 else None
    with PartialState(cpu=device.type == "cpu").main_process_first():
        return Drives.open(data.root, kinds=kinds)


def _latents(world: DiTWorld, drives: Drives, run: Path) -> np.ndarray:
    """Latents of all states, made by one process while the others wait."""
    with PartialState(cpu=world.device.type == "cpu").main_process_first():
        return encode_drives(world, drives, run)


def _pictures(drives: Drives, data: DataConfig, device: torch.device) -> tuple[int, Tensor]:
    """How many states, from the first on, there are to learn from; and frames that are only looked at."""
    chosen, checked = drives.split(data.validation_fraction)
    held = frames_of(drives, np.linspace(drives.first[checked[0]], drives.first[-1] - 1, 256).astype(int))
    return int(drives.first[chosen[-1] + 1]), held.to(device)


def _about(data: DataConfig, drives: Drives) -> Mapping[str, Any]:
    """What a run notes of its recordings."""
    return {
        "fingerprint": drives.fingerprint,
        "drives": len(drives),
        "validation_fraction": data.validation_fraction,
    }


def _is_main(device: torch.device) -> bool:
    return PartialState(cpu=device.type == "cpu").is_main_process


def _save(world: DiTWorld, path: Path) -> None:
    """Writes a world, once for all processes."""
    if _is_main(world.device):
        world.save_pretrained(path)
