"""A whole model in one configuration, and two sizes of it.

The networks of a preset fit together: a token is a 2x2 square of latent cells, so it is four times as wide as a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from drivedit.config.base import BaseConfig
from drivedit.config.models import StudentConfig, TeacherConfig, VAEConfig
from drivedit.config.training import TrainingConfig


@dataclass
class ModelConfig(BaseConfig):
    """Autoencoder, student, teacher and how they are trained."""

    vae: VAEConfig = field(default_factory=VAEConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def get_small_config() -> ModelConfig:
    """Returns a model for tests and development: 64 x 64 frames, 16 tokens each, 16 frames in a sequence."""
    return ModelConfig(
        vae=VAEConfig(latent_dim=8, hidden_dims=[16, 32, 64, 128], num_res_blocks=1),
        student=StudentConfig(32, d_model=128, n_layers=4, n_heads=4, tokens_per_frame=16, window=16, control_dim=2),
        teacher=TeacherConfig(32, d_model=128, n_layers=4, n_heads=4, tokens_per_frame=16, control_dim=2),
        training=TrainingConfig(lr=3e-4),
    )


def get_large_config() -> ModelConfig:
    """Returns a model for production: 256 x 256 frames, 256 tokens each, 16 frames in a sequence."""
    return ModelConfig(
        vae=VAEConfig(latent_dim=16),
        student=StudentConfig(
            64, d_model=1024, n_layers=24, n_heads=16, max_seq_len=4096, tokens_per_frame=256, window=16, control_dim=2
        ),
        teacher=TeacherConfig(
            64, d_model=1024, n_layers=24, n_heads=16, max_seq_len=4096, tokens_per_frame=256, control_dim=2
        ),
    )
