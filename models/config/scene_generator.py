"""Configuration of what draws start scenes, and of the stage that trains it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from drivedit.config.base import BaseConfig
from drivedit.config.pixel import PixelHDMConfig
from drivedit.config.spec import WorldSpec

MOST_CHANNELS = 64  # of the stacked frames


def scene_network() -> PixelHDMConfig:
    """A network of about 4 million parameters, which two cores of a CPU train.

    It is trained nearer to pure noise than the published one: at time .05 a picture still shows whether it is night, so
    a network that never saw less would not learn to take that from what it is told (Lin et al. 2023, arXiv 2305.08891).
    """
    return PixelHDMConfig(
        hidden_dim=192, pixel_dim=16, patch_size=8, patch_layers=5, pixel_layers=2, num_heads=6, num_kv_heads=3,
        head_dim=32, mlp_ratio=2.0, use_gradient_checkpointing=False, time_embed_dim=128,
        time_p_mean=-1.0, time_p_std=1.5, time_eps=1e-3, repa_enabled=False, repa_align_layer=1, text_hidden_size=192,
        mrope_text_dim=8, mrope_img_h_dim=12, mrope_img_w_dim=12, default_num_steps=16, default_guidance_scale=1.5,
    )  # fmt: skip


@dataclass
class SceneGeneratorConfig(BaseConfig):
    """What draws start scenes (`drivedit.models.pixel.generator.SceneGenerator`).

    Attributes:
        spec: Of what it draws: one picture, its attributes, and the seconds from one step to the next.
        network: Of one frame: its channels are those of the spec's picture. Its sampler is the generator's, and its
            `cfg_dropout` the share of scenes that are told nothing in training.
        frames: Frames of a scene, which are drawn as one picture, one behind the other in its channels.
        apart: Steps from one frame to the next; a `BevWorld` looks at two that are 4 apart.

    Raises:
        ValueError: A number is out of its range, or two do not fit together.
    """

    spec: WorldSpec = field(default_factory=WorldSpec)
    network: PixelHDMConfig = field(default_factory=scene_network)
    frames: int = 2
    apart: int = 4

    def __post_init__(self) -> None:
        self.check_ranges(frames=(1, MOST_CHANNELS), apart=(1, 1000))
        if self.frames == 1 and self.apart != 1:
            raise ValueError(f"apart must be 1 where there is one frame, got {self.apart}")
        if self.network.repa_enabled:
            raise ValueError("network.repa_enabled must be false: no encoder is trained on stacked frames")
        if len(self.spec.observations) > 1:
            raise ValueError(f"spec.observations must be one picture, got {list(self.spec.observations)}")
        for kind in self.spec.observations.values():
            if kind.dtype != "uint8" or len(kind.shape) != 3 or kind.shape[2] != self.network.in_channels:
                raise ValueError(
                    f"the picture must be uint8 [H, W, {self.network.in_channels}] as network.in_channels says, got "
                    f"{kind.dtype} {list(kind.shape)}"
                )
        channels = self.frames * self.network.in_channels
        if channels > MOST_CHANNELS:
            raise ValueError(f"frames * network.in_channels must be at most {MOST_CHANNELS}, got {channels}")
        if self.network.pixel_dim < channels:
            raise ValueError(
                f"network.pixel_dim must be at least frames * network.in_channels = {channels}: noise must pass; "
                f"got {self.network.pixel_dim}"
            )

    @property
    def stacked(self) -> PixelHDMConfig:
        """The network of the frames one behind the other."""
        channels = self.frames * self.network.in_channels
        return replace(self.network, in_channels=channels, out_channels=channels, freq_loss_use_ycbcr=False)

    @property
    def steps_back(self) -> int:
        """Steps from the first frame to the last one."""
        return self.apart * (self.frames - 1)


@dataclass
class ScenesStageConfig(BaseConfig):
    """What the `pixel` stage withholds and is judged by.

    Attributes:
        drop: Share of attributes, and of speeds, that are withheld, each by itself, from scenes that are told anything.
        judged: Held-back scenes that figures are told of.
        drawn: Scenes that are drawn for figures, told what as many of those are.
    """

    drop: float = 0.1
    judged: int = 256
    drawn: int = 8

    def __post_init__(self) -> None:
        self.check_ranges(drop=(0, 1), judged=(1, 1_000_000), drawn=(1, 1_000_000))
