"""Offline: losses, trainers and the one training loop."""

from drivedit.training.trainers import DistillationTrainer, SelfForcingTrainer

__all__ = ["DistillationTrainer", "SelfForcingTrainer"]
