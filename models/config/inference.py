"""Configuration of the streaming rollout, and of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from drivedit.config.base import BaseConfig
from drivedit.config.domains import DEFAULT_WORLD

OUTPUTS = ("pt", "np", "latent")
PRECISIONS = ("bf16", "fp32")


@dataclass
class InferenceConfig(BaseConfig):
    """Settings of `drivedit.inference.StreamingRollout`.

    Attributes:
        max_sequence_length: Most frames of a sequence, context and generated ones together.
        context_window: Frames before it that a frame can see, at most; a model whose own window is shorter sees fewer.
        temperature: Scale of the noise that a frame is made from, as `WorldConfig.temperature`; towards 0 all futures
            become one.
        top_k: Must stay None: latents are continuous and have no k best values.
        top_p: Central mass of the normal distribution that the noise comes from (the truncation trick); None or 1: all.
        use_kv_cache: Go on from the attention cache. False: every frame is dreamed anew from the context on, with
            nothing kept in between; the same frames, for n of them (n + 1) / 2 times the work.
        mixed_precision: Networks compute in bfloat16 where the hardware multiplies it.
        memory_offload_freq: Frames after which latents leave the device, decoded together; fewer take less memory.
        sampling_steps: Network passes for one frame; None: the world's own number, 4 for a `DiTStudent`.

    Raises:
        ValueError: A value is out of its range.
    """

    max_sequence_length: int = 256
    context_window: int = 16
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = 0.9
    use_kv_cache: bool = True
    mixed_precision: bool = True
    memory_offload_freq: int = 10
    sampling_steps: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_sequence_length", 2), ("context_window", 1), ("memory_offload_freq", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.sampling_steps is not None and self.sampling_steps < 1:
            raise ValueError(f"sampling_steps must be at least 1 or None, got {self.sampling_steps}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1] or None, got {self.top_p}")


@dataclass
class InferenceArgs(BaseConfig):
    """Settings of `drivedit.inference.InferenceEngine`.

    Attributes:
        model_type: `world`, a driving world; or `mochi`, `hunyuan`, `hunyuan_hf` or `wan`, a text-to-video model.
        model_path: A world as `drivedit.models.find_world` finds it; of a text-to-video model the folder of
            `transformer.safetensors` and `vae.safetensors`. None is shipped.
        height: Pixels, a multiple of 8; None: a world's own.
        width: Likewise.
        num_frames: Frames of a clip; of a text-to-video model 4 k + 1, of a world the start and those after it. None:
            as many as the controls of a world lead to.
        num_inference_steps: Network passes for a clip, or for a frame of a world; None: a world's own number.
        guidance_scale: Scale of classifier-free guidance, on the text or on a world's controls; 1: none.
        guidance_rescale: Share of the guided estimate that is brought back to the spread of the conditional one (Lin
            et al. 2024); text-to-video models only, as the next two.
        embedded_cfg_scale: Guidance that a model with `guidance_embeds` is told as a number; 0: it is told none.
        flow_shift: Shift a of noise levels towards noise, `a s / (1 + (a - 1) s)`; 1: none.
        seed: Of the first clip; the others count on.
        output_type: `pt`, tensors; `np`, arrays; or `latent`: clips are not decoded.
        precision: `bf16`, where the hardware multiplies it, or `fp32`.
        sp_size: Processes that share a clip; must stay 1.
        tp_size: Processes that share a layer; must stay 1.
        text_encoder_path: Local folder of a text encoder that `transformers` loads; None: the hash of words.
        device: Where to compute.

    Raises:
        ValueError: A value is out of its range.
    """

    model_type: str = "world"
    model_path: str = DEFAULT_WORLD
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    embedded_cfg_scale: float = 6.0
    flow_shift: float = 7.0
    seed: int = 1024
    output_type: str = "pt"
    precision: str = "bf16"
    sp_size: int = 1
    tp_size: int = 1
    text_encoder_path: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        self.check_ranges(
            guidance_scale=(0, 100), guidance_rescale=(0, 1), embedded_cfg_scale=(0, 1000), flow_shift=(1e-3, 1e3),
            seed=(0, 2**62),
        )  # fmt: skip
        for name, allowed in (("output_type", OUTPUTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("sp_size", "tp_size"):
            if getattr(self, name) != 1:
                raise ValueError(f"{name} must be 1, the engine works in one process, got {getattr(self, name)}")
