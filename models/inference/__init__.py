"""Samplers and the streaming rollout, and what makes worlds fast."""

from drivedit.inference.tune import tune

__all__ = ["tune"]
