"""The `bev` stage's first method: ground is surveyed, and pictures are rendered of what latents tell of it.

What a survey knows is no guess, so pictures are compared with the recorded ones themselves: their patches, those of the
picture a quarter as large, and their edges. A critic sees to it that what is too fine to be kept looks like recorded
pictures (`drivedit.training.methods.critic`). The car goes where it went, and others are where they were.

Legend: B clips, n states of a clip, C H W the picture, A others, L how they look.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import BevStageConfig
from drivedit.config.bev import GAP
from drivedit.models import BevWorld
from drivedit.models.bev.networks import Seen, patches
from drivedit.models.bev.others import TOLD, seen_looks, unseen_looks
from drivedit.models.bev.parts import Scenery, shown
from drivedit.models.layers.heads import HeadOutputs
from drivedit.training.bev_clips import NONE
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.critic import FrameCritic, contest
from drivedit.training.methods.method import Logs, Method, ParameterGroup, Progress, untouched
from drivedit.training.methods.survey import Survey, Surveyor, shown_frames, survey
from drivedit.training.optimizers import is_matrix
from drivedit.utils import Route, generator, laplacian

COARSER = 4  # pixels along a side, that a coarse picture has one for
UNIT = 0.1  # of pictures in [-1, 1]: the unit of the loss
ROUGH = 0.1  # noise of latents that pictures are rendered of, for dreamed ones are never quite right
CHECKED = 10  # frames from the window's place to the one that is checked
OFTEN = 3  # times, of which the window of a start is surveyed once
AHEAD = 40  # frames from the window's place, up to which they are looked at and rendered
LEAST = 1e-6  # error whose logarithm is learned, and the smallest distance that has a gradient


class BevMethod(Method):
    """Trains a `BevWorld` but for what dreams new ground.

    Args:
        world: The world.
        config: The loss.
    """

    hot = ("world.renderer.forward", "world.renderer.refined", "world.looker.forward", "world.drawer.forward",
           "surveyor.forward")  # fmt: skip

    def __init__(self, world: BevWorld, config: BevStageConfig) -> None:
        super().__init__()
        self.world, self.config = world, config
        for part in (world.ego, world.filler):  # one was learned before, the other will be
            part.requires_grad_(False)
        self.surveyor = Surveyor(world.config)
        self.critic = FrameCritic(world.config.channels, TOLD + world.config.looks)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # an eighth faster on a CPU

    def groups(self, step: int) -> list[ParameterGroup]:
        """The world with its surveyor, and its critic, which has a rate of its own."""
        critic = self.group("critic", self.critic.parameters(), lr=self.config.critic_lr)
        weights = [*self.world.parameters(), *self.surveyor.parameters()]
        return [self.group("world", weights, self.matrices()), critic]

    def matrices(self) -> list[nn.Parameter]:
        """The matrices of looker, surveyor, drawer and renderer, which Muon trains."""
        parts = self.world.looker, self.surveyor, self.world.drawer, self.world.renderer
        return [p for part in parts for p in part.parameters() if is_matrix(p)]

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch of `drivedit.training.bev_clips.BevClips`."""
        world, config = self.world, self.config
        rngs = Rngs(rng, batch["pose"].device, generator(0, "alike", progress.step))
        now = present(rngs, config)
        scenery, found = self.surveyed(batch, now, spread(rngs, now, self.last(now), config.views), rngs)
        seen = found.seen
        off = F.smooth_l1_loss(seen.motion, batch["motion"][:, GAP], beta=0.1)
        losses: dict[str, list[Tensor]] = {"motion": [off], "road": [self.painted(scenery.ground, found)]}
        looks = rngs.normal(*batch["ids"][:, 0].shape, world.config.looks)
        pictures: list[tuple[Tensor, ...]] = []
        for then in self.rendered(rngs, now):
            others = batch["others"][:, then], self.looks(seen, batch, then, looks)
            picture, read = world.render(
                scenery, batch["pose"][:, then], others, batch["control"][:, then], batch["motion"][:, then]
            )
            target = shown_frames(batch, [then])[:, 0]
            error = (picture.detach() - target).square().mean((1, 2, 3))
            wanted = {name: batch[name][:, then] for name in ("telemetry", "reward", "ended")}
            for name, loss in (self.compared(picture, target) | self.judge_heads(read, wanted, error)).items():
                losses.setdefault(name, []).append(loss)
            pictures.append((picture, target, scenery.key[:, :-1], world.told(others, batch["pose"][:, then])))
        loss, logs = self.total(losses)
        if not config.adversarial or progress.share < config.adversarial_from:
            return loss + untouched(self.critic.parameters()), logs
        dreamed, true, begun, maps = (torch.cat(each) for each in zip(*pictures, strict=True))
        jolt = rngs.normal(2 * len(dreamed), *dreamed.shape[1:])
        judged, fooling = contest(self.critic, dreamed, true, (begun, maps), jolt)
        told = {"critic": judged.detach(), "fooling": fooling.detach()}
        return loss + judged + config.adversarial * fooling, logs | told

    def surveyed(self, batch: dict[str, Any], now: int, moments: list[int], rngs: Rngs) -> tuple[Scenery, Survey]:
        """The scenery of clips in the windows of a state, and the survey that it was drawn of."""
        world, found = self.world, survey(self.world, self.surveyor, batch, moments, now)
        road = world.window.road(told_routes(batch, rngs, self.config), batch["arc"][:, now], batch["pose"][:, now])
        latents = found.latents + ROUGH * rngs.normal(*found.latents.shape)
        begun = batch["pose"][:, GAP]
        key = world.keyed(shown_frames(batch, [GAP])[:, 0], batch["others"][:, GAP], begun)
        code = found.seen.code
        return Scenery(world.drawer(latents, road, code), batch["pose"][:, now], code, key, begun), found

    def shown_of(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Of clips a picture some frames on, as recorded and as rendered: uint8 `[B, H, W, C]`."""
        most, rng = self.config.horizon, generator(0, "shown")
        now, rngs = GAP + most // 2, Rngs(rng, self.world.device, rng)
        then = min(now + CHECKED, self.last(now))
        scenery, known = self.surveyed(batch, now, spread(rngs, now, self.last(now), self.config.views), rngs)
        drawn = rngs.normal(*batch["ids"][:, 0].shape, self.world.config.looks)
        others = batch["others"][:, then], self.looks(known.seen, batch, then, drawn)
        found, _ = self.world.render(
            scenery, batch["pose"][:, then], others, batch["control"][:, then], batch["motion"][:, then]
        )
        return batch["frames"][:, then], shown(found)

    def rendered(self, rngs: Rngs, now: int) -> list[int]:
        """Which states of the clips are rendered, alike in all processes, in order; early ones more often."""
        return sorted(now + rngs.shared_lead(self.last(now) - now) for _ in range(self.config.rendered))

    def last(self, now: int) -> int:
        """The last state of a clip that is rendered of the window of a state."""
        return min(now + AHEAD, GAP + self.config.horizon)

    def looks(self, seen: Seen, batch: dict[str, Any], now: int, drawn: Tensor) -> Tensor:
        """How others of a state look `[B, A, L + SEEN_AT]`: as they did when seen, by their ids, or as is drawn."""
        config, ids, first = self.world.config, batch["ids"][:, now], batch["ids"][:, GAP]
        found = seen_looks(
            seen.looks, config.camera, self.world.window.tall, batch["others"][:, GAP], batch["pose"][:, GAP], drawn
        )
        same = (ids[:, :, None] == first[:, None]) & (ids[:, :, None] != NONE)
        kept = found.gather(1, same.long().argmax(2)[..., None].expand(-1, -1, found.shape[2]))
        return torch.where(same.any(2)[..., None], kept, unseen_looks(drawn))

    def compared(self, found: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Distances of pictures `[B, C, H, W]` from the true ones: of patches, of coarse ones, and of edges."""
        side, losses = self.world.config.token_pixels, {}
        for name, made in (("picture", None), ("coarse", COARSER), ("edges", 0)):
            views = [each / UNIT for each in (found, target)]
            if made is not None:
                views = [F.avg_pool2d(each, made) if made else laplacian(each) for each in views]
            losses[name] = (patches(views[0] - views[1], side).square().mean(1) + LEAST).sqrt().mean()
        return losses

    def painted(self, ground: Tensor, found: Survey) -> Tensor:
        """Distance of the colours that the ground's texture begins with from those of level ground near at hand.

        It is a short way to latents that tell something: by pictures alone they are found in some hundred steps.
        """
        wrong = (self.world.renderer.parts(ground)[:, : found.colours.shape[1]] - found.colours).abs().mean(1, True)
        return (wrong * found.level).sum() / found.level.sum().clamp(min=1) / UNIT

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
        pictures = (
            means["picture"]
            + self.config.coarse * means["coarse"]
            + self.config.detail * means["edges"]
            + means["road"]
        )
        return pictures + self.config.head_weight * heads, {name: value.detach() for name, value in means.items()}


def present(rngs: Rngs, config: BevStageConfig) -> int:
    """The state whose window is surveyed: now and then the one that is started from, or any of the first half."""
    later = rngs.shared_integer(max(config.horizon // 2, 1)) + 1
    return GAP + (later if rngs.shared_integer(OFTEN) else 0)


def spread(rngs: Rngs, first: int, last: int, count: int) -> list[int]:
    """States from a first to a last one, somewhere in each of so many equal parts, alike in all processes."""
    places = [(n + float(torch.rand((), generator=rngs.shared))) / count for n in range(count)]
    return [first + round(place * (last - first)) for place in places]


def told_routes(batch: dict[str, Any], rngs: Rngs, config: BevStageConfig) -> Route:
    """The routes of clips; some are told none."""
    route = Route(*(batch[name] for name in Route.__dataclass_fields__))
    kept = rngs.uniform(len(route.count)) >= config.drop_route
    return Route(route.points, route.count * kept, route.spacing, route.closed, route.bounds)
