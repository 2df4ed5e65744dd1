"""Offline clips: an engine has a pipeline and runs prompts through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from drivedit.config import MODEL_TYPES, InferenceArgs
from drivedit.inference.pipelines.base import ComposedPipelineBase
from drivedit.inference.pipelines.dreams import load_dreams
from drivedit.inference.pipelines.video import load_text_to_video

PIPELINES: dict[str, Callable[[InferenceArgs], ComposedPipelineBase]] = {
    "world": load_dreams,
    **dict.fromkeys(MODEL_TYPES, load_text_to_video),
}


class InferenceEngine:
    """Makes clips.

    Args:
        pipeline: What makes them.
        inference_args: Settings of runs that bring none.
    """

    def __init__(self, pipeline: ComposedPipelineBase, inference_args: InferenceArgs) -> None:
        self.pipeline, self.args = pipeline, inference_args

    @classmethod
    def create_engine(cls, inference_args: InferenceArgs) -> Self:
        """Loads the model that `model_type` and `model_path` name.

        Raises:
            ValueError: There is no such type, or the model is damaged or of another type.
            FileNotFoundError: There is no such model.
        """
        if inference_args.model_type not in PIPELINES:
            raise ValueError(f"model_type must be one of {', '.join(PIPELINES)}, got {inference_args.model_type!r}")
        return cls(PIPELINES[inference_args.model_type](inference_args), inference_args)

    def run(
        self, prompt: str | Sequence[str] = "", inference_args: InferenceArgs | None = None, **given: Any
    ) -> dict[str, Any]:
        """Makes a clip of each prompt.

        Args:
            prompt: A text, or B of them. Of a world the words choose attributes of the start scene.
            inference_args: Settings of this run; None: those of the engine.
            given: Further fields of the batch: `negative_prompt`, `prompt_embeds`, `timesteps`, `latents`; of a world
                `controls` and `options`. `seeds` are counted on from the settings' seed unless they are given.

        Returns:
            `samples`, the clips `[B, C, T, H, W]` in [0, 1] (or latents); `prompts`; `size` (height, width, frames);
            `generation_time` in seconds; `seeds`. Of a world also `scenes`, numbers of the start scenes, and `ended`,
            the frame of each clip at which its drive ended, or None.

        Raises:
            ValueError: A prompt, a setting or a field does not fit the model.
        """
        args, begun = inference_args or self.args, time.perf_counter()
        for name in ("model_type", "model_path"):
            if getattr(args, name) != getattr(self.args, name):
                raise ValueError(f"this engine has the {name} {getattr(self.args, name)}, got {getattr(args, name)}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        given = {"seeds": [args.seed + row for row in range(len(prompts))], **given}
        done = self.pipeline(self.pipeline.batch_type(prompts, **given), args)
        samples = done.latents if args.output_type == "latent" else done.output
        assert samples is not None
        return {
            "samples": samples.numpy() if args.output_type == "np" else samples,
            "prompts": prompts,
            "size": (*samples.shape[-2:], samples.shape[2]),
            "generation_time": time.perf_counter() - begun,
            "seeds": given["seeds"],
            **done.told,
        }
