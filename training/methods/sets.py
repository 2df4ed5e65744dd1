"""Sets from observations: flow matching under a coupling of noise and data, and beside it plain regression.

Batches have `params` `[B, P]` and `observation`, what the encoder takes; and where sets vary in size `mask` `[B, K]`
and `weight` `[B, P]`, as `SetFlow.loss` takes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models.sets.flow import SetFlow
from drivedit.models.sets.tokens import check_coupling, couple
from drivedit.training.methods.method import Logs, Method, Progress


class SetFlowMethod(Method):
    """Trains a `SetFlow`.

    Args:
        flow: The networks.
        ot: The coupling, as `drivedit.models.sets.tokens.couple` takes it.
        params_per_token: Numbers of a token; None: parameters are no tokens.

    Raises:
        ValueError: The coupling is unknown, or needs tokens where there are none.
    """

    def __init__(self, flow: SetFlow, ot: bool | str = "token", params_per_token: int | None = 2) -> None:
        super().__init__()
        check_coupling(ot, params_per_token)
        self.flow, self.ot, self.params_per_token = flow, ot, params_per_token

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The flow's loss of a batch."""
        params = batch["params"]
        noise = torch.randn(params.shape, generator=rng).to(params)
        noise = couple(noise, params, self.ot, self.params_per_token)
        told = {name: batch[name] for name in ("mask", "weight") if name in batch}
        return self.flow.loss(batch["observation"], params, noise, rng, **told)


class SetRegression(Method):
    """Trains an encoder to tell the parameters themselves, by squared errors: where sets have no order, their mean.

    Args:
        encoder: Observations to parameters `[B, P]`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The mean squared error of a batch."""
        loss = (self.encoder(batch["observation"]) - batch["params"]).square().mean()
        return loss, {"mse": loss.detach()}
