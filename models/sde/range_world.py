"""A world of LiDAR scans in continuous time: a motion field is moved by an SDE, and a scan is painted at any time.

After STDiff (Ye and Bilodeau 2024, arXiv 2312.06486), told controls, in metres, and filtering after every scan: the
state has a constant size, however long the dream lasts. The last scan, moved by the ego-motion that the network itself
predicts, is what the painter starts from, so that motion, scan and pose cannot drift apart.

Legend: B worlds, H W rows and columns of a scan, M h w the motion state.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from drivedit.config import Modality, RangeWorldConfig
from drivedit.config.range import FREE_DISTANCE, TIME_TO_COLLISION
from drivedit.models.road import RoadWorld
from drivedit.models.sde.beams import time_to_collision
from drivedit.models.sde.filtering import STREAM
from drivedit.models.sde.painter import hardened
from drivedit.models.sde.range_entering import enter_row
from drivedit.models.sde.range_networks import RangeNetworks, RangeReadings
from drivedit.models.sde.range_state import RangeState
from drivedit.models.sde.ranges import decode_range, encode_range
from drivedit.models.world import Sampling, Scenes, StepOutput
from drivedit.utils import advance_pose, noise, truncate
from drivedit.utils.route import CAPACITY

LATENT = "latent"  # a scan as networks see it


class RangeWorld(RangeNetworks, RoadWorld[RangeState]):
    """A world of range images.

    Args:
        config: Configuration of the networks, the range image and the heads.
        scenes: Start scenes by index (see `drivedit.models.Scene`).
        card: Text of the world's CARD.md.

    Raises:
        ValueError: A scene does not fit, or the spec shows no range image.
    """

    kind = "sde"
    config_type = RangeWorldConfig
    State: ClassVar[type[RangeState]] = RangeState
    passes = 1

    def __init__(self, config: RangeWorldConfig, scenes: Scenes = (), card: str = "") -> None:
        super().__init__(config)
        self.card = card
        self.scenes = [self.check_scene(scene) for scene in scenes]

    def check_state(self, state: RangeState) -> None:
        """Checks that a state could be one of this world; see `World.check_state`."""
        state.check_layout(self.state_layout(), self.device)
        state.check_values()

    def state_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of what each field of a state holds for one world."""
        shapes = {
            "motion": self.motion_shape(), "scans": (2, 2, *self.config.size), "clock": (), "painted": (), "seeds": (),
            "rates": (3,), "pose": (3,), "arc": (), "points": (CAPACITY, 2), "count": (), "spacing": (), "closed": (),
            "bounds": (4,),
        }  # fmt: skip
        types = dict.fromkeys(("painted", "seeds", "count"), torch.long)
        types |= {"clock": torch.float64, "closed": torch.bool}
        return {name: (types.get(name, torch.float32), shape) for name, shape in shapes.items()}

    # -- scans -----------------------------------------------------------------------------------------------------

    def modality(self, kind: str) -> Modality:
        """Shape, type and range of the range image, or of `latent`."""
        if kind == LATENT:
            return Modality((2, *self.config.size), "float32", -1.0, 1.0)
        if kind not in self.config.spec.observations:
            raise ValueError(f"this world shows {[*self.config.spec.observations, LATENT]}, got {kind!r}")
        return self.config.spec.observations[kind]

    @torch.no_grad()
    def observe(self, state: RangeState, kinds: Sequence[str]) -> dict[str, Tensor]:
        """The range image by its name, float32 `[B, H, W, 2]`, or `latent` `[B, 2, H, W]`, as networks see it."""
        latents, seen = state.scans[:, -1], {}
        for kind in kinds:
            if kind != LATENT:
                self.modality(kind)  # or there is no such kind
            seen[kind] = latents if kind == LATENT else decode_range(latents, self.config.reach)
        return seen

    @torch.no_grad()
    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Latents `[B, T, 2, H, W]` of range images `[B, T, H, W, 2]`."""
        return encode_range(torch.as_tensor(frames).to(self.device).float(), self.config.reach)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Range images float32 `[B, H, W, 2]` of latents `[B, 2, H, W]`."""
        return decode_range(latents, self.config.reach).cpu().numpy()

    def embed(self, observations: np.ndarray) -> Tensor:
        """Latents `[B, 2, H, W]` of range images float32 `[B, H, W, 2]`; see `World.embed`."""
        wanted = self.modality(self.spec.picture)
        if observations.dtype != wanted.dtype or observations.shape[1:] != wanted.shape:
            expected = f"float32 [B, {', '.join(map(str, wanted.shape))}]"
            raise ValueError(
                f"this world encodes range images {expected}, got {observations.dtype} {list(observations.shape)}"
            )
        return self.encode(observations)

    # -- dreaming --------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def enter(self, scenes: Scenes, seeds: Sequence[int]) -> tuple[RangeState, StepOutput]:
        """Starts one world per scene; see `World.enter`. Poses that jump are refused."""
        if len(scenes) != len(seeds) or not scenes:
            raise ValueError(f"one seed per scene is needed and at least one, got {len(scenes)} and {len(seeds)}")
        checked = [self.check_scene(scene) for scene in scenes]
        states, outs = [], []
        for scene, seed in zip(checked, seeds, strict=True):
            state, readings = enter_row(self, scene, int(seed))
            unit = torch.ones(1, device=self.device)
            states.append(state)
            outs.append(self.output(readings, state.scans, self.gone(state.rates, unit), unit))
        return RangeState.cat(states), StepOutput.cat(outs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(
        self, state: RangeState, controls: Tensor, dt: Tensor | None = None, *, sampling: Sampling | None = None
    ) -> tuple[RangeState, StepOutput]:
        """Dreams one scan of every world; see `World.step`.

        Args:
            state: States of B worlds.
            controls: `[B, A]`, held meanwhile.
            dt: Seconds until the scan, one number or `[B]`; None: the spec's. Beyond the trained intervals there is a
                warning.
            sampling: Its temperature and `top_p`.

        Raises:
            ValueError: No time passes, or several passes, or guidance, are wanted.
        """
        sampling, units = sampling or Sampling(), self.check_dt(dt, len(state))
        self.check_guidance(sampling.guidance)
        self.check_passes(sampling.passes)
        scale = self.config.temperature if sampling.temperature is None else sampling.temperature
        drawn = noise(state.seeds.tolist(), STREAM, state.painted.tolist(), (2, *self.config.size))
        drawn = scale * truncate(drawn, sampling.top_p).to(state.scans)
        if self.device.type != "cpu" or len(state) == 1:
            return self.dream(state, controls, units, drawn)
        # one by one: a cell that a point falls in depends on the last bit, which a product of a batch may change
        rows = [
            self.dream(state.select([row]), controls[row : row + 1], units[row : row + 1], drawn[row : row + 1])
            for row in range(len(state))
        ]
        states, outs = zip(*rows, strict=True)
        return RangeState.cat(states), StepOutput.cat(outs)

    def dream(self, state: RangeState, controls: Tensor, units: Tensor, drawn: Tensor) -> tuple[RangeState, StepOutput]:
        """`step` by intervals `[B]` in units of time, from the noise `[B, 2, H, W]` on."""
        near = self.route_code(state.route, state.pose, state.arc, self.gone(state.rates, units))
        told = self.told(controls.to(state.rates), state.rates, near)
        motion = self.carried(state.motion, state.clock, units, state.seeds.tolist(), told)
        code = self.encoded(told, units)
        rates = self.ego(controls.to(state.rates), state.rates, units)
        gone = self.gone(rates, units)
        moved = self.beams.moved(state.scans[:, -1], gone)
        painted = self.painter(state.scans, moved, self.beams.ground, motion, code, drawn)
        scan = hardened(painted, state.scans[:, -1], moved, self.beams.ground)
        motion = self.absorbed(motion, scan, moved, units)
        pose = advance_pose(state.pose, gone)
        state = replace(
            state, motion=motion, scans=torch.stack([state.scans[:, -1], scan], 1), clock=state.clock + units,
            painted=state.painted + 1, rates=rates, pose=pose, arc=state.route.foot(pose[:, :2], state.arc),
        )  # fmt: skip
        return state, self.output(self.read(motion, code, rates), state.scans, gone, units)

    def check_passes(self, passes: int | None) -> int:
        """One pass: the painter has learned no other; see `World.check_passes`."""
        if passes not in (None, self.passes):
            raise ValueError(f"this world paints a scan in {self.passes} pass, got sampling_steps {passes}")
        return self.passes

    def check_dt(self, dt: Tensor | float | None, rows: int) -> Tensor:
        """Intervals float64 `[B]` in units of the spec's `dt`, of seconds.

        Raises:
            ValueError: They are not above 0 and finite, or not one for all or one for each row.
        """
        if dt is None:
            return torch.ones(rows, dtype=torch.float64, device=self.device)
        seconds = torch.as_tensor(dt, dtype=torch.float64, device=self.device)
        if seconds.shape not in ((), (rows,)) or not bool((seconds.isfinite() & (seconds > 0)).all()):
            raise ValueError(f"dt must be seconds above 0 and finite, one number or [{rows}], got {seconds.tolist()}")
        least, most = self.config.seconds
        if bool((seconds < least * 0.999).any() or (seconds > most * 1.001).any()):
            warnings.warn(
                f"a step of {seconds.flatten().tolist()} s lies beyond the intervals of {least:g} to {most:g} s that "
                "this world was trained on: it is as good there as its evaluation says", stacklevel=3,
            )  # fmt: skip
        return (seconds / self.spec.dt).expand(rows)

    def seconds(self, state: RangeState, steps: np.ndarray) -> np.ndarray:
        """The clocks in seconds; see `World.seconds`."""
        return state.clock.cpu().numpy() * self.spec.dt

    def output(self, readings: RangeReadings, scans: Tensor, gone: Tensor, dt: Tensor) -> StepOutput:
        """What is told, of the raw readings, the last two scans, and the ego-motion of an interval `[B]` in units."""
        spec, dt = self.config.spec, dt.to(gone)
        probability = readings.ended.double().sigmoid().float()  # in float32 equal rows may differ in the last bit
        ended = probability > self.config.end_threshold
        read = (readings.telemetry * self.telemetry_scale).unbind(1)
        told = dict(zip(self.config.learned_telemetry(), read, strict=False))  # without any, one is unused
        before, now = (self.beams.free_distance(scan) for scan in scans.unbind(1))
        told[FREE_DISTANCE] = now
        told[TIME_TO_COLLISION] = time_to_collision(before, now, gone[:, 0], dt * spec.dt)
        learned = dict(zip(spec.learned(), readings.reward.unbind(1), strict=False))
        terms = {}
        for name, term in spec.rewards.items():
            if term.kind == "on_end":
                terms[name] = term.value * ended.float()
            else:
                rate = torch.ones_like(dt) if term.kind == "constant" else {**told, **learned}[name]
                terms[name] = term.value * rate * dt
        low, high = self.error_range
        confidence = 1 - ((readings.log_error - low) / (high - low)).clamp(0, 1)
        return StepOutput(terms, ended, probability, {name: told[name] for name in spec.names("telemetry")}, confidence)
