"""The `bev` stage's method: the first frames of a clip are looked at, and some of those that follow are rendered.

Two samples of the ground are made of each clip, and the energy score of the pictures of both (`energy_score`) is least
for samples of the true law: of the picture's patches, of the picture a quarter as large, and of its edges. Pictures,
not edges, are kept nearer to the likeliest one than that (`spread`), for a sample is wrong by twice as much. First the
likeliest ground is learned alone, without noise. A critic sees to it that a picture looks like a recorded one where the
true one cannot be known (`drivedit.training.methods.critic`). The car goes where it went, and others are where they
were.

Legend: B clips, n states of a clip, C H W the picture, A others, L how they look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import BevStageConfig
from drivedit.config.bev import GAP
from drivedit.models import BevWorld
from drivedit.models.bev.networks import Seen, patches
from drivedit.models.bev.others import TOLD, seen_looks, unseen_looks
from drivedit.models.bev.parts import Scenery
from drivedit.models.layers.heads import HeadOutputs
from drivedit.training.bev_clips import NONE
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.critic import FrameCritic, contest
from drivedit.training.methods.energy import energy_score
from drivedit.training.methods.method import Logs, Method, ParameterGroup, Progress, untouched
from drivedit.training.optimizers import is_matrix
from drivedit.utils import Route, advance_pose, generator, laplacian

COARSER = 4  # pixels along a side, that a coarse picture has one for
UNIT = 0.1  # of pictures in [-1, 1]: the unit of the loss
LONG_AGO = 400.0  # metres driven since the start of clips that are aged
LEAST = 1e-6  # error whose logarithm is learned


class BevMethod(Method):
    """Trains a `BevWorld`.

    Args:
        world: The world.
        config: The loss.
    """

    hot = ("world.renderer.forward", "world.renderer.refined", "world.looker.forward")

    def __init__(self, world: BevWorld, config: BevStageConfig) -> None:
        super().__init__()
        self.world, self.config = world, config
        world.ego.requires_grad_(False)  # it was learned before
        self.critic = FrameCritic(world.config.channels, TOLD + world.config.looks)

    def groups(self, step: int) -> list[ParameterGroup]:
        """The world, and its critic, which has a rate of its own."""
        critic = self.group("critic", self.critic.parameters(), lr=self.config.critic_lr)
        return [self.group("world", self.world.parameters(), self.matrices()), critic]

    def matrices(self) -> list[nn.Parameter]:
        """The matrices of looker, filler and renderer, which Muon trains."""
        parts = self.world.looker, self.world.filler, self.world.renderer
        return [p for part in parts for p in part.parameters() if is_matrix(p)]

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch of `drivedit.training.bev_clips.BevClips`."""
        world, config = self.world, self.config
        rngs = Rngs(rng, batch["pose"].device, generator(0, "alike", progress.step))
        rows, copies = len(batch["pose"]), 1 if progress.share < config.mean_until else 2
        frames = (batch["frames"].float() / 127.5 - 1).permute(0, 1, 4, 2, 3)
        seen = world.looker(frames[:, [0, GAP]])
        off = F.smooth_l1_loss(seen.motion, batch["motion"][:, GAP], beta=0.1)
        losses: dict[str, list[Tensor]] = {"motion": [off]}
        route = self.told(batch, rngs).rows(torch.arange(rows).repeat(copies))
        many = {name: batch[name].repeat(copies, *[1] * (batch[name].ndim - 1)) for name in ("pose", "arc", "motion")}
        drawn = rngs.normal(copies * rows, *world.noise_shape()) * (copies - 1)
        scenery = world.begun(
            frames[:, [0, GAP]].repeat(copies, 1, 1, 1, 1), many["pose"][:, [0, GAP]], seen.repeated(copies),
            batch["others"][:, GAP].repeat(copies, 1, 1), route, many["arc"][:, GAP], drawn,
        )  # fmt: skip
        scenery = self.aged(scenery, route, many["arc"][:, GAP], copies, rngs)
        looks = rngs.normal(*batch["ids"][:, 0].shape, world.config.looks)
        shown: list[tuple[Tensor, ...]] = []
        for now in self.rendered(rngs):
            scenery = self.followed(scenery, many, now, route, copies - 1, rngs)
            others = batch["others"][:, now], self.looks(seen, batch, now, looks)
            twice = [each.repeat(copies, 1, 1) for each in others]
            controls = batch["control"][:, now].repeat(copies, 1)
            pictures, read = world.render(
                scenery, many["pose"][:, now], (twice[0], twice[1]), controls, many["motion"][:, now]
            )
            first, copy, target = pictures[:rows], pictures[-rows:], frames[:, now]
            read = HeadOutputs(*(value[:rows] for value in vars(read).values()))
            error = (first.detach() - target).square().mean((1, 2, 3))
            wanted = {name: batch[name][:, now] for name in ("telemetry", "reward", "ended")}
            found = self.score(first, copy, target) | self.judge_heads(read, wanted, error)
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss)
            shown.append((first, target, frames[:, GAP], world.told(others, batch["pose"][:, now])))
        loss, logs = self.total(losses)
        if not config.adversarial or progress.share < config.adversarial_from:
            return loss + untouched(self.critic.parameters()), logs
        dreamed, true, begun, maps = (torch.cat(each) for each in zip(*shown, strict=True))
        jolt = rngs.normal(2 * len(dreamed), *dreamed.shape[1:])
        judged, fooling = contest(self.critic, dreamed, true, (begun, maps), jolt)
        told = {"critic": judged.detach(), "fooling": fooling.detach()}
        return loss + judged + config.adversarial * fooling, logs | told

    def rendered(self, rngs: Rngs) -> list[int]:
        """Which states of the clips are rendered, alike in all processes, in order; early ones more often."""
        drawn = [rngs.shared_lead(self.config.horizon) for _ in range(self.config.rendered)]
        return sorted(GAP + now for now in drawn)

    def told(self, batch: dict[str, Any], rngs: Rngs) -> Route:
        """The routes; some clips are told none."""
        route = Route(*(batch[name] for name in Route.__dataclass_fields__))
        kept = rngs.uniform(len(route.count)) >= self.config.drop_route
        return Route(route.points, route.count * kept, route.spacing, route.closed, route.bounds)

    def aged(self, scenery: Scenery, route: Route, arc: Tensor, copies: int, rngs: Rngs) -> Scenery:
        """The scenery, of some clips as it is after a long drive.

        From some place on the ground is filled anew, without pictures, and the start picture was seen far behind.
        """
        world, rows = self.world, len(arc) // copies
        where = (rngs.uniform(rows) < self.config.aged).repeat(copies).nonzero()[:, 0]
        if not len(where):
            return scenery
        some = scenery.rows(where)
        back, front, _ = world.config.window
        until = rngs.uniform(rows).repeat(copies)[where] * (back + front / 2) - back
        known = (world.window.ahead < until[:, None, None])[:, None].to(some.ground)
        drawn = rngs.normal(len(where), *world.noise_shape()) * (copies - 1)
        aged = world.refilled(some, known, route.rows(where), arc[where], drawn)
        turn = torch.pi * F.softshrink(4 * rngs.uniform(rows).repeat(copies)[where] - 2, 1.0)  # half have not turned
        behind = torch.stack([torch.full_like(turn, -LONG_AGO), torch.zeros_like(turn), turn], 1)
        return scenery.with_rows(where, replace(aged, key_pose=advance_pose(some.anchor, behind)))

    def followed(
        self, scenery: Scenery, many: dict[str, Tensor], now: int, route: Route, scale: float, rngs: Rngs
    ) -> Scenery:
        """The scenery with new ground in the windows that follow their cars to a state."""
        gone, following = self.world.window.left(scenery.anchor, many["pose"][:, now])
        where = gone.nonzero()[:, 0]
        if not len(where):
            return scenery
        drawn = rngs.normal(len(where), *self.world.noise_shape()) * scale
        some = self.world.followed(
            scenery.rows(where), following[where], route.rows(where), many["arc"][where, now], drawn
        )
        return scenery.with_rows(where, some)

    def looks(self, seen: Seen, batch: dict[str, Any], now: int, drawn: Tensor) -> Tensor:
        """How others of a state look `[B, A, L + SEEN_AT]`: as they did when seen, by their ids, or as is drawn."""
        config, ids, first = self.world.config, batch["ids"][:, now], batch["ids"][:, GAP]
        found = seen_looks(
            seen.looks, config.camera, self.world.window.tall, batch["others"][:, GAP], batch["pose"][:, GAP], drawn
        )
        same = (ids[:, :, None] == first[:, None]) & (ids[:, :, None] != NONE)
        kept = found.gather(1, same.long().argmax(2)[..., None].expand(-1, -1, found.shape[2]))
        return torch.where(same.any(2)[..., None], kept, unseen_looks(drawn))

    def score(self, first: Tensor, second: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Scores of two samples `[B, C, H, W]` beside the truth: of pictures, of coarse pictures, and of edges."""
        nearer, side = (1 - self.config.spread) / 2, self.world.config.token_pixels
        losses: dict[str, Tensor] = {}
        for name, made in (("picture", None), ("coarse", COARSER), ("edges", 0)):
            views = [each / UNIT for each in (first, second, target)]
            if made is not None:
                views = [F.avg_pool2d(each, made) if made else laplacian(each) for each in views]
            score, apart = energy_score(*(patches(each, side).flatten(2).transpose(1, 2) for each in views))
            losses[name] = score + (0 if name == "edges" else nearer) * apart
            losses.setdefault("apart", apart.detach())
        return losses

    def judge_heads(self, read: HeadOutputs, wanted: dict[str, Tensor], error: Tensor) -> Logs:
        """Losses of the heads; `error` `[B]` is that of the frame."""
        return {
            "telemetry": F.smooth_l1_loss(read.telemetry, wanted["telemetry"], beta=0.5),
            "reward": F.smooth_l1_loss(read.reward, wanted["reward"]),
            "ended": F.binary_cross_entropy_with_logits(read.ended, wanted["ended"]),
            "expected_error": F.smooth_l1_loss(read.log_error, error.clamp(min=LEAST).log()),
        }

    def total(self, losses: dict[str, list[Tensor]]) -> tuple[Tensor, Logs]:
        """The loss of all frames, and what is logged."""
        means = {name: torch.stack(each).mean() for name, each in losses.items()}
        read = "telemetry", "reward", "ended", "expected_error", "motion"
        heads = torch.stack([means[name] for name in read]).sum()
        pictures = means["picture"] + self.config.coarse * means["coarse"] + self.config.detail * means["edges"]
        return pictures + self.config.head_weight * heads, {name: value.detach() for name, value in means.items()}
