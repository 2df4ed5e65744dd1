"""The stages that make a world: `vae`, then `student`; `teacher` and `distill` for fewer passes, `decoder` for speed.

Each trains in a folder of the run and leaves a world there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from drivedit.config import (
    ClipConfig,
    DataConfig,
    DistillConfig,
    LoopConfig,
    StudentStageConfig,
    VAEStageConfig,
    WorldConfig,
)
from drivedit.data.clips import Drives, clip_starts, suit
from drivedit.models import DiTTeacher, World
from drivedit.training.distillation import DistillStage
from drivedit.training.loop import train
from drivedit.training.scenes import pick_scenes
from drivedit.training.student_stage import StudentStage, student_figures
from drivedit.training.teacher_stage import BothWaysStage, TeacherStage, teacher_figures
from drivedit.training.vae_stage import DecoderStage, VAEStage, narrowed, vae_figures
from drivedit.utils import resolve_device

log = logging.getLogger(__name__)


def vae(
    world: WorldConfig, train_: LoopConfig, data: DataConfig, loss: VAEStageConfig, run: str, device: str = "auto"
) -> World:
    """Trains the autoencoder and writes `run/vae/world`, a world whose dynamics are still untrained."""
    torch.manual_seed(train_.seed)
    drives = Drives.open(data.root)
    world = suit(world, drives)
    chosen, checked = drives.split(data.validation_fraction)
    states = int(drives.first[chosen[-1] + 1])
    held = _frames(drives, np.linspace(drives.first[checked[0]], drives.first[-1] - 1, 256).astype(int))

    def batch(rng: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(states, (train_.batch_size,), generator=rng).numpy()
        return {"frames": _frames(drives, np.sort(index))[:, None]}

    stage = VAEStage(World(world).vae, loss)
    where = resolve_device(device)
    best = train(
        stage, batch, train_, Path(run) / "vae", device=where,
        validate=lambda s: vae_figures(s.vae, held.to(where)), judge="psnr",  # type: ignore[arg-type]
    )  # fmt: skip
    assert isinstance(best, VAEStage)
    result = World(world)
    result.vae.load_state_dict(best.vae.state_dict())
    result.to(where).eval()
    sample = np.sort(np.random.default_rng(0).choice(states, min(4096, states), replace=False))
    mean, spread, _ = _moments(result, drives, sample)
    result.latent_mean.copy_(mean)
    result.latent_std.copy_(spread)
    result.save_pretrained(Path(run) / "vae" / "world")
    log.info("autoencoder: %s", vae_figures(best.vae, held.to(where)))
    return result


def decoder(
    folder: str, inner: list[int], train_: LoopConfig, data: DataConfig, loss: VAEStageConfig, run: str,
    device: str = "auto",
) -> World:  # fmt: skip
    """Gives a trained world a narrower decoder for the same latents; writes `run/decoder/world`.

    Args:
        folder: Of the trained world.
        inner: Widths inside the decoder's residual blocks (`drivedit.models.VAE3D`).
        train_: The loop.
        data: The recordings.
        loss: The loss.
        run: Folder of the run.
        device: auto, cpu, cuda, ...
    """
    from accelerate import PartialState

    torch.manual_seed(train_.seed)
    world = World.from_pretrained(folder, device=resolve_device(device))
    drives = _open(data, world.device)
    latents = _latents(world, drives, run)
    chosen, checked = drives.split(data.validation_fraction)
    states = int(drives.first[chosen[-1] + 1])
    held = _frames(drives, np.linspace(drives.first[checked[0]], drives.first[-1] - 1, 256).astype(int))
    sample = np.sort(np.random.default_rng(0).choice(states, min(1024, states), replace=False))
    uncertain = _moments(world, drives, sample)[2]
    known = torch.from_numpy(latents[sample].astype(np.float32)).to(world.device)
    small = narrowed(world.vae, inner, known * world.latent_std + world.latent_mean)

    def batch(rng: torch.Generator) -> dict[str, Tensor]:
        index = np.sort(torch.randint(states, (train_.batch_size,), generator=rng).numpy())
        return {"latents": torch.from_numpy(latents[index].astype(np.float32)), "frames": _frames(drives, index)}

    best = train(
        DecoderStage(small, loss, (world.latent_mean, world.latent_std, uncertain)), batch, train_,
        Path(run) / "decoder", device=world.device,
        validate=lambda s: vae_figures(s.vae, held.to(world.device)), judge="psnr",  # type: ignore[arg-type]
    )  # fmt: skip
    assert isinstance(best, DecoderStage)
    log.info("decoder: %s, before: %s", *(vae_figures(vae, held.to(world.device)) for vae in (best.vae, world.vae)))
    result = World(replace(world.config, vae=small.config), world.scenes, world.card)
    rest = {name: value for name, value in world.state_dict().items() if not name.startswith("vae.")}
    result.load_state_dict(rest | {f"vae.{name}": value for name, value in best.vae.state_dict().items()})
    if PartialState(cpu=world.device.type == "cpu").is_main_process:
        result.save_pretrained(Path(run) / "decoder" / "world")
    return result


def student(
    world: WorldConfig, train_: LoopConfig, data: DataConfig, loss: StudentStageConfig, run: str, device: str = "auto"
) -> World:
    """Trains dynamics and heads on the latents of `run/vae/world` and writes `run/student/world`."""
    torch.manual_seed(train_.seed)
    coder = World.from_pretrained(Path(run) / "vae" / "world", device=resolve_device(device))
    if coder.config.vae != world.vae:
        raise ValueError(f"{run}/vae/world was trained with {coder.config.vae}, the student's preset says {world.vae}")
    drives = _open(data, coder.device)
    world = suit(world, drives, loss.clip_frames)
    result = World(world).to(coder.device)
    result.vae.load_state_dict(coder.vae.state_dict())
    result.latent_mean.copy_(coder.latent_mean)
    result.latent_std.copy_(coder.latent_std)
    return _train_dynamics(result, StudentStage(result, loss), drives, train_, data, run, "student")


def distill(
    teacher: str, train_: LoopConfig, data: DataConfig, loss: DistillConfig, run: str, device: str = "auto",
    real_score: str | None = None,
) -> World:  # fmt: skip
    """Makes a student that is right in few passes out of a trained world; writes `run/METHOD/world`.

    Args:
        teacher: Folder of the trained world, whose autoencoder is that of `run/vae/world`.
        train_: The loop.
        data: The recordings.
        loss: The loss, and with it the method.
        run: Folder of the run.
        device: auto, cpu, cuda, ...
        real_score: File of a bidirectional teacher that tells the real score under `matching`; None: the trained world.
    """
    torch.manual_seed(train_.seed)
    result = World.from_pretrained(teacher, device=resolve_device(device))
    coder = World.from_pretrained(Path(run) / "vae" / "world", device=result.device)
    mine, theirs = ({**w.vae.encoder.state_dict(), **w.vae.to_moments.state_dict()} for w in (result, coder))
    if mine.keys() != theirs.keys() or any(not torch.equal(value, theirs[name]) for name, value in mine.items()):
        raise ValueError(f"{teacher} has another encoder than {run}/vae/world, which made the latents")
    if result.dynamics.window is not None:  # its length bounds clips only, and long rollouts need long clips
        needed = loss.clip_frames * result.dynamics.tokens_per_frame
        result.dynamics.max_seq_len = max(result.dynamics.max_seq_len, needed)
    drives = _open(data, result.device)
    if real_score is None:
        stage = DistillStage(result, loss)
    else:
        stage = BothWaysStage(result, loss, DiTTeacher.load(real_score).to(result.device))
    return _train_dynamics(result, stage, drives, train_, data, run, loss.method)


def _open(data: DataConfig, device: torch.device) -> Drives:
    """Opens recordings, which unpacks them where that was not done before: one process at a time."""
    from accelerate import PartialState

    with PartialState(cpu=device.type == "cpu").main_process_first():
        return Drives.open(data.root)


def teacher(
    folder: str, train_: LoopConfig, data: DataConfig, loss: ClipConfig, run: str, device: str = "auto"
) -> DiTTeacher:
    """Trains a bidirectional teacher of whole clips; writes `run/teacher/teacher.safetensors`.

    Args:
        folder: Of a trained world, whose tokens it learns and whose student it is as wide and deep as.
        train_: The loop.
        data: The recordings.
        loss: The clips.
        run: Folder of the run.
        device: auto, cpu, cuda, ...
    """
    from accelerate import PartialState

    torch.manual_seed(train_.seed)
    world = World.from_pretrained(folder, device=resolve_device(device))
    drives = _open(data, world.device)
    sizes = world.config.student
    network = DiTTeacher(
        sizes.latent_dim, sizes.d_model, sizes.n_layers, sizes.n_heads, sizes.d_ff,
        max_seq_len=loss.clip_frames * sizes.tokens_per_frame, tokens_per_frame=sizes.tokens_per_frame,
        control_dim=sizes.control_dim, history=sizes.history, route_dim=sizes.route_dim, map_dim=sizes.map_dim,
    ).to(world.device)  # fmt: skip
    batch, held = _batches(world, drives, train_, data, run, loss.clip_frames)
    best = train(
        TeacherStage(world, network, loss), batch, train_, Path(run) / "teacher", device=world.device,
        validate=lambda s: teacher_figures(s, held), judge="-mse_0.5",
    )  # fmt: skip
    assert isinstance(best, TeacherStage)
    if PartialState(cpu=world.device.type == "cpu").is_main_process:
        best.teacher.save(Path(run) / "teacher" / "teacher.safetensors")
    return best.teacher


def _train_dynamics(
    world: World, stage: StudentStage, drives: Drives, train_: LoopConfig, data: DataConfig, run: str, name: str
) -> World:
    """Trains a stage on clips of latents; writes `run/NAME/world`."""
    from accelerate import PartialState

    batch, held = _batches(world, drives, train_, data, run, stage.config.clip_frames)
    best = train(
        stage, batch, train_, Path(run) / name, device=world.device,
        validate=lambda s: student_figures(s, held),
    )  # fmt: skip
    assert isinstance(best, StudentStage)
    for part, module in best.trained().items():
        getattr(world, part).load_state_dict(module.state_dict())
    world.error_range.copy_(best.error_range)
    world.scenes = pick_scenes(drives, drives.split(data.validation_fraction)[1], world.config)
    if PartialState().is_main_process:
        world.eval().save_pretrained(Path(run) / name / "world")
    return world


def _batches(
    world: World, drives: Drives, train_: LoopConfig, data: DataConfig, run: str, frames: int
) -> tuple[Callable[[torch.Generator], dict[str, Tensor]], dict[str, Tensor]]:
    """What draws batches of clips of latents, and a batch of clips that are only looked at."""
    history = world.config.student.history
    clips = Clips(drives, _latents(world, drives, run), world.config, frames)
    chosen, checked = drives.split(data.validation_fraction)
    starts, ends = clip_starts(drives, chosen, frames, history)
    held, _ = clip_starts(drives, checked, frames, history)
    held_batch = clips.batch(held[np.linspace(0, len(held) - 1, 24).astype(int)])

    def batch(rng: torch.Generator) -> dict[str, Tensor]:
        index = starts[torch.randint(len(starts), (train_.batch_size,), generator=rng).numpy()]
        if len(ends):
            rare = torch.rand(train_.batch_size, generator=rng).numpy() < 0.05
            index = np.where(rare, ends[torch.randint(len(ends), (len(index),), generator=rng).numpy()], index)
        return clips.batch(index)

    return batch, {name: value.to(world.device) for name, value in held_batch.items()}


def _latents(world: World, drives: Drives, run: str) -> np.ndarray:
    """Latents of all states, made by one process while the others wait."""
    from accelerate import PartialState

    with PartialState(cpu=world.device.type == "cpu").main_process_first():
        return encode_drives(world, drives, Path(run) / "latents.npy")


class Clips:
    """Batches of latent clips with everything that the student learns from.

    Args:
        drives: The recordings.
        latents: float16 `[S, C, h, w]`.
        world: Gives the route code and the units of the heads.
        frames: Targets of a clip.
    """

    def __init__(self, drives: Drives, latents: np.ndarray, world: WorldConfig, frames: int) -> None:
        self.latents, self.frames, self.history = latents, frames, world.student.history
        self.control = np.asarray(drives.control)
        self.codes = drives.codes(world)
        self.motion = drives.motion() / np.asarray(world.motion_scale, np.float32)
        told = np.asarray(drives.telemetry)[:, [drives.telemetry_names.index(name) for name in world.telemetry]]
        self.telemetry = told / np.asarray(world.telemetry_scale, np.float32)
        if not world.telemetry:
            self.telemetry = np.zeros((len(told), 1), np.float32)  # for the unused output of `drivedit.models.Heads`
        self.reward = np.asarray(drives.progress) / world.reward_scale if world.reward_scale else np.zeros(len(told))
        self.ended = np.asarray(drives.ended).astype(np.float32)

    def batch(self, starts: np.ndarray) -> dict[str, Tensor]:
        """Clips whose first targets are `starts`.

        Returns:
            latents `[B, history + T, C, h, w]`; control `[B, T, 7]` (now, before, ego-motion before); route
            `[B, T, K]` (of the state before); motion `[B, T, 3]`, telemetry `[B, T, >= 1]`, reward and ended `[B, T]`.
        """
        index = starts[:, None] + np.arange(-self.history, self.frames)
        now = index[:, self.history :]
        arrays = {
            "latents": np.stack([self.latents[row[0] : row[-1] + 1] for row in index]).astype(np.float32),
            "control": np.concatenate([self.control[now], self.control[now - 1], self.motion[now - 1]], -1),
            "route": self.codes[now - 1],
            "motion": self.motion[now],
            "telemetry": self.telemetry[now],
            "reward": self.reward[now],
            "ended": self.ended[now],
        }
        return {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in arrays.items()}


@torch.no_grad()
def encode_drives(world: World, drives: Drives, path: Path) -> np.ndarray:
    """Latents of all states, float16 `[S, C, h, w]`, kept in a file beside the run."""
    shape = (int(drives.first[-1]), *world.latent_shape())
    if path.exists():
        latents = np.load(path, mmap_mode="r")
        if latents.shape == shape:
            return latents
        raise ValueError(f"{path} holds {latents.shape}, the recordings need {shape}; delete it to encode again")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npy")
    latents = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
    for at in tqdm(range(0, shape[0], 256), desc="encoding", mininterval=5):
        with torch.autocast(world.device.type, torch.bfloat16):
            latents[at : at + 256] = world.encode(np.array(drives.frames[at : at + 256])[None])[0].half().cpu().numpy()
    latents.flush()
    temporary.replace(path)
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def _moments(world: World, drives: Drives, sample: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation per latent channel, the encoder's own uncertainty included, and the latter alone."""
    means, variances = [], []
    for part in np.array_split(sample, max(1, len(sample) // 256)):
        x = _frames(drives, part).to(world.device).float()[:, :, None] / 127.5 - 1
        mean, logvar = world.vae.encode(x)
        means.append(mean[:, :, 0])
        variances.append(logvar.exp().mean((0, 2, 3, 4)))
    every = torch.cat(means)
    mean = every.mean((0, 2, 3))
    uncertain = torch.stack(variances).mean(0)
    spread = (every.var((0, 2, 3)) + uncertain).sqrt()
    return mean[None, :, None, None], spread[None, :, None, None], uncertain.sqrt()[None, :, None, None]


def _frames(drives: Drives, index: np.ndarray) -> Tensor:
    """Frames of some states, uint8 `[N, C, H, W]`."""
    return torch.from_numpy(np.array(drives.frames[index])).permute(0, 3, 1, 2).contiguous()
