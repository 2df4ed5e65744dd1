"""Who is where: a network that reads the set of agents off a picture, as samples of it, by flow matching.

A picture may leave open who is there, how far and how fast; samples differ where it does. The tokens of a set are
exchangeable, and the field does not know their order; what is read of the own car beside them makes a token of its own.
A regression of the same size (queries and one set, after DETR, arXiv 2005.12872) is its rival, with the same methods.

Legend: B pictures, m samples, K tokens, D = 9 numbers of a token, F numbers of the own car. Boxes are x (ahead), y (to
the left), z of the middle, length, width, height (m), yaw (rad to the left), speed (m/s) in the own car's frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivedit.config import AgentsConfig
from drivedit.models.saved import SavedNetwork
from drivedit.models.sets.agent_sets import AgentSamples, AgentSet, summarise
from drivedit.models.sets.flow import SetFlow
from drivedit.models.sets.seeing import PictureEncoder, SeeingField
from drivedit.models.sets.tokens import as_params, as_tokens
from drivedit.utils import fast_dtype, write_tensors

NUMBERS = 9  # presence (1: there, -1: not), and those of `AgentsConfig.units`
LARGEST = 6_000_000  # bytes of a file


class AgentsReader(SavedNetwork):
    """Reads sets of agents off pictures.

    Args:
        config: What it reads, and its sizes.
    """

    file_format = "drivedit-agents-1"
    config_type = AgentsConfig

    def __init__(self, config: AgentsConfig) -> None:
        super().__init__()
        self.config: AgentsConfig = config
        self.ego, self.tokens = len(config.ego), config.tokens
        height, width = config.image_size
        encoder = PictureEncoder((height - config.sky, width), config.widths, config.d_model, config.layers)
        field = SeeingField(NUMBERS, self.ego, config.d_model, config.layers, config.heads, config.d_ff)
        self.flow = SetFlow(encoder, field, 0.0)
        self.queries = nn.Parameter(torch.randn(self.ego + NUMBERS * self.tokens)) if config.kind != "flow" else None
        units = torch.tensor(list(config.units.values()))
        self.register_buffer("units", units, persistent=False)
        self.register_buffer("ego_units", torch.tensor(list(config.ego.values())), persistent=False)

    units: Tensor
    ego_units: Tensor

    @classmethod
    def from_config(cls, config: AgentsConfig) -> AgentsReader:  # type: ignore[override]
        """Builds the network that a configuration describes."""
        return cls(config)

    def save(self, path: str | Path) -> None:
        """Writes the network to one safetensors file in half precision, whole or not at all.

        Raises:
            ValueError: It would take more than 6 MB, or a weight is not finite in half precision.
        """
        weights = {name: value.half() for name, value in self.state_dict().items()}
        if sum(value.nbytes for value in weights.values()) > LARGEST:
            raise ValueError(f"a reader's file has at most {LARGEST / 1e6:g} MB; make its widths smaller")
        if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise ValueError(f"the weights {broken} are not finite in half precision")
        write_tensors(path, weights, self.file_format, self.config.to_dict())

    # -- numbers -------------------------------------------------------------------------------------------------

    def numbers(self, boxes: Tensor, present: Tensor) -> Tensor:
        """Tokens `[..., K, D]` of boxes `[..., K, 8]`; of those that are not there zeros beside -1."""
        x, y, _, length, width, height, yaw, speed = boxes.unbind(-1)
        x = x - self.config.camera.ahead
        far, bearing = torch.hypot(x, y).clamp(min=0.1).log(), torch.atan2(y, x)
        told = torch.stack([far, bearing, yaw.sin(), yaw.cos(), speed, length, width, height], -1)
        there = present[..., None].to(told)
        told = (told - self.units[:, 0]) / self.units[:, 1] * there
        return torch.cat([2 * there - 1, told], -1)

    def boxes(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes `[..., K, 8]` of tokens `[..., K, D]`, and which of them are there `[..., K]`."""
        middle, spread = self.units.to(tokens).unbind(-1)
        far, bearing, sin, cos, speed, *size = (tokens[..., 1:] * spread + middle).unbind(-1)
        away = far.clamp(max=float(np.log(2 * self.config.farthest))).exp()
        length, width, height = (side.clamp(min=0.1) for side in size)
        x, y = away * bearing.cos() + self.config.camera.ahead, away * bearing.sin()
        yaw = torch.atan2(sin, cos)
        boxes = torch.stack([x, y, height / 2, length, width, height, yaw, speed], -1)
        return boxes, tokens[..., 0] > 0

    def params(self, tokens: Tensor, ego: Tensor) -> Tensor:
        """What the field takes, `[..., F + K D]`, of tokens `[..., K, D]` and telemetry `[..., F]`."""
        return torch.cat([ego / self.ego_units.to(ego), as_params(tokens)], -1)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of `params`."""
        return as_tokens(params[..., self.ego :], NUMBERS), params[..., : self.ego] * self.ego_units.to(params)

    def picture(self, pictures: Tensor, before: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """What the encoder takes, `[B, 5, H, W]`: colours, what changed in brightness, and whether that is known.

        Args:
            pictures: uint8 `[B, H, W, 3]`.
            before: Those a step before; None: not known.
            known: Bool `[B]`, whose are known; None: all of those that are given.
        """
        now = (pictures[:, self.config.sky :].float() / 255).sqrt()
        changed, sure = torch.zeros_like(now[..., :1]), torch.zeros_like(now[..., :1])
        if before is not None:
            sure = sure + (1.0 if known is None else known.to(now)[:, None, None, None])
            last = (before[:, self.config.sky :].float() / 255).sqrt()
            changed = 4 * (now - last).mean(-1, keepdim=True) * sure
        return torch.cat([2 * now - 1, changed, sure], -1).permute(0, 3, 1, 2)

    def regress(self, observation: Tensor) -> Tensor:
        """What a regression tells of pictures `[B, 5, H, W]`: `[B, F + K D]`, presences as logits."""
        assert self.queries is not None
        cells, rows = self.flow.encoder(observation), len(observation)
        return self.flow.vector_field(self.queries.expand(rows, -1), torch.ones_like(cells[:, 0, :1]), cells)

    # -- reading -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, pictures: Any, generator: torch.Generator | None = None, samples: int = 8, steps: int = 4, *,
        before: Any = None, known: Any = None, noise: Tensor | None = None, solver: str = "heun",
    ) -> AgentSamples:  # fmt: skip
        """Draws sets that fit pictures.

        Args:
            pictures: uint8 `[B, H, W, 3]`, an array or a tensor.
            generator: Of the noise, on the CPU.
            samples: Sets of each picture.
            steps: Of the solver.
            before: The pictures a step before, by which speeds are seen; None: not known.
            known: Bool `[B]`, of which pictures that is known; None: of all, where `before` is given.
            noise: `[B, m, F + K D]`, in place of the generator and the number of samples.
            solver: As in `drivedit.models.flow.sampler.integrate`.

        Raises:
            ValueError: Pictures are of another size or type, there is no sample or step, or neither generator nor
                noise is given.
        """
        device = self.units.device
        now, last = (None if each is None else self._checked(each, device) for each in (pictures, before))
        assert now is not None
        told = None if known is None else torch.as_tensor(known, device=device)
        with self._fast():
            return self._draw(self.picture(now, last, told), len(now), generator, samples, steps, noise, solver)

    @torch.no_grad()
    def imagine(self, count: int, generator: torch.Generator, steps: int = 16, *, solver: str = "heun") -> AgentSamples:
        """Draws plausible sets of no picture, `[1, count, ...]`.

        Raises:
            ValueError: The reader is a regression, or there is no set or step.
        """
        if self.queries is not None:
            raise ValueError("a regression draws no sets: take a reader of kind 'flow'")
        with self._fast():
            return self._draw(None, 1, generator, count, steps, None, solver)

    def read(self, pictures: Any, generator: torch.Generator | None = None, samples: int = 8, steps: int = 4,
             **options: Any) -> AgentSet:  # fmt: skip
        """The mean set that pictures show, with spread and presence: `summarise` of what `sample` draws, as it does."""
        return summarise(self.sample(pictures, generator, samples, steps, **options))

    def noise(self, generators: list[torch.Generator], samples: int) -> Tensor:
        """Noise `[B, m, F + K D]`, of each picture from a generator of its own."""
        width = self.ego + NUMBERS * self.tokens
        return torch.stack([torch.randn(samples, width, generator=each) for each in generators])

    def _draw(
        self, observation: Tensor | None, rows: int, generator: torch.Generator | None, samples: int, steps: int,
        noise: Tensor | None, solver: str,
    ) -> AgentSamples:  # fmt: skip
        """Sets under an observation."""
        samples = samples if noise is None or noise.ndim != 3 else noise.shape[1]
        if samples < 1:
            raise ValueError(f"there must be at least 1 sample, got {samples}")
        if self.queries is not None and observation is not None:
            params = self.regress(observation).float()[:, None].expand(-1, samples, -1)
        else:
            wanted = (rows, samples, self.ego + NUMBERS * self.tokens)
            if noise is None:
                if generator is None:
                    raise ValueError("a set is drawn from noise: give a generator, or the noise itself")
                noise = torch.randn(wanted, generator=generator)
            if noise.shape != wanted:
                raise ValueError(f"noise must be of shape {list(wanted)}, got {list(noise.shape)}")
            start = noise.to(self.units).flatten(0, 1)
            params = self.flow.sample(observation, start, steps, solver=solver).float().unflatten(0, wanted[:2])
        tokens, ego = self.split(params)
        boxes, present = self.boxes(tokens)
        return AgentSamples(boxes, present, dict(zip(self.config.ego, ego.unbind(-1), strict=True)))

    def _checked(self, pictures: Any, device: torch.device) -> Tensor:
        """Pictures as a tensor, or ValueError."""
        told = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.ascontiguousarray(pictures))
        height, width = self.config.image_size
        if told.dtype != torch.uint8 or told.ndim != 4 or told.shape[1:] != (height, width, 3) or not len(told):
            raise ValueError(
                f"this reader takes pictures uint8 [B, {height}, {width}, 3], got {str(told.dtype).split('.')[-1]} "
                f"{list(told.shape)}"
            )
        return told.to(device)

    def _fast(self) -> torch.autocast:
        """In bfloat16 where the hardware multiplies it."""
        device = self.units.device
        half = fast_dtype(device) == torch.bfloat16 and self.units.dtype == torch.float32
        return torch.autocast(device.type, torch.bfloat16, enabled=half)
