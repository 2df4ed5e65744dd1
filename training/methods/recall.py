"""A student that recalls places: a `MemoryBank` of what was seen and where, and the method that trains with it.

Every patch of a stored frame is one entry, which holds its pixels and where on the ground it lay. What lies in the
coming view is told to the student, placed relative to the coming pose, so that it needs no sense of the whole track.

Legend: B streams, W frames of a window, H rows and V columns of a frame, P its patches, D width of a token, M memories,
E width of the student.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from drivedit.data.landmarks import Landmarks
from drivedit.models import DiTStudent, MemoryBank
from drivedit.models.flow.path import add_noise, weighted
from drivedit.models.layers.past import past_of
from drivedit.training.methods.dynamics import error_from_noise
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.utils import advance_pose, motion_between

PATCH = 4  # pixels
WIDTH = 3 * PATCH**2
PLACE_WEIGHT = 8.0
LENGTH = 16.0  # of every stored token, so that the nearest place has the largest cosine
WAVELENGTHS = (16.0, 32.0, 64.0, 128.0)  # m, of the code that tells the student a place


def tokens_of(frames: Tensor) -> Tensor:
    """Patches `[..., P, D]` in [-1, 1] of uint8 frames `[..., H, V, 3]`."""
    patches = rearrange(frames, "... (r a) (c b) k -> ... (r c) (a b k)", a=PATCH, b=PATCH)
    return patches.float() / 127.5 - 1


def frames_of(tokens: Tensor, rows: int) -> Tensor:
    """The reverse of `tokens_of`, of frames of so many rows."""
    frames = rearrange(tokens, "... (r c) (a b k) -> ... (r a) (c b) k", r=rows // PATCH, a=PATCH, b=PATCH)
    return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class Places:
    """What was seen of a drive, and where.

    Args:
        landmarks: Sizes of the frames and of the field.
        d_model: Width E of the student.
        every: Of so many frames one is stored.
        told: Most patches that are told at once.

    Raises:
        ValueError: The student is too narrow for a patch and its place, or frames are not of whole patches.
    """

    def __init__(self, landmarks: Landmarks, d_model: int, every: int = 3, told: int = 80) -> None:
        if d_model < WIDTH + 4 * len(WAVELENGTHS):
            raise ValueError(f"d_model must be at least {WIDTH + 4 * len(WAVELENGTHS)}, got {d_model}")
        rows, columns = landmarks.rows, landmarks.columns
        if rows % PATCH or columns % PATCH:
            raise ValueError(f"rows and columns must be multiples of {PATCH}, got {rows} and {columns}")
        self.bank = MemoryBank(d_model, max_spatial_memory=5000, max_object_memory=1, similarity_threshold=1.0)
        self.every, self.told, self.frame = every, told, 0
        self.field, self.middle = landmarks.field, torch.tensor([*landmarks.middle, 0.0])
        self.reach = torch.tensor(landmarks.reach)
        row, column = torch.meshgrid(torch.arange(rows // PATCH), torch.arange(columns // PATCH), indexing="ij")
        forward = (landmarks.car[0] - PATCH * (row + 0.5)) * landmarks.metres[0]
        right = (PATCH * (column + 0.5) - landmarks.car[1]) * landmarks.metres[1]
        self.patches = torch.stack([forward, right, 0 * right], -1).flatten(0, 1).float()  # [P, 3]

    def see(self, tokens: Tensor, pose: Tensor) -> None:
        """Stores one frame `[B, P, D]` seen from `[B, 3]`; frames of zeros are absent ones."""
        self.frame += 1
        if self.frame % self.every:
            return
        place = advance_pose(pose[:, None], self.patches)
        entry = torch.cat([tokens, self._key(place)], -1)
        rest = (LENGTH**2 - entry.square().sum(-1, keepdim=True)).sqrt()
        entry = torch.cat([entry, rest, entry.new_zeros(*rest.shape[:2], self.bank.d_model - WIDTH - 5)], -1)
        entry = entry * tokens.ne(0).any(-1, keepdim=True)
        self.bank.update(entry, torch.ones(entry.shape[:2]))

    def recall(self, pose: Tensor) -> Tensor:
        """What is known of the view from `[B, 3]`, as memory of the student `[B, M, E]`."""
        query = pose.new_zeros(len(pose), self.bank.d_model)
        query[:, WIDTH : WIDTH + 4] = self._key(advance_pose(pose, self.middle))
        found = self.bank.retrieve(query, self.told)
        key = found[..., WIDTH : WIDTH + 4]
        place = torch.atan2(key[..., 2:], key[..., :2]) * self.field / (2 * math.pi)
        place = torch.cat([place, torch.zeros_like(place[..., :1])], -1)
        relative = motion_between(pose[:, None].expand_as(place), place)[..., :2]
        seen = ((relative - self.middle[:2]).abs() < self.reach).all(-1, keepdim=True) & found.ne(0).any(
            -1, keepdim=True
        )
        angle = (relative[..., None] * 2 * math.pi / torch.tensor(WAVELENGTHS)).flatten(-2)
        told = torch.cat([found[..., :WIDTH], angle.cos(), angle.sin()], -1)
        return nn.functional.pad(told, (0, self.bank.d_model - told.shape[-1])) * seen

    def _key(self, place: Tensor) -> Tensor:
        """Cosines and sines `[..., 4]` of a place `[..., >= 2]`, whose products fall with the distance."""
        angle = place[..., :2] * 2 * math.pi / self.field
        return PLACE_WEIGHT * torch.cat([angle.cos(), angle.sin()], -1)


def control_of(poses: Tensor, units: tuple[float, float, float]) -> Tensor:
    """The motion that led to each pose but the first, `[B, W, 3]` of `[B, W + 1, 3]`, in units of its own."""
    return motion_between(poses[:, :-1], poses[:, 1:]) / torch.tensor(units)


class RecallMethod(Method):
    """Trains a student to denoise the last frame of a window, from a past with a little noise and from memory.

    Args:
        dynamics: The student.
        context_noise: Scale of the half-Cauchy noise on the past, at most 1.
    """

    def __init__(self, dynamics: DiTStudent, context_noise: float = 0.1) -> None:
        super().__init__()
        self.dynamics, self.context_noise = dynamics, context_noise

    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices inside the blocks, which Muon trains."""
        return [p for p in self.dynamics.blocks.parameters() if p.ndim == 2]

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """Loss of windows: tokens `[B, W, P, D]`, control `[B, W, 3]`, memory `[B, M, E]`."""
        tokens = batch["tokens"]
        rows, frames = tokens.shape[:2]
        sigma = torch.randn(rows, 1, generator=rng).sigmoid()
        sigma = torch.where(torch.rand(rows, 1, generator=rng) < 0.4, torch.ones_like(sigma), sigma)
        scale = self.context_noise * (math.pi / 2 * torch.rand(rows, 1, generator=rng)).tan().clamp(max=10)
        drawn = torch.randn(tokens.shape, generator=rng)
        past = tokens[:, :-1] + scale[..., None, None] * drawn[:, :-1]
        noisy = add_noise(tokens[:, -1], drawn[:, -1], sigma[:, 0])
        clip = torch.cat([past, noisy[:, None]], 1)
        out, _ = self.dynamics(
            clip.flatten(1, 2),
            sigma=torch.cat([sigma.new_zeros(rows, frames - 1), sigma], 1),
            control=batch["control"],
            past=past_of(clip, self.dynamics.history).flatten(1, 2),
            memory=batch["memory"],
        )
        error = (out[:, -tokens.shape[2] :].float() - tokens[:, -1]).square().mean((1, 2))
        return weighted(error, sigma[:, 0]).mean(), {"mse": error_from_noise(error, sigma[:, 0])}
