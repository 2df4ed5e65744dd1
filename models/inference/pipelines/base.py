"""A pipeline is a row of stages; a batch goes through them, and each gives a changed copy of it.

Legend: B clips, T latents in time, C channels, h w cells, L words, D width of a word, S sampling steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from drivedit.config import InferenceArgs


@dataclass
class ForwardBatch:
    """What is known of B clips; stages fill in what is None.

    Attributes:
        prompt: One text for each clip; empty where `prompt_embeds` are handed over.
        seeds: One for each clip.
        negative_prompt: What guidance leads away from, of all clips; an empty text is one, None is none.
        prompt_embeds: Words of the prompts `[B, L, D]`.
        prompt_attention_mask: Which of them there are, bool `[B, L]`.
        pooled_embeds: One vector for a whole prompt `[B, D]`.
        negative_prompt_embeds: Words of the negative prompt `[1, L, D]`, or `[B, L, D]`.
        negative_attention_mask: Which of them there are.
        negative_pooled_embeds: One vector for it.
        encoder_hidden_states: What the transformer is told `[B, L', D]`.
        encoder_attention_mask: Which of it there is.
        null_hidden_states: What it is told in the unconditional pass.
        null_attention_mask: Which of it there is.
        timesteps: `[S]` falling, 1000 times the levels of noise.
        sigmas: `[S + 1]` falling levels of noise, the last one 0; those that are handed over may leave it out.
        latents: `[B, C, T, h, w]`: noise, then data.
        output: The clips `[B, 3, frames, H, W]` in [0, 1].
    """

    prompt: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    negative_prompt: str | None = None
    prompt_embeds: Tensor | None = None
    prompt_attention_mask: Tensor | None = None
    pooled_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_attention_mask: Tensor | None = None
    negative_pooled_embeds: Tensor | None = None
    encoder_hidden_states: Tensor | None = None
    encoder_attention_mask: Tensor | None = None
    null_hidden_states: Tensor | None = None
    null_attention_mask: Tensor | None = None
    timesteps: Tensor | None = None
    sigmas: Tensor | None = None
    latents: Tensor | None = None
    output: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass
class PipelineOutput:
    """What came of a batch.

    Attributes:
        output: The clips `[B, 3, frames, H, W]` in [0, 1]; None where latents alone were asked for.
        latents: `[B, C, T, h, w]`.
        told: What else is known of the clips, by name.
    """

    output: Tensor | None
    latents: Tensor | None
    told: dict[str, Any] = field(default_factory=dict)


class PipelineStage(ABC):
    """One step of a pipeline; it changes neither batch nor arguments, and gives a changed copy of the batch."""

    @abstractmethod
    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with what this stage adds."""

    def __call__(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """`forward`."""
        return self.forward(batch, args)


class ComposedPipelineBase:
    """Stages in a row.

    Args:
        stages: The stages, in order.
        device: Where its networks are.
    """

    batch_type: type[ForwardBatch] = ForwardBatch

    def __init__(self, stages: Sequence[PipelineStage], device: torch.device | str = "cpu") -> None:
        self.stages, self.device = list(stages), torch.device(device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> PipelineOutput:
        """Brings a batch through all stages.

        Raises:
            ValueError: The batch and the arguments do not fit each other, or the networks.
        """
        for stage in self.stages:
            batch = stage(batch, args)
        return PipelineOutput(batch.output, batch.latents, self.tell(batch))

    def tell(self, batch: ForwardBatch) -> dict[str, Any]:
        """What is known of the clips of a batch that has been through all stages, beside them."""
        return {}

    def __call__(self, batch: ForwardBatch, args: InferenceArgs) -> PipelineOutput:
        """`forward`."""
        return self.forward(batch, args)
