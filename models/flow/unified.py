"""Samplers and guidance of PixelHDM under their published names, thin over the package's path and solvers.

Here time t rises from noise at 0 to data at 1, and a network tells the velocity v = x - e; the package's level is
`sigma = 1 - t`, and its velocity -v. Sampling begins at t = 0, where noise alone is a right sample, and ends at
1 - t_eps with the clean estimate there: ended at 1 - t_eps itself, it would keep a share t_eps of the noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from drivedit.config.pixel import SAMPLER_METHODS, PixelHDMConfig
from drivedit.models.flow.dpm import multistep, singlestep
from drivedit.models.flow.path import clean_estimate
from drivedit.models.flow.sampler import Denoiser, guidance, guided, integrate


def apply_cfg(x_cond: Tensor, x_uncond: Tensor, guidance_scale: float, rescale_factor: float = 0.0) -> Tensor:
    """Two predictions under classifier-free guidance: `u + w (c - u)`.

    Args:
        x_cond: Conditional prediction c `[B, ...]`.
        x_uncond: Unconditional prediction u of the same shape.
        guidance_scale: w; 1 is plain conditional, 0 unconditional.
        rescale_factor: Share in which the spread of each sample is brought back to that of c (Lin et al. 2024).
    """
    return guidance(x_cond, x_uncond, guidance_scale, rescale_factor)


class StandardCFG:
    """Classifier-free guidance as it was published first (Ho and Salimans 2022)."""

    def apply(self, x_cond: Tensor, x_uncond: Tensor, guidance_scale: float) -> Tensor:
        """`apply_cfg` without rescaling."""
        return apply_cfg(x_cond, x_uncond, guidance_scale)


class UnifiedSampler:
    """Pictures from noise, by one of four methods.

    Args:
        method: "euler" (order 1), "heun", "dpm_pp" (DPM-Solver++ 2M) or "dpm_pp_2s" (all of order 2).
        num_steps: Steps.
        t_eps: Sampling ends at time 1 - t_eps; above 0 and below 1/2.

    Raises:
        ValueError: The method is unknown, or a number is out of its range.
    """

    def __init__(self, method: str = "heun", num_steps: int = 50, t_eps: float = 0.05) -> None:
        if method not in SAMPLER_METHODS:
            raise ValueError(f"method must be one of {', '.join(SAMPLER_METHODS)}, got {method!r}")
        if not 0 < t_eps < 0.5:
            raise ValueError(f"t_eps must be above 0 and below 0.5, got {t_eps}")
        self.method, self.num_steps, self.t_eps = method, num_steps, t_eps
        self.timesteps()

    def timesteps(self, num_steps: int | None = None, t_start: float = 0.0) -> Tensor:
        """The times `[S + 1]` between which it steps, evenly from `t_start` to 1 - t_eps, in double precision.

        Raises:
            ValueError: There is no step, or `t_start` is not from 0 to below 1 - t_eps.
        """
        steps = self.num_steps if num_steps is None else num_steps
        if steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {steps}")
        if not 0 <= t_start < 1 - self.t_eps:
            raise ValueError(f"t_start must be at least 0 and below 1 - t_eps = {1 - self.t_eps:g}, got {t_start}")
        return torch.linspace(t_start, 1 - self.t_eps, steps + 1, dtype=torch.float64)

    @torch.no_grad()
    def sample(
        self,
        model: Callable[..., Tensor],
        z_0: Tensor,
        text_embeddings: Tensor | None = None,
        text_mask: Tensor | None = None,
        num_steps: int | None = None,
        guidance_scale: float = 1.0,
        null_text_embeddings: Tensor | None = None,
        null_text_mask: Tensor | None = None,
        callback: Callable[[int, int, Tensor], None] | None = None,
        t_start: float = 0.0,
        *,
        pooled_text_embed: Tensor | None = None,
        null_pooled_text_embed: Tensor | None = None,
        guidance_rescale: float = 0.0,
    ) -> Tensor:
        """Carries noise, or a noisy picture, to a clean one.

        Args:
            model: Called with z `[B, ...]`, t `[B]`, and `text_embed`, `text_mask` and `pooled_text_embed` where they
                are not None, it tells the velocity `[B, ...]`.
            z_0: `[B, ...]` at time `t_start`; at 0 it is noise.
            text_embeddings: Tokens of the text `[B, T, D]`.
            text_mask: Which of them count `[B, T]`.
            num_steps: Steps; None: those of the sampler.
            guidance_scale: 1 asks the model without guidance, once for an evaluation; all else twice.
            null_text_embeddings: What stands for no text; it is needed for guidance.
            null_text_mask: Which of its tokens count.
            callback: Called after each step with its number, from 0, their count and z.
            t_start: Time to begin at.
            pooled_text_embed: The text as one vector `[B, D]`.
            null_pooled_text_embed: No text as one vector.
            guidance_rescale: `rescale_factor` of `apply_cfg`.

        Returns:
            The clean estimate `[B, ...]` at time 1 - t_eps.

        Raises:
            ValueError: There is guidance and nothing stands for no text, or a number is out of its range.
        """
        levels = (1 - self.timesteps(num_steps, t_start)).to(z_0.device)
        told = _told(text_embeddings, text_mask, pooled_text_embed)
        null = _told(null_text_embeddings, null_text_mask, null_pooled_text_embed)
        if guidance_scale != 1 and not null:
            raise ValueError(f"guidance_scale {guidance_scale} needs null_text_embeddings or null_pooled_text_embed")
        velocity = guided(_falling(model), guidance_scale, null, guidance_rescale)

        def clean(x: Tensor, sigma: Tensor, given: dict[str, Tensor]) -> Tensor:
            return clean_estimate(x, velocity(x, sigma, given), sigma)

        def after(step: int, x: Tensor) -> None:
            if callback is not None:
                callback(step, len(levels) - 1, x)

        if self.method in ("euler", "heun"):
            z = integrate(velocity, z_0, levels, told, self.method, after)
        else:
            z = (multistep if self.method == "dpm_pp" else singlestep)(clean, z_0, levels, told, after)
        return clean(z, levels[-1].to(z.dtype).expand(len(z)), told)

    def count_nfe(self, num_steps: int | None = None, use_cfg: bool = False, t_start: float = 0.0) -> int:
        """How often `sample` calls the model, the clean estimate at the end included.

        Args:
            num_steps: Steps; None: those of the sampler.
            use_cfg: Whether the guidance scale is other than 1.
            t_start: Time to begin at; a step of "dpm_pp_2s" from pure noise asks once only.
        """
        steps = len(self.timesteps(num_steps, t_start)) - 1
        twice = {"heun": steps, "dpm_pp_2s": steps - (t_start == 0)}.get(self.method, 0)
        return (steps + twice + 1) * (2 if use_cfg else 1)


def create_sampler_from_config(config: PixelHDMConfig) -> UnifiedSampler:
    """The sampler that a configuration names."""
    return UnifiedSampler(config.default_sampler_method, config.default_num_steps, config.time_eps)


def _falling(model: Callable[..., Tensor]) -> Denoiser:
    """The velocity on the package's path, of a model of rising time."""

    def velocity(x: Tensor, sigma: Tensor, given: dict[str, Tensor]) -> Tensor:
        return -model(x, 1 - sigma, **given)

    return velocity


def _told(text_embed: Tensor | None, text_mask: Tensor | None, pooled: Tensor | None) -> dict[str, Tensor]:
    """What a model is told of a text, by name; nothing where there is neither text."""
    named = {"text_embed": text_embed, "text_mask": text_mask if text_embed is not None else None}
    return {name: each for name, each in (named | {"pooled_text_embed": pooled}).items() if each is not None}
