"""Engine and pipelines of clips and pictures, the streaming rollout, where dreams begin, and what makes worlds fast."""

from drivedit.config import InferenceArgs, InferenceConfig
from drivedit.inference.compile import CompiledDecoder, CompiledStep, compile_decoder, compile_step, compiled
from drivedit.inference.engine import InferenceEngine
from drivedit.inference.guidance import under_guidance
from drivedit.inference.pipelines import (
    ComposedPipelineBase,
    DreamBatch,
    DreamPipeline,
    ForwardBatch,
    PipelineOutput,
    TextToVideoPipeline,
)
from drivedit.inference.pipelines.pixels import PixelHDMOutput, PixelHDMPipeline, create_pipeline_from_config
from drivedit.inference.rollout import StreamingRollout
from drivedit.inference.tune import tune

__all__ = [
    "CompiledDecoder",
    "CompiledStep",
    "ComposedPipelineBase",
    "DreamBatch",
    "DreamPipeline",
    "ForwardBatch",
    "InferenceArgs",
    "InferenceConfig",
    "InferenceEngine",
    "PipelineOutput",
    "PixelHDMOutput",
    "PixelHDMPipeline",
    "StreamingRollout",
    "TextToVideoPipeline",
    "compile_decoder",
    "compile_step",
    "compiled",
    "create_pipeline_from_config",
    "tune",
    "under_guidance",
]
