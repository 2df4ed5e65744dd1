"""The `bev` stage's second method: a flow learns the law of the ground's latents, as a survey finds them.

It is told what a dream knows: at a start what two pictures show, later the ground behind some line, which the latents
themselves tell of. Only what was seen from near is learned (flow matching, Lipman et al. 2023, arXiv 2210.02747).

Legend: B clips, n states of a clip, X Y cells, Z x y latents, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.config import BevStageConfig
from drivedit.config.bev import GAP
from drivedit.models import BevWorld
from drivedit.training.methods.bev import present, spread, told_routes
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.method import Frozen, Logs, Method, ParameterGroup, Progress
from drivedit.training.methods.survey import Surveyor, shown_frames, survey
from drivedit.training.optimizers import is_matrix
from drivedit.utils import generator

VIEWS = 12  # pictures that a survey looks at
DRAWS = 4  # noises for each clip: the flow costs little beside a survey
ASLANT = 0.5  # rad that the line is turned, up to which ground is known, at most
LEAST = 1e-6  # weight


class GroundMethod(Method):
    """Trains the flow of a `BevWorld`, and nothing else.

    Args:
        world: The world; all else of it has been learned.
        surveyor: Who tells what latents are.
        config: The loss.
    """

    hot = ("flow.forward",)

    def __init__(self, world: BevWorld, surveyor: Surveyor, config: BevStageConfig) -> None:
        super().__init__()
        self.flow, self.config = world.filler.requires_grad_(True), config
        self.frozen, self.surveyor = Frozen(world), Frozen(surveyor)

    def groups(self, step: int) -> list[ParameterGroup]:
        """The flow."""
        return [self.group("flow", self.flow.parameters(), self.matrices())]

    def matrices(self) -> list[nn.Parameter]:
        """Its matrices, which Muon trains."""
        return [p for p in self.flow.parameters() if is_matrix(p)]

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch of `drivedit.training.bev_clips.BevClips`."""
        world, config = self.frozen.network, self.config
        rngs = Rngs(rng, batch["pose"].device, generator(0, "alike", progress.step))
        now = present(rngs, config)
        moments = spread(rngs, now, GAP + config.horizon, VIEWS)
        with torch.no_grad():
            found = survey(world, self.surveyor.network, batch, moments, now)
            anchor, code = batch["pose"][:, now], found.seen.code
            road = world.window.road(told_routes(batch, rngs, config), batch["arc"][:, now], anchor)
            known = behind(world, rngs, len(anchor)) * (now > GAP)
            ground = world.drawer(found.latents, road, code) * known
            seen = self.flow.unseen(ground)
            if now == GAP:
                frames = shown_frames(batch, [0, GAP])
                seen = world.lifted(found.seen, frames, batch["pose"][:, [0, GAP]], anchor)
        given = self.flow.given(ground, known, road, code, seen)
        many = [each.repeat(DRAWS, *[1] * (each.ndim - 1)) for each in (given, found.latents, code)]
        noise, level = rngs.normal(*many[1].shape), rngs.uniform(len(many[1]))
        noisy = torch.lerp(many[1], noise, level[:, None, None, None])
        wrong = (self.flow(many[0], noisy, level, many[2]) - (noise - many[1])).square().mean(1, keepdim=True)
        side = known.shape[-1] // found.sure.shape[-1]
        new = 1 - nn.functional.avg_pool2d(known, side)
        weight = (found.sure * new).repeat(DRAWS, 1, 1, 1)
        loss = (wrong * weight).sum() / weight.sum().clamp(min=1)
        late = level > 0.5
        return loss, {"noisy": _mean(wrong, weight, late), "clean": _mean(wrong, weight, ~late)}


def behind(world: BevWorld, rngs: Rngs, rows: int) -> Tensor:
    """Which cells are known `[B, 1, X, Y]`: those behind a line across the window, somewhere and a little aslant."""
    back, front, _ = world.config.window
    until = (rngs.uniform(rows) * (back + front) - back)[:, None, None]
    turn = ((2 * rngs.uniform(rows) - 1) * ASLANT)[:, None, None]
    ahead = world.window.ahead * turn.cos() + world.window.right * turn.sin()
    return (ahead < until)[:, None].float()


def _mean(wrong: Tensor, weight: Tensor, where: Tensor) -> Tensor:
    """The mean error of some rows."""
    some = weight[where]
    return ((wrong[where] * some).sum() / some.sum().clamp(min=LEAST)).detach()
