"""Clips of a driving world: the stages of its pipeline, which frame by frame call the step that environments call.

The sampler is the world's own, `drivedit.models.flow.sampler` inside `World.step`, so a clip is what an environment
dreams that is reset with the same seed and options and driven by the same controls.

Legend: B clips, T frames, A controls, C h w latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

from drivedit.config import InferenceArgs
from drivedit.inference.pipelines.base import ComposedPipelineBase, ForwardBatch
from drivedit.inference.pipelines.stages import (
    ConditioningStage,
    DecodingStage,
    DenoisingStage,
    InputValidationStage,
    LatentPreparationStage,
)
from drivedit.inference.starts import Start, check_options, draw_start, enter, follow
from drivedit.inference.tune import tune
from drivedit.models import Sampling, StepOutput, World
from drivedit.models.prompts import attributes_of
from drivedit.utils import stream

LATENT = "latent"
TOGETHER = 64  # latents that are decoded at once


@dataclass
class DreamBatch(ForwardBatch):
    """What is known of B clips of a world, beside what every batch has.

    Attributes:
        controls: `[B, >= T - 1, A]`, or `[>= T - 1, A]` for all; entry t leads from frame t to frame t + 1. None: at
            rest.
        options: Reset options of the environment (`scene`, `route`, `closed`, `layout`, `attributes`), of all clips or
            of each. Words of the prompt are `attributes`.
        starts: Where each clip begins.
        state: The worlds.
        told: What each step told beside the frame.
    """

    controls: Tensor | None = None
    options: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    state: Any = None
    told: list[StepOutput] = field(default_factory=list)

    def options_by_row(self) -> list[dict[str, Any]]:
        """The reset options of each clip."""
        if isinstance(self.options, Mapping):
            return [dict(self.options)] * len(self)
        return [dict(each) for each in self.options]


class DreamPipeline(ComposedPipelineBase):
    """Makes clips of a world.

    Args:
        world: The world, where it is.
    """

    batch_type = DreamBatch

    def __init__(self, world: World) -> None:
        self.world = world
        stages = [
            DreamValidationStage(world), SceneStage(world), EnteringStage(world), DreamingStage(world),
            DreamDecodingStage(world),
        ]  # fmt: skip
        super().__init__(stages, world.device)

    def tell(self, batch: ForwardBatch) -> dict[str, Any]:
        """`scenes`, numbers of the starts, and `ended`, the frame of each clip at which its drive ended, or None."""
        assert isinstance(batch, DreamBatch)
        ended: list[int | None] = [None] * len(batch)
        for frame, out in reversed(list(enumerate(batch.told, 1))):
            for row, over in enumerate(out.ended.tolist()):
                ended[row] = frame if over else ended[row]
        return {"scenes": [start.index for start in batch.starts], "ended": ended}


def load_dreams(args: InferenceArgs) -> DreamPipeline:
    """The pipeline of a world, made fast for the machine unless full precision is asked for."""
    world = World.from_pretrained(args.model_path, device=args.device)
    return DreamPipeline(tune(world) if args.precision == "bf16" else world)


class DreamValidationStage(InputValidationStage):
    """Refuses what the world could not dream.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with controls `[B, T - 1, A]`.

        Raises:
            ValueError: The frames have another size, their number is not known or too large, the controls have another
                shape or leave their ranges, or a setting is none of this world's.
        """
        assert isinstance(batch, DreamBatch)
        spec = self.world.spec
        height, width, _ = self.world.modality(spec.picture).shape
        for name, own in (("height", height), ("width", width)):
            if getattr(args, name) not in (None, own):
                raise ValueError(f"this world's frames are {height} x {width}, got {name} {getattr(args, name)}")
        self.check_steps(args)
        self.world.check_guidance(args.guidance_scale)
        if batch.negative_prompt is not None:
            raise ValueError("guidance of a world is on its controls: it takes no negative_prompt")
        if not len(batch) or len(batch.prompt) != len(batch):
            raise ValueError(f"one seed and one prompt for each clip are needed, got {batch.seeds} and {batch.prompt}")
        if len(batch.options_by_row()) != len(batch):
            raise ValueError(f"options are those of all clips or of each of {len(batch)}, got {len(batch.options)}")
        return replace(batch, controls=self._controls(batch, args))

    def _controls(self, batch: DreamBatch, args: InferenceArgs) -> Tensor:
        """The controls `[B, T - 1, A]` of the frames that are asked for."""
        spec, controls = self.world.spec, batch.controls
        width, given = len(spec.controls), controls
        if args.num_frames is not None and args.num_frames < 2:
            raise ValueError(f"a clip of a world has its start and at least 1 more frame, got {args.num_frames}")
        if controls is None:
            if args.num_frames is None:
                raise ValueError("num_frames or controls must be given: how long is the clip?")
            controls = torch.tensor(spec.rest).expand(args.num_frames - 1, width)
        if controls.ndim == 2:
            controls = controls[None].expand(len(batch), -1, -1)
        steps = controls.shape[1] if args.num_frames is None else args.num_frames - 1
        if controls.ndim != 3 or len(controls) != len(batch) or controls.shape[2] != width:
            told = list(given.shape) if given is not None else None
            raise ValueError(f"controls must be [{len(batch)}, T - 1, {width}] ({spec.names('controls')}), got {told}")
        if not 1 <= steps <= controls.shape[1]:
            raise ValueError(f"{steps + 1} frames need {steps} controls, got {controls.shape[1]}")
        controls = controls[:, :steps].float()
        low, high = torch.tensor([(each.low, each.high) for each in spec.controls]).T
        if not ((controls >= low) & (controls <= high)).all():
            ranges = ", ".join(f"{each.name} in [{each.low:g}, {each.high:g}]" for each in spec.controls)
            raise ValueError(f"controls must be finite, {ranges}; scale them")
        return controls


class SceneStage(ConditioningStage):
    """Draws where each clip begins, of its seed, its prompt and its options.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with its starts.

        Raises:
            ValueError: A word of a prompt or an option is none of this world's, or no scene is so.
        """
        assert isinstance(batch, DreamBatch)
        starts = []
        for prompt, seed, options in zip(batch.prompt, batch.seeds, batch.options_by_row(), strict=True):
            attributes = attributes_of(prompt, self.world.spec)
            if attributes:
                options = {**options, "attributes": {**(options.get("attributes") or {}), **attributes}}
            starts.append(draw_start(self.world, check_options(options), stream(seed, None, None)[0]))
        return replace(batch, starts=starts)


class EnteringStage(LatentPreparationStage):
    """Enters the starts: their latents are those of the first frames.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with the state of its worlds."""
        assert isinstance(batch, DreamBatch)
        return replace(batch, state=self.world.State.cat([enter(self.world, start)[0] for start in batch.starts]))


class DreamingStage(DenoisingStage):
    """Steps the worlds through the controls, as an environment does.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:  # type: ignore[override]
        """The batch with the latents `[B, C, T, h, w]` of the clips, the starts' first, and with what was told."""
        assert isinstance(batch, DreamBatch) and batch.controls is not None
        sampling = Sampling(args.num_inference_steps, guidance=args.guidance_scale)
        sources, controls = [start.others for start in batch.starts], batch.controls.to(self.world.device)
        state, told = batch.state.clone(), []
        latents = [self.world.observe(state, [LATENT])[LATENT].clone()]
        for step in trange(controls.shape[1], desc="dreaming", unit=" frame", leave=False, disable=None):
            state, out = self.world.step(state, controls[:, step], sampling=sampling)
            state = follow(self.world, state, sources, [step + 1] * len(batch))
            latents.append(self.world.observe(state, [LATENT])[LATENT].clone())
            told.append(out)
        return replace(batch, state=state, latents=torch.stack(latents, 2), told=told)


class DreamDecodingStage(DecodingStage):
    """Decodes the latents of a world.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def forward(self, batch: ForwardBatch, args: InferenceArgs) -> ForwardBatch:
        """The batch with clips `[B, channels, T, H, W]` in [0, 1] on the CPU; without, where latents were asked for."""
        if args.output_type == "latent":
            return batch
        assert batch.latents is not None
        rows = batch.latents.transpose(1, 2).flatten(0, 1)
        parts = [torch.from_numpy(self.world.decode(part)) for part in rows.split(TOGETHER)]
        frames = torch.cat(parts).unflatten(0, (len(batch), -1))
        return replace(batch, output=frames.permute(0, 4, 1, 2, 3).float() / 255)
