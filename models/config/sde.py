"""Configurations of the published system STDiff, under its names; the defaults are those of its LiDAR configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from drivedit.config.base import BaseConfig
from drivedit.config.models import MANY
from drivedit.config.spec import LARGEST

BLOCKS = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")


@dataclass
class MotionEncoderConfig(BaseConfig):
    """How observed frames become a motion state.

    Attributes:
        PUBLISHED: Keys that a published configuration has.
        learn_diff_image: Whether it reads differences of frames, over the time between them, and not frames.
        image_size: Height and width of observed frames.
        in_channels: Channels of a frame.
        model_channels: Width of the first layer; each halving doubles it.
        n_downs: How often it halves height and width.
        circular: Whether columns wrap around, as those of a LiDAR do.
        legacy_gru: Whether the state is updated as in the original, which lets it grow without bound.
    """

    PUBLISHED: ClassVar[tuple[str, ...]] = ("image_size", "in_channels", "model_channels", "n_downs")

    learn_diff_image: bool = True
    image_size: tuple[int, int] = (64, 512)
    in_channels: int = 1
    model_channels: int = 64
    n_downs: int = 2
    circular: bool = False
    legacy_gru: bool = False

    def __post_init__(self) -> None:
        self.check_ranges(image_size=(1, MANY), in_channels=(1, 64), model_channels=(1, MANY), n_downs=(1, 8))

    @property
    def m_channels(self) -> int:
        """Channels of the motion state."""
        return self.model_channels * 2**self.n_downs


@dataclass
class DiffUnetConfig(BaseConfig):
    """Drift and diffusion of the motion state.

    Attributes:
        PUBLISHED: Keys that a published configuration has.
        n_layers: Layers between the first and the last convolution.
        nonlinear: Their nonlinearity.
        control_dim: Numbers of a control that the equation is told; 0: it is told none.
        decay: Whether the drift has a learned pull to zero beside its network.
    """

    PUBLISHED: ClassVar[tuple[str, ...]] = ("n_layers", "nonlinear")

    n_layers: int = 2
    nonlinear: str = "tanh"
    control_dim: int = 0
    decay: bool = False

    def __post_init__(self) -> None:
        self.check_ranges(n_layers=(0, 64), control_dim=(0, 1024))


@dataclass
class SdeOptions(BaseConfig):
    """How a stochastic equation is solved.

    Attributes:
        noise_type: "diagonal"; there is no other.
        sde_type: "stratonovich" or "ito", which must be what the method solves.
        dt: The longest step, and the grid on which steps end.
        rtol: Of adaptive steps, which there are not: nothing depends on it.
        atol: Likewise.
        adaptive: Must be False.
    """

    noise_type: str = "diagonal"
    sde_type: str = "stratonovich"
    dt: float = 0.1
    rtol: float = 1e-3
    atol: float = 1e-3
    adaptive: bool = False

    def __post_init__(self) -> None:
        self.check_ranges(dt=(1e-6, LARGEST))
        if self.noise_type != "diagonal" or self.adaptive:
            raise ValueError(
                "noise_type must be 'diagonal' and adaptive False (steps are fixed), got "
                f"{self.noise_type!r} and {self.adaptive}"
            )


@dataclass
class OdeOptions(BaseConfig):
    """How an ordinary equation is solved.

    Attributes:
        step_size: The longest step, and the grid on which steps end.
        norm: Of adaptive steps, which there are not; must be None.
    """

    step_size: float = 0.1
    norm: None = None

    def __post_init__(self) -> None:
        self.check_ranges(step_size=(1e-6, LARGEST))


@dataclass
class IntegrationConfig(BaseConfig):
    """How the motion state is carried through time.

    Attributes:
        PUBLISHED: Keys that a published configuration has.
        sde: Whether there is noise.
        method: Of `drivedit.models.flow.sde`: "euler_heun", "heun", "midpoint" or "euler" with noise; "euler",
            "midpoint", "heun" or "rk4" without.
        sde_options: With noise.
        ode_options: Without.
    """

    PUBLISHED: ClassVar[tuple[str, ...]] = ("sde", "method")

    sde: bool = True
    method: str = "euler_heun"
    sde_options: SdeOptions = field(default_factory=SdeOptions)
    ode_options: OdeOptions = field(default_factory=OdeOptions)

    @property
    def dt(self) -> float:
        """The longest step."""
        return self.sde_options.dt if self.sde else self.ode_options.step_size


@dataclass
class DiffNetConfig(BaseConfig):
    """What the published configuration calls `DiffNet`.

    Attributes:
        PUBLISHED: Keys that a published configuration has.
        autoregressive: Whether a frame is painted beside the one before it.
        super_res_training: Whether observed frames may be smaller than predicted ones.
        MotionEncoder: From frames to motion.
        DiffUnet: What moves it.
        Int: How it is moved.
    """

    PUBLISHED: ClassVar[tuple[str, ...]] = ("autoregressive", "super_res_training", "MotionEncoder", "DiffUnet", "Int")

    autoregressive: bool = True
    super_res_training: bool = False
    MotionEncoder: MotionEncoderConfig = field(default_factory=MotionEncoderConfig)
    DiffUnet: DiffUnetConfig = field(default_factory=DiffUnetConfig)
    Int: IntegrationConfig = field(default_factory=IntegrationConfig)


@dataclass
class MotionUNetConfig(BaseConfig):
    """Arguments of `drivedit.models.sde.UNet2DMotionCond`.

    Attributes:
        PUBLISHED: Keys that a published configuration has.
        sample_size: Height and width of frames; one number: both.
        in_channels: Channels of what it reads: a noisy frame, and the one before it beside that.
        out_channels: Channels of a frame.
        m_channels: Channels of the motion state.
        layers_per_block: Residual blocks of a stage on the way down; on the way up there is one more.
        block_out_channels: Widths of the stages.
        down_block_types: "DownBlock2D" or "AttnDownBlock2D" for each.
        up_block_types: "UpBlock2D" or "AttnUpBlock2D", the narrowest picture first.
        attention_head_dim: Width of a head, for all stages or for each; None: one head.
        norm_num_groups: Groups of the group norms.
        norm_eps: What is added to their variances.
        dropout: Share of features left out within residual blocks in training.
        circular: Whether columns wrap around.
        coarse_motion: Whether scale and shift are read off the motion in its own size and then enlarged, instead of off
            the enlarged motion, as published: many times less work where frames are much larger than it.
    """

    PUBLISHED: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "m_channels", "block_out_channels")

    sample_size: int | tuple[int, int] = (64, 512)
    in_channels: int = 2
    out_channels: int = 1
    m_channels: int = 256
    layers_per_block: int = 2
    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 256, 512, 512])
    down_block_types: list[str] = field(default_factory=lambda: [BLOCKS[0][0], *[BLOCKS[0][1]] * 4])
    up_block_types: list[str] = field(default_factory=lambda: [*[BLOCKS[1][1]] * 4, BLOCKS[1][0]])
    attention_head_dim: int | None | list[int | None] = field(default_factory=lambda: [None, 128, 128, 128, 128])
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    dropout: float = 0.0
    circular: bool = False
    coarse_motion: bool = False

    def __post_init__(self) -> None:
        self.check_ranges(
            sample_size=(1, MANY), in_channels=(1, 256), out_channels=(1, 256), m_channels=(1, MANY),
            layers_per_block=(1, 64), block_out_channels=(1, MANY), attention_head_dim=(1, MANY),
            norm_num_groups=(1, MANY), norm_eps=(0, 1), dropout=(0, 1),
        )  # fmt: skip
        heads = self.attention_head_dim if isinstance(self.attention_head_dim, list) else None
        lists = (self.block_out_channels, self.down_block_types, self.up_block_types, heads)
        lengths = [len(each) for each in lists if each is not None]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(
                "block_out_channels, down_block_types, up_block_types and a list attention_head_dim must be of one "
                f"length, got {', '.join(map(str, lengths))}"
            )
        for name, kinds in zip(("down_block_types", "up_block_types"), BLOCKS, strict=True):
            wrong = [kind for kind in getattr(self, name) if kind not in kinds]
            if wrong:
                raise ValueError(f"{name} must be {' or '.join(kinds)}, got {wrong[0]!r}")
        self._check_widths()

    def _check_widths(self) -> None:
        """ValueError unless widths divide into groups and heads."""
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(f"norm_num_groups {self.norm_num_groups} must divide block_out_channels, got {width}")
        down = zip(self.block_out_channels, self.down_block_types, self.head_dims, strict=True)
        up = zip(self.block_out_channels[::-1], self.up_block_types, self.head_dims[::-1], strict=True)
        for width, kind, head in [*down, *up, (self.block_out_channels[-1], "Attn in the middle", self.head_dims[-1])]:
            if kind.startswith("Attn") and head is not None and width % head:
                raise ValueError(f"attention_head_dim must divide block_out_channels, got {head} and {width}")

    @property
    def head_dims(self) -> list[int | None]:
        """Width of a head for each stage."""
        if isinstance(self.attention_head_dim, list):
            return self.attention_head_dim
        return [self.attention_head_dim] * len(self.block_out_channels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of frames."""
        side = self.sample_size
        return (side, side) if isinstance(side, int) else side
