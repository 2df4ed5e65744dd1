"""The optimizer steps of a method: gradients with seeded noise, clip norms for each group, and no step on rubbish.

Batches, noise and dropout are functions of (seed, step, part), so a run that was stopped and resumed equals one that
was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.utils import fast_dtype, generator, seeded

Figures = dict[str, float]
Optimizers = Mapping[str, list[torch.optim.Optimizer]]  # by name of the group


class Steps:
    """Takes the steps of a method.

    Args:
        method: The method, on its device.
        optimizers: Of its groups.
        clip: Largest norm of a group's gradient, where the group says nothing else.
        seed: Of all noise.
        bf16: Autocast to bfloat16 where the hardware multiplies it.
        device: Of the method.
    """

    def __init__(
        self, method: Method, optimizers: Optimizers, clip: float, seed: int, bf16: bool, device: torch.device
    ) -> None:
        self.method, self.optimizers, self.clip, self.seed, self.device = method, optimizers, clip, seed, device
        self.half = bf16 and fast_dtype(device) == torch.bfloat16

    def loss(
        self, batch: Mapping[str, Any], progress: Progress, stream: str, call: Callable[..., Any] | None = None
    ) -> tuple[Tensor, Logs]:
        """The loss of a batch, with noise and dropout of a stream, and all that is logged, which waits for no device.

        Args:
            batch: What the method takes; its tensors are brought to the device.
            progress: How far the run is.
            stream: Name of the randomness, with the seed and the step.
            call: What is called for the loss; None: the method.
        """
        there = {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        noise, dropout = (generator(self.seed, f"{kind}{stream}", progress.step) for kind in ("noise", "dropout"))
        with seeded(dropout, self.device), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss, logs = (call or self.method)(there, progress, noise)
        return loss, {"loss": loss.detach(), **logs}

    def rates(self, lr: float, factor: float) -> None:
        """Sets the learning rates: `factor` times a group's own peak, or where it has none times `lr`."""
        for group in self.method.groups(0):
            for optimizer in self.optimizers[group.name]:
                for part in optimizer.param_groups:
                    part["lr"] = (lr if group.lr is None else group.lr) * factor

    def norms(self, step: int) -> Figures:
        """Clips the gradients of the groups of a step, each by itself; their norms before that, by name."""
        norms = {}
        for group in self.method.groups(step):
            clip = self.clip if group.clip is None else group.clip
            norm = torch.nn.utils.clip_grad_norm_(group.parameters, clip)
            norms[group.name] = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        return norms

    def take(self, step: int) -> None:
        """Moves the groups of a step.

        Raises:
            RuntimeError: The loss has never reached weights that it moves; no run with such could ever go on, for
                optimizers remember nothing of them.
        """
        for group in self.method.groups(step):
            moved = [weight for optimizer in self.optimizers[group.name] for weight in optimizer.state]
            left = {id(weight) for weight in group.parameters if weight.grad is None} - {*map(id, moved)}
            if left:
                names = [name for name, weight in self.method.named_parameters() if id(weight) in left]
                raise RuntimeError(
                    f"the loss leaves out {names}: let them want no gradient, or add "
                    "drivedit.training.methods.method.untouched of them"
                )
            for optimizer in self.optimizers[group.name]:
                optimizer.step()
        self.method.after_step()

    def clear(self) -> None:
        """Forgets all gradients."""
        for optimizer in self.all():
            optimizer.zero_grad(set_to_none=True)

    def all(self) -> list[torch.optim.Optimizer]:
        """The optimizers of all groups."""
        return [optimizer for optimizers in self.optimizers.values() for optimizer in optimizers]


def finite(*figures: float) -> bool:
    """Whether all are finite."""
    return all(map(math.isfinite, figures))


def norm_figures(norms: Figures) -> Figures:
    """What is logged of the norms of groups: the whole, and each where there are several."""
    each = {f"grad_norm_{name}": norm for name, norm in norms.items()} if len(norms) > 1 else {}
    return {"grad_norm": math.hypot(*norms.values()), **each}
