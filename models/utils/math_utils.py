"""Kernels, similarities, finite differences and Gumbel noise. Pictures are `[..., H, W]`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.utils.device import resolve_device
from drivedit.utils.tensor_utils import normalize_tensor


def gaussian_kernel(size: int, sigma: float, device: torch.device | str = "cpu") -> Tensor:
    """A Gaussian window that sums to one.

    Args:
        size: Side in pixels; an even one is raised to the next odd one, so that the window has a centre.
        sigma: Standard deviation in pixels.
        device: Where to put it.

    Returns:
        `[size, size]`.

    Raises:
        ValueError: `size` or `sigma` is not positive.
    """
    if size < 1 or not sigma > 0:
        raise ValueError(f"size and sigma of a Gaussian kernel must be positive, got size={size}, sigma={sigma}")
    half = size // 2
    x = torch.arange(-half, half + 1, dtype=torch.float64)
    line = (-0.5 * (x / sigma).square()).softmax(0)
    return torch.outer(line, line).float().to(resolve_device(device))


def stable_softmax(x: Tensor, dim: int = -1, temperature: float = 1.0) -> Tensor:
    """Softmax of `x / temperature` that does not overflow, however large `x` or small the temperature.

    Raises:
        ValueError: The temperature is not positive.
    """
    _check_temperature(temperature)
    return ((x - x.amax(dim, keepdim=True)) / temperature).softmax(dim)


def cosine_similarity_matrix(x: Tensor, y: Tensor) -> Tensor:
    """Cosines `[..., N, M]` of the angles between the rows of `[..., N, D]` and of `[..., M, D]`."""
    _check_rows(x, y)
    return normalize_tensor(x) @ normalize_tensor(y).transpose(-1, -2)


def pairwise_distance_matrix(x: Tensor, y: Tensor, p: int = 2) -> Tensor:
    """Distances `[..., N, M]` in the p-norm between the rows of `[..., N, D]` and of `[..., M, D]`."""
    _check_rows(x, y)
    return torch.cdist(x, y, p=p, compute_mode="donot_use_mm_for_euclid_dist")


def finite_difference_gradient(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of pictures per pixel: central differences, one-sided ones at the edges.

    Returns:
        Slope downwards (`grad_y`) and to the right (`grad_x`), each like `tensor`.

    Raises:
        ValueError: `tensor` is not `[..., H >= 2, W >= 2]`.
    """
    if tensor.ndim < 2 or min(tensor.shape[-2:]) < 2:
        raise ValueError(f"a gradient needs a tensor [..., H >= 2, W >= 2], got {list(tensor.shape)}")
    grad_y, grad_x = torch.gradient(tensor, dim=(-2, -1))
    return grad_y, grad_x


def laplacian(tensor: Tensor) -> Tensor:
    """Sum of the four neighbours minus four times the pixel; beyond an edge the picture goes on as at the edge.

    Raises:
        ValueError: `tensor` is not `[..., H, W]`.
    """
    if tensor.ndim < 2 or not tensor.numel():
        raise ValueError(f"a Laplacian needs a tensor [..., H >= 1, W >= 1], got {list(tensor.shape)}")
    flat = tensor.reshape(-1, 1, *tensor.shape[-2:])
    padded = F.pad(flat, (1, 1, 1, 1), mode="replicate")
    around = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1] + padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
    return (around - 4 * flat).reshape(tensor.shape)


def gumbel_noise(
    shape: tuple[int, ...], device: torch.device | str = "cpu", *, generator: torch.Generator | None = None
) -> Tensor:
    """Samples of the standard Gumbel distribution (mean .577, variance pi^2 / 6): minus the log of exponential ones.

    Args:
        shape: Of the result.
        device: Where to put it.
        generator: Source of chance on the CPU; None: torch's own.
    """
    where = resolve_device(device)
    drawn_on = where if generator is None else generator.device
    return -torch.empty(shape, device=drawn_on).exponential_(generator=generator).log().to(where)


def gumbel_softmax(
    logits: Tensor, temperature: float = 1.0, hard: bool = False, *, generator: torch.Generator | None = None
) -> Tensor:
    """A differentiable sample of the categories of `logits` `[..., K]` (Jang et al. 2017; Maddison et al. 2017).

    Args:
        logits: Unnormalised log-probabilities.
        temperature: Towards 0 samples become one-hot, towards infinity uniform.
        hard: Whether to return exactly one-hot samples with the gradient of the soft ones.
        generator: As in `gumbel_noise`.

    Raises:
        ValueError: The temperature is not positive.
    """
    noise = gumbel_noise(tuple(logits.shape), logits.device, generator=generator).to(logits.dtype)
    soft = stable_softmax(logits + noise, temperature=temperature)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return one_hot + (soft - soft.detach())


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _check_rows(x: Tensor, y: Tensor) -> None:
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x [..., N, D] and y [..., M, D] are needed, got {list(x.shape)} and {list(y.shape)}")
