"""Configurations of worlds that warp and paint their pictures, and of the stage that trains them."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivedit.config.base import BaseConfig
from drivedit.config.models import CameraConfig
from drivedit.config.range import PainterConfig
from drivedit.config.spec import LARGEST, MOST_NAMES, WorldSpec

SHOWN = 5  # frames of a start scene


@dataclass
class WarpWorldConfig(BaseConfig):
    """A world whose next picture is the last one, warped by the ego-motion, and painted over (`models.WarpWorld`).

    Attributes:
        spec: What the world is about: one picture, controls, telemetry, rewards; empty: that of the recordings.
        camera: How a camera in the car sees the road.
        depths: Distances (m) of the upright planes that a part of the picture may lie on, beside the ground.
        painter: The network that chooses between them and paints.
        memory: Channels of the memory at each cell of the painter.
        temperature: Scale of the noise that a frame is made from; below 1 futures are more alike and less surprising.
        motion_scale: Unit of (forward, right, turn) of the ego-motion.
        end_threshold: Probability beyond which the dream ends; 1: never.
        route_offsets: Arc lengths (m) at which the route is told, seen from the car's foot point.
        route_scale: Metres for one unit of the route code.
        others: Most others on the road whose boxes the world can be told, the nearest ones; 0: none.
        map_cells: Cells of the map along one side of a cell of the painter.
        map_arcs: First and last arc length, relative to the foot point, of the road on the map, and their distance.
        road_half_width: Metres from the centre line to the edge.

    Raises:
        ValueError: A number is out of its range, a list has another length than it must, or the spec is of another kind
            of world.
    """

    spec: WorldSpec = field(default_factory=WorldSpec)
    camera: CameraConfig = field(default_factory=CameraConfig)
    depths: list[float] = field(default_factory=lambda: [1e5, 80.0, 45.0, 28.0, 19.0, 13.0, 9.5, 7.0, 5.0, 3.5])
    painter: PainterConfig = field(default_factory=PainterConfig)
    memory: int = 32
    temperature: float = 1.0
    motion_scale: list[float] = field(default_factory=lambda: [1.0, 0.2, 0.05])
    end_threshold: float = 0.5
    route_offsets: list[float] = field(default_factory=lambda: [
        -24.0, -16.0, -8.0, 0.0, 4.0, 8.0, 13.0, 18.0, 23.0, 28.0, 33.0, 38.0, 44.0, 51.0, 58.0,
    ])  # fmt: skip
    route_scale: float = 20.0
    others: int = 0
    map_cells: int = 1
    map_arcs: tuple[float, float, float] = (-4.0, 96.0, 2.0)
    road_half_width: float = 3.0

    def __post_init__(self) -> None:
        self.check_ranges(
            depths=(0.1, 1e6), memory=(1, 1024), temperature=(0, 100), motion_scale=(1e-6, LARGEST),
            end_threshold=(0, 2), route_offsets=(-1e5, 1e5), route_scale=(1e-3, 1e6), others=(0, 256),
            map_cells=(1, 16), map_arcs=(-1e5, 1e5), road_half_width=(1e-3, 1e4),
        )  # fmt: skip
        if len(self.motion_scale) != 3:
            raise ValueError(f"motion_scale must be 3 numbers (forward, right, turn), got {self.motion_scale}")
        if not 1 <= len(self.depths) <= MOST_NAMES or len(self.route_offsets) > MOST_NAMES:
            raise ValueError(
                f"depths must be 1 to {MOST_NAMES} and route_offsets at most as many, got {len(self.depths)} and "
                f"{len(self.route_offsets)}"
            )
        first, last, step = self.map_arcs
        if not 0 < step <= last - first <= 10_000 * step:
            raise ValueError(f"map_arcs must be first, last and step of 1 to 10,000 steps, got {self.map_arcs}")
        if self.painter.patch[0] != self.painter.patch[1]:
            raise ValueError(f"the painter's patch must be a square here, got {self.painter.patch}")
        if self.spec.observations:
            self._check_picture()

    def _check_picture(self) -> None:
        """ValueError unless the spec's observations are one picture that the networks take."""
        seen = {name: f"{kind.dtype} {list(kind.shape)}" for name, kind in self.spec.observations.items()}
        (kind, *others) = self.spec.observations.values()
        if others or kind.dtype != "uint8" or len(kind.shape) != 3:
            raise ValueError(f"this kind of world shows one picture, uint8 [H, W, C], its spec has {seen}")
        side = POOLED * self.token_pixels
        if any(length % side or not side <= length <= 4096 for length in self.image_size):
            raise ValueError(
                f"the sides of a picture must be multiples of {side} ({POOLED} * painter.patch) up to 4096, got "
                f"{self.image_size[0]} x {self.image_size[1]}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        height, width, _ = self.spec.observations[self.spec.picture].shape
        return height, width

    @property
    def channels(self) -> int:
        """Channels of the picture."""
        return self.spec.observations[self.spec.picture].shape[2]

    @property
    def token_pixels(self) -> int:
        """Pixels along one side of a cell of the painter."""
        return self.painter.patch[0]

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the painter's cells."""
        height, width = self.image_size
        return height // self.token_pixels, width // self.token_pixels

    @property
    def map_tokens(self) -> int:
        """Cells of the painter, each of which is told its part of the maps."""
        return self.cells[0] * self.cells[1]

    @property
    def history(self) -> int:
        """Frames before the coming one that the network looks at."""
        return 2

    @property
    def scene_states(self) -> int:
        """States that a start scene shows."""
        return SHOWN

    @property
    def view(self) -> None:
        """Pictures are not taken from above."""
        return None

    @property
    def bounds_reach(self) -> None:
        """The playfield's edges are not told."""
        return None

    @property
    def map_width(self) -> int:
        """Numbers that a cell of the painter is told of road and others."""
        return (1 + 3 * (self.others > 0)) * self.map_cells**2

    @property
    def place_width(self) -> int:
        """Numbers of the code that all cells are told: the route, and whether others are told."""
        return 4 * len(self.route_offsets) + 1 + (self.others > 0)

    @property
    def route_dim(self) -> int:
        """Numbers of the code of what is told; 0: nothing is."""
        told = any(name in self.spec.conditions for name in ("route", "layout"))
        return self.place_width + self.map_width * self.map_tokens if told else 0

    @property
    def driven(self) -> int:
        """Numbers that tell of the driving: the controls, those before, and the ego-motion."""
        return 2 * len(self.spec.controls) + 3


POOLED = 4  # cells of the painter, along a side, that the heads see as one


@dataclass
class WarpStageConfig(BaseConfig):
    """Loss of the `warp` stage: clips go on frame by frame, first recorded ones, then more and more own ones.

    Attributes:
        clip_frames: Frames of a clip that are scored.
        lead: Most frames before these, on which clips only go on; how many, is drawn, few more often.
        mean_until: Share of the run in which the likeliest frame is learned, without noise.
        own_from: Share of the run after which clips go on with their own frames.
        own_share: Share of the clips that do so in the end.
        spread: Weight of the distance between the two samples of a picture in their score. At 1 they are samples of the
            true law; below, nearer to the likeliest picture.
        detail: Weight of the score of edges (the Laplacian of the picture) beside that of the picture.
        coarse: Weight of the score of the picture a quarter as large, whose patches are whole things.
        head_weight: Weight of the heads' losses.
        drop_route: Share of clips that dream without a route.
        drop_layout: Share of clips that dream others as they like.
        hide: Share of clips in whose first frames others that are told of are hidden, so that they have to appear.
        drop_motion: Share of clips that are not told their ego-motion and have to see it.
        ego_steps: Steps in which the ego-motion is learned, before all else.
        judged: Held-back clips that figures are told of.
        horizon: Frames of these.
    """

    clip_frames: int = 6
    lead: int = 40
    mean_until: float = 0.3
    own_from: float = 0.3
    own_share: float = 0.8
    spread: float = 0.7
    detail: float = 0.5
    coarse: float = 1.0
    head_weight: float = 0.1
    drop_route: float = 0.4
    drop_layout: float = 0.5
    hide: float = 0.2
    drop_motion: float = 0.1
    ego_steps: int = 3000
    judged: int = 24
    horizon: int = 20

    def __post_init__(self) -> None:
        self.check_ranges(
            clip_frames=(1, 1000), lead=(0, 1000), mean_until=(0, 1), own_from=(0, 1), own_share=(0, 1),
            spread=(0, 1), detail=(0, 1e3), coarse=(0, 1e3), head_weight=(0, 1e6), drop_route=(0, 1),
            drop_layout=(0, 1), hide=(0, 1), drop_motion=(0, 1), ego_steps=(1, 10**9), judged=(1, 10_000),
            horizon=(1, 10_000),
        )  # fmt: skip
