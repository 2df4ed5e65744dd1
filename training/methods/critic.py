"""A critic of dreamed pictures: it tells them from recorded ones of the same clip (Goodfellow et al. 2014).

It is shown the clip's first picture and who is told to be there, so a dream has to stay in its weather, and to show
whom it was told of. Scores of a dreamed and of the recorded picture are compared in pairs, and are kept flat around
both (R3GAN, Huang et al. 2024, arXiv 2501.05441; the gradient by a finite difference, as in APT, arXiv 2501.08316).

Legend: B pictures, C H W their channels, rows and columns, L numbers of the maps at a cell of h w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from drivedit.models.layers.convnext import Conv

WIDTHS = 32, 64, 96, 128
JOLT = 0.02  # of pictures in [-1, 1]: noise that scores shall not follow; texture is ten times as strong
FLAT = 20.0  # weight of how far they do


class FrameCritic(nn.Module):
    """Scores pictures, their texture and what they show as a whole.

    Args:
        channels: C.
        maps: L.
    """

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        fine, cell, wide, whole = WIDTHS
        self.first = Conv(2 * channels, fine, 3, stride=2)
        self.second = Conv(fine, cell, 3, stride=2)
        self.third = Conv(cell + maps, wide, 3)
        self.coarse = nn.ModuleList([Conv(wide, whole, 3, stride=2), Conv(whole, whole, 3, stride=2)])
        self.texture, self.whole = Conv(wide, 1, 1), Conv(whole, 1, 1)
        layers = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        for layer in layers:  # or scores hardly differ for a hundred steps, and then too much
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for head in (self.texture, self.whole):
            head.weight.data.mul_(0.1)

    def forward(self, pictures: Tensor, begun: Tensor, maps: Tensor) -> Tensor:
        """Scores `[B, 2, ...]` of pictures `[B, C, H, W]` beside the first of their clip, under maps `[B, L, h, w]`."""
        x = F.silu(self.second(F.silu(self.first(torch.cat([pictures, begun], 1)))))
        maps = F.interpolate(maps, x.shape[-2:]) if maps.shape[1] else maps.new_zeros(len(maps), 0, *x.shape[-2:])
        x = F.silu(self.third(torch.cat([x, maps.to(x)], 1)))
        texture = self.texture(x)
        for layer in self.coarse:
            x = F.silu(layer(x))
        whole = self.whole(x)
        return torch.cat([F.adaptive_avg_pool2d(texture, whole.shape[-2:]), whole], 1).float()


def contest(
    critic: FrameCritic, dreamed: Tensor, true: Tensor, given: tuple[Tensor, Tensor], noise: Tensor
) -> tuple[Tensor, Tensor]:
    """What a critic loses, whose gradient reaches only it, and what the dream loses, whose gradient does not reach it.

    Args:
        critic: The critic.
        dreamed: Pictures `[B, C, H, W]`.
        true: The recorded ones.
        given: The first pictures of the clips, and the maps.
        noise: Standard normal, `[2 B, C, H, W]`.
    """
    both, twice = torch.cat([dreamed.detach(), true]), [each.repeat(2, 1, 1, 1) for each in given]
    scores, jolted = critic(both, *twice), critic(both + JOLT * noise, *twice)
    fake, real = scores.chunk(2)
    loss = F.softplus(fake - real).mean() + FLAT * (scores - jolted).square().mean()
    judge = {name: weight.detach() for name, weight in critic.named_parameters()}
    fooled = functional_call(critic, judge, (dreamed, *given))
    return loss, F.softplus(real.detach() - fooled).mean()
