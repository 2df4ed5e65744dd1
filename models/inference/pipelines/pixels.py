"""Pictures of texts by PixelHDM: a text is encoded, and noise is carried to a picture under it.

A picture is a function of its text, its seed and its number; what else is made beside it makes no difference.

Legend: N pictures, one text's after the other's; H W their pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from drivedit.config import PixelHDMConfig
from drivedit.models.flow.unified import UnifiedSampler
from drivedit.models.pixel.network import PixelHDM, check_size
from drivedit.models.pixel.text_to_image import PixelHDMForT2I, create_pixelhdm_for_t2i_from_config
from drivedit.utils import init_logger, noise, resolve_device

logger = init_logger(__name__)
OUTPUTS = ("pil", "tensor")


@dataclass
class PixelHDMOutput:
    """Pictures, and what they were made from.

    Attributes:
        images: N pictures of PIL, or float `[N, 3, H, W]` in [0, 1].
        seed: That makes them again.
        intermediates: What they were after each step, float `[N, 3, H, W]` in [0, 1], if that was asked for.
    """

    images: Any
    seed: int
    intermediates: list[Tensor] = field(default_factory=list)


class PixelHDMPipeline:
    """Makes pictures of texts.

    Args:
        model: The network with its text encoder; it computes where it is, in its own precision.

    Raises:
        ValueError: The model cannot encode texts.
    """

    def __init__(self, model: PixelHDMForT2I) -> None:
        if not isinstance(model, PixelHDMForT2I):
            raise ValueError(
                f"the pipeline needs a model that encodes texts (create_pixelhdm_for_t2i), got a {type(model).__name__}"
            )
        self.model = model

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int = 512,
        width: int = 512,
        num_steps: int = 50,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        sampler_method: str = "heun",
        output_type: str = "pil",
        return_intermediates: bool = False,
        callback: Callable[[int, int, Tensor], None] | None = None,
        *,
        guidance_rescale: float = 0.0,
    ) -> PixelHDMOutput:
        """Makes pictures.

        Args:
            prompt: A text, or several.
            negative_prompt: What guidance leads away from, one for all texts or one for each; None: the empty text.
            height: H, a multiple of the patch size.
            width: W, likewise.
            num_steps: Steps of the sampler.
            guidance_scale: 1 is without guidance, 0 without the text.
            num_images_per_prompt: Pictures of each text, of different noise.
            seed: Of the noise; None: drawn.
            sampler_method: "euler", "heun", "dpm_pp" or "dpm_pp_2s".
            output_type: "pil" or "tensor".
            return_intermediates: Whether what there is after each step is returned as well.
            callback: Called after each step with its number, from 0, their count, and `[N, H, W, 3]` about [-1, 1].
            guidance_rescale: Share in which guided velocities are brought back to the spread of those of the text.

        Raises:
            RuntimeError: The model has no text encoder, or the encoder's weights are absent.
            ValueError: A size is no multiple of the patch size or has too many patches, a name is unknown, a number is
                out of its range, or there are not as many negative texts as texts.
        """
        self._check(height, width, num_images_per_prompt, output_type)
        sampler = UnifiedSampler(sampler_method, num_steps, self.model.config.time_eps)
        prompts, negatives = _texts(prompt, negative_prompt)
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        count, steps = num_images_per_prompt, []

        def after(step: int, total: int, z: Tensor) -> None:
            if return_intermediates:
                steps.append(_in_colours(z))
            if callback is not None:
                callback(step, total, z)

        was = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                told, null = (
                    [part.repeat_interleave(count, 0) for part in self.model.encode_text(texts)]
                    for texts in (prompts, negatives)
                )
            numbers = list(range(count)) * len(prompts)
            start = noise([seed] * len(numbers), "pixels", numbers, (height, width, self.model.config.in_channels))
            made = sampler.sample(
                self._velocity, start.to(told[0].device), told[0], told[1], guidance_scale=guidance_scale,
                null_text_embeddings=null[0], null_text_mask=null[1], callback=after, pooled_text_embed=told[2],
                null_pooled_text_embed=null[2], guidance_rescale=guidance_rescale,
            )  # fmt: skip
        finally:
            self.model.train(was)
        pictures = _in_colours(made)
        return PixelHDMOutput(_in_pil(pictures) if output_type == "pil" else pictures, seed, steps)

    def _velocity(self, z: Tensor, t: Tensor, **told: Tensor) -> Tensor:
        """The network's velocity in single precision, in which it is added up."""
        return self.model(z.to(self.model.out.weight.dtype), t, **told).float()

    def _check(self, height: int, width: int, count: int, output_type: str) -> None:
        """ValueError unless pictures of a size and of a kind can be made."""
        config = self.model.config
        check_size(height, width, config.patch_size)
        patches = height * width // config.patch_size**2
        if patches > config.max_patches:
            raise ValueError(
                f"a picture has at most max_patches {config.max_patches} patches of {config.patch_size} x "
                f"{config.patch_size} pixels, {height} x {width} are {patches}; take a smaller one"
            )
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUTS)}, got {output_type!r}")
        if count < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, got {count}")


def create_pipeline_from_config(
    config: PixelHDMConfig,
    device: torch.device | str = "auto",
    dtype: torch.dtype = torch.float32,
    load_text_encoder: bool = True,
    load_dino_encoder: bool = False,
    *,
    weights: str | Path | None = None,
) -> PixelHDMPipeline:
    """The pipeline of a configuration.

    Args:
        config: Of the network.
        device: Where it computes.
        dtype: In which precision.
        load_text_encoder: Whether it has a text encoder, without which it makes no pictures.
        load_dino_encoder: Whether it has an image encoder, which only training needs.
        weights: File that `PixelHDM.save` or training wrote; None: a new network, which makes noise.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or of another configuration.
    """
    model = create_pixelhdm_for_t2i_from_config(config, load_text_encoder, load_dino_encoder)
    if weights is None:
        logger.warning("no weights: a new network makes noise; name a file that training wrote")
    else:
        trained = PixelHDM.load(weights)
        config.check_same(trained.config, f"the file {weights}")
        model.load_state_dict(trained.state_dict())
    return PixelHDMPipeline(model.to(resolve_device(device), dtype).eval())


def _texts(prompt: str | Sequence[str], negative: str | Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Texts, and a negative one for each of them."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if negative is None or isinstance(negative, str):
        return prompts, [negative or ""] * len(prompts)
    if len(negative) != len(prompts):
        raise ValueError(f"there must be one negative text, or one for each of {len(prompts)}, got {len(negative)}")
    return prompts, list(negative)


def _in_colours(z: Tensor) -> Tensor:
    """Pictures `[N, H, W, 3]` about [-1, 1] as `[N, 3, H, W]` in [0, 1]."""
    return (z / 2 + 0.5).clamp(0, 1).permute(0, 3, 1, 2).contiguous()


def _in_pil(pictures: Tensor) -> list[Image.Image]:
    """Pictures `[N, 3, H, W]` in [0, 1] as those of PIL."""
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each) for each in pixels]
