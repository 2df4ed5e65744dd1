"""Pipelines of stages: clips of a driving world, and clips of a text."""

from drivedit.inference.pipelines.base import ComposedPipelineBase, ForwardBatch, PipelineOutput, PipelineStage
from drivedit.inference.pipelines.dreams import DreamBatch, DreamPipeline
from drivedit.inference.pipelines.stages import (
    ClipTextEncodingStage,
    ConditioningStage,
    DecodingStage,
    DenoisingStage,
    InputValidationStage,
    LatentPreparationStage,
    LlamaEncodingStage,
    TimestepPreparationStage,
)
from drivedit.inference.pipelines.video import TextToVideoPipeline

__all__ = [
    "ClipTextEncodingStage",
    "ComposedPipelineBase",
    "ConditioningStage",
    "DecodingStage",
    "DenoisingStage",
    "DreamBatch",
    "DreamPipeline",
    "ForwardBatch",
    "InputValidationStage",
    "LatentPreparationStage",
    "LlamaEncodingStage",
    "PipelineOutput",
    "PipelineStage",
    "TextToVideoPipeline",
    "TimestepPreparationStage",
]
