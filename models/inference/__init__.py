"""The streaming rollout, and what makes worlds fast."""

from drivedit.config import InferenceConfig
from drivedit.inference.rollout import StreamingRollout
from drivedit.inference.tune import tune

__all__ = ["InferenceConfig", "StreamingRollout", "tune"]
