"""What the stages after `vae` learn from: latents of all states, kept in the run's folder, and clips of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from drivedit.config import DataConfig, WorldConfig
from drivedit.data.clips import Drives, clip_starts
from drivedit.models import DiTWorld
from drivedit.models.conditions.layout import LayoutCoder, join
from drivedit.models.conditions.route import RouteCoder
from drivedit.utils import Route, advance_pose, code_fingerprint, fast_dtype, fingerprint, write_atomically
from drivedit.utils.episodes import BOX

log = logging.getLogger(__name__)
AT_ONCE = 32  # frames: on a CPU their activations stay in the cache


def encoder_fingerprint(world: DiTWorld) -> str:
    """A name for what makes latents of pictures: the encoder's weights and the latents' unit."""
    parts = {**world.vae.encoder.state_dict(), **world.vae.to_moments.state_dict()}
    parts |= {"mean": world.latent_mean, "std": world.latent_std}
    weights = [part.detach().cpu().float().contiguous().numpy().tobytes() for part in parts.values()]
    return fingerprint(list(parts), *weights)


@torch.no_grad()
def encode_drives(world: DiTWorld, drives: Drives, folder: Path) -> np.ndarray:
    """Latents of all states, float16 `[S, C, h, w]`, kept in a folder.

    The file's name says what it was made from, `latents-ENCODER-RECORDINGS.npy`. Where one of both is another now, it
    is made anew and the old one goes.

    Raises:
        OSError: The file cannot be written, for instance because the disk is full.
        ValueError: The file was damaged from outside.
    """
    shape = (int(drives.first[-1]), *world.latent_shape())
    coder = fingerprint(encoder_fingerprint(world), code_fingerprint("drivedit.models.dit.vae", __name__))
    names = {"encoder": coder, "recordings": drives.fingerprint}
    path = folder / f"latents-{coder}-{drives.fingerprint}.npy"
    if not path.exists():
        for old in folder.glob("latents*.npy"):
            changed = [what for what, name in names.items() if name not in old.stem.split("-")]
            log.info("%s was made from other %s: encoding anew", old, " and ".join(changed))
            old.unlink()
        write_atomically(path, lambda file: _encode(world, drives, shape, file))
    try:
        latents = np.load(path, mmap_mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to encode again") from error
    if latents.shape != shape:
        raise ValueError(f"{path} holds {latents.shape}, the recordings need {shape}; delete it to encode again")
    return latents


def _encode(world: DiTWorld, drives: Drives, shape: tuple[int, ...], file: IO[bytes]) -> None:
    """Writes all latents as an array of numpy's, without a memory map: a full disk is an error, not a crash."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for at in tqdm(range(0, shape[0], AT_ONCE), desc="encoding", mininterval=5):
        file.write(encode(world, drives.frames[at : at + AT_ONCE]).tobytes())


@torch.no_grad()
def encode(world: DiTWorld, frames: np.ndarray) -> np.ndarray:
    """Latents of frames `[N, H, W, C]` uint8, float16 `[N, C, h, w]`."""
    half, parts = fast_dtype(world.device) == torch.bfloat16, []
    for at in range(0, len(frames), AT_ONCE):
        with torch.autocast(world.device.type, torch.bfloat16, enabled=half):
            latents = world.encode(np.array(frames[at : at + AT_ONCE])[None])[0]
        parts.append(latents.half().cpu().numpy())
    return np.concatenate(parts)


class Clips:
    """Batches of latent clips with everything that the student learns from.

    Args:
        drives: The recordings.
        latents: float16 `[S, C, h, w]`.
        world: Gives the route code and the units of the heads.
        frames: Targets of a clip.
        device: Where batches are made. All is kept there if it takes less than half of the memory; else the latents
            stay on disk.
    """

    def __init__(
        self, drives: Drives, latents: np.ndarray, world: WorldConfig, frames: int,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.frames, self.history, self.device = frames, world.history, torch.device(device)
        spec, states = world.spec, len(drives.control)
        told = [drives.telemetry[value.name] / np.float32(value.scale) for value in spec.telemetry]
        units = {name: spec.rewards[name].value for name in spec.learned()}
        earned = [np.asarray(drives.earned(name)) / unit if unit else np.zeros(states) for name, unit in units.items()]
        motion = drives.motion()
        self.motion = self._kept(motion / np.asarray(world.motion_scale, np.float32))
        self.control, self.codes = self._kept(drives.control), self._kept(route_codes(drives, world, device))
        self.telemetry, self.reward = self._kept(_columns(told, states)), self._kept(_columns(earned, states))
        self.ended = self._kept(drives.ended, np.float32)
        self.latents = latents if latents.nbytes > _room(self.device) else self._kept(latents)
        self.layout = LayoutCoder(world).to(device) if world.others else None
        if self.layout is not None:
            others, known = nearest_others(drives, world.others)
            poses = torch.from_numpy(np.array(drives.pose)).nan_to_num()
            self.poses = advance_pose(poses, torch.from_numpy(motion)).float().to(self.device)
            self.others, self.told = self._kept(others), self._kept(known)

    def _kept(self, values: np.ndarray, dtype: type | None = None) -> Tensor:
        """Values as they are kept on the device."""
        return torch.from_numpy(np.array(values, dtype)).to(self.device)

    def code(self, now: Tensor) -> Tensor:
        """What is told for the states `now` `[B, T]`: `[B, T, K]`."""
        codes = self.codes[now - 1].float()
        if self.layout is None:
            return codes
        flat = now.flatten()
        told = self.told[flat]
        layout = self.layout(self.others[flat], self.poses[flat - 1])
        code = join(codes.flatten(0, 1), told, layout * told[:, None, None])
        return code.unflatten(0, now.shape)

    def batch(self, starts: np.ndarray) -> dict[str, Tensor]:
        """Clips whose first targets are `starts`.

        Returns:
            latents `[B, history + T, C, h, w]`; control `[B, T, 2 A + 3]` (now, before, ego-motion before); route
            `[B, T, K]` (of the state before); motion `[B, T, 3]`, telemetry and reward `[B, T, >= 1]`, ended `[B, T]`.
        """
        index = starts[:, None] + np.arange(-self.history, self.frames)
        now = torch.from_numpy(index[:, self.history :]).to(self.device)
        tensors = {
            "latents": self._latents(index),
            "control": torch.cat([self.control[now], self.control[now - 1], self.motion[now - 1]], -1),
            "route": self.code(now),
            "motion": self.motion[now],
            "telemetry": self.telemetry[now],
            "reward": self.reward[now],
            "ended": self.ended[now],
        }
        return {name: value.float() for name, value in tensors.items()}

    def _latents(self, index: np.ndarray) -> Tensor:
        """The latents of clips, those of the states `index` `[B, n]`, each of which follow one another."""
        if isinstance(self.latents, Tensor):
            return self.latents[torch.from_numpy(index).to(self.device)]
        return torch.from_numpy(np.stack([self.latents[row[0] : row[-1] + 1] for row in index])).to(self.device)


def _room(device: torch.device) -> float:
    """Bytes that may be kept on a device; none on the CPU, which maps files."""
    return 0.0 if device.type == "cpu" else 0.5 * torch.get_device_module(device).mem_get_info(device)[0]


def route_codes(drives: Drives, world: WorldConfig, device: torch.device | str = "cpu") -> np.ndarray:
    """Route code for the frame after each state, float16 `[S, C]`, made as a dream makes it.

    The foot point is tracked, and the car is placed where its last motion would bring it. C is 0 for a world that
    is told no route, and codes of drives without a route are zero.
    """
    if not world.route_dim:
        return np.zeros((int(drives.first[-1]), 0), np.float16)
    coder = RouteCoder(world).to(device)
    motions, poses = (torch.from_numpy(np.array(each)).to(device) for each in (drives.motion(), drives.pose))
    poses = poses.float().nan_to_num()
    lines = [line if len(line) else None for line in drives.routes]
    route = Route.from_points(lines, [bool(c) for c in drives.closed], list(drives.bounds)).to(torch.device(device))
    lengths = np.diff(drives.first)
    codes = np.zeros((int(drives.first[-1]), coder.width), np.float16)
    arc = None
    for step in tqdm(range(int(lengths.max())), desc="routes", delay=5, mininterval=5):
        state = torch.from_numpy(drives.first[:-1] + np.minimum(step, lengths - 1))
        pose = poses[state]
        arc = route.foot(pose[:, :2], arc)
        alive = step < lengths
        ahead = advance_pose(pose, motions[state])
        codes[state.numpy()[alive]] = coder(route, ahead, arc).half().cpu().numpy()[alive]
    return codes


def nearest_rows(drives: Drives, most: int) -> np.ndarray:
    """Which agents are the nearest others at every state, rows of `drives.agents`, `[S, most]`; -1 for nobody."""
    states, agents = int(drives.first[-1]), drives.agents
    rows = np.full((states, most), -1, np.int64)
    state = np.repeat(np.arange(states), np.diff(agents.first))
    apart = np.hypot(*(agents.boxes[:, :2] - drives.pose[state, :2]).T)
    order = np.lexsort((apart, state))  # by state, then by distance
    place = np.arange(len(order)) - agents.first[state]
    kept = (place < most) & np.isfinite(apart[order])
    rows[state[kept], place[kept]] = order[kept]
    return rows


def nearest_others(drives: Drives, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of the nearest others at every state, float32 `[S, most, 7]`, filled up with zeros; and where known."""
    rows, known = nearest_rows(drives, most), np.repeat(drives.agents_known, np.diff(drives.first))
    boxes = np.zeros((*rows.shape, BOX), np.float32)
    boxes[rows >= 0] = drives.agents.boxes[rows[rows >= 0]]
    return boxes, known


def _columns(values: list[np.ndarray], states: int) -> np.ndarray:
    """The values side by side; without any, zeros for the unused output of `drivedit.models.Heads`."""
    return np.stack(values or [np.zeros(states, np.float32)], 1)


def batches(
    clips: Clips, drives: Drives, data: DataConfig, rows: int
) -> tuple[Callable[[torch.Generator], dict[str, Tensor]], dict[str, Tensor]]:
    """What draws batches of clips to learn from, and a batch of clips that are only looked at.

    Raises:
        ValueError: No drive to learn from or to look at is long enough for a clip.
    """
    chosen, checked = drives.split(data.validation_fraction)
    starts, ends = clip_starts(drives, chosen, clips.frames, clips.history)

    def batch(rng: torch.Generator) -> dict[str, Tensor]:
        return clips.batch(drawn_starts(starts[torch.randint(len(starts), (rows,), generator=rng).numpy()], ends, rng))

    return batch, held_clips(clips, drives, checked)


def drawn_starts(starts: np.ndarray, ends: np.ndarray, rng: torch.Generator) -> np.ndarray:
    """Starts of a batch, one in twenty replaced by that of a clip that ends with an ending, if there are any."""
    if not len(ends):
        return starts
    rare = torch.rand(len(starts), generator=rng).numpy() < 0.05
    return np.where(rare, ends[torch.randint(len(ends), (len(starts),), generator=rng).numpy()], starts)


def held_clips(clips: Clips, drives: Drives, checked: np.ndarray) -> dict[str, Tensor]:
    """A batch of clips that are only looked at, spread evenly over some drives; errors as `batches`."""
    held, _ = clip_starts(drives, checked, clips.frames, clips.history)
    return clips.batch(held[np.linspace(0, len(held) - 1, 24).astype(int)])


@torch.no_grad()
def moments(world: DiTWorld, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation per latent channel, the encoder's own uncertainty included, and the latter alone.

    Args:
        world: Whose latents they are.
        frames: `[N, C, H, W]` uint8.
    """
    means, variances = [], []
    for part in frames.tensor_split(max(1, len(frames) // 256)):
        x = part.to(world.device).float()[:, :, None] / 127.5 - 1
        mean, logvar = world.vae.encode(x)
        means.append(mean[:, :, 0])
        variances.append(logvar.exp().mean((0, 2, 3, 4)))
    every = torch.cat(means)
    mean = every.mean((0, 2, 3))
    uncertain = torch.stack(variances).mean(0)
    spread = (every.var((0, 2, 3)) + uncertain).sqrt()
    return mean[None, :, None, None], spread[None, :, None, None], uncertain.sqrt()[None, :, None, None]


def frames_of(drives: Drives, index: np.ndarray) -> Tensor:
    """Frames of some states, uint8 `[N, C, H, W]`."""
    return torch.from_numpy(np.array(drives.frames[index])).permute(0, 3, 1, 2).contiguous()
