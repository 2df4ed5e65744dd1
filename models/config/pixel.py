"""Configuration of the pixel-space two-level diffusion transformer, under the names of the published system PixelHDM.

The patch level is a transformer over patches, which tells what is where. The pixel level paints each pixel, modulated
by the patch it lies in (PixelDiT, Yu et al. 2025, arXiv 2511.20645). Flow time t rises from noise at 0 to data at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from drivedit.config.base import BaseConfig
from drivedit.config.models import MANY
from drivedit.config.spec import LARGEST

SAMPLER_METHODS = ("euler", "heun", "dpm_pp", "dpm_pp_2s")
DCT_BLOCK = 8  # of the JPEG tables of quantisation
FREE = {"use_gradient_checkpointing"}  # what may change while weights stay


@dataclass
class PixelHDMConfig(BaseConfig):
    """Network, losses and sampler of a pixel-space transformer; the defaults have about 356 million parameters.

    Attributes:
        hidden_dim: Width of the patch level.
        pixel_dim: Features of a pixel.
        patch_size: Side of a patch in pixels; it divides height and width of pictures.
        patch_layers: Blocks of the patch level.
        pixel_layers: Blocks of the pixel level.
        num_heads: Heads of queries, which divide `hidden_dim`.
        num_kv_heads: Heads of keys and values, which divide `num_heads` (GQA, Ainslie et al. 2023).
        head_dim: Width of a head, which must be `hidden_dim / num_heads`.
        mlp_ratio: Inner width of the feed-forward layers over the width of what they read.
        mlp_type: "swiglu"; there is no other.
        bottleneck_dim: Width that the pixels of a patch pass on their way to a token; None: `patch_size^2 / 4`.
        in_channels: Channels of a picture.
        out_channels: Channels of the velocity, as many.
        norm_eps: What is added to mean squares in RMS norms.
        dropout: Share of features left out in training, after attention and feed-forward layers.
        use_gradient_checkpointing: Whether activations of blocks are computed a second time instead of kept.
        time_embed_dim: Sines and cosines that tell the time.
        time_p_mean: Mean of the normal number whose logistic function is the time of training.
        time_p_std: Its standard deviation.
        time_eps: Times of training lie in [time_eps, 1 - time_eps]; sampling ends at the latter. Below 1/2.
        repa_enabled: Whether features are aligned with those of an encoder (REPA, Yu et al. 2024, arXiv 2410.06940).
        repa_encoder: Name of that encoder.
        repa_local_path: Folder of its weights; None: there are none.
        repa_use_bf16: Whether it computes in bfloat16.
        repa_hidden_size: Width of its features.
        repa_patch_size: Side of its patches in pixels.
        repa_align_layer: Block of the patch level, counted from 1, whose features are aligned.
        repa_lambda: Weight of the alignment.
        repa_early_stop: Step from which there is none (HASTE, Wang et al. 2025, arXiv 2505.16792).
        freq_loss_enabled: Whether errors of the velocity are weighed by frequency (DeCo, Ma et al. 2025).
        freq_loss_quality: JPEG quality whose table of quantisation weighs them, 1 to 100; 100 weighs all alike.
        freq_loss_lambda: Weight of that loss.
        freq_loss_block_size: Side of a block of the cosine transform in pixels, 8.
        freq_loss_use_ycbcr: Whether it compares luminance and colour differences instead of red, green and blue.
        text_encoder_name: Name or folder of the text encoder.
        text_max_length: Most tokens of a text.
        text_hidden_size: Width of a token, as it is told.
        cfg_dropout: Share of samples that are told no text in training, which guidance needs.
        mrope_text_dim: Numbers of a head that turn with the place in the text, an even number like the next two.
        mrope_img_h_dim: Numbers that turn with the row of a patch.
        mrope_img_w_dim: Numbers that turn with its column; the three add up to `head_dim`.
        mrope_theta: Base of the wavelengths.
        max_patches: Most patches of a picture.
        token_compaction_expand_gain: Scale of the first weights by which tokens become pixels again.
        pixel_gamma_l2_lambda: Weight of the mean square of the pixel level's scales.
        default_num_steps: Sampling steps.
        default_guidance_scale: Scale of guidance, from 0 (unconditional) over 1 (conditional).
        default_sampler_method: "euler", "heun", "dpm_pp" or "dpm_pp_2s".

    Raises:
        ValueError: A number is out of its range, or two do not fit together.
    """

    hidden_dim: int = 1024
    pixel_dim: int = 16
    patch_size: int = 16
    patch_layers: int = 16
    pixel_layers: int = 4
    num_heads: int = 16
    num_kv_heads: int = 4
    head_dim: int = 64
    mlp_ratio: float = 3.0
    mlp_type: str = "swiglu"
    bottleneck_dim: int | None = None
    in_channels: int = 3
    out_channels: int = 3
    norm_eps: float = 1e-6
    dropout: float = 0.0
    use_gradient_checkpointing: bool = True
    time_embed_dim: int = 256
    time_p_mean: float = 0.0
    time_p_std: float = 1.0
    time_eps: float = 0.05
    repa_enabled: bool = True
    repa_encoder: str = "dinov3-vit-b"
    repa_local_path: str | None = None
    repa_use_bf16: bool = True
    repa_hidden_size: int = 768
    repa_patch_size: int = 16
    repa_align_layer: int = 8
    repa_lambda: float = 0.5
    repa_early_stop: int = 250_000
    freq_loss_enabled: bool = True
    freq_loss_quality: int = 90
    freq_loss_lambda: float = 1.0
    freq_loss_block_size: int = DCT_BLOCK
    freq_loss_use_ycbcr: bool = True
    text_encoder_name: str = "Qwen/Qwen3-0.6B"
    text_max_length: int = 511
    text_hidden_size: int = 1024
    cfg_dropout: float = 0.1
    mrope_text_dim: int = 16
    mrope_img_h_dim: int = 24
    mrope_img_w_dim: int = 24
    mrope_theta: float = 10_000.0
    max_patches: int = 4096
    token_compaction_expand_gain: float = 0.1
    pixel_gamma_l2_lambda: float = 1e-4
    default_num_steps: int = 50
    default_guidance_scale: float = 7.5
    default_sampler_method: str = "heun"

    def __post_init__(self) -> None:
        self._check_ranges()
        if self.bottleneck_dim is None:
            self.bottleneck_dim = max(1, self.patch_size**2 // 4)
        self._check_heads()
        if self.repa_align_layer > self.patch_layers:
            raise ValueError(
                f"repa_align_layer must be one of the {self.patch_layers} patch_layers, got {self.repa_align_layer}"
            )
        if self.out_channels != self.in_channels:
            raise ValueError(f"out_channels must be in_channels, got {self.out_channels} and {self.in_channels}")
        if self.freq_loss_use_ycbcr and self.freq_loss_enabled and self.in_channels != 3:
            raise ValueError(f"freq_loss_use_ycbcr needs 3 in_channels, got {self.in_channels}")
        for name, known in (
            ("mlp_type", ("swiglu",)),
            ("freq_loss_block_size", (DCT_BLOCK,)),
            ("default_sampler_method", SAMPLER_METHODS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {getattr(self, name)!r}")

    def _check_ranges(self) -> None:
        """ValueError unless every number is in its range."""
        self.check_ranges(
            hidden_dim=(1, MANY), pixel_dim=(1, MANY), patch_size=(1, 1024), patch_layers=(1, 512),
            pixel_layers=(0, 512), num_heads=(1, 1024), num_kv_heads=(1, 1024), head_dim=(1, MANY),
            mlp_ratio=(0.01, 64), bottleneck_dim=(1, MANY), in_channels=(1, 64), out_channels=(1, 64), norm_eps=(0, 1),
            dropout=(0, 1), time_embed_dim=(2, MANY), time_p_mean=(-10, 10), time_p_std=(0, 10), time_eps=(1e-4, 0.49),
            repa_hidden_size=(1, MANY), repa_patch_size=(1, 1024), repa_align_layer=(1, 512),
            repa_lambda=(0, LARGEST), repa_early_stop=(0, LARGEST), freq_loss_quality=(1, 100),
            freq_loss_lambda=(0, LARGEST), text_max_length=(1, MANY), text_hidden_size=(1, MANY), cfg_dropout=(0, 1),
            mrope_text_dim=(0, MANY), mrope_img_h_dim=(0, MANY), mrope_img_w_dim=(0, MANY), mrope_theta=(1, LARGEST),
            max_patches=(1, 2**24), token_compaction_expand_gain=(0, 10), pixel_gamma_l2_lambda=(0, LARGEST),
            default_num_steps=(1, MANY), default_guidance_scale=(0, 100),
        )  # fmt: skip

    def _check_heads(self) -> None:
        """ValueError unless widths divide into heads, and heads into what turns with each place."""
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads must divide hidden_dim {self.hidden_dim}, got {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads {self.num_heads}, got {self.num_kv_heads}")
        if self.head_dim != self.hidden_dim // self.num_heads:
            raise ValueError(
                f"head_dim must be hidden_dim / num_heads = {self.hidden_dim // self.num_heads}, got {self.head_dim}"
            )
        turned = self.mrope_dims
        if sum(turned) != self.head_dim or any(each % 2 for each in turned):
            raise ValueError(
                "mrope_text_dim, mrope_img_h_dim and mrope_img_w_dim must be even and add up to head_dim "
                f"{self.head_dim}, got {turned}"
            )

    def check_same(self, other: Self, what: str) -> None:
        """Checks that another configuration is this one, but for what may change while weights stay.

        Args:
            other: The other one.
            what: What it is of, as the error says it.

        Raises:
            ValueError: They differ; the error names where.
        """
        here, there = self.to_dict(), other.to_dict()
        wrong = [name for name in here if name not in FREE and here[name] != there[name]]
        if wrong:
            told = "; ".join(f"{name} {there[name]!r} and not {here[name]!r}" for name in wrong)
            raise ValueError(f"{what} is of another configuration: it has {told}")

    @property
    def mrope_dims(self) -> tuple[int, int, int]:
        """Numbers of a head that turn with the place in the text, with the row and with the column."""
        return self.mrope_text_dim, self.mrope_img_h_dim, self.mrope_img_w_dim

    @classmethod
    def default(cls) -> Self:
        """Returns the published model, of about 356 million parameters."""
        return cls()

    @classmethod
    def small(cls) -> Self:
        """Returns a model of half the width and depth."""
        return cls(hidden_dim=512, patch_layers=8, pixel_layers=1, num_heads=8, num_kv_heads=2, text_hidden_size=512)

    @classmethod
    def large(cls) -> Self:
        """Returns a model of 26 layers, 1152 wide."""
        return cls(
            hidden_dim=1152, patch_layers=26, head_dim=72, text_hidden_size=1152, mrope_img_h_dim=28, mrope_img_w_dim=28
        )

    @classmethod
    def for_testing(cls) -> Self:
        """Returns a model for unit tests, which sees 8 x 8 patches; it is trained by the velocity's error alone."""
        return cls(
            hidden_dim=64, pixel_dim=8, patch_size=8, patch_layers=2, pixel_layers=1, num_heads=4, num_kv_heads=2,
            head_dim=16, mlp_ratio=2.0, use_gradient_checkpointing=False, time_embed_dim=32, repa_enabled=False,
            repa_hidden_size=32, repa_patch_size=8, repa_align_layer=1, freq_loss_enabled=False, text_max_length=32,
            text_hidden_size=64, mrope_text_dim=4, mrope_img_h_dim=6, mrope_img_w_dim=6, default_num_steps=10,
        )  # fmt: skip
