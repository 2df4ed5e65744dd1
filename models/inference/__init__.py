"""The streaming rollout, and what makes worlds fast."""

from drivedit.config import InferenceConfig
from drivedit.inference.compile import CompiledDecoder, CompiledStep, compile_decoder, compile_step, compiled
from drivedit.inference.rollout import StreamingRollout
from drivedit.inference.tune import tune

__all__ = [
    "CompiledDecoder",
    "CompiledStep",
    "InferenceConfig",
    "StreamingRollout",
    "compile_decoder",
    "compile_step",
    "compiled",
    "tune",
]
