"""How PixelHDM is trained and on which pictures, under the names of the published system; `Config` reads them of YAML.

These are classes of its own: `drivedit.config.TrainingConfig` and `DataConfig` are those of the driving worlds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from drivedit.config.base import BaseConfig
from drivedit.config.models import MANY
from drivedit.config.pixel import PixelHDMConfig
from drivedit.config.spec import LARGEST

SAMPLER_MODES = ("random", "sequential", "buffered_shuffle")
PRECISIONS = ("no", "bf16")
LONGEST = 2**16  # side of a picture in pixels


@dataclass
class TrainingConfig(BaseConfig):
    """Steps of the optimizer.

    Attributes:
        learning_rate: Of AdamW, once it is warm.
        batch_size: Pictures of a step.
        max_steps: Steps of a run, where it is told no other number.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: Steps in which the rate rises evenly.
        ema_decay: Share of the averaged weights that a step leaves, once there were many.
        mixed_precision: "bf16" where the hardware multiplies it, or "no".
        max_grad_norm: Largest norm of a gradient.
        zclip_threshold: Standard deviations above the mean of the norms so far, to which a higher norm is brought.
        zclip_ema_decay: Share of that mean that a step leaves, once there were many.

    Raises:
        ValueError: A number is out of its range, or the precision is unknown.
    """

    learning_rate: float = 1e-4
    batch_size: int = 16
    max_steps: int = 500_000
    weight_decay: float = 0.01
    warmup_steps: int = 0
    ema_decay: float = 0.99
    mixed_precision: str = "bf16"
    max_grad_norm: float = 1.0
    zclip_threshold: float = 2.5
    zclip_ema_decay: float = 0.99

    def __post_init__(self) -> None:
        self.check_ranges(
            learning_rate=(0, 1), batch_size=(1, MANY), max_steps=(1, LARGEST), weight_decay=(0, 1e3),
            warmup_steps=(0, LARGEST), ema_decay=(0, 1), max_grad_norm=(1e-9, LARGEST),
            zclip_threshold=(0, LARGEST), zclip_ema_decay=(0, 1),
        )  # fmt: skip
        if self.mixed_precision not in PRECISIONS:
            raise ValueError(f"mixed_precision must be one of {', '.join(PRECISIONS)}, got {self.mixed_precision!r}")


@dataclass
class DataConfig(BaseConfig):
    """Which sizes pictures are brought to, and in which order they come. All pictures of a batch have one size.

    Attributes:
        use_bucketing: Whether there are several sizes; otherwise there is one square.
        min_bucket_size: Shortest side of a size, in pixels.
        max_bucket_size: Longest side.
        sampler_mode: "random": batches of all sizes in any order; "sequential": sizes by area, pictures by name;
            "buffered_shuffle": sizes of about the same area together, and in any order besides.
        bucket_step: Sides are multiples of it, and it is one of the network's patch size.
        max_aspect_ratio: Longer side over shorter, at most.
        target_pixels: Area of the sizes that have all the same; the others have all longer sides that there are.
        chunk_size: Sizes that "buffered_shuffle" takes together.
        drop_last: Whether a batch that a size does not fill is left out.
        caption_dropout: Share of captions that are given as empty texts. The network's `cfg_dropout` comes on top.

    Raises:
        ValueError: A number is out of its range, or the mode is unknown.
    """

    use_bucketing: bool = True
    min_bucket_size: int = 256
    max_bucket_size: int = 1024
    sampler_mode: str = "buffered_shuffle"
    bucket_step: int = 64
    max_aspect_ratio: float = 2.0
    target_pixels: int = 262_144
    chunk_size: int = 4
    drop_last: bool = True
    caption_dropout: float = 0.1

    def __post_init__(self) -> None:
        self.check_ranges(
            min_bucket_size=(1, LONGEST), max_bucket_size=(self.min_bucket_size, LONGEST), bucket_step=(1, LONGEST),
            max_aspect_ratio=(1, 100), target_pixels=(1, LONGEST**2), chunk_size=(1, MANY), caption_dropout=(0, 1),
        )  # fmt: skip
        if self.sampler_mode not in SAMPLER_MODES:
            raise ValueError(f"sampler_mode must be one of {', '.join(SAMPLER_MODES)}, got {self.sampler_mode!r}")


@dataclass
class Config(BaseConfig):
    """All of a run.

    Attributes:
        model: The network, its losses and its sampler.
        training: How it is trained.
        data: On which pictures.
    """

    model: PixelHDMConfig = field(default_factory=PixelHDMConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Reads a YAML file with the sections `model`, `training` and `data`; what it leaves out has its default.

        Raises:
            FileNotFoundError: There is no such file.
            KeyError: A key is unknown.
            ValueError: It is not YAML, or a value has the wrong type or is out of its range.
        """
        import yaml

        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no configuration {path}")
        try:
            told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if told is not None and not isinstance(told, dict):
            sections = ", ".join(section.name for section in fields(cls))
            raise ValueError(f"{path} must have the sections {sections}, got {told!r}")
        return cls.from_dict({name: part for name, part in (told or {}).items() if part is not None})
