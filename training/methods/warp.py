"""The `warp` stage's method: clips go on frame by frame, and two samples are painted of each frame.

The energy score of the two (`energy_score`) is least for samples of the true law, of the picture's patches and, so that
edges and whole things count, of its Laplacian and of the picture a quarter as large. Pictures, not edges, are kept
nearer to the likeliest one than that (`spread`), for a sample is wrong by twice as much. First the likeliest frame is
learned alone, without noise; later clips go on with their own frames. Ego-motion is given, as a dream gives it to
itself (`drivedit.training.ego`): so the true frame stays one that may follow.

Legend: B clips, T frames, C H W the picture, M h w the memory, K numbers of a code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivedit.config import WarpStageConfig
from drivedit.models import WarpWorld
from drivedit.models.conditions.layout import TOLD
from drivedit.models.layers.heads import HeadOutputs
from drivedit.models.warp.networks import Painted
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.energy import energy_score
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.training.optimizers import is_matrix
from drivedit.utils import generator, laplacian

COARSER = 4  # pixels along a side, that a coarse picture has one for
UNIT = 0.1  # of pictures in [-1, 1]: the unit of the loss
LEAST = 1e-6  # error whose logarithm is learned


class WarpMethod(Method):
    """Trains a `WarpWorld`.

    Args:
        world: The world.
        config: The loss.
    """

    hot = ("world.painter.forward",)

    def __init__(self, world: WarpWorld, config: WarpStageConfig) -> None:
        super().__init__()
        self.world, self.config = world, config
        world.ego.requires_grad_(False)  # it was learned before

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch of `drivedit.training.latents.Clips` whose latents are the pictures."""
        world, config = self.world, self.config
        rngs = Rngs(rng, batch["latents"].device, generator(0, "alike", progress.step))
        rows = len(batch["latents"])
        mean = progress.share < config.mean_until
        ramp = min(1.0, max(0.0, (progress.share - config.own_from) / max(1e-6, 1 - config.own_from)) * 2)
        posed = rngs.uniform(rows, 1) >= config.drop_motion
        hides = (rngs.uniform(rows) < config.hide * ramp) & posed[:, 0]
        own = ((rngs.uniform(rows) < config.own_share * ramp) & posed[:, 0]) | hides
        most = batch["control"].shape[1] - config.clip_frames
        lead = min(rngs.shared_lead(round(ramp * config.lead)), most)
        begin = (most - lead) * rngs.shared_integer(2)  # the last frames of a clip are scored as often as the first
        batch = {name: value[:, begin:] for name, value in batch.items()}
        frames = (batch["latents"] / 127.5 - 1).permute(0, 1, 4, 2, 3)
        code = self.told(batch["route"], rngs)
        pair = frames[:, :2]
        pair = torch.where(hides[:, None, None, None, None], self.hidden(pair, code[:, 0], rngs), pair)
        memory = frames.new_zeros(rows, *world.memory_shape())
        motion = batch["control"][:, 0, -3:] * posed
        losses: dict[str, list[Tensor]] = {}
        for now in range(lead + config.clip_frames):
            scored = now >= lead
            with torch.set_grad_enabled(scored and torch.is_grad_enabled()):
                driven = torch.cat([batch["control"][:, now, :-3], motion], 1)
                wanted = {name: batch[name][:, now] for name in ("motion", "telemetry", "reward", "ended")}
                foretold = world.foretold(driven[:, : len(world.spec.controls)], motion)
                gone = torch.where(posed, wanted["motion"], foretold)
                scale = 0.0 if mean else 1.0 if scored else world.config.temperature
                given = pair, memory, driven, code[:, now], gone
                painted, copy = self.samples(given, scale, 1 if mean or not scored else 2, rngs)
            target = frames[:, now + 2]
            if scored:
                self.note(losses, painted, copy, target, wanted, posed)
            seen = torch.where(own[:, None, None, None], painted.frame.detach().clamp(-1, 1), target)
            pair, memory = torch.stack([pair[:, 1], seen], 1), painted.memory
            motion = torch.where(posed, wanted["motion"], painted.read.motion.detach())
        return self.total(losses)

    def hidden(self, pair: Tensor, code: Tensor, rngs: Rngs) -> Tensor:
        """Frames `[B, 2, C, H, W]` in which other parts of the picture hide those whom the code `[B, K]` tells of.

        Who is told of and was not there has to be painted; in recordings alone nobody ever appears.
        """
        world, side = self.world, self.world.config.token_pixels
        if not world.config.others or not code.shape[1]:
            return pair
        shown = world.parts(code)[1][:, world.config.map_cells**2 :: TOLD].amax(1, keepdim=True)
        there = F.max_pool2d((shown > 0).float(), 3, 1, 1)  # they have moved by a cell at most
        there = there.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, None] > 0
        columns = world.config.cells[1]
        for way in (-1, 1, -2, 2):
            shift = way * side * (columns // 8 + rngs.shared_integer(max(1, columns // 4)))
            fits = there & ~there.roll(shift, -1)
            pair, there = torch.where(fits, pair.roll(shift, -1), pair), there & ~fits
        return pair

    def note(
        self, losses: dict[str, list[Tensor]], painted: Painted, copy: Tensor, target: Tensor,
        wanted: dict[str, Tensor], posed: Tensor,
    ) -> None:  # fmt: skip
        """Adds the losses of a frame to those before it; pictures count where the ego-motion is known, `[B, 1]`."""
        error = (painted.frame.detach() - target).square().mean((1, 2, 3))
        kept = posed[..., None, None]
        first, second = (torch.where(kept, each, target) for each in (painted.frame, copy))
        found = self.score(first, second, target) | self.judge_heads(painted.read, wanted, error)
        for name, loss in found.items():
            losses.setdefault(name, []).append(loss)

    def matrices(self) -> list[nn.Parameter]:
        """The matrices of the painter, which Muon trains."""
        return [p for p in self.world.painter.parameters() if is_matrix(p)]

    def told(self, code: Tensor, rngs: Rngs) -> Tensor:
        """Of the codes `[B, T, K]` the route is dropped from some clips, and others on the road from some."""
        routed = (rngs.uniform(len(code), 1, 1) >= self.config.drop_route).to(code)
        if not self.world.config.others or not code.shape[-1]:
            return code * routed
        peopled = (rngs.uniform(len(code), 1, 1) >= self.config.drop_layout).to(code)
        return code * torch.lerp(routed, peopled, self.of_others.to(code))

    @property
    def of_others(self) -> Tensor:
        """Which numbers of the code tell of others: `[K]`."""
        config, cells = self.world.config, self.world.config.map_cells**2
        place = torch.zeros(config.place_width)
        place[-1] = 1
        maps = torch.cat([torch.zeros(cells), torch.ones(3 * cells)]).repeat(config.map_tokens)
        return torch.cat([place, maps])

    def samples(
        self, given: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], scale: float, copies: int, rngs: Rngs
    ) -> tuple[Painted, Tensor]:
        """Paints frames, and of each another sample where there are two.

        Args:
            given: The last two frames, memory, what is told of the driving, code, and ego-motion.
            scale: Of the noise.
            copies: Samples, 1 or 2.
            rngs: Of the noise.
        """
        world, rows = self.world, len(given[0])
        sight = world.sight(given[0], given[2], given[4]).repeated(copies)
        frames, memory, driven, code, motion = (each.repeat(copies, *[1] * (each.ndim - 1)) for each in given)
        noise = rngs.normal(copies * rows, 1, *world.config.image_size) * scale
        painted = world.paint(frames, sight, memory, driven, code, motion, noise)
        read = HeadOutputs(*(value[:rows] for value in vars(painted.read).values()))
        return Painted(painted.frame[:rows], painted.memory[:rows], read), painted.frame[-rows:]

    def score(self, first: Tensor, second: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Scores of two samples `[B, C, H, W]` beside the truth: of pictures, of coarse pictures, and of edges."""
        nearer = (1 - self.config.spread) / 2
        picture, apart = energy_score(*(self.patches(each / UNIT) for each in (first, second, target)))
        losses = {"picture": picture + nearer * apart, "apart": apart.detach()}
        if self.config.coarse:
            pooled = (self.patches(F.avg_pool2d(each / UNIT, COARSER)) for each in (first, second, target))
            coarse, apart = energy_score(*pooled)
            losses["coarse"] = coarse + nearer * apart
        if self.config.detail:
            found = (self.patches(laplacian(each / UNIT)) for each in (first, second, target))
            losses["edges"] = energy_score(*found)[0]
        return losses

    def patches(self, pictures: Tensor) -> Tensor:
        """Patches of pictures `[B, C, H, W]` as vectors: `[B, P, D]`."""
        side = self.world.config.token_pixels
        return rearrange(pictures, "b c (h r) (w s) -> b (h w) (c r s)", r=side, s=side)

    def judge_heads(self, read: HeadOutputs, wanted: dict[str, Tensor], error: Tensor) -> Logs:
        """Losses of the ego-motion that is seen, and of the heads; `error` `[B]` is that of the frame."""
        return {
            "seen": F.smooth_l1_loss(read.motion, wanted["motion"], beta=0.1),
            "telemetry": F.smooth_l1_loss(read.telemetry, wanted["telemetry"], beta=0.5),
            "reward": F.smooth_l1_loss(read.reward, wanted["reward"]),
            "ended": F.binary_cross_entropy_with_logits(read.ended, wanted["ended"]),
            "expected_error": F.smooth_l1_loss(read.log_error, error.clamp(min=LEAST).log()),
        }

    def total(self, losses: dict[str, list[Tensor]]) -> tuple[Tensor, Logs]:
        """The loss of all frames, and what is logged."""
        means = {name: torch.stack(each).mean() for name, each in losses.items()}
        names = "seen", "telemetry", "reward", "ended", "expected_error"
        heads, loss = torch.stack([means[name] for name in names]).sum(), means["picture"]
        for name, weight in (("coarse", self.config.coarse), ("edges", self.config.detail)):
            loss = loss + (weight * means[name] if weight else 0)
        return loss + self.config.head_weight * heads, {name: value.detach() for name, value in means.items()}
