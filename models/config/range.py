"""Configurations of worlds that dream range images, and of the stage that trains them."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivedit.config.base import BaseConfig
from drivedit.config.models import MANY
from drivedit.config.sde import DiffUnetConfig, IntegrationConfig, MotionEncoderConfig, SdeOptions
from drivedit.config.spec import LARGEST, MOST_NAMES, WorldSpec

SHOWN = 5  # scans of a start scene; each is 64 kB
FREE_DISTANCE, TIME_TO_COLLISION = "free_distance", "time_to_collision"  # telemetry that is read off the scan itself


@dataclass
class PainterConfig(BaseConfig):
    """The network that paints a scan (`drivedit.models.sde.painter.Painter`).

    Attributes:
        patch: Rows and columns of the scan in one cell of the painter.
        width: Its channels.
        blocks: Its residual blocks.
        expand: How many times wider they are inside.
        kernel: Rows and columns that each of them looks at, an odd number.
    """

    patch: tuple[int, int] = (4, 4)
    width: int = 128
    blocks: int = 6
    expand: int = 3
    kernel: int = 5

    def __post_init__(self) -> None:
        self.check_ranges(patch=(1, 64), width=(1, MANY), blocks=(0, 256), expand=(1, 16), kernel=(1, 31))
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")


def _solver() -> IntegrationConfig:
    """Two steps of the trained interval, so that its half lies on the grid."""
    return IntegrationConfig(sde_options=SdeOptions(dt=0.5))


@dataclass
class RangeWorldConfig(BaseConfig):
    """A world of range images in continuous time (`drivedit.models.RangeWorld`); its unit of time is `spec.dt`.

    Attributes:
        spec: What the world is about: one range image, controls, telemetry, rewards; empty: that of the recordings.
        model_channels: Width of the first layer of the motion encoder; each halving doubles it.
        n_downs: Halvings of the scan to the motion state.
        layers: Layers of drift and diffusion between the first and the last convolution.
        decay: Whether the drift has a learned pull to zero beside its network.
        solver: How the motion equation is solved, in units of `spec.dt`.
        painter: What paints a scan.
        head: Width of the heads.
        seconds: Shortest and longest interval that it was trained on; set by training.
        rate_scale: Unit of (forward, right, turn) of the ego-motion in a unit of time.
        temperature: Scale of the noise that a scan is painted from.
        end_threshold: Probability beyond which the dream ends; 1: never.
        highest: Elevation of the highest beam, degrees.
        lowest: Of the lowest one of 64, degrees.
        sensor_height: Metres from the ground to the sensor.
        corridor: Half the width (m) of what must be free ahead.
        route_offsets: Arc lengths (m) at which the route is told, seen from its foot point; none: it is told none.
        route_scale: Metres for one unit of the route code.

    Raises:
        ValueError: A number is out of its range, sizes do not divide, or the spec is of another kind of world.
    """

    spec: WorldSpec = field(default_factory=WorldSpec)
    model_channels: int = 8
    n_downs: int = 3
    layers: int = 1
    decay: bool = True
    solver: IntegrationConfig = field(default_factory=_solver)
    painter: PainterConfig = field(default_factory=PainterConfig)
    head: int = 128
    seconds: tuple[float, float] = (0.1, 0.1)
    rate_scale: list[float] = field(default_factory=lambda: [1.0, 0.1, 0.05])
    temperature: float = 1.0
    end_threshold: float = 0.5
    highest: float = 3.0
    lowest: float = -25.0
    sensor_height: float = 1.73
    corridor: float = 1.0
    route_offsets: list[float] = field(default_factory=lambda: [
        -10.0, 0.0, 5.0, 10.0, 16.0, 24.0, 34.0, 46.0, 60.0,
    ])  # fmt: skip
    route_scale: float = 20.0

    def __post_init__(self) -> None:
        self.check_ranges(
            model_channels=(1, 1024), n_downs=(1, 6), layers=(0, 16), head=(1, MANY), seconds=(1e-3, 100),
            rate_scale=(1e-6, LARGEST), temperature=(0, 100), end_threshold=(0, 2), highest=(-90, 90), lowest=(-90, 90),
            sensor_height=(0, 100), corridor=(1e-2, 100), route_offsets=(-1e5, 1e5), route_scale=(1e-3, 1e6),
        )  # fmt: skip
        if len(self.rate_scale) != 3 or len(self.route_offsets) > MOST_NAMES:
            raise ValueError(
                f"rate_scale must be 3 numbers (forward, right, turn) and route_offsets at most {MOST_NAMES}, got "
                f"{self.rate_scale} and {len(self.route_offsets)} of them"
            )
        if not self.seconds[0] <= self.seconds[1] or not self.lowest < self.highest:
            raise ValueError(
                f"seconds must not fall and lowest must lie below highest, got {self.seconds}, {self.lowest} and "
                f"{self.highest}"
            )
        if self.spec.observations:
            self._check_scan()

    def _check_scan(self) -> None:
        """ValueError unless the spec's observations are one range image that the networks take."""
        seen = {name: f"{kind.dtype} {list(kind.shape)}" for name, kind in self.spec.observations.items()}
        (kind, *others) = self.spec.observations.values()
        if others or kind.dtype != "float32" or len(kind.shape) != 3 or kind.shape[2] != 2 or kind.low != 0:
            raise ValueError(f"this kind of world shows one range image, float32 [H, W, 2] from 0, its spec has {seen}")
        for side, patch in zip(self.size, self.painter.patch, strict=True):
            if side % 2**self.n_downs or side % patch or (2**self.n_downs) % patch:
                raise ValueError(
                    f"rows and columns of a range image must be multiples of {2**self.n_downs} (n_downs), and that one "
                    f"of the painter's patch {self.painter.patch}, got {self.size}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a scan."""
        rows, columns, _ = self.spec.observations[self.spec.picture].shape
        return rows, columns

    @property
    def reach(self) -> float:
        """The greatest distance, metres."""
        return self.spec.observations[self.spec.picture].high

    @property
    def scene_states(self) -> int:
        """States that a start scene shows."""
        return SHOWN

    @property
    def motion_channels(self) -> int:
        """Channels of the motion state."""
        return self.model_channels * 2**self.n_downs

    @property
    def route_dim(self) -> int:
        """Numbers of the route's code; 0: it is told none."""
        return 4 * len(self.route_offsets) + 1 if "route" in self.spec.conditions and self.route_offsets else 0

    @property
    def told_dim(self) -> int:
        """Numbers that the motion equation is told: controls, ego-motion, and the route's code."""
        return len(self.spec.controls) + 3 + self.route_dim

    def learned_telemetry(self) -> list[str]:
        """Telemetry that a head reads; the rest is read off the scan itself."""
        return [name for name in self.spec.names("telemetry") if name not in (FREE_DISTANCE, TIME_TO_COLLISION)]

    def motion_parts(self) -> tuple[IntegrationConfig, MotionEncoderConfig, DiffUnetConfig]:
        """Arguments of the `drivedit.models.sde.DiffModel`, which reads a scan and its change side by side."""
        encoder = MotionEncoderConfig(
            learn_diff_image=False, image_size=self.size, in_channels=4, model_channels=self.model_channels,
            n_downs=self.n_downs, circular=True,
        )  # fmt: skip
        return self.solver, encoder, DiffUnetConfig(self.layers, "tanh", self.told_dim, self.decay)


@dataclass
class RangeStageConfig(BaseConfig):
    """Loss of the `range` stage: clips are filtered frame by frame, first recorded ones, then more and more own ones.

    Attributes:
        clip_frames: Frames of a clip that are scored.
        lead: Most frames before these, on which clips only go on; how many, is drawn, few more often.
        context: Frames before them that are only looked at, one at least.
        strides: Fewest and most recorded frames from one frame of a clip to the next, drawn for each.
        mean_until: Share of the run in which the likeliest scan is learned, without noise.
        own_from: Share of the run after which clips go on with their own scans.
        own_share: Share of the clips that do so in the end.
        head_weight: Weight of the heads' losses.
        motion_weight: Weight of the loss of the ego-motion that is seen.
        drop_route: Share of clips that dream without a route.
        ego_steps: Steps in which the ego-motion is learned, before all else.
        judged: Held-back clips that figures are told of.
        horizon: Frames of these, at the trained interval.
    """

    clip_frames: int = 6
    lead: int = 0
    context: int = 2
    strides: tuple[int, int] = (1, 3)
    mean_until: float = 0.3
    own_from: float = 0.4
    own_share: float = 0.8
    head_weight: float = 0.05
    motion_weight: float = 1.0
    drop_route: float = 0.4
    ego_steps: int = 3000
    judged: int = 24
    horizon: int = 20

    def __post_init__(self) -> None:
        self.check_ranges(
            clip_frames=(1, 1000), lead=(0, 1000), context=(1, 1000), strides=(1, 1000), mean_until=(0, 1),
            own_from=(0, 1), own_share=(0, 1), head_weight=(0, 1e6), motion_weight=(0, 1e6), drop_route=(0, 1),
            ego_steps=(1, 10**9), judged=(1, 10_000), horizon=(1, 10_000),
        )  # fmt: skip
        if self.strides[0] > self.strides[1]:
            raise ValueError(f"strides must not fall, got {self.strides}")
