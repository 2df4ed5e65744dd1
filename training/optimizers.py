"""The optimizers of a method's groups; Muon (Jordan et al. 2024) in the type that the machine multiplies fast.

`torch.optim.Muon` orthogonalises in bfloat16 whatever the machine: without hardware for it a step of the shipped
student takes nine seconds of one core, in float32 three tenths of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.config import LoopConfig
from drivedit.training.methods.method import ParameterGroup
from drivedit.utils import fast_dtype

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that is steepest at zero
ITERATIONS = 5
LEAST = 1e-7  # norm


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a weight matrix is orthogonalised, and scaled to the size of AdamW's.

    Args:
        matrices: Parameters with two axes, or kernels of convolutions that are matrices: `[M, N, 1, 1]`.
        lr: Learning rate, of the size of AdamW's.
        weight_decay: Decoupled, relative to the learning rate.
        momentum: Of Nesterov's kind.
        bf16: Orthogonalise in bfloat16 where the hardware multiplies it; else in float32.

    Raises:
        ValueError: A parameter is no matrix.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95,
        *, bf16: bool = True,
    ) -> None:  # fmt: skip
        self.bf16 = bf16
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        wrong = [list(p.shape) for group in self.param_groups for p in group["params"] if not is_matrix(p)]
        if wrong:
            raise ValueError(f"Muon updates matrices, got parameters of the shapes {wrong}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Updates all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in (p for p in group["params"] if p.grad is not None):
                self._update(matrix, matrix.grad, group)
        return loss

    def _update(self, matrix: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        momentum, state = group["momentum"], self.state[matrix]
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(grad))
        buffer.lerp_(grad, 1 - momentum)
        dtype = fast_dtype(matrix.device) if self.bf16 else torch.float32
        update = orthogonalised(grad.lerp(buffer, momentum).flatten(1), dtype)
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update.reshape(matrix.shape), alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight is a matrix, be it that of a convolution of single pixels."""
    return weight.ndim >= 2 and weight.shape[0] * weight.shape[1] == weight.numel()


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About the nearest matrix with orthogonal rows or columns: singular values from .7 to 1.2, by Newton and Schulz.

    Args:
        matrix: `[M, N]`.
        dtype: In which the products are taken.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=LEAST)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def make_optimizers(groups: list[ParameterGroup], config: LoopConfig) -> dict[str, list[torch.optim.Optimizer]]:
    """Muon for the matrices of each group, AdamW for the rest; weight decay on matrices and kernels only.

    A step of Muon is scaled to the size of AdamW's, so both share one learning rate.
    """
    made: dict[str, list[torch.optim.Optimizer]] = {}
    for group in groups:
        named = {id(p) for p in group.matrices}
        rest = [p for p in group.parameters if id(p) not in named]
        decay = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        made[group.name] = []
        if rest:
            made[group.name].append(torch.optim.AdamW(decay, lr=config.lr, betas=(0.9, 0.98), fused=True))
        if group.matrices:
            made[group.name].append(Muon(group.matrices, config.lr, config.weight_decay, bf16=config.bf16))
    return made


def schedule(step: int, config: LoopConfig) -> float:
    """Warm-up, constant, linear cool-down to 2%: the factor of the learning rate at a step."""
    cool = config.steps * config.cooldown
    down = min(1.0, (config.steps - step) / cool) if cool > 0 else 1.0
    return min(1.0, (step + 1) / max(config.warmup, 1)) * max(down, 0.02)
