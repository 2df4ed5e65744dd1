"""What a world tells beside the picture: ego-motion, telemetry, reward, ending, and how wrong it expects to be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drivedit.models.layers.blocks import norm


@dataclass
class HeadOutputs:
    """Raw outputs of the heads, in the units that `WorldConfig` sets; leading axes `...` are rows and frames.

    Attributes:
        motion: `[..., 3]` forward, right, turn to the right since the last frame.
        telemetry: `[..., K]`.
        reward: `[..., R]`.
        ended: `[...]` logit.
        log_error: `[...]` log of the expected squared error of the latents.
    """

    motion: Tensor
    telemetry: Tensor
    reward: Tensor
    ended: Tensor
    log_error: Tensor

    def beyond(self, plain: HeadOutputs, scale: float) -> HeadOutputs:
        """What guidance makes of motion, telemetry and reward, beside those of the unconditional pass: as of the frame.

        Ending and expected error stay: they are no quantities to go further in.
        """
        motion, telemetry, reward = (
            torch.lerp(getattr(plain, name), getattr(self, name), scale) for name in ("motion", "telemetry", "reward")
        )
        return HeadOutputs(motion, telemetry, reward, self.ended, self.log_error)


class Heads(nn.Module):
    """Reads the trunk's tokens of a frame.

    Args:
        d_model: Width of the trunk.
        tokens: Tokens per frame.
        telemetry: Telemetry values; of 0 there is one unused output, so that no loss is the mean of nothing.
        rewards: Learned reward terms, likewise.
    """

    def __init__(self, d_model: int, tokens: int, telemetry: int, rewards: int = 1) -> None:
        super().__init__()
        self.telemetry, self.rewards = max(telemetry, 1), max(rewards, 1)
        self.squeeze = nn.Linear(d_model, 32)
        last = nn.Linear(d_model, 5 + self.telemetry + self.rewards)
        nn.init.zeros_(last.weight)
        self.mlp = nn.Sequential(nn.Linear(32 * tokens, d_model), nn.SiLU(), last)

    def forward(self, hidden: Tensor) -> HeadOutputs:
        """Reads hidden tokens `[..., P, E]`."""
        out = self.mlp(self.squeeze(norm(hidden)).flatten(-2)).float()
        motion, telemetry, reward, ended, log_error = torch.split(out, [3, self.telemetry, self.rewards, 1, 1], -1)
        return HeadOutputs(motion, telemetry, reward, ended[..., 0], log_error[..., 0])
