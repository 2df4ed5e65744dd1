"""Sets of agents: samples of them, their mean, and a distance between two sets that counts who is missing.

Legend: B pictures, m samples, K tokens. Boxes as in `drivedit.models.sets.agents`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drivedit.models.sets.tokens import assign

CUTOFF = 10.0  # metres beyond which one agent is not the other
ROUNDS = 2  # of matching samples to their mean
X, Y, YAW = 0, 1, 6


@dataclass(frozen=True)
class AgentSamples:
    """Sets that were drawn.

    Attributes:
        boxes: `[B, m, K, 8]`; where nobody is they mean nothing.
        present: Bool `[B, m, K]`.
        ego: What is told of the own car, `[B, m]` by name.
    """

    boxes: Tensor
    present: Tensor
    ego: dict[str, Tensor]

    @classmethod
    def cat(cls, parts: Sequence[AgentSamples]) -> AgentSamples:
        """Those of several batches, picture after picture."""
        return cls(
            torch.cat([part.boxes for part in parts]), torch.cat([part.present for part in parts]),
            _cat([part.ego for part in parts]),
        )  # fmt: skip


@dataclass(frozen=True)
class AgentSet:
    """The mean of sets that were drawn, the likely ones first, and of those the nearest.

    Attributes:
        boxes: `[B, K, 8]`, means over the samples that have the agent; zeros where none has.
        spread: `[B, K, 8]`, standard deviations over those samples; of the yaw that of angles.
        presence: `[B, K]`, share of the samples that have the agent.
        ego: Means of what is told of the own car, `[B]` by name.
        ego_spread: Their standard deviations.
        samples: What it was made of.
    """

    boxes: Tensor
    spread: Tensor
    presence: Tensor
    ego: dict[str, Tensor]
    ego_spread: dict[str, Tensor]
    samples: AgentSamples

    def rows(self, chosen: Tensor) -> AgentSet:
        """The sets of some pictures, by number."""
        return self._each(lambda value: value[chosen])

    def to(self, device: torch.device | str) -> AgentSet:
        """The set on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> AgentSet:
        """The same with other tensors."""
        drawn = self.samples
        ego, spread, own = (
            {name: change(value) for name, value in each.items()} for each in (self.ego, self.ego_spread, drawn.ego)
        )
        samples = AgentSamples(change(drawn.boxes), change(drawn.present), own)
        return AgentSet(change(self.boxes), change(self.spread), change(self.presence), ego, spread, samples)

    @classmethod
    def cat(cls, parts: Sequence[AgentSet]) -> AgentSet:
        """Those of several batches, picture after picture."""
        boxes, spread, presence = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "spread", "presence")
        )
        ego, ego_spread = (_cat([getattr(part, name) for part in parts]) for name in ("ego", "ego_spread"))
        return cls(boxes, spread, presence, ego, ego_spread, AgentSamples.cat([part.samples for part in parts]))


def _cat(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def pair_costs(first: Tensor, present: Tensor, second: Tensor, there: Tensor, cutoff: float = CUTOFF) -> Tensor:
    """What it costs to take one agent for another, `[..., K, K]`, of places `[..., K, 2]`.

    It is their distance in metres, at most `cutoff`, which is what one alone costs as well; two that are not there cost
    nothing. `there` may be a share: the cost is then its mean.
    """
    apart = torch.cdist(first, second).clamp(max=cutoff)
    one, other = present.to(apart)[..., :, None], there.to(apart)[..., None, :]
    alone = torch.full_like(apart, cutoff)
    return torch.lerp(other * alone, torch.lerp(alone, apart, other), one)


def ospa(first: Tensor, present: Tensor, second: Tensor, there: Tensor, cutoff: float = CUTOFF) -> Tensor:
    """OSPA distance of sets in metres, `[...]` in [0, cutoff] (Schuhmacher et al. 2008, order 1); of empty ones 0.

    Args:
        first: Places `[..., K, 2]`.
        present: Bool `[..., K]`, which of them count.
        second: As `first`.
        there: As `present`.
        cutoff: Metres that one who is missing, or there is one too many, costs.
    """
    costs = pair_costs(first, present, second, there, cutoff)
    total = costs.gather(-1, assign(costs)[..., None]).sum((-1, -2))
    most = torch.maximum(present.sum(-1), there.sum(-1))
    return total / most.clamp(min=1)


def summarise(samples: AgentSamples) -> AgentSet:
    """The mean set of samples.

    The sample whose number of agents is nearest to the mean number is where matching begins. In each of two rounds
    every sample is assigned to the mean so far at the least `pair_costs`, and the mean is taken anew.
    """
    boxes, present = samples.boxes, samples.present
    counts = present.sum(-1).float()  # [B, m]
    first = (counts - counts.mean(1, keepdim=True)).abs().argmin(1)
    rows = torch.arange(len(boxes), device=boxes.device)
    places, share = boxes[rows, first, :, : Y + 1], present[rows, first].float()
    for _ in range(ROUNDS if boxes.shape[1] > 1 else 0):
        costs = pair_costs(
            places[:, None].expand(-1, boxes.shape[1], -1, -1), share[:, None].expand(-1, boxes.shape[1], -1),
            boxes[..., : Y + 1], present,
        )  # fmt: skip
        order = assign(costs)
        boxes = boxes.gather(2, order[..., None].expand_as(boxes))
        present = present.gather(2, order)
        places, share = _mean(boxes[..., : Y + 1], present), present.float().mean(1)
    mean = _mean(boxes, present)
    spread = _mean((boxes - mean[:, None]).square(), present).sqrt()
    sin, cos = (_mean(turn(boxes[..., YAW : YAW + 1]), present)[..., 0] for turn in (torch.sin, torch.cos))
    mean[..., YAW] = torch.atan2(sin, cos) * (share > 0)
    length = torch.hypot(sin, cos).clamp(1e-6, 1.0)
    spread[..., YAW] = torch.where(share > 0, (-2 * length.log()).sqrt(), 0.0)
    away = torch.hypot(mean[..., X], mean[..., Y])
    order = (away + 1e6 * (share < 0.5) + 1e9 * (share == 0)).argsort(1)
    chosen = order[..., None].expand_as(mean)
    return AgentSet(
        mean.gather(1, chosen), spread.gather(1, chosen), share.gather(1, order),
        {name: value.mean(1) for name, value in samples.ego.items()},
        {name: value.std(1, correction=0) for name, value in samples.ego.items()},
        AgentSamples(
            boxes.gather(2, order[:, None, :, None].expand_as(boxes)),
            present.gather(2, order[:, None].expand_as(present)), samples.ego,
        ),
    )  # fmt: skip


def _mean(values: Tensor, present: Tensor) -> Tensor:
    """Means over samples `[B, m, K, n]` of those that are there, `[B, K, n]`; zeros where none is."""
    weight = present[..., None].to(values)
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)
