"""Start scenes from noise: a picture that holds the last frames of a drive, one behind the other in its channels.

The frames are drawn together, so what moves from one to the next is part of what is drawn. The network is told, each as
a token, what the scene is like (its attributes) and how fast the car is; every one of them may be left open.

Legend: B scenes, n frames, H W their pixels, C their channels, A attributes, D width of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import SceneGeneratorConfig
from drivedit.models.flow.unified import UnifiedSampler
from drivedit.models.layers.blocks import mlp, waves
from drivedit.models.pixel.network import PixelHDM, check_size
from drivedit.models.saved import SavedNetwork
from drivedit.utils import write_tensors
from drivedit.utils.episodes import check_attributes

LARGEST = 10_000_000  # bytes of a file
FASTEST = 200.0  # m/s
SPEED_WAVES = 32  # that tell a speed
TOGETHER = 16  # scenes that are drawn at once
OPEN = 0  # of an attribute that is not told; its values count from 1


class SceneGenerator(SavedNetwork):
    """Draws start scenes.

    Args:
        config: What it draws, and its sizes.

    Raises:
        ValueError: The spec has no picture, or the side of a patch does not divide it.
    """

    file_format = "drivedit-scene-generator-1"
    config_type = SceneGeneratorConfig

    def __init__(self, config: SceneGeneratorConfig) -> None:
        super().__init__()
        self.config: SceneGeneratorConfig = config
        if not config.spec.observations:
            raise ValueError("a generator of scenes needs a spec with a picture, got one without observations")
        height, width, _ = self.shape
        check_size(height, width, config.network.patch_size)
        told, counts = config.network.text_hidden_size, [1 + len(values) for values in config.spec.attributes.values()]
        self.network = PixelHDM(config.stacked)
        self.of_values = nn.Embedding(sum(counts), told)
        self.of_speed, self.no_speed = mlp(SPEED_WAVES, told), nn.Parameter(torch.randn(told))
        self.first = [sum(counts[:place]) for place in range(len(counts))]  # row of each attribute when it is open

    @classmethod
    def from_config(cls, config: SceneGeneratorConfig) -> SceneGenerator:  # type: ignore[override]
        """Builds the generator that a configuration describes."""
        return cls(config)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of a frame."""
        return self.config.spec.observations[self.config.spec.picture].shape

    def save(self, path: str | Path) -> None:
        """Writes the generator to one safetensors file in half precision, whole or not at all.

        Raises:
            ValueError: It would take more than 10 MB, or a weight is not finite in half precision.
        """
        weights = {name: value.half() for name, value in self.state_dict().items()}
        size = sum(value.nbytes for value in weights.values())
        if size > LARGEST:
            raise ValueError(f"a generator's file has at most {LARGEST / 1e6:g} MB, this has {size / 1e6:.1f}; make "
                             "network.hidden_dim smaller")  # fmt: skip
        if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise ValueError(f"the weights {broken} are not finite in half precision")
        write_tensors(path, weights, self.file_format, self.config.to_dict())

    # -- what it is told -----------------------------------------------------------------------------------------

    def values(self, attributes: Mapping[str, str]) -> list[int]:
        """What is told of each attribute, `[A]` numbers: `OPEN`, or the place of its value counted from 1.

        Raises:
            ValueError: There is no such attribute, or not that value of it.
        """
        check_attributes(attributes, self.config.spec, "a scene")
        return [
            values.index(attributes[name]) + 1 if name in attributes else OPEN
            for name, values in self.config.spec.attributes.items()
        ]

    def tell(self, values: Tensor, speeds: Tensor) -> Tensor:
        """Tokens `[B, A + 1, D]` of values `[B, A]`, whole numbers, and speeds `[B]` in m/s; NaN: not told."""
        known = speeds.isfinite()
        fast = self.of_speed(waves(torch.where(known, speeds, 0.0), SPEED_WAVES).to(self.no_speed.dtype))
        fast = torch.where(known[:, None], fast, self.no_speed)
        return torch.cat([self.of_values(values + values.new_tensor(self.first)), fast[:, None]], 1)

    def velocity(self, noisy: Tensor, t: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity `[B, H, W, n C]` of noisy pictures at times `[B]`, and the mean square of the pixels' scales."""
        return self.network(noisy, t, tokens, pooled_text_embed=tokens.mean(1), return_gamma=True)

    # -- pictures ------------------------------------------------------------------------------------------------

    def stack(self, frames: Tensor) -> Tensor:
        """Pictures `[B, H, W, n C]` in [-1, 1] of frames uint8 `[B, n, H, W, C]`.

        Raises:
            ValueError: They are of another type, number or size.
        """
        wanted = (self.config.frames, *self.shape)
        if frames.dtype != torch.uint8 or frames.shape[1:] != wanted:
            raise ValueError(f"this generator's frames are uint8 [B, {', '.join(map(str, wanted))}], got "
                             f"{str(frames.dtype).removeprefix('torch.')} {list(frames.shape)}")  # fmt: skip
        return rearrange(frames, "b n h w c -> b h w (n c)").float() / 127.5 - 1

    def unstack(self, pictures: Tensor) -> Tensor:
        """The frames `[B n, H, W, C]` of pictures `[B, H, W, n C]`, scene after scene."""
        return rearrange(pictures, "b h w (n c) -> (b n) h w c", n=self.config.frames)

    def frames(self, pictures: Tensor) -> np.ndarray:
        """Frames uint8 `[B, n, H, W, C]` of pictures `[B, H, W, n C]` about [-1, 1]."""
        colours = ((self.unstack(pictures) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return colours.unflatten(0, (-1, self.config.frames)).cpu().numpy()

    # -- drawing -------------------------------------------------------------------------------------------------

    def sample(
        self, attributes: Mapping[str, str] | None, speed: float | None, count: int, generator: torch.Generator, *,
        steps: int | None = None, guidance: float | None = None, method: str | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draws scenes of one kind.

        Args:
            attributes: What they are like; what is left out is open.
            speed: Of the car, m/s; None: open.
            count: Scenes.
            generator: Of the noise, on the CPU.
            steps: Of the sampler; None: the configuration's, like the next two.
            guidance: Scale of guidance towards what is told: 1 is none, above it what is told counts for more.
            method: "euler", "heun", "dpm_pp" or "dpm_pp_2s".

        Returns:
            uint8 `[count, n, H, W, C]`, the last frame is now.

        Raises:
            ValueError: An attribute, a value or a method is unknown, or a number is out of its range.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if speed is not None and not abs(speed) <= FASTEST:
            raise ValueError(f"speed must be within {FASTEST:g} m/s, got {speed}")
        values = torch.tensor(self.values(attributes or {}), dtype=torch.long).expand(count, -1)
        speeds = torch.full((count,), float("nan") if speed is None else float(speed))
        return self.draw(values, speeds, generator, steps=steps, guidance=guidance, method=method)

    @torch.no_grad()
    def draw(
        self, values: Tensor, speeds: Tensor, generator: torch.Generator, *, steps: int | None = None,
        guidance: float | None = None, method: str | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draws scenes, each under what it is told: `values` `[B, A]` and `speeds` `[B]` of `tell`; else `sample`."""
        network = self.config.network
        sampler = UnifiedSampler(
            method or network.default_sampler_method, network.default_num_steps if steps is None else steps,
            network.time_eps,
        )  # fmt: skip
        scale = network.default_guidance_scale if guidance is None else guidance
        height, width, channels = self.shape
        size, device, made = (height, width, self.config.frames * channels), self.no_speed.device, []
        was = self.training
        self.eval()
        try:
            for some, fast in zip(values.split(TOGETHER), speeds.split(TOGETHER), strict=True):
                start = torch.randn(len(some), *size, generator=generator).to(device)
                told = self.tell(some.to(device), fast.to(device))
                null = self.tell(torch.full_like(some, OPEN).to(device), torch.full_like(fast, torch.nan).to(device))
                pictures = sampler.sample(
                    self._velocity, start, told, guidance_scale=scale, null_text_embeddings=null,
                )  # fmt: skip
                made.append(self.frames(pictures))
        finally:
            self.train(was)
        return np.concatenate(made)

    def _velocity(self, z: Tensor, t: Tensor, text_embed: Tensor) -> Tensor:
        """The velocity, as samplers ask for it."""
        return self.velocity(z, t, text_embed)[0]
