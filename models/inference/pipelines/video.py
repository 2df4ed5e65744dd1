"""Text to video: words are encoded, noise is denoised under them, latents are decoded."""

from __future__ import annotations

from pathlib import Path

from drivedit.config import MODEL_TYPES, InferenceArgs
from drivedit.inference.pipelines.base import ComposedPipelineBase
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
from drivedit.models.dits import TRANSFORMERS, VideoTransformer3DModel
from drivedit.models.text_encoder import HunyuanTextEncoder
from drivedit.models.vaes import WanVAE
from drivedit.utils import resolve_device

TRANSFORMER, AUTOENCODER = "transformer.safetensors", "vae.safetensors"


class TextToVideoPipeline(ComposedPipelineBase):
    """Makes clips of texts.

    Args:
        transformer: Tells velocities of latents.
        vae: Decodes them.
        encoder: Encodes texts.
        device: Where to compute; the networks are moved there.

    Raises:
        ValueError: The widths of two of them differ.
    """

    def __init__(
        self, transformer: VideoTransformer3DModel, vae: WanVAE, encoder: HunyuanTextEncoder, device: str = "auto"
    ) -> None:
        sizes, place = transformer.config, resolve_device(device)
        if vae.config.latent_dim != sizes.in_channels or encoder.width != sizes.text_dim:
            raise ValueError(
                f"the transformer takes latents of {sizes.in_channels} channels and words of {sizes.text_dim} numbers; "
                f"the autoencoder makes {vae.config.latent_dim}, the text encoder {encoder.width}"
            )
        transformer, vae = transformer.to(place).eval(), vae.to(place).eval()
        stages = [
            InputValidationStage(),
            ClipTextEncodingStage(encoder),
            LlamaEncodingStage(encoder),
            ConditioningStage(),
            LatentPreparationStage(sizes.in_channels),
            TimestepPreparationStage(),
            DenoisingStage(transformer, sizes.guidance_embeds, place),
            DecodingStage(vae, place),
        ]
        super().__init__(stages, place)


def load_text_to_video(args: InferenceArgs) -> TextToVideoPipeline:
    """The pipeline of a model's folder.

    Raises:
        FileNotFoundError: A file is missing; no pretrained weights are shipped.
        ValueError: A file is damaged, or it holds a model of another type.
    """
    folder = Path(args.model_path)
    missing = [name for name in (TRANSFORMER, AUTOENCODER) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"the model {args.model_path} lacks {' and '.join(missing)}: no pretrained text-to-video weights come with "
            "this package; `save` of drivedit.models.dits and drivedit.models.vaes writes your own"
        )
    transformer = TRANSFORMERS[args.model_type].load(folder / TRANSFORMER)
    channels = MODEL_TYPES[args.model_type].in_channels
    if transformer.config.in_channels != channels:
        raise ValueError(
            f"a model of type {args.model_type} has latents of {channels} channels, {folder / TRANSFORMER} has "
            f"{transformer.config.in_channels}"
        )
    encoder = HunyuanTextEncoder(args.text_encoder_path, transformer.config.text_dim)
    return TextToVideoPipeline(transformer, WanVAE.load(folder / AUTOENCODER), encoder, args.device)
