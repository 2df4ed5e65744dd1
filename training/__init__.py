"""Offline: losses, trainers and the one training loop."""

from typing import TYPE_CHECKING

from drivedit.utils.lazy import lazily

if TYPE_CHECKING:
    from drivedit.training.trainers import DistillationTrainer, SelfForcingTrainer
else:
    __getattr__, __dir__ = lazily(__name__)

__all__ = ["DistillationTrainer", "SelfForcingTrainer"]
