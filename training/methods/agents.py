"""Who is where, read off pictures: flow matching with tokens aligned inside each set, and a set regression beside it.

Of agents that are not there a token has presence -1, and numbers that stay the noise that they were drawn as: which
noise goes to which token is then settled by presence alone. A regression is trained under the cheapest assignment, with
absolute errors and a log-likelihood of presence (DETR, arXiv 2005.12872).

Batches have `pictures` and `before`, uint8 `[B, H, W, 3]`, `known` bool `[B]` (whether `before` is a step before),
`boxes` `[B, K, 8]`, `present` bool `[B, K]`, and `ego` `[B, F]`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import AgentsStageConfig
from drivedit.models.sets.agents import NUMBERS, AgentsReader
from drivedit.models.sets.tokens import as_params, assign
from drivedit.training.methods.method import Logs, Method, Progress

PLACE, SIZE = slice(1, 3), slice(6, 9)  # numbers of a token


class AgentsMethod(Method):
    """Trains an `AgentsReader`, of either kind.

    Args:
        reader: The network.
        config: The loss.
    """

    def __init__(self, reader: AgentsReader, config: AgentsStageConfig) -> None:
        super().__init__()
        self.reader, self.config = reader, config
        self.regression = reader.queries is not None
        if self.regression:
            reader.flow.vector_field.null.requires_grad_(False)  # a regression is always shown a picture
        weights = torch.ones(NUMBERS)
        weights[PLACE], weights[SIZE] = config.place_weight, config.size_weight
        self.register_buffer("weights", weights, persistent=False)

    weights: Tensor

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch."""
        known = batch["known"] & (torch.rand(len(batch["known"]), generator=rng) >= self.config.drop_before).to(
            batch["known"].device
        )
        observed = self.reader.picture(batch["pictures"], batch["before"], known)
        observed = roughened(observed, self.config.roughen, rng)
        tokens = self.reader.numbers(batch["boxes"].float(), batch["present"])
        ego = batch["ego"].float() / self.reader.ego_units
        if self.regression:
            return self._assigned(self.reader.regress(observed).float(), tokens, ego)
        return self._flow(observed, tokens, ego, rng)

    def _flow(self, observed: Tensor, tokens: Tensor, ego: Tensor, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The flow's loss, of several draws for each picture."""
        tokens, ego = (each.repeat_interleave(self.config.draws, 0) for each in (tokens, ego))
        noise = align_agents(torch.randn(tokens.shape, generator=rng).to(tokens), tokens, self.weights)
        there = tokens[..., :1] > 0
        wanted = torch.cat([tokens[..., :1], torch.where(there, tokens, noise)[..., 1:]], -1)
        weight = torch.cat([torch.ones_like(there), there.expand(-1, -1, NUMBERS - 1)], -1).to(tokens)
        weight = self.weights * weight.clamp(min=self.config.absent_weight)
        own = torch.randn(ego.shape, generator=rng).to(ego)
        params, start, weights = (
            torch.cat([first, as_params(rest)], -1)
            for first, rest in ((ego, wanted), (own, noise), (torch.ones_like(ego), weight))
        )
        self.reader.flow.dropout = self.config.drop
        return self.reader.flow.loss(observed, params, start, rng, weight=weights)

    def _assigned(self, params: Tensor, tokens: Tensor, ego: Tensor) -> tuple[Tensor, Logs]:
        """The regression's loss under the cheapest assignment."""
        told, own = self.reader.split(params)
        own = own / self.reader.ego_units
        there = (tokens[..., 0] > 0).float()
        apart = ((told[:, :, None] - tokens[:, None]).abs() * self.weights)[..., 1:].mean(-1)
        cost = there[:, None] * (apart - told[..., 0].sigmoid()[:, :, None])
        order = assign(cost)  # [B, K], of each output its token
        matched = tokens.gather(1, order[..., None].expand_as(tokens))
        seen = there.gather(1, order)
        presence = F.binary_cross_entropy_with_logits(told[..., 0], seen)
        errors = ((told - matched).abs() * self.weights)[..., 1:].mean(-1)
        place = (errors * seen).sum() / seen.sum().clamp(min=1)
        beside = (own - ego).abs().mean() if ego.shape[1] else own.new_zeros(())
        logs = {"presence": presence.detach(), "numbers": place.detach(), "ego": beside.detach()}
        return presence + place + beside, logs


def align_agents(noise: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """Noise `[B, K, D]` whose tokens are permuted inside each row, to lie nearest to those of the data `[B, K, D]`.

    Of those that are not there presence counts alone.

    Args:
        noise: Standard normal numbers.
        tokens: The data, presence (1 or -1) first.
        weights: `[D]`, how much each number counts.
    """
    there = (tokens[..., :1] > 0).to(tokens)
    counted = torch.cat([weights[:1].expand_as(there), weights[1:] * there], -1)  # [B, K, D]
    cost = (counted[:, :, None] * (tokens[:, :, None] - noise[:, None]).square()).sum(-1)
    return noise.gather(1, assign(cost)[..., None].expand_as(noise))


def roughened(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """What an encoder takes `[B, 5, H, W]`, with other brightness, noise and blur in a share of the pictures."""
    rows, chance = len(x), torch.rand(len(x), 3, generator=rng).to(x)
    gain = 1 + 0.3 * (torch.rand(rows, 1, 1, 1, generator=rng).to(x) - 0.5)
    grain = 0.06 * torch.randn(rows, *x.shape[1:], generator=rng).to(x) * torch.rand(rows, 1, 1, 1, generator=rng).to(x)
    chosen = (chance < share)[..., None, None, None]  # [B, 3, 1, 1, 1]
    colours, rest = x[:, :3], x[:, 3:]
    colours = torch.where(chosen[:, 0], (colours + 1) * gain - 1, colours)
    blurred = F.avg_pool2d(F.pad(colours, (1, 1, 1, 1), mode="replicate"), 3, 1)
    colours = torch.where(chosen[:, 1], blurred, colours)
    changed = torch.cat([colours, rest], 1)
    grain[:, 4:] = 0
    grain[:, 3:4] *= rest[:, 1:]
    return torch.where(chosen[:, 2], changed + grain, changed)
