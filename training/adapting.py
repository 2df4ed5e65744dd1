"""The stage `adapt`: a trained world learns other recordings in minutes, pictures first, then how they go on.

What it learns is an adapter, one small file beside the world (`drivedit.models.adapters`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivedit.config import DEFAULT_WORLD, DataConfig, DistillConfig, LoopConfig, VAEStageConfig
from drivedit.models import DiTWorld
from drivedit.models.adapters import Adapter
from drivedit.models.scene_files import pack_scenes
from drivedit.training.calibration import calibrate
from drivedit.training.cards import write_card
from drivedit.training.loop import train
from drivedit.training.lora import add_lora, factors, fold_in
from drivedit.training.methods import METHODS
from drivedit.training.methods.dynamics import DynamicsMethod
from drivedit.training.methods.vae import VAEMethod, vae_figures
from drivedit.training.runs import run_folder
from drivedit.training.scenes import pick_scenes
from drivedit.training.sources import Source, check_recordings, open_source
from drivedit.training.stages import is_main, learn_dynamics, save_world, told
from drivedit.utils import generator, load_object, resolve_device, seeded

log = logging.getLogger(__name__)
PICTURES = LoopConfig(steps=300, batch_size=32, lr=2e-3, warmup=20, ema=0.99)
DYNAMICS = LoopConfig(steps=240, batch_size=8, lr=1e-3, warmup=20, ema=0.99)
LOSS = DistillConfig(method="energy", head_weight=0.6)
PARTS = ("vae.*", "dynamics.*", "heads.*")
FILE = "adapter.safetensors"


def adapt(
    world: str = DEFAULT_WORLD, *, data: DataConfig, rank: int = 16, alpha: float | None = None,
    targets: list[str] | None = None, scenes: int = 3, pictures: LoopConfig = PICTURES,
    picture_loss: VAEStageConfig | None = None, train_: LoopConfig = DYNAMICS, loss: DistillConfig = LOSS,
    out: str = "runs/adapted", device: str = "auto",
) -> Path:  # fmt: skip
    """Adapts a trained world to other recordings; writes OUT/adapter.safetensors, for gym.make(..., adapter=FILE).

    Args:
        world: The trained world: folder, shipped name or hub:NAME/WORLD.
        data: The recordings, with the world's observations and controls.
        rank: Of the factors beside every layer; 0: all weights are trained on, and OUT/world is a world of its own.
        alpha: Their product counts `alpha / rank`; None: as much as the rank.
        targets: Patterns of the layers that are adapted, such as "dynamics.blocks.*"; None: all.
        scenes: Start scenes of the recordings that the adapter brings; of 0 the world keeps its own.
        pictures: The loop of the autoencoder; of 0 steps it stays as it is.
        picture_loss: Its loss; None: as for a new world.
        train_: The loop of the dynamics.
        loss: Their loss, and with it the method.
        out: Folder of the run; an interrupted run goes on.
        device: Where it trains: auto, cpu, cuda, ...

    Returns:
        The adapter, or the folder of the world.

    Raises:
        ValueError: The recordings are of another kind than the world's, a pattern matches no layer, or an adapter is to
            teach what guidance needs.
    """
    if rank and loss.drop_control:
        raise ValueError(
            f"an adapter brings no null control: loss.drop_control needs --rank 0 here, or the distill stage; got "
            f"{loss.drop_control} and rank {rank}"
        )
    where = resolve_device(device)
    check_recordings(data)
    with run_folder(out, where) as folder:
        result = DiTWorld.from_pretrained(world, device=where)
        source = open_source(data, where, result.spec.picture)
        result.spec.check_same(
            source.facts.spec, "the world", "the recordings", ("observations", "controls", "learned")
        )
        base, before, scale = result.fingerprint, result.error_range.clone(), (alpha or rank) / max(rank, 1)
        about: dict[str, Any] = {
            "world": {"folder": world, "fingerprint": base, "rank": rank, "scale": scale, "targets": targets},
            "loss": loss.to_dict(),
            "data": source.about(data),
        }
        if rank:
            with seeded(generator(train_.seed, "factors")):
                add_lora(result, rank, scale * rank, targets or PARTS)
        if pictures.steps and any(weight.requires_grad for weight in result.vae.parameters()):
            _learn_pictures(result, source, pictures, picture_loss or VAEStageConfig(), folder, about)
        found = _take_out(result, "vae") if rank else {}
        stage: DynamicsMethod = load_object(METHODS[loss.method])(result, loss)
        figures = learn_dynamics(result, stage, source, train_, folder, folder / "dynamics", about)
        if rank:
            found |= _take_out(result, "dynamics") | _take_out(result, "heads")
        starts = pick_scenes(*source.looked_at, result.config, scenes) if scenes else []
        result.scenes = starts or result.scenes
        log.info("calibrating the confidence on dreams of recorded drives")
        calibrate(result, *source.looked_at, loss.rollout + 1)
        write_card(result, "adapt", about, train_, data, source.recorded, figures)
        if not rank:
            save_world(result.eval(), folder / "world")
            return folder / "world"
        whole = {} if torch.equal(before, result.error_range) else {"error_range": result.error_range}
        if is_main(where):
            Adapter(base, scale, found, whole, pack_scenes(starts), result.card).save(folder / FILE)
        return folder / FILE


def _learn_pictures(
    world: DiTWorld, source: Source, loop: LoopConfig, loss: VAEStageConfig, folder: Path, about: dict[str, Any]
) -> None:
    """Trains what is free of the autoencoder."""
    held = source.held_pictures().to(world.device)
    log.info("autoencoder before: %s", told(vae_figures(world.vae, held)))
    best = train(
        VAEMethod(world.vae, loss), source.pictures(loop), loop, folder / "pictures", device=world.device,
        about=about | {"loss": loss.to_dict()},
        validate=lambda s: vae_figures(s.vae, held), judge="psnr",  # type: ignore[arg-type]
    )  # fmt: skip
    assert isinstance(best, VAEMethod)
    log.info("autoencoder: %s", told(vae_figures(best.vae, held)))
    world.vae = best.vae


def _take_out(world: DiTWorld, part: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors of a part of a world, which are added to its weights."""
    module = getattr(world, part)
    found = {f"{part}.{name}": pair for name, pair in factors(module).items()}
    fold_in(module)
    return found
