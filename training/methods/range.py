"""The `range` stage's method: clips of scans are filtered frame by frame, and two scans are painted of each frame.

The energy score of the two (`energy_score`), each of which has a path of the motion and a noise of its own, is least
for samples of the true law, so it pays neither to blur nor to let the noise of the motion collapse. First the likeliest
scan is learned alone, without noise; later clips go on with their own scans. Ego-motion is given, as a dream gives it
to itself (`drivedit.training.ego`): so the true scan stays one that may follow.

Legend: B clips, n intervals, H W rows and columns of a scan, D numbers of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from drivedit.config import RangeStageConfig
from drivedit.models import RangeWorld
from drivedit.models.sde.painter import hardened
from drivedit.models.sde.range_networks import RangeReadings
from drivedit.models.sde.ranges import encode_range
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.energy import energy_score
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.utils import generator

DEPTH = 0.05  # of what networks see of distances: the unit of the loss, about 1.2 m at 10 m
MASK = 0.1  # weight of the mask's score beside that of the distances: which beam is lost is mostly chance
UNPOSED = 0.3  # share of clips that are not told their ego-motion and have to see it
LEAST = 1e-6  # error whose logarithm is learned


@dataclass
class Filtered:
    """Where clips are.

    Attributes:
        motion: `[B, M, h, w]`.
        scans: `[B, 2, 2, H, W]` the last two that were seen.
        rates: `[B, 3]` ego-motion of a unit of time.
        clock: float64 `[B]`.
        losses: Of the frames so far, by name.
    """

    motion: Tensor
    scans: Tensor
    rates: Tensor
    clock: Tensor
    losses: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, **losses: Tensor) -> None:
        """Notes losses of a frame."""
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)


class RangeMethod(Method):
    """Trains a `RangeWorld`.

    Args:
        world: The world.
        config: The loss.
    """

    hot = (
        "world.painter.forward", "world.motion.diff_unet.f.forward", "world.motion.diff_unet.g.forward",
        "world.motion.motion_encoder.forward", "world.motion.gru.forward",
    )  # fmt: skip

    def __init__(self, world: RangeWorld, config: RangeStageConfig) -> None:
        super().__init__()
        self.world, self.config = world, config
        world.ego.requires_grad_(False)  # it was learned before

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The loss of a batch of `drivedit.training.range_clips.RangeClips`."""
        world, config = self.world, self.config
        rngs = Rngs(rng, batch["scans"].device, generator(0, "alike", progress.step))
        mean = progress.share < config.mean_until
        ramp = max(0.0, (progress.share - config.own_from) / max(1e-6, 1 - config.own_from))
        lead = rngs.shared_lead(round(ramp * config.lead))
        batch = {name: value[:, config.lead - lead :] for name, value in batch.items()}
        scans = encode_range(batch["scans"], world.config.reach)
        rows, states = scans.shape[:2]
        posed = (batch["known"] & (rngs.uniform(rows, 1) >= UNPOSED))[..., None]
        own = (rngs.uniform(rows) < config.own_share * ramp) & posed[:, 1:, 0].all(1)
        first = config.context + (rngs.uniform(rows) * (states - config.context)).long()  # own scans from here on
        first = torch.where(own, first, states)
        route = batch["route"] * (rngs.uniform(rows, 1, 1) >= config.drop_route)
        unit = torch.ones(rows, device=scans.device)
        now = Filtered(
            world.absorbed(scans.new_zeros(rows, *world.motion_shape()), scans[:, 0], scans[:, 0], unit),
            scans[:, :1].repeat(1, 2, 1, 1, 1), batch["rates"][:, 0] * posed[:, 0],
            torch.zeros(rows, dtype=torch.float64),
        )  # fmt: skip
        for index in range(1, states):
            dt = batch["dt"][:, index - 1]
            control = batch["controls"][:, index - 1]
            told = world.told(control, now.rates, route[:, index - 1])
            gone = torch.where(posed[:, index], batch["rates"][:, index], world.ego(control, now.rates, dt))
            wanted = {name: batch[name][:, index] for name in ("rates", "known", "telemetry")}
            wanted |= {name: batch[name][:, index - 1] for name in ("rewards", "ended")}
            with torch.set_grad_enabled(index > lead and torch.is_grad_enabled()):
                scored = index >= config.context + lead
                scale = 0.0 if mean else 1.0 if scored else world.config.temperature
                how = scored, index >= config.context, scale
                read, own_scan = self.frame(now, scans[:, index], dt, (told, gone), wanted, how, rngs)
                now.clock = now.clock + dt.double().cpu()
                dreamed = index >= first
                seen = torch.where(dreamed[:, None, None, None], own_scan, scans[:, index])
                now.scans = torch.stack([now.scans[:, -1], seen], 1)
                now.motion = world.absorbed(read[0], seen, read[1], dt)
                readings = world.read(now.motion, read[2], gone)
            if index > lead:
                self.judge_heads(now, readings, wanted, scored)
            now.rates = torch.where(posed[:, index], gone, readings.rates.detach())
        return self.total(now, told)

    def frame(
        self, now: Filtered, scan: Tensor, dt: Tensor, given: tuple[Tensor, Tensor], wanted: dict[str, Tensor],
        how: tuple[bool, bool, float], rngs: Rngs,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:  # fmt: skip
        """Moves clips on by an interval and paints their frames, unless it is only looked at; notes the losses.

        Args:
            now: Where they are; its motion stays.
            scan: The true frame `[B, 2, H, W]`.
            dt: `[B]`.
            given: What is told `[B, ...]`, and the ego-motion of a unit of time `[B, 3]`.
            wanted: What is true of the frame.
            how: Whether it is scored, whether it is painted, and the scale of the noise.
            rngs: Of the noise.

        Returns:
            Motion state, moved scan and code, of the first sample; and that, as a sensor gives it.
        """
        world, rows = self.world, len(scan)
        scored, painted, scale = how
        copies = 2 if scored and scale else 1
        many = [each.repeat(copies, *[1] * (each.ndim - 1)) for each in (now.motion, now.scans, dt, *given)]
        motion, scans, times, told, rates = many
        motion = world.carried(motion, now.clock.repeat(copies), times, rngs.own, told)
        code = world.encoded(told, times)
        with torch.no_grad():
            moved = world.beams.moved(scans[:, -1], world.gone(rates, times))
        if not painted:
            return (motion, moved, code), scan
        drawn = rngs.normal(*moved.shape) * scale
        found = world.painter(scans, moved, world.beams.ground, motion, code, drawn)
        if scored:
            far, wanted["error"] = self.score(found.unflatten(0, (copies, rows)), scan)
            now.add(**far)
        own = hardened(found[:rows].detach(), scans[:rows, -1], moved[:rows], world.beams.ground)
        return (motion[:rows], moved[:rows], code[:rows]), own

    def score(self, found: Tensor, scan: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Scores of samples `[1 or 2, B, 2, H, W]` beside the truth `[B, 2, H, W]`, and errors `[B]` of the first one.

        Distances count where something came back in truth.
        """
        there = (scan[:, 1] > 0).to(scan)
        depths, masks = (self.patches(each) for each in (found[:, :, 0] * there / DEPTH, found[:, :, 1]))
        depth, mask = (self.patches(each) for each in (scan[:, 0] * there / DEPTH, scan[:, 1]))
        energy, apart = energy_score(depths[0], depths[-1], depth)
        kept, _ = energy_score(masks[0], masks[-1], mask)
        off = ((depths[0] - depth).abs().sum((1, 2)) / there.sum((1, 2)).clamp(min=1)).detach()
        losses = {"depth": energy, "mask": kept, "apart": apart.detach(), "off": off.mean()}
        return losses, off

    def patches(self, x: Tensor) -> Tensor:
        """Cells `[..., H, W]` by patches, `[..., P, D]`."""
        rows, columns = self.world.painter.patch
        return rearrange(x, "... (h r) (w s) -> ... (h w) (r s)", r=rows, s=columns)

    def judge_heads(self, now: Filtered, read: RangeReadings, wanted: dict[str, Tensor], painted: bool) -> None:
        """Notes the losses of what the heads read; ego-motion that is not known is not judged."""
        off = F.smooth_l1_loss(read.rates, wanted["rates"], reduction="none", beta=0.1).mean(1)
        now.add(
            seen=(off * wanted["known"]).mean(),
            telemetry=F.smooth_l1_loss(read.telemetry, wanted["telemetry"], beta=0.5),
            reward=F.smooth_l1_loss(read.reward, wanted["rewards"]),
            ended=F.binary_cross_entropy_with_logits(read.ended, wanted["ended"].float()),
        )
        if painted:
            now.add(expected_error=F.smooth_l1_loss(read.log_error, wanted["error"].clamp(min=LEAST).log()))

    def total(self, now: Filtered, told: Tensor) -> tuple[Tensor, Logs]:
        """The loss of all frames, and what is logged."""
        means = {name: torch.stack(losses).mean() for name, losses in now.losses.items()}
        heads = torch.stack([means[name] for name in ("telemetry", "reward", "ended", "expected_error")]).sum()
        loss = means["depth"] + MASK * means["mask"] + self.config.motion_weight * means["seen"]
        with torch.no_grad():
            spread = self.world.diffusion(now.motion, told)
        logs = {name: value.detach() for name, value in means.items()}
        return loss + self.config.head_weight * heads, {**logs, "noise": spread}
