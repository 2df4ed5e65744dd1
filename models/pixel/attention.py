"""Attention of PixelHDM's blocks: fewer heads of keys than of queries, normalised, and gated at its output.

Legend: B pictures, N tokens, D width, H heads of queries, G heads of keys and values, E width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from drivedit.models.layers.attention import attention
from drivedit.models.layers.rotary import rotate

Turn = tuple[Tensor, Tensor]  # of `axial_rotations`


class GatedAttention(nn.Module):
    """Self-attention with grouped queries (GQA, Ainslie et al. 2023, arXiv 2305.13245).

    Queries and keys have a root-mean-square norm (Henry et al. 2020, arXiv 2010.04245) before they are turned, and each
    head's output a sigmoid gate that its token tells (Qiu et al. 2025, arXiv 2505.06708). Gates begin at .5.

    Args:
        width: D.
        heads: H.
        kv_heads: G, a divisor of H.
        eps: What is added to mean squares in norms.

    Raises:
        ValueError: D is not a multiple of H, or H of G.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, eps: float = 1e-6) -> None:
        super().__init__()
        if width % heads or heads % kv_heads:
            raise ValueError(f"kv_heads must divide heads, and heads the width {width}, got {kv_heads} and {heads}")
        head_dim = width // heads
        self.heads, self.kv_heads = heads, kv_heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * kv_heads * head_dim, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(head_dim, eps), nn.RMSNorm(head_dim, eps)
        self.gate = nn.Linear(width, heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: Turn, mask: Tensor | None = None) -> Tensor:
        """Transforms tokens `[B, N, D]`.

        Args:
            x: The tokens.
            turn: Their rotations, each `[B, N, 1, E]`.
            mask: `[B, 1, 1, N]` bool, true where there is a token to see; None: everywhere.
        """
        q = rotate(self.q_norm(self.q(x).unflatten(-1, (self.heads, -1))), turn)  # [B, N, H, E]
        k, v = self.kv(x).unflatten(-1, (2, self.kv_heads, -1)).unbind(2)  # [B, N, G, E]
        k = rotate(self.k_norm(k), turn)
        k, v = (part.to(q.dtype).repeat_interleave(self.heads // self.kv_heads, 2) for part in (k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = attention(q, q, k, v, mask).transpose(1, 2)
        return self.out((y * self.gate(x).sigmoid()[..., None]).flatten(2))
