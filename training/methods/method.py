"""What the loop knows of a training method: the loss of a batch, and the groups of parameters that a step moves."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Logs = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        step: Steps done.
        share: Share of the run that is done, in [0, 1].
    """

    step: int
    share: float


@dataclass
class ParameterGroup:
    """Parameters whose gradients are clipped together.

    Attributes:
        name: Of the group, the same at every step.
        parameters: All of them.
        matrices: Those among them that Muon trains; AdamW trains the rest.
        clip: Largest norm of their gradient; None: the loop's.
        lr: Peak learning rate; None: the loop's.
    """

    name: str
    parameters: list[nn.Parameter]
    matrices: list[nn.Parameter] = field(default_factory=list)
    clip: float | None = None
    lr: float | None = None


class Frozen(Generic[Network]):
    """A network that a method asks and never trains: no optimizer, average or checkpoint sees it, and copies share it.

    Args:
        network: What it is a copy of, in evaluation mode.
    """

    def __init__(self, network: Network) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def untouched(weights: Iterable[Tensor]) -> Tensor:
    """Zero, whose gradient is zeros for weights that a loss leaves out: data-parallel training wants one for each."""
    parts = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    return 0 * torch.stack([part.sum() for part in parts]).sum()


class Method(nn.Module, ABC):
    """Owns the networks that it trains; those that stay are `Frozen`, which move with it from device to device."""

    hot: tuple[str, ...] = ()  # methods that the loop may compile, by their place

    @abstractmethod
    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch, and named scalars without gradient to log; all that is drawn comes from `rng`."""

    def groups(self, step: int) -> list[ParameterGroup]:
        """What a step moves; at step 0 every group that there is."""
        return [self.group("student", self.parameters(), self.matrices())]

    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices that Muon trains."""
        return []

    def after_step(self) -> None:
        """Is called after every step of the optimizers."""

    def forward(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """`loss`, called as a module, so that data-parallel training sees it."""
        return self.loss(batch, progress, rng)

    @staticmethod
    def group(
        name: str,
        parameters: Iterable[nn.Parameter],
        matrices: Iterable[nn.Parameter] = (),
        clip: float | None = None,
        lr: float | None = None,
    ) -> ParameterGroup:
        """A group of those parameters that want a gradient."""
        free, orthogonal = ([p for p in each if p.requires_grad] for each in (parameters, matrices))
        return ParameterGroup(name, free, orthogonal, clip, lr)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for value in vars(self).values():
            if isinstance(value, Frozen):
                value.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
