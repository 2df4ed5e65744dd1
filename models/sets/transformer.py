"""A velocity field on sets: a transformer without order, whose layers an observation and the time modulate (AdaLN).

After Hayes, Saitis and Fazekas 2025 (arXiv 2506.07199). With a fixed projection and frozen positions a permutation of
units permutes the output and changes nothing else; what is learnt of projection and positions makes that approximate.

Legend: B rows, P parameters, K tokens, E model width, C width of the condition, L layers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.layers.attention import attention
from drivedit.models.layers.blocks import norm
from drivedit.models.sets.cnn import ASTWithProjectionHead
from drivedit.models.sets.projections import KSinParamToTokenProjection, LearntProjection, feed_forward

__all__ = ["ASTWithProjectionHead", "ApproxEquivTransformer", "KSinParamToTokenProjection", "LearntProjection"]
CHOICES = {
    "pe_type": ("initial", "layerwise", "none"),
    "time_encoding": ("scalar", "sinusoidal"),
    "norm": ("layer", "rms"),
    "adaln_mode": ("basic", "zero", "res"),
}
LONGEST = 10_000.0  # ratio of the longest to the shortest wave of the time


class ApproxEquivTransformer(nn.Module):
    """The vector field dx/dt at times t from 0 (noise) to 1 (data).

    Args:
        projection: From parameters to tokens and back: `param_to_token`, `token_to_param`, `penalty`.
        num_layers: Layers L.
        d_model: Width E.
        conditioning_dim: Width C.
        num_heads: Attention heads.
        d_ff: Width of the feed-forward layers.
        num_tokens: Tokens K that have a position.
        learn_pe: Whether positions are learnt; else they stay at zero.
        learn_projection: Whether the projection is learnt; else it stays as it is.
        pe_type: Positions are added once ("initial"), before each layer ("layerwise") or not at all ("none").
        pe_penalty: Weight of the positions' mean norm.
        time_encoding: The time as one number ("scalar") or as waves ("sinusoidal").
        d_enc: Numbers of those waves, even.
        projection_penalty: Weight of the projection's penalty.
        norm: "layer" or "rms".
        skip_first_norm: Whether the first layer sees its tokens as they are.
        adaln_mode: The modulation starts at random ("basic"), with closed gates and gains of one ("zero"), or has no
            gates ("res").
        zero_init: Whether layers start as the identity, their outputs being zero. The closed gates of "zero" do that
            already; with both nothing would ever get a gradient, so there it changes nothing.
        outer_residual: Whether tokens are added to what the layers make of them.

    Raises:
        ValueError: An unknown mode, heads or waves that do not divide, or a projection of another width.
    """

    def __init__(
        self,
        projection: nn.Module,
        num_layers: int = 5,
        d_model: int = 1024,
        conditioning_dim: int = 128,
        num_heads: int = 8,
        d_ff: int = 1024,
        num_tokens: int = 32,
        learn_pe: bool = False,
        learn_projection: bool = False,
        pe_type: str = "initial",
        pe_penalty: float = 0.0,
        time_encoding: str = "scalar",
        d_enc: int = 256,
        projection_penalty: float = 0.0,
        norm: str = "layer",
        skip_first_norm: bool = False,
        adaln_mode: str = "basic",
        zero_init: bool = True,
        outer_residual: bool = False,
    ) -> None:
        super().__init__()
        chosen = {"pe_type": pe_type, "time_encoding": time_encoding, "norm": norm, "adaln_mode": adaln_mode}
        for name, value in chosen.items():
            if value not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}")
        if d_model % num_heads or d_enc % 2:
            raise ValueError(
                f"num_heads must divide d_model, and d_enc be even; got {num_heads} heads of {d_model}, {d_enc}"
            )
        if getattr(projection, "d_model", d_model) != d_model:
            raise ValueError(f"the projection gives tokens of {projection.d_model} numbers, d_model is {d_model}")
        self.projection: Any = projection.requires_grad_(learn_projection)
        self.num_layers, self.conditioning_dim, self.outer_residual = num_layers, conditioning_dim, outer_residual
        self.pe_penalty, self.projection_penalty = pe_penalty, projection_penalty
        self.d_enc = d_enc if time_encoding == "sinusoidal" else 1
        places = {"initial": 1, "layerwise": num_layers, "none": 0}[pe_type]
        self.positions = nn.Parameter(torch.zeros(places, num_tokens, d_model), requires_grad=learn_pe and places > 0)
        self.null = nn.Parameter(torch.randn(conditioning_dim))
        self.condition = feed_forward(conditioning_dim + self.d_enc, d_model)
        self.layers = nn.ModuleList(
            _Layer(d_model, num_heads, d_ff, norm, skip_first_norm and not index, adaln_mode, zero_init)
            for index in range(num_layers)
        )

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """The vector field.

        Args:
            x: `[B, P]`.
            t: `[B, 1]`, from 0 (noise) to 1 (data).
            conditioning: `[B, C]` for all layers, or `[B, L, C]`; None: the learnt token of no condition.
            mask: `[B, K]`, true for tokens that are there, one at least in each row; None: all are.

        Returns:
            `[B, P]`; of tokens that are not there it means nothing.

        Raises:
            ValueError: A shape does not fit.
        """
        if t.shape != (len(x), 1):
            raise ValueError(f"t must be of shape [{len(x)}, 1], got {list(t.shape)}")
        tokens = self.projection.param_to_token(x)
        if len(self.positions) and tokens.shape[1] != self.positions.shape[1]:
            raise ValueError(
                f"the projection gives {tokens.shape[1]} tokens, num_tokens is {self.positions.shape[1]} "
                "(pe_type='none' takes any number)"
            )
        if mask is not None and mask.shape != tokens.shape[:2]:
            raise ValueError(f"mask must be of shape {list(tokens.shape[:2])}, got {list(mask.shape)}")
        seen = None if mask is None else mask[:, None, None]
        y = tokens
        for index, (layer, z) in enumerate(zip(self.layers, self._modulations(t, conditioning), strict=True)):
            if index < len(self.positions):
                y = y + self.positions[index]
            y = layer(y, z, seen)
        return self.projection.token_to_param(tokens + y if self.outer_residual else y)

    def _modulations(self, t: Tensor, conditioning: Tensor | None) -> tuple[Tensor, ...]:
        """What modulates each layer, L of `[B, E]`."""
        c = self.null.expand(len(t), -1) if conditioning is None else conditioning
        c = c[:, None] if c.ndim == 2 else c
        if c.shape[1:] not in ((1, self.conditioning_dim), (self.num_layers, self.conditioning_dim)):
            raise ValueError(
                f"conditioning must be [B, {self.conditioning_dim}] or [B, {self.num_layers}, "
                f"{self.conditioning_dim}], got {list(c.shape)}"
            )
        time = (t if self.d_enc == 1 else waves(t, self.d_enc))[:, None].expand(-1, c.shape[1], -1)
        return self.condition(torch.cat([c, time], -1)).expand(-1, self.num_layers, -1).unbind(1)

    def apply_dropout(self, z: Tensor, rate: float, *, rng: torch.Generator | None = None) -> Tensor:
        """Conditions `[B, C]` or `[B, L, C]`, whole rows of which become the learnt token of no condition.

        Args:
            z: The conditions.
            rate: Chance of a row.
            rng: On the CPU; None: torch's own, as of any dropout.
        """
        lost = torch.rand(len(z), generator=rng) < rate
        return torch.where(lost.to(z.device).view(-1, *[1] * (z.ndim - 1)), self.null.to(z), z)

    def penalty(self) -> Tensor:
        """The weighted penalties of positions and projection, a scalar."""
        total = self.projection_penalty * self.projection.penalty()
        return total + self.pe_penalty * self.positions.norm(dim=-1).mean() if len(self.positions) else total


class _Layer(nn.Module):
    """Attention and feed-forward behind norms that a condition scales, shifts and gates; a gain is the whole factor."""

    def __init__(
        self, width: int, heads: int, hidden: int, kind: str, skip_norm: bool, mode: str, zero_init: bool
    ) -> None:
        super().__init__()
        self.heads, self.norm = heads, {"layer": norm, "rms": rms_norm}[kind]
        self.first_norm = nn.Identity() if skip_norm else self.norm
        self.one = 1.0 if mode == "zero" else 0.0  # a gain of zero beside a closed gate would never open it
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.modulation = nn.Linear(width, (4 if mode == "res" else 6) * width)
        if mode == "zero":
            _zero(self.modulation)
        elif zero_init:
            _zero(self.out)
            _zero(self.down)

    def forward(self, x: Tensor, z: Tensor, seen: Tensor | None) -> Tensor:
        """Transforms tokens `[B, K, E]` under `[B, E]`; attention goes to those that are `seen`, `[B, 1, 1, K]`."""
        parts = self.modulation(F.gelu(z))[:, None].unflatten(-1, (-1, x.shape[-1])).unbind(2)
        gain1, shift1, gain2, shift2, *gates = parts
        gate1, gate2 = gates or (1.0, 1.0)
        y = torch.addcmul(shift1, self.first_norm(x), self.one + gain1)
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        x = x + gate1 * self.out(attention(q, q, k, v, seen).transpose(1, 2).flatten(2))
        y = torch.addcmul(shift2, self.norm(x), self.one + gain2)
        return x + gate2 * self.down(F.gelu(self.up(y)))


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square norm over the last axis, without parameters."""
    return F.rms_norm(x, (x.shape[-1],))


def waves(t: Tensor, count: int) -> Tensor:
    """Cosines and sines `[B, count]` of the time `[B, 1]`, at frequencies that fall geometrically."""
    place = torch.arange(count // 2, device=t.device, dtype=t.dtype) / (count // 2)
    angle = t * LONGEST * torch.exp(-math.log(LONGEST) * place)
    return torch.cat([angle.cos(), angle.sin()], -1)
