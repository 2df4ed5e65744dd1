"""From parameters to tokens and back: in a fixed way, which keeps equivariance exact, or in one that is learnt.

Legend: B rows, P parameters, K tokens, E model width, D width of a parameter's code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drivedit.models.sets.tokens import as_params, as_tokens


class KSinParamToTokenProjection(nn.Module):
    """Unit i in blocks is token i, by one linear layer for all; and another one back.

    Args:
        d_model: Width E.
        params_per_token: Numbers of a unit. All that there are make one token: no symmetry is left.
        fixed: Numbers in front of the units that are no unit; they make one token of their own, the first.
    """

    def __init__(self, d_model: int, params_per_token: int = 2, *, fixed: int = 0) -> None:
        super().__init__()
        self.d_model, self.params_per_token, self.fixed = d_model, params_per_token, fixed
        self.into, self.back = nn.Linear(params_per_token, d_model), nn.Linear(d_model, params_per_token)
        self.fixed_into = nn.Linear(fixed, d_model) if fixed else None
        self.fixed_back = nn.Linear(d_model, fixed) if fixed else None

    def param_to_token(self, x: Tensor) -> Tensor:
        """Parameters `[B, P]` to tokens `[B, K, E]`.

        Raises:
            ValueError: The parameters do not divide into tokens.
        """
        tokens = self.into(as_tokens(x[:, self.fixed :], self.params_per_token))
        return tokens if self.fixed_into is None else torch.cat([self.fixed_into(x[:, None, : self.fixed]), tokens], 1)

    def token_to_param(self, x: Tensor) -> Tensor:
        """Tokens `[B, K, E]` to parameters `[B, P]`."""
        if self.fixed_back is None:
            return as_params(self.back(x))
        return torch.cat([self.fixed_back(x[:, 0]), as_params(self.back(x[:, 1:]))], 1)

    def penalty(self) -> Tensor:
        """Zero: nothing is assigned."""
        return self.into.weight.new_zeros(())


class LearntProjection(nn.Module):
    """Param2Tok (Hayes et al. 2025, arXiv 2506.07199): which parameters make up which token is learnt.

    A parameter's code, times its value, goes through a network; one matrix of assignment sums such codes into tokens,
    and takes tokens apart into parameters again. At the beginning all parameters are alike, and so are all tokens.

    Args:
        d_model: Width E of a token.
        d_token: Width D of a parameter's code.
        num_params: Parameters P.
        num_tokens: Tokens K.
        initial_ffn: Whether codes go through a network on the way to tokens.
        final_ffn: Whether there is one on the way back.

    Raises:
        ValueError: A network is left out, and widths differ.
    """

    def __init__(
        self,
        d_model: int,
        d_token: int,
        num_params: int,
        num_tokens: int,
        initial_ffn: bool = True,
        final_ffn: bool = True,
    ) -> None:
        super().__init__()
        if d_token != d_model and not (initial_ffn and final_ffn):
            raise ValueError(
                f"without initial_ffn or final_ffn d_token must equal d_model, got {d_token} and {d_model}"
            )
        self.d_model, self.num_params = d_model, num_params
        self.assignment = nn.Parameter((num_tokens * num_params) ** -0.5 + 1e-4 * torch.randn(num_tokens, num_params))
        self.codes_in, self.codes_out = (
            nn.Parameter(torch.randn(1, d_token) / d_token**0.5 + 1e-4 * torch.randn(num_params, d_token))
            for _ in range(2)
        )
        self.initial = feed_forward(d_token, d_model) if initial_ffn else nn.Identity()
        self.final = feed_forward(d_model, d_token) if final_ffn else nn.Identity()

    def param_to_token(self, x: Tensor) -> Tensor:
        """Parameters `[B, P]` to tokens `[B, K, E]`.

        Raises:
            ValueError: There is another number of parameters.
        """
        if x.shape[-1] != self.num_params:
            raise ValueError(f"the projection is made for {self.num_params} parameters, got {x.shape[-1]}")
        return self.assignment @ self.initial(x[..., None] * self.codes_in)

    def token_to_param(self, x: Tensor) -> Tensor:
        """Tokens `[B, K, E]` to parameters `[B, P]`."""
        return (self.codes_out * self.final(self.assignment.T @ x)).sum(-1)

    def penalty(self) -> Tensor:
        """Mean absolute value of the assignment."""
        return self.assignment.abs().mean()


def feed_forward(inputs: int, width: int) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
