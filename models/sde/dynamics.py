"""What moves the motion state: drift f and diffusion g of dm = f(m, a) dt + g(m, a) o dW, both convolutional networks.

Both are zero at the beginning. A control a scales and shifts their features (FiLM, Perez et al. 2018); where none is
told they are exactly what they are without one.

Legend: B rows, M channels of the motion state, h w its rows and columns, A numbers of a control, E its code's width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.layers.blocks import mlp
from drivedit.models.layers.convnext import Conv
from drivedit.models.sde.layers import nonlinearity


class OdeSdeFuncNet(nn.Module):
    """A stack of 3 x 3 convolutions with nonlinearities between them; the last one begins at zero.

    Args:
        m_channels: M.
        n_layers: Convolutions between the first and the last.
        nonlinear: Name of the nonlinearity.
        circular: Whether columns wrap around.
        code_dim: E; 0: no control is told.

    Raises:
        ValueError: The nonlinearity is unknown.
    """

    def __init__(
        self, m_channels: int, n_layers: int, nonlinear: str = "tanh", circular: bool = False, code_dim: int = 0
    ) -> None:
        super().__init__()
        self.nonlinear = nonlinearity(nonlinear)
        self.layers = nn.ModuleList(Conv(m_channels, m_channels, 3, circular) for _ in range(n_layers + 1))
        self.out = Conv(m_channels, m_channels, 3, circular, zero=True)
        self.films = nn.ModuleList(
            nn.Linear(code_dim, 2 * m_channels, bias=False) for _ in range(n_layers + 1 if code_dim else 0)
        )
        for film in self.films:
            nn.init.zeros_(film.weight)  # type: ignore[arg-type]

    def forward(self, m: Tensor, code: Tensor | None = None) -> Tensor:
        """The network at motion states `[B, M, h, w]` under codes `[B, E]`."""
        for level, layer in enumerate(self.layers):
            m = layer(m)
            if code is not None and self.films:
                scale, shift = self.films[level](code)[..., None, None].chunk(2, 1)
                m = torch.addcmul(m + shift, m, scale)
            m = self.nonlinear(m)
        return self.out(m)


class DiffUnet(nn.Module):
    """Drift and diffusion.

    Args:
        m_channels: M.
        n_layers: Convolutions of each between the first and the last.
        nonlinear: Name of the nonlinearity.
        circular: Whether columns wrap around.
        control_dim: A; 0: no control can be told.
        decay: Whether the drift has `-d m` beside its network, with one learned rate d > 0.

    Raises:
        ValueError: The nonlinearity is unknown.
    """

    CODE = 64  # width E

    def __init__(
        self, m_channels: int, n_layers: int = 2, nonlinear: str = "tanh", circular: bool = False,
        control_dim: int = 0, decay: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        code = self.CODE if control_dim else 0
        self.control_dim = control_dim
        self.f, self.g = (OdeSdeFuncNet(m_channels, n_layers, nonlinear, circular, code) for _ in range(2))
        self.embed = mlp(control_dim, code) if control_dim else None
        self.rate = nn.Parameter(torch.tensor(-4.0)) if decay else None  # d is .018 at first

    def code(self, controls: Tensor | None, told: Tensor | None = None) -> Tensor | None:
        """Codes `[B, E]` of controls, zero where none is told.

        Args:
            controls: `[B, A]`; None: none is told.
            told: bool `[B]`, which rows are told theirs; None: all.

        Raises:
            ValueError: Controls have another shape, or the network takes none.
        """
        if controls is None:
            return None
        if self.embed is None or controls.ndim != 2 or controls.shape[1] != self.control_dim:
            raise ValueError(f"controls must be [B, {self.control_dim}], got {list(controls.shape)}")
        code = self.embed(controls)
        return code if told is None else code * told[:, None].to(code)

    def drift(self, m: Tensor, code: Tensor | None = None) -> Tensor:
        """f, of motion states `[B, M, h, w]` under codes `[B, E]`."""
        f = self.f(m, code)
        return f if self.rate is None else f - F.softplus(self.rate) * m

    def diffusion(self, m: Tensor, code: Tensor | None = None) -> Tensor:
        """g, within (-1, 1)."""
        return self.g(m, code).tanh()
