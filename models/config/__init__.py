"""Configuration dataclasses of the package: the one source of every default. Imports no torch."""

from drivedit.config.base import BaseConfig
from drivedit.config.inference import InferenceConfig
from drivedit.config.models import StudentConfig, VAEConfig, WorldConfig
from drivedit.config.training import DataConfig, LoopConfig, StudentStageConfig, VAEStageConfig

__all__ = [
    "BaseConfig",
    "DataConfig",
    "InferenceConfig",
    "LoopConfig",
    "StudentConfig",
    "StudentStageConfig",
    "VAEConfig",
    "VAEStageConfig",
    "WorldConfig",
]
