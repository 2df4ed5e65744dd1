"""Configuration of the network that reads who is where off a picture."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivedit.config.base import BaseConfig
from drivedit.config.models import CameraConfig

KINDS = ("flow", "regression")
UNITS = {  # of what a token tells beside presence: middle and spread
    "distance": (3.1, 0.65),  # logarithm of metres from the camera
    "bearing": (0.0, 0.28),  # rad to the left of straight ahead
    "sin": (0.0, 0.5),  # of the heading to the left of ours
    "cos": (0.0, 0.8),
    "speed": (7.0, 6.0),  # m/s along its own heading
    "length": (4.7, 1.0),  # m
    "width": (1.85, 0.15),
    "height": (1.65, 0.45),
}


@dataclass
class AgentsConfig(BaseConfig):
    """A reader of agents (`drivedit.models.sets.agents.AgentsReader`).

    Attributes:
        kind: "flow": draws sets; "regression": tells one set, trained under the cheapest assignment (DETR).
        image_size: Height and width of the pictures.
        camera: How they were taken.
        tokens: Most agents of a set.
        farthest: Metres from the camera up to which agents count.
        least_shown: Share of an agent's outline that must be in the picture, uncovered by nearer ones, for it to count.
        least_pixels: Pixels of that part.
        sky: Rows at the top of the picture that are not looked at.
        ego: What is read of the own car beside them: names of telemetry, each with its unit.
        units: Middle and spread of the numbers of a token, by name.
        widths: Of the encoder's four sizes.
        d_model: Width of the field.
        layers: Its layers.
        heads: Its attention heads.
        d_ff: Width of its feed-forward layers.
    """

    kind: str = "flow"
    image_size: tuple[int, int] = (64, 128)
    camera: CameraConfig = field(default_factory=CameraConfig)
    tokens: int = 8
    farthest: float = 60.0
    least_shown: float = 0.3
    least_pixels: float = 4.0
    sky: int = 8
    ego: dict[str, float] = field(default_factory=dict)
    units: dict[str, tuple[float, float]] = field(default_factory=lambda: dict(UNITS))
    widths: tuple[int, int, int, int] = (32, 64, 96, 128)
    d_model: int = 128
    layers: int = 3
    heads: int = 4
    d_ff: int = 256

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if list(self.units) != list(UNITS):
            raise ValueError(f"units are told of {', '.join(UNITS)} in this order, got {', '.join(self.units)}")
        height, width = self.image_size
        if height < 16 or width < 16 or not 0 <= self.sky <= height - 16:
            raise ValueError(f"pictures have 16 rows and columns at least below the sky, got {height} x {width}, "
                             f"sky {self.sky}")  # fmt: skip
        if self.d_model % self.heads:
            raise ValueError(f"heads must divide d_model, got {self.heads} and {self.d_model}")
        sizes = {name: getattr(self, name) for name in ("tokens", "layers", "heads", "d_ff")}
        if min(sizes.values()) < 1 or min(self.widths) < 1:
            raise ValueError(f"sizes must be at least 1, got {sizes} and widths {self.widths}")
        self.check_ranges(farthest=(1.0, 1e4), least_shown=(0.0, 1.0), least_pixels=(0.0, 1e6), ego=(1e-6, 1e6))
        if any(spread <= 0 for _, spread in self.units.values()):
            raise ValueError(f"spreads of units are above 0, got {self.units}")


@dataclass
class AgentsStageConfig(BaseConfig):
    """Loss of the `agents` stage.

    Attributes:
        draws: Times and noises that the field learns from of each picture, which is encoded once.
        drop: Share of pictures that are withheld, so that the field draws sets without one as well.
        drop_before: Share of pictures whose predecessor is withheld.
        roughen: Share of pictures that are made brighter or darker, noisy and blurred, as dreams may be.
        place_weight: Weight of distance and bearing beside the other numbers of a token.
        size_weight: Weight of length, width and height.
        absent_weight: Weight of the numbers of tokens that are not there, which stay the noise that they were drawn as.
            At 0 they are left out of the loss.
        judged: Held-back pictures that figures are told of.
        samples: Sets drawn of each of those.
        steps: Steps of the solver for them.
    """

    draws: int = 4
    drop: float = 0.1
    drop_before: float = 0.25
    roughen: float = 0.3
    place_weight: float = 4.0
    size_weight: float = 0.5
    absent_weight: float = 1.0
    judged: int = 512
    samples: int = 4
    steps: int = 4

    def __post_init__(self) -> None:
        self.check_ranges(drop=(0, 1), drop_before=(0, 1), roughen=(0, 1), place_weight=(0, 1e6))
        self.check_ranges(size_weight=(0, 1e6), absent_weight=(0, 1e6))
        counts = {name: getattr(self, name) for name in ("draws", "judged", "samples", "steps")}
        if min(counts.values()) < 1:
            raise ValueError(f"counts must be at least 1, got {counts}")
