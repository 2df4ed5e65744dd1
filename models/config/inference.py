"""Configuration of the streaming rollout."""

from __future__ import annotations

from dataclasses import dataclass

from drivedit.config.base import BaseConfig


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
