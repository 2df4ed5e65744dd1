"""Bidirectional diffusion transformer: a teacher that sees a whole clip, past and future.

It is a DDPM (Ho et al. 2020): a variance-preserving chain of discrete steps whose noise it predicts, sampled with DDIM
(Song et al. 2021) under classifier-free guidance (Ho and Salimans 2022). The chain stays behind its border: `sigma`
and `velocity` speak of the package's path (`drivedit.models.flow.parametrisations` has the bridge), and the package's
sampler draws from it. Notable: the network inside tells the angular velocity sqrt(a) n - sqrt(1 - a) x0 (Salimans and
Ho 2022). The noise that follows from it leaves a clean estimate that is sound at every step, while noise told directly
is divided by sqrt(a).

Legend: B clips, F frames, P tokens per frame, N = F * P, D token width, K diffusion steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import TeacherConfig
from drivedit.models.dit.student import DiTStudent
from drivedit.models.flow.parametrisations import alpha_products, level_of_ddpm, nearest_step, signal_and_spread
from drivedit.models.flow.path import clean_estimate
from drivedit.models.flow.sampler import guided, sample
from drivedit.models.saved import SavedNetwork

DROP_CONTROL = 0.1  # share of clips that train the prediction without controls


class DiTTeacher(SavedNetwork):
    """Denoiser of whole clips of latent tokens; `drivedit.config.TeacherConfig` tells its arguments.

    Raises:
        ValueError: The schedule is unknown, or the widths do not fit.
    """

    file_format = "drivedit-teacher-1"
    config_type = TeacherConfig
    config: TeacherConfig
    alphas: Tensor

    def __init__(
        self,
        latent_dim: int = 64,
        d_model: int = 768,
        n_layers: int = 16,
        n_heads: int = 12,
        d_ff: int | None = None,
        num_diffusion_steps: int = 1000,
        beta_schedule: str = "linear",
        *,
        max_seq_len: int = 256,
        dropout: float = 0.0,
        tokens_per_frame: int = 1,
        control_dim: int = 0,
        history: int = 0,
        route_dim: int = 0,
        map_dim: int = 0,
    ) -> None:
        super().__init__()
        self.num_diffusion_steps, self.control_dim = num_diffusion_steps, control_dim
        self.register_buffer("alphas", alpha_products(beta_schedule, num_diffusion_steps), persistent=False)
        self.trunk = Bidirectional(
            latent_dim, d_model, n_layers, n_heads, d_ff, max_seq_len, dropout, tokens_per_frame=tokens_per_frame,
            control_dim=control_dim + 1 if control_dim else 0,  # the last one: whether the control is told
            history=history, route_dim=route_dim, map_dim=map_dim,
        )  # fmt: skip
        self.config = TeacherConfig(
            latent_dim, d_model, n_layers, n_heads, d_ff, num_diffusion_steps, beta_schedule, max_seq_len, dropout,
            tokens_per_frame, control_dim, history, route_dim, map_dim,
        )  # fmt: skip

    # -- the chain -----------------------------------------------------------------------------------------------

    def add_noise(self, x: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The chain's state `sqrt(a) x + sqrt(1 - a) noise`, shaped like `x`.

        Args:
            x: Clean `[B, ...]`.
            noise: Like `x`.
            timesteps: `[B]` whole numbers in [0, K - 1].

        Raises:
            ValueError: A shape does not fit or an index is out of range.
        """
        if noise.shape != x.shape:
            raise ValueError(f"noise must be {tuple(x.shape)} as x, got {tuple(noise.shape)}")
        signal, spread = self._scales(x, timesteps)
        return signal * x + spread * noise

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        control: Tensor | None = None,
        *,
        route: Tensor | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """Predicts the noise `[B, N, D]` in a state of the chain.

        Args:
            x: States `[B, N, D]` (variance preserving, see `add_noise`).
            timesteps: `[B]` whole numbers in [0, K - 1].
            control: `[B, F, control_dim]`, what led to each frame; None: not told.
            route: `[B, F, route_dim]`; None: zeros, which means no route.
            past: `[B, N, history * D]` clean frames before the clip, the latest first; None: zeros.

        Raises:
            ValueError: A shape does not fit or an index is out of range.
        """
        frames = x.shape[1] // self.trunk.tokens_per_frame
        signal, spread = self._scales(x, timesteps)
        if control is not None:
            if control.shape != (len(x), frames, self.control_dim):
                raise ValueError(f"control must be {[len(x), frames, self.control_dim]}, got {tuple(control.shape)}")
            control = F.pad(control, (0, 1), value=1.0)
        return spread * x + signal * self._predict(x, timesteps, control, route, past)

    def _predict(
        self, x: Tensor, timesteps: Tensor, told: Tensor | None, route: Tensor | None, past: Tensor | None
    ) -> Tensor:
        """The angular velocity under controls that end in 1 where they are told, and are zeros where not."""
        sigma = self.sigma(timesteps)[:, None].expand(-1, x.shape[1] // self.trunk.tokens_per_frame).to(x)
        hidden, modulation, _ = self.trunk.features(x, sigma=sigma, control=told, route=route, past=past)
        return self.trunk.read(hidden, modulation, None)

    def loss(
        self,
        x: Tensor,
        control: Tensor | None = None,
        *,
        route: Tensor | None = None,
        past: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the angular velocity at random steps for clean clips `[B, N, D]`.

        A tenth of the clips is not told its controls, which guidance needs. `generator` None: torch's own randomness.
        """
        timesteps = torch.randint(self.num_diffusion_steps, (len(x),), generator=generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        signal, spread = self._scales(x, timesteps)
        told = None
        if control is not None:
            kept = torch.rand(len(x), 1, 1, generator=generator) >= DROP_CONTROL
            told = F.pad(control, (0, 1), value=1.0) * kept.to(control)
        guess = self._predict(signal * x + spread * noise, timesteps, told, route, past)
        loss = F.mse_loss(guess.float(), (signal * noise - spread * x).float())
        return loss, {"velocity_mse": loss.detach()}

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        num_steps: int = 50,
        guidance_scale: float = 1.0,
        *,
        control: Tensor | None = None,
        route: Tensor | None = None,
        past: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws clean clips of a shape `[B, N, D]` with deterministic DDIM; conditions are as in `forward`.

        It takes `num_steps` passes of the network, from 1 to K, and twice as many with guidance. `guidance_scale` is
        the weight w of `u + w (c - u)`: 1 is plain conditional, another one needs controls. `generator` is that of the
        first noise; None: torch's own.

        Raises:
            ValueError: An argument is out of its range.
        """
        if not 1 <= num_steps <= self.num_diffusion_steps:
            raise ValueError(f"num_steps must be from 1 to {self.num_diffusion_steps}, got {num_steps}")
        if guidance_scale != 1 and control is None:
            raise ValueError(f"guidance_scale = {guidance_scale} needs control; without one it must be 1")
        place = next(self.parameters())
        x = torch.randn(shape, generator=generator).to(place)
        steps = torch.linspace(self.num_diffusion_steps - 1, 0, num_steps).round().long().to(place.device)
        signal, spread = self._scales(x, steps[:1].expand(len(x)))

        def denoiser(x: Tensor, sigma: Tensor, given: Tensor | None) -> Tensor:
            velocity = self.velocity(x, self.nearest_step(sigma), given, route=route, past=past)
            return clean_estimate(x, velocity, sigma.to(x))

        levels = F.pad(self.sigma(steps), (0, 1))
        return sample(guided(denoiser, guidance_scale, None), x / (signal + spread), levels, control)

    # -- the bridge ----------------------------------------------------------------------------------------------

    def sigma(self, timesteps: Tensor) -> Tensor:
        """The package's noise level `[B]` of steps of the chain, in double precision."""
        return level_of_ddpm(self.alphas)[timesteps]

    def nearest_step(self, sigma: Tensor) -> Tensor:
        """The steps `[B]` of the chain that are nearest to noise levels `[B]`."""
        return nearest_step(self.alphas, sigma)

    def velocity(
        self,
        x: Tensor,
        timesteps: Tensor,
        control: Tensor | None = None,
        *,
        route: Tensor | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """The velocity `n - x0` `[B, N, D]` that the teacher predicts for states of the package's path.

        These are `(1 - sigma) x0 + sigma n` at `sigma(timesteps)`; the rest is as in `forward`.
        """
        signal, spread = self._scales(x, timesteps)
        state = x * (signal + spread)  # as sqrt(a) (1 + s) = sqrt(a) + sqrt(1 - a)
        noise = self(state, timesteps, control, route=route, past=past)
        return noise - (state - spread * noise) / signal

    def _scales(self, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise at the steps, shaped to multiply `x`."""
        self._check_steps(x, timesteps)
        return signal_and_spread(self.alphas[timesteps], x)

    def _check_steps(self, x: Tensor, timesteps: Tensor) -> None:
        if timesteps.shape != x.shape[:1] or timesteps.is_floating_point():
            raise ValueError(
                f"timesteps must be [{len(x)}] whole numbers, got {tuple(timesteps.shape)} {timesteps.dtype}"
            )
        if len(timesteps) and not 0 <= int(timesteps.min()) <= int(timesteps.max()) < self.num_diffusion_steps:
            raise ValueError(f"timesteps must be from 0 to {self.num_diffusion_steps - 1}, got {timesteps.tolist()}")


class Bidirectional(DiTStudent):
    """The student's trunk where every frame of a clip sees every other."""

    def _sees(self, time: Tensor) -> Tensor:
        return torch.ones(len(time), len(time), dtype=torch.bool, device=time.device)
