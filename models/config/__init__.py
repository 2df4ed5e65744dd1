"""Configuration dataclasses of the package: the one source of every default. Imports no torch."""

from drivedit.config.base import BaseConfig
from drivedit.config.inference import InferenceConfig
from drivedit.config.models import StudentConfig, TeacherConfig, VAEConfig, WorldConfig
from drivedit.config.presets import ModelConfig, get_large_config, get_small_config
from drivedit.config.spec import Modality, Quantity, RewardTerm, WorldSpec
from drivedit.config.training import (
    ClipConfig,
    DataConfig,
    DistillConfig,
    LoopConfig,
    MemoryStudyConfig,
    StudentStageConfig,
    TrainingConfig,
    VAEStageConfig,
)

__all__ = [
    "BaseConfig",
    "ClipConfig",
    "DataConfig",
    "DistillConfig",
    "InferenceConfig",
    "LoopConfig",
    "MemoryStudyConfig",
    "Modality",
    "ModelConfig",
    "Quantity",
    "RewardTerm",
    "StudentConfig",
    "StudentStageConfig",
    "TeacherConfig",
    "TrainingConfig",
    "VAEConfig",
    "VAEStageConfig",
    "WorldConfig",
    "WorldSpec",
    "get_large_config",
    "get_small_config",
]
