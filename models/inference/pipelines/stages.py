"""The stages that make a clip of a text.

Legend: B clips, T latents in time, C channels, h w cells, L words, D width of a word, S sampling steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, overload

import torch
from torch import Tensor
from tqdm import tqdm

from drivedit.config import InferenceArgs
from drivedit.inference.pipelines.base import ForwardBatch, PipelineStage
from drivedit.models.dits import TIMESTEPS
from drivedit.models.flow.path import clean_estimate, noise_levels
from drivedit.models.flow.sampler import guided, sample
from drivedit.models.flow.schedules import shifted
from drivedit.models.text_encoder import HunyuanTextEncoder
from drivedit.models.vaes import PIXELS, WanVAE, latent_frames
from drivedit.utils import ForwardContext, fast_dtype, noise

Given = tuple[Tensor, Tensor | None]  # words and which of them there are


class InputValidationStage(PipelineStage):
    """Refuses what the other stages could not work with, before anything is computed."""

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch as it is.

        Raises:
            ValueError: A side is no multiple of 8, frames are not 4 k + 1, there is no step, a clip has neither prompt
                nor embeddings, guidance has no negative ones, or the levels of noise are given twice.
        """
        sides = args.height, args.width
        if any(side is None or side <= 0 or side % PIXELS for side in sides):
            raise ValueError(f"height and width must be multiples of {PIXELS} above 0, got {sides[0]} and {sides[1]}")
        if args.num_frames is None:
            raise ValueError("num_frames must be given, for instance 25")
        latent_frames(args.num_frames)
        self.check_steps(args)
        told = bool(batch.prompt) and all(isinstance(text, str) and text.strip() for text in batch.prompt)
        if batch.prompt_embeds is None and not told:
            raise ValueError(f"a clip needs a prompt, or prompt_embeds, got {batch.prompt}")
        if args.guidance_scale != 1 and batch.negative_prompt is None and batch.negative_prompt_embeds is None:
            raise ValueError(
                f"guidance_scale {args.guidance_scale:g} needs a negative_prompt, which may be an empty text, or "
                "negative_prompt_embeds"
            )
        if batch.timesteps is not None and batch.sigmas is not None:
            raise ValueError("give timesteps or sigmas, not both: one follows from the other")
        if len({len(batch), len(batch.prompt if batch.prompt_embeds is None else batch.prompt_embeds)}) > 1:
            raise ValueError(f"one seed for each clip is needed, got {len(batch)} for {batch.prompt}")
        return batch

    @staticmethod
    def check_steps(args: InferenceArgs) -> None:
        """ValueError for a number of steps that is none."""
        if args.num_inference_steps is not None and args.num_inference_steps <= 0:
            raise ValueError(f"num_inference_steps must be at least 1, got {args.num_inference_steps}")


class ClipTextEncodingStage(PipelineStage):
    """Encodes each prompt as one vector.

    Args:
        encoder: The encoder.
    """

    def __init__(self, encoder: HunyuanTextEncoder) -> None:
        self.encoder = encoder

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with pooled embeddings, unless embeddings were handed over."""
        if batch.prompt_embeds is None and batch.pooled_embeds is None:
            batch = replace(batch, pooled_embeds=self.encoder.pool(batch.prompt))
        if args.guidance_scale != 1 and batch.negative_prompt is not None and batch.negative_prompt_embeds is None:
            batch = replace(batch, negative_pooled_embeds=self.encoder.pool(batch.negative_prompt))
        return batch


class LlamaEncodingStage(PipelineStage):
    """Encodes each word of the prompts.

    Args:
        encoder: The encoder.
        max_sequence_length: Words of a prompt that are read, at most.
    """

    def __init__(self, encoder: HunyuanTextEncoder, max_sequence_length: int = 256) -> None:
        self.encoder, self.length = encoder, max_sequence_length

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with embeddings and their masks, unless they were handed over."""
        if batch.prompt_embeds is None:
            words, mask = self.encoder.encode(batch.prompt, max_sequence_length=self.length)
            batch = replace(batch, prompt_embeds=words, prompt_attention_mask=mask)
        if args.guidance_scale != 1 and batch.negative_prompt is not None and batch.negative_prompt_embeds is None:
            words, mask = self.encoder.encode(batch.negative_prompt, max_sequence_length=self.length)
            batch = replace(batch, negative_prompt_embeds=words, negative_attention_mask=mask)
        return batch


class ConditioningStage(PipelineStage):
    """Puts together what the transformer is told: the vector of the whole prompt goes before those of its words."""

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with what is told, and with what is told in the unconditional pass of guidance."""
        if batch.prompt_embeds is None:
            raise ValueError("there are no prompt_embeds: encode the prompts first")
        words, mask = _joined(batch.prompt_embeds, batch.prompt_attention_mask, batch.pooled_embeds)
        batch = replace(batch, encoder_hidden_states=words, encoder_attention_mask=mask)
        if args.guidance_scale == 1 or batch.negative_prompt_embeds is None:
            return batch
        null, there = _joined(batch.negative_prompt_embeds, batch.negative_attention_mask, batch.negative_pooled_embeds)
        rows = len(words)
        return replace(batch, null_hidden_states=null.expand(rows, -1, -1), null_attention_mask=there.expand(rows, -1))


class LatentPreparationStage(PipelineStage):
    """Draws the noise that clips are made from.

    Args:
        channels: Of a latent cell.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with latents, each from its own seed; those that were handed over are checked.

        Raises:
            ValueError: Latents were handed over in another shape.
        """
        assert args.height and args.width and args.num_frames
        shape = (self.channels, latent_frames(args.num_frames), args.height // PIXELS, args.width // PIXELS)
        if batch.latents is None:
            return replace(batch, latents=noise(batch.seeds, "latents", [0] * len(batch), shape))
        if batch.latents.shape != (len(batch), *shape):
            raise ValueError(f"latents must be {[len(batch), *shape]}, got {list(batch.latents.shape)}")
        return batch


class TimestepPreparationStage(PipelineStage):
    """Sets the levels of noise between which the sampler steps."""

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with sigmas and timesteps: those that were handed over, or even ones, shifted by `flow_shift`.

        Raises:
            ValueError: Both were handed over, they do not fall from at most 1, or there is no number of steps.
        """
        if batch.timesteps is not None and batch.sigmas is not None:
            raise ValueError("give timesteps or sigmas, not both: one follows from the other")
        if batch.timesteps is not None:
            sigmas = ending_in_data(batch.timesteps / TIMESTEPS)
        elif batch.sigmas is not None:
            sigmas = ending_in_data(batch.sigmas)
        elif args.num_inference_steps is None:
            raise ValueError("num_inference_steps must be given, for instance 50")
        else:
            sigmas = shifted(noise_levels(args.num_inference_steps), args.flow_shift)
        return replace(batch, sigmas=sigmas, timesteps=TIMESTEPS * sigmas[:-1])


class DenoisingStage(PipelineStage):
    """Makes clips of noise with the package's one sampler (`drivedit.models.flow.sampler`).

    Args:
        transformer: Tells the velocity, called as `VideoTransformer3DModel` is.
        embeds_guidance: Whether it is told `embedded_cfg_scale` as a number.
        device: Where it computes.
    """

    def __init__(
        self, transformer: Callable[..., Tensor], embeds_guidance: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.transformer, self.embeds_guidance, self.device = transformer, embeds_guidance, torch.device(device)

    @overload
    def forward(self, batch: ForwardBatch, timesteps: InferenceArgs) -> ForwardBatch: ...
    @overload
    def forward(
        self, batch: ForwardBatch, timesteps: Tensor, latents: Tensor, encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor: ...  # fmt: skip
    def forward(
        self,
        batch: ForwardBatch,
        timesteps: InferenceArgs | Tensor,
        latents: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> ForwardBatch | Tensor:
        """The batch with clean latents; or, called with five tensors, the clean latents `[B, C, T, h, w]`.

        Args:
            batch: The batch.
            timesteps: The arguments of the run; or `[S]` falling, 1000 times the levels of noise.
            latents: Latents at the first level.
            encoder_hidden_states: What is told `[B, L, D]`.
            encoder_attention_mask: Which of it there is.
        """
        if isinstance(timesteps, InferenceArgs):
            return replace(batch, latents=self.denoise(batch, timesteps))
        levels = ending_in_data(timesteps / TIMESTEPS)
        given = {"encoder_hidden_states": encoder_hidden_states, "encoder_attention_mask": encoder_attention_mask}
        return self.denoise(replace(batch, sigmas=levels, latents=latents, **given), InferenceArgs())

    @torch.no_grad()
    def denoise(self, batch: ForwardBatch, args: InferenceArgs) -> Tensor:
        """Clean latents `[B, C, T, h, w]` of a batch that has all that is needed.

        Raises:
            ValueError: A part is missing: the stage that makes it was left out.
        """
        needed = ["latents", "sigmas", "encoder_hidden_states"]
        needed += ["null_hidden_states"] * (args.guidance_scale != 1)
        missing = [name for name in needed if getattr(batch, name) is None]
        if missing:
            raise ValueError(f"denoising needs {', '.join(missing)} in the batch: run the stage that makes them first")
        x, levels, words, mask, null, none = (
            part if part is None else part.to(self.device)
            for part in (
                batch.latents, batch.sigmas, batch.encoder_hidden_states, batch.encoder_attention_mask,
                batch.null_hidden_states, batch.null_attention_mask,
            )
        )  # fmt: skip
        assert x is not None and levels is not None and words is not None and len(levels) > 1
        scale = args.guidance_scale
        with tqdm(total=len(levels) - 1, desc="denoising", leave=False, disable=None) as bar:
            network = self._denoiser(args, 1 if scale == 1 else 2, bar.update)
            denoiser = guided(network, scale, (null, none), args.guidance_rescale)
            dtype = fast_dtype(self.device)
            fast = args.precision == "bf16" and dtype != torch.float32
            with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
                return sample(denoiser, x, levels, (words, mask))

    def _denoiser(self, args: InferenceArgs, passes: int, after: Callable[[], Any]) -> Callable[..., Tensor]:
        """The transformer as the sampler knows it; so many passes are a step."""
        calls, embedded = count(), args.embedded_cfg_scale if self.embeds_guidance else 0.0

        def denoiser(x: Tensor, sigma: Tensor, given: Given) -> Tensor:
            call = next(calls)
            told = {"guidance": torch.full_like(sigma, embedded)} if embedded else {}
            with ForwardContext(call // passes):
                velocity = self.transformer(x, given[0], TIMESTEPS * sigma, given[1], **told)
            if call % passes == passes - 1:
                after()
            return clean_estimate(x, velocity.float(), sigma)

        return denoiser


class DecodingStage(PipelineStage):
    """Decodes latents to pictures.

    Args:
        vae: The autoencoder.
        device: Where it computes.
    """

    def __init__(self, vae: WanVAE, device: torch.device | str = "cpu") -> None:
        self.vae, self.device = vae, torch.device(device)

    @torch.no_grad()
    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with clips in [0, 1] on the CPU, one clip at a time; without, where latents were asked for."""
        if args.output_type == "latent":
            return batch
        if batch.latents is None:
            raise ValueError("there are no latents to decode: denoise first")
        clips = [self.vae.decode(row[None].to(self.device)).cpu() for row in batch.latents]
        return replace(batch, output=((torch.cat(clips) + 1) / 2).clamp(0, 1))


def ending_in_data(levels: Tensor) -> Tensor:
    """Levels with 0 at their end.

    Raises:
        ValueError: They do not fall from at most 1 to above 0.
    """
    levels = levels if len(levels) and levels[-1] == 0 else torch.cat([levels, levels.new_zeros(1)])
    if len(levels) < 2 or levels[0] > 1 or not (levels.diff() < 0).all():
        raise ValueError(f"levels of noise fall from at most 1 (timesteps from 1000) to above 0, got {levels.tolist()}")
    return levels


def _joined(words: Tensor, mask: Tensor | None, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
    """Words behind the vector of the whole, and which of them there are; a vector of zeros is none."""
    mask = words.new_ones(words.shape[:2]).bool() if mask is None else mask.bool()
    if pooled is None:
        return words, mask
    return torch.cat([pooled[:, None], words], 1), torch.cat([pooled.ne(0).any(1, keepdim=True), mask], 1)
