"""Sets of tokens: their layout in a vector, assignment, distances that know no order, and couplings of noise to data.

A set of K units of D numbers is a vector in blocks: `[x_1 .. x_K, y_1 .. y_K]`, so unit i is `(x_i, y_i)`.

Couplings choose which noise goes with which data. Data and what was observed of them stay where they are and the noise
moves, so no condition can part from its data. `match_batch` is minibatch optimal transport (Pooladian et al. 2023,
arXiv 2304.14772; Tong et al., arXiv 2302.00482). `align_tokens` permutes inside each sample alone (equivariant flow
matching, arXiv 2306.15030 and 2312.07168): whatever was observed, the noise stays Gaussian up to the order of tokens.

Legend: B rows, P = K D parameters, K tokens, D numbers of a token.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drivedit.utils import extra

COUPLINGS = (False, True, "token", "both")


def as_tokens(params: Tensor, params_per_token: int) -> Tensor:
    """Parameters `[B, P]` in blocks as tokens `[B, K, D]`.

    Raises:
        ValueError: The parameters do not divide into tokens.
    """
    if params_per_token < 1 or not params.shape[-1] or params.shape[-1] % params_per_token:
        raise ValueError(f"{params.shape[-1]} parameters do not divide into tokens of {params_per_token}")
    return params.unflatten(-1, (params_per_token, -1)).transpose(-1, -2)


def as_params(tokens: Tensor) -> Tensor:
    """The reverse of `as_tokens`."""
    return tokens.transpose(-1, -2).flatten(-2)


def assign(cost: Tensor) -> Tensor:
    """The cheapest permutations of `[..., N, N]` costs: `[..., N]`, of each row its column (Hungarian method)."""
    with extra("sets", "the assignment of tokens"):
        from scipy.optimize import linear_sum_assignment

    flat = cost.detach().double().cpu().numpy().reshape(-1, *cost.shape[-2:])
    found = np.stack([linear_sum_assignment(each)[1] for each in flat]) if len(flat) else np.zeros(flat.shape[:2])
    return torch.from_numpy(found).to(cost.device, torch.long).reshape(cost.shape[:-1])


def _both(predicted: Tensor, target: Tensor, params_per_token: int) -> tuple[Tensor, Tensor]:
    if predicted.shape != target.shape or target.ndim != 2:
        raise ValueError(f"two equal shapes [B, P] are needed, got {list(predicted.shape)} and {list(target.shape)}")
    return as_tokens(predicted, params_per_token), as_tokens(target, params_per_token)


def assignment_distance(predicted: Tensor, target: Tensor, params_per_token: int, squared: bool = False) -> Tensor:
    """Mean Euclidean distance of tokens under the cheapest assignment, `[B]`; 0 for equal multisets only.

    Args:
        predicted: `[B, P]`.
        target: `[B, P]`.
        params_per_token: Numbers of a token.
        squared: Assign by squared distances, and take their mean.

    Raises:
        ValueError: Shapes differ, or parameters do not divide into tokens.
    """
    first, second = _both(predicted, target, params_per_token)
    cost = (first[:, :, None] - second[:, None]).square().sum(-1)
    cost = cost if squared else cost.sqrt()
    return cost.gather(2, assign(cost)[..., None]).mean((1, 2))


def chamfer_distance(predicted: Tensor, target: Tensor, params_per_token: int) -> Tensor:
    """Mean squared distance to the nearest token, both ways, `[B]`. It does not see how often a token comes.

    Raises:
        ValueError: Shapes differ, or parameters do not divide into tokens.
    """
    first, second = _both(predicted, target, params_per_token)
    cost = (first[:, :, None] - second[:, None]).square().sum(-1)
    return cost.amin(1).mean(1) + cost.amin(2).mean(1)


def match_batch(noise: Tensor, params: Tensor) -> Tensor:
    """The rows of noise `[B, P]` in the order that is nearest to the rows of data `[B, P]`, in all."""
    return noise[assign(torch.cdist(params, noise))]


def align_tokens(noise: Tensor, params: Tensor, params_per_token: int) -> Tensor:
    """Noise `[B, P]` whose tokens are permuted inside each row, to lie nearest to those of the data `[B, P]`."""
    tokens, target = _both(noise, params, params_per_token)
    order = assign((target[:, :, None] - tokens[:, None]).square().sum(-1))
    return as_params(tokens.gather(1, order[..., None].expand_as(tokens)))


def couple(noise: Tensor, params: Tensor, ot: bool | str, params_per_token: int | None = None) -> Tensor:
    """Noise `[B, P]` in the order that a coupling gives it.

    Args:
        noise: Standard normal numbers.
        params: The data `[B, P]`.
        ot: False: as it is; True: `match_batch`; "token": `align_tokens`; "both": one after the other.
        params_per_token: Numbers of a token; None: parameters are no tokens.

    Raises:
        ValueError: The coupling is unknown, or needs tokens where there are none.
    """
    check_coupling(ot, params_per_token)
    if ot in (True, "both"):
        noise = match_batch(noise, params)
    if isinstance(ot, str) and params_per_token is not None:
        noise = align_tokens(noise, params, params_per_token)
    return noise


def check_coupling(ot: bool | str, params_per_token: int | None) -> None:
    """Refuses a coupling that is unknown, or that needs tokens where there are none.

    Raises:
        ValueError: It is such a one.
    """
    if ot not in COUPLINGS:
        raise ValueError(f"ot must be one of {', '.join(map(repr, COUPLINGS))}, got {ot!r}")
    if isinstance(ot, str) and params_per_token is None:
        raise ValueError(f"ot={ot!r} permutes tokens, and these parameters are none; take True or False")
