"""Configuration dataclasses of the package: the one source of every default. Imports no torch."""

from drivedit.config.agents import AgentsConfig, AgentsStageConfig
from drivedit.config.base import BaseConfig
from drivedit.config.bev import BevStageConfig, BevWorldConfig
from drivedit.config.domain import DomainConfig, all_domains, domain_of, find_domain
from drivedit.config.domains import DEFAULT_WORLD
from drivedit.config.inference import InferenceArgs, InferenceConfig
from drivedit.config.models import CameraConfig, StudentConfig, TeacherConfig, VAEConfig, WorldConfig
from drivedit.config.pixel import PixelHDMConfig
from drivedit.config.presets import ModelConfig, get_large_config, get_small_config
from drivedit.config.range import PainterConfig, RangeStageConfig, RangeWorldConfig
from drivedit.config.scene_generator import SceneGeneratorConfig, ScenesStageConfig
from drivedit.config.sde import (
    DiffNetConfig,
    DiffUnetConfig,
    IntegrationConfig,
    MotionEncoderConfig,
    MotionUNetConfig,
)
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
from drivedit.config.video import MODEL_TYPES, VideoTransformerConfig

__all__ = [
    "DEFAULT_WORLD",
    "MODEL_TYPES",
    "AgentsConfig",
    "AgentsStageConfig",
    "BaseConfig",
    "CameraConfig",
    "ClipConfig",
    "DataConfig",
    "DiffNetConfig",
    "DiffUnetConfig",
    "DistillConfig",
    "DomainConfig",
    "InferenceArgs",
    "InferenceConfig",
    "IntegrationConfig",
    "LoopConfig",
    "MemoryStudyConfig",
    "Modality",
    "ModelConfig",
    "MotionEncoderConfig",
    "MotionUNetConfig",
    "PainterConfig",
    "PixelHDMConfig",
    "Quantity",
    "RangeStageConfig",
    "RangeWorldConfig",
    "RewardTerm",
    "SceneGeneratorConfig",
    "ScenesStageConfig",
    "StudentConfig",
    "StudentStageConfig",
    "TeacherConfig",
    "TrainingConfig",
    "VAEConfig",
    "VAEStageConfig",
    "VideoTransformerConfig",
    "BevStageConfig",
    "BevWorldConfig",
    "WorldConfig",
    "WorldSpec",
    "domain_of",
    "all_domains",
    "find_domain",
    "get_large_config",
    "get_small_config",
]
