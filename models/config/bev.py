"""Configurations of worlds that keep the ground around the car and render it, and of the stage that trains them."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivedit.config.base import BaseConfig
from drivedit.config.models import MANY, CameraConfig
from drivedit.config.range import PainterConfig
from drivedit.config.spec import LARGEST, MOST_NAMES, WorldSpec

POOLED = 4  # cells of the renderer, along a side, that the heads see as one
BLOCK = 4  # the filler sees so many cells of the ground, along a side, as one


@dataclass
class BevWorldConfig(BaseConfig):
    """A world that remembers the ground around the car, seen from above, and renders it (`models.BevWorld`).

    Attributes:
        spec: What the world is about: one picture, controls, telemetry, rewards; empty: that of the recordings.
        camera: How a camera in the car sees the road.
        depths: Distances (m) of the upright planes on which the renderer looks for what it shows, beside the ground.
        window: Metres of ground that are kept behind the car, ahead of it, and to each side.
        cell: Side of a cell of the ground in metres.
        ground: Numbers that are remembered of a cell.
        looker: Width of the network that looks at start scenes, and its blocks.
        filler: Width of the network that dreams new ground, and its blocks.
        latent: Numbers that it dreams for each square of BLOCK cells.
        filling: Passes in which it dreams them.
        renderer: The network that paints a picture of it.
        code: Numbers that are remembered of the start scene as a whole: weather, light, surroundings.
        looks: Numbers that are remembered of how another on the road looks.
        others: Most others on the road, the nearest ones; 0: none.
        stride: Metres that the car drives before the window follows.
        reach: Metres that the car drives until its start picture helps no more with the road and what stands near it.
        temperature: Scale of the noise that new ground is made from; below 1 it is more alike and less surprising.
        motion_scale: Unit of (forward, right, turn) of the ego-motion.
        end_threshold: Probability beyond which the dream ends; 1: never.

    Raises:
        ValueError: A number is out of its range, a list has another length than it must, or the spec is of another kind
            of world.
    """

    spec: WorldSpec = field(default_factory=WorldSpec)
    camera: CameraConfig = field(default_factory=CameraConfig)
    depths: list[float] = field(default_factory=lambda: [1e5, 80.0, 45.0, 28.0, 19.0, 13.0, 9.5, 7.0, 5.0, 3.5])
    window: tuple[float, float, float] = (16.0, 144.0, 40.0)
    cell: float = 1.0
    ground: int = 32
    looker: tuple[int, int] = (96, 5)
    filler: tuple[int, int] = (160, 6)
    latent: int = 48
    filling: int = 6
    renderer: PainterConfig = field(default_factory=lambda: PainterConfig((4, 4), 128, 6, 3, 3))
    code: int = 32
    looks: int = 8
    others: int = 0
    stride: float = 24.0
    reach: float = 48.0
    temperature: float = 1.0
    motion_scale: list[float] = field(default_factory=lambda: [1.0, 0.2, 0.05])
    end_threshold: float = 0.5

    def __post_init__(self) -> None:
        self.check_ranges(
            depths=(0.1, 1e6), window=(0.1, 1e4), cell=(1e-2, 100), ground=(1, 1024), looker=(1, MANY),
            filler=(1, MANY), latent=(1, 1024), filling=(1, 1024), code=(1, 1024), looks=(1, 1024),
            others=(0, 256), stride=(0.1, 1e4), reach=(0.1, 1e6), temperature=(0, 100),
            motion_scale=(1e-6, LARGEST), end_threshold=(0, 2),
        )  # fmt: skip
        if len(self.motion_scale) != 3:
            raise ValueError(f"motion_scale must be 3 numbers (forward, right, turn), got {self.motion_scale}")
        if not 1 <= len(self.depths) <= MOST_NAMES:
            raise ValueError(f"depths must be 1 to {MOST_NAMES}, got {len(self.depths)}")
        if any(cells % BLOCK or not BLOCK <= cells <= 4096 for cells in self.cells):
            raise ValueError(
                f"the window must be of {BLOCK} to 4096 cells on each side, a multiple of it, got {self.cells} of "
                f"{self.window} m and cells of {self.cell} m"
            )
        if self.stride > self.window[1]:
            raise ValueError(f"stride must be shorter than the window ahead, got {self.stride} and {self.window[1]} m")
        if self.renderer.patch[0] != self.renderer.patch[1]:
            raise ValueError(f"the renderer's patch must be a square here, got {self.renderer.patch}")
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
                f"the sides of a picture must be multiples of {side} ({POOLED} * renderer.patch) up to 4096, got "
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
        """Pixels along one side of a cell of the renderer."""
        return self.renderer.patch[0]

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows and columns of the renderer's cells."""
        height, width = self.image_size
        return height // self.token_pixels, width // self.token_pixels

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the ground's cells."""
        back, front, side = self.window
        return round((back + front) / self.cell), round(2 * side / self.cell)

    @property
    def scene_states(self) -> int:
        """States that a start scene shows."""
        return GAP + 1

    @property
    def route_dim(self) -> int:
        """1 where the world is told a route."""
        return int("route" in self.spec.conditions)


GAP = 4  # frames between the two of a start scene that are looked at


@dataclass
class BevStageConfig(BaseConfig):
    """Loss of the `bev` stage: the ground of clips is surveyed, pictures are rendered of it, then its law is learned.

    Attributes:
        horizon: Frames after the start of a clip, over which the ground is surveyed.
        views: Pictures that a survey looks at, each beside an older one, while pictures are learned.
        rendered: Frames that are rendered of a clip.
        detail: Weight of the edges (the Laplacian of the picture) beside the picture.
        coarse: Weight of the picture a quarter as large, whose patches are whole things.
        adversarial: Weight of what a critic of the pictures says of them; 0: there is none.
        adversarial_from: Share of the run after which there is.
        critic_lr: Peak learning rate of the critic.
        head_weight: Weight of the heads' losses.
        drop_route: Share of clips that dream without a route.
        ego_steps: Steps in which the ego-motion is learned, before all else.
        ground_steps: Steps in which it is learned to dream ground, after `train.steps` of pictures.
        traffic_steps: Steps in which it is learned how others drive and who comes, after all else.
        judged: Held-back clips that figures are told of.
        shown: Frames of these.
    """

    horizon: int = 120
    views: int = 5
    rendered: int = 4
    detail: float = 0.5
    coarse: float = 1.0
    adversarial: float = 0.5
    adversarial_from: float = 0.2
    critic_lr: float = 3e-3
    head_weight: float = 0.1
    drop_route: float = 0.4
    ego_steps: int = 3000
    ground_steps: int = 4000
    traffic_steps: int = 1600
    judged: int = 24
    shown: int = 50

    def __post_init__(self) -> None:
        self.check_ranges(
            horizon=(1, 1000), views=(1, 100), rendered=(1, 1000), detail=(0, 1e3), coarse=(0, 1e3),
            adversarial=(0, 1e3), adversarial_from=(0, 1), critic_lr=(0, 1), head_weight=(0, 1e6), drop_route=(0, 1),
            ego_steps=(1, 10**9), ground_steps=(1, 10**9), traffic_steps=(0, 10**9), judged=(1, 10_000),
            shown=(1, 10_000),
        )  # fmt: skip
