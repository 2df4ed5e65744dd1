"""Configurations of the networks and of the world that is made of them.

Their limits are far beyond what anybody trains: they are there for files, so that a size that a file declares is
refused before memory or time is taken for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from drivedit.config.base import BaseConfig
from drivedit.config.spec import LARGEST, MOST_NAMES, WorldSpec

MANY = 2**16  # widths of layers and codes
TRANSFORMER = {
    "latent_dim": (1, MANY), "d_model": (1, MANY), "n_layers": (0, 512), "n_heads": (1, 1024), "d_ff": (0, 4 * MANY),
    "max_seq_len": (1, 2**17), "dropout": (0, 1), "tokens_per_frame": (1, MANY), "history": (0, 64),
    "control_dim": (0, 1024), "route_dim": (0, 2**22), "map_dim": (0, 1024),
}  # fmt: skip


@dataclass
class VAEConfig(BaseConfig):
    """Arguments of `drivedit.models.VAE3D`.

    Attributes:
        in_channels: Channels of a picture: 3 colours.
        latent_dim: Channels of a latent.
        hidden_dims: Widths of the encoder at full, half, quarter and eighth size.
        num_res_blocks: Residual blocks at every size.
        use_attention: Whether the smallest size has attention within the frame.
        beta: Weight of the divergence of the latents from N(0, 1).
        temporal_kernel: Frames that a convolution sees at once, the present one and those before; 1: each on its own.
        decoder_dims: Widths of the decoder at the four sizes, without residual blocks at full size, for worlds that
            decode far more often than they encode; None: a mirror of the encoder.
        decoder_inner: Widths inside the decoder's residual blocks at the four sizes; None: as wide as the blocks.
    """

    in_channels: int = 3
    latent_dim: int = 64
    hidden_dims: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    num_res_blocks: int = 2
    use_attention: bool = True
    beta: float = 4.0
    temporal_kernel: int = 3
    decoder_dims: list[int] | None = None
    decoder_inner: list[int] | None = None

    def __post_init__(self) -> None:
        self.check_ranges(
            in_channels=(1, 64), latent_dim=(1, MANY), hidden_dims=(1, MANY), num_res_blocks=(0, 64),
            beta=(0, LARGEST), temporal_kernel=(1, 64), decoder_dims=(1, MANY), decoder_inner=(1, MANY),
        )  # fmt: skip


@dataclass
class StudentConfig(BaseConfig):
    """Arguments of `drivedit.models.DiTStudent`.

    Attributes:
        latent_dim: Width of a token: channels of a latent times the cells of a patch.
        d_model: Width of the network.
        n_layers: Transformer blocks.
        n_heads: Attention heads; twice their number divides the width.
        d_ff: Width inside the feed-forward layers; None: four times the width.
        max_seq_len: Most tokens in one call, and in the cache when `window` is None.
        dropout: Share left out in training, on both branches of a block.
        use_rope: Whether times are told by rotations (Su et al. 2021).
        rope_base: Base of their frequencies.
        tokens_per_frame: Tokens that share a time, a noise level and a condition.
        window: Frames that a frame sees, itself included; None: all.
        history: Clean frames before the present one that are inputs beside its noise.
        control_dim: Width of the controls that a frame is told; 0: none.
        route_dim: Width of the route's code; 0: no route.
        map_dim: Numbers at the end of the route's code that each token gets for itself, the road map; 0: no map.
    """

    latent_dim: int = 64
    d_model: int = 512
    n_layers: int = 12
    n_heads: int = 8
    d_ff: int | None = None
    max_seq_len: int = 256
    dropout: float = 0.1
    use_rope: bool = True
    rope_base: float = 10000.0
    tokens_per_frame: int = 1
    window: int | None = None
    history: int = 0
    control_dim: int = 0
    route_dim: int = 0
    map_dim: int = 0

    def __post_init__(self) -> None:
        self.check_ranges(rope_base=(1, LARGEST), window=(1, 4096), **TRANSFORMER)


@dataclass
class TeacherConfig(BaseConfig):
    """Arguments of `drivedit.models.DiTTeacher`: those of a student, whose frames see each other, and of a chain.

    Attributes:
        num_diffusion_steps: Steps of the chain.
        beta_schedule: "linear" or "cosine" (`drivedit.models.flow.parametrisations.alpha_products`).
    """

    latent_dim: int = 64
    d_model: int = 768
    n_layers: int = 16
    n_heads: int = 12
    d_ff: int | None = None
    num_diffusion_steps: int = 1000
    beta_schedule: str = "linear"
    max_seq_len: int = 256
    dropout: float = 0.0
    tokens_per_frame: int = 1
    control_dim: int = 0
    history: int = 0
    route_dim: int = 0
    map_dim: int = 0

    def __post_init__(self) -> None:
        self.check_ranges(num_diffusion_steps=(1, 100_000), **TRANSFORMER)


@dataclass
class CameraConfig(BaseConfig):
    """A camera that looks ahead from a car, over level ground.

    Attributes:
        fov: Angle of view from the left edge to the right one, in degrees.
        height: Metres above the ground.
        pitch: Degrees that it looks down.
        ahead: Metres before the car's place.
    """

    fov: float = 75.0
    height: float = 1.5
    pitch: float = 0.0
    ahead: float = 0.0

    def __post_init__(self) -> None:
        self.check_ranges(fov=(1, 170), height=(0.01, 1e4), pitch=(-80, 80), ahead=(-1e3, 1e3))


@dataclass
class WorldConfig(BaseConfig):
    """A world of autoencoder, transformer and heads (`drivedit.models.DiTWorld`).

    Attributes:
        spec: What the world is about: one picture, controls, telemetry, rewards; empty: that of the recordings.
        patch: Side of the square of latent cells that makes one token.
        sampling_steps: Network passes for one frame unless the caller asks for another number.
        clean_cache: Whether a frame, once made, goes through the network again, clean, and is cached so, as the
            published trainers teach it; else what its last denoising pass left stays in the cache (needs `history`).
        temperature: Scale of the noise that a frame is made from; below 1 futures are more alike and less surprising.
        motion_scale: Unit of (forward, right, turn) of the ego-motion head.
        end_threshold: Probability beyond which the dream ends; 1: never.
        route_offsets: Arc lengths (m) at which the route is told, seen from the car's foot point.
        route_scale: Metres for one unit of the route code.
        view: Width and height (m) of the ground that the picture shows, and where in it (shares from the left and from
            the top) the car is; None where pictures are not taken from above.
        camera: How a camera in the car sees the road; None: none does, or it is not known how. Without `view` and
            `camera` no map of the road is told.
        others: Most others on the road whose boxes the world can be told, the nearest ones; 0: none; needs `camera`.
        map_cells: Cells of the map along one side of a token.
        map_arcs: First and last arc length, relative to the foot point, of the road on the map, and their distance.
        road_half_width: Metres from the centre line to the edge.
        bounds_reach: Metres from which on the nearest edge of the playfield is told; None: never.
        backbone: Name of the network of the dynamics (`BACKBONES`), whose sizes `student` has.
        null_control: Whether it has learned to dream without being told its controls, which guidance on them needs
            (`drop_control` of its training).

    Raises:
        ValueError: A number is out of its range, a list has another length than it must, or the spec is of another kind
            of world.
    """

    spec: WorldSpec = field(default_factory=WorldSpec)
    vae: VAEConfig = field(default_factory=VAEConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    patch: int = 2
    sampling_steps: int = 1
    clean_cache: bool = False
    temperature: float = 1.0
    motion_scale: list[float] = field(default_factory=lambda: [1.0, 0.2, 0.05])
    end_threshold: float = 0.5
    route_offsets: list[float] = field(default_factory=lambda: [
        -24.0, -16.0, -8.0, 0.0, 4.0, 8.0, 13.0, 18.0, 23.0, 28.0, 33.0, 38.0, 44.0, 51.0, 58.0,
    ])  # fmt: skip
    route_scale: float = 20.0
    view: tuple[float, float, float, float] | None = None
    camera: CameraConfig | None = None
    others: int = 0
    map_cells: int = 4
    map_arcs: tuple[float, float, float] = (-40.0, 95.0, 2.5)
    road_half_width: float = 6.67
    bounds_reach: float | None = None
    backbone: str = "transformer"
    null_control: bool = False

    def __post_init__(self) -> None:
        self.check_ranges(
            patch=(1, 64), sampling_steps=(1, 1000), temperature=(0, 100), motion_scale=(-LARGEST, LARGEST),
            end_threshold=(0, 2), route_offsets=(-1e5, 1e5), route_scale=(1e-3, 1e6), view=(-1e6, 1e6),
            map_cells=(1, 16), map_arcs=(-1e5, 1e5), road_half_width=(1e-3, 1e4), bounds_reach=(1e-3, 1e6),
            others=(0, 256),
        )  # fmt: skip
        if len(self.motion_scale) != 3:
            raise ValueError(f"motion_scale must be 3 numbers (forward, right, turn), got {self.motion_scale}")
        if self.camera and self.view:
            raise ValueError("a picture is seen from above or by a camera: give `view` or `camera`, not both")
        if self.others and not self.camera:
            raise ValueError(f"others are told as a camera sees them: `others` is {self.others}, `camera` is missing")
        first, last, step = self.map_arcs
        if not 0 < step <= last - first <= 10_000 * step:
            raise ValueError(f"map_arcs must be first, last and step of 1 to 10,000 steps, got {self.map_arcs}")
        if len(self.route_offsets) > MOST_NAMES:
            raise ValueError(f"route_offsets must have at most {MOST_NAMES} entries, got {len(self.route_offsets)}")
        if self.spec.observations:
            self._check_picture()

    def _check_picture(self) -> None:
        """ValueError unless the spec's observations are one picture that the autoencoder takes."""
        seen = {name: f"{kind.dtype} {list(kind.shape)}" for name, kind in self.spec.observations.items()}
        (kind, *others) = self.spec.observations.values()
        if others or kind.dtype != "uint8" or len(kind.shape) != 3:
            raise ValueError(f"this kind of world shows one picture, uint8 [H, W, C], its spec has {seen}")
        height, width, channels = kind.shape
        if height % 8 or width % 8 or not 8 <= min(height, width) <= max(height, width) <= 4096:
            raise ValueError(f"the sides of a picture must be multiples of 8 from 8 to 4096, got {height} x {width}")
        if channels != self.vae.in_channels:
            raise ValueError(f"pictures have {channels} channels, vae.in_channels is {self.vae.in_channels}")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        height, width, _ = self.spec.observations[self.spec.picture].shape
        return height, width

    @property
    def token_pixels(self) -> int:
        """Pixels along one side of a token."""
        return 8 * self.patch

    @property
    def map_tokens(self) -> int:
        """Tokens of a frame, each of which is told its part of the maps."""
        return self.student.tokens_per_frame

    @property
    def history(self) -> int:
        """Frames before the coming one that the network looks back on."""
        return self.student.history

    @property
    def scene_states(self) -> int:
        """States that a start scene shows."""
        return (self.student.window or 8) + 1

    @property
    def route_dim(self) -> int:
        """Numbers of the route's code; 0: it is told none."""
        return self.student.route_dim

    @property
    def driven(self) -> int:
        """What the dynamics can be told of the driving: the controls, those before, and the ego-motion."""
        return 2 * len(self.spec.controls) + 3

    def code_widths(self) -> tuple[int, int]:
        """Width of the code of what is told, and of the part of it (the maps) that each token gets."""
        per_token = (self.view is not None or self.camera is not None) + 3 * (self.others > 0)
        per_token *= self.map_cells**2
        place = 4 * len(self.route_offsets) + 1 + 4 * (self.bounds_reach is not None) + (self.others > 0)
        return place + per_token * self.student.tokens_per_frame, per_token
