"""The streaming rollout, and what makes worlds fast."""

from drivedit.config import InferenceConfig
from drivedit.inference.compile import CompiledStep, compile_step
from drivedit.inference.rollout import StreamingRollout
from drivedit.inference.tune import tune

__all__ = ["CompiledStep", "InferenceConfig", "StreamingRollout", "compile_step", "tune"]
