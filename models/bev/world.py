"""A world that keeps the ground around the car, seen from above, and renders each picture of it anew.

What stands beside the road stays where it is, so a world need not dream it again in every frame: it is dreamed once,
when it comes into the window of ground that is kept, and rendered from wherever the car goes. No picture is made of the
one before, so none is worse than the one before. Others on the road are boxes; told ones drive on, the rest is
dreamed. A step is one pass.

Legend: B worlds, A controls, C H W the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from drivedit.config import BevWorldConfig, Modality
from drivedit.models.bev.company import driven_on, relooked
from drivedit.models.bev.entering import NEW, enter_row
from drivedit.models.bev.others import SEEN_AT
from drivedit.models.bev.parts import BevNetworks, shown
from drivedit.models.bev.state import BevState
from drivedit.models.conditions.layout import LAYOUT
from drivedit.models.finding import AGENTS
from drivedit.models.road import RoadWorld
from drivedit.models.scenes import OTHERS, ROUTE, Scene
from drivedit.models.sets.agents import AgentsReader
from drivedit.models.world import Sampling, Scenes, StepOutput
from drivedit.utils import advance_pose, motion_between, noise, truncate
from drivedit.utils.route import CAPACITY

SEEN_WELL = 45.0  # metres ahead; the ground up to there stays as it is when another route is told
ALIKE = 0.05  # of what cells are told of two routes: less is no other route
LATENT = "latent"  # a picture whose patches are channels


class BevWorld(BevNetworks, RoadWorld[BevState]):
    """A world of a camera in a car.

    Args:
        config: Configuration of the networks, the picture and the heads.
        scenes: Start scenes by index (see `drivedit.models.Scene`).
        card: Text of the world's CARD.md.

    Raises:
        ValueError: A scene does not fit, or the spec shows no picture.
    """

    kind = "bev"
    config_type = BevWorldConfig
    State: ClassVar[type[BevState]] = BevState
    passes = 1
    readers: tuple[AgentsReader, ...] = ()  # not one of its networks, so not among its weights

    def __init__(self, config: BevWorldConfig, scenes: Scenes = (), card: str = "") -> None:
        super().__init__(config)
        self.card = card
        self.scenes: list[Scene] = [self.check_scene(scene) for scene in scenes]

    @property
    def reader(self) -> AgentsReader | None:
        """What reads off a start scene who is there, where nobody told; None: nobody is read."""
        return self.readers[0].to(self.device) if self.readers else None

    def beside(self, folder: Path) -> None:
        """Takes the reader of who is where that lies beside the world, if there is one; see `find_world`.

        Raises:
            ValueError: It reads pictures of another size.
        """
        if self.config.others and (folder / AGENTS).is_file():
            reader = AgentsReader.load(folder / AGENTS)
            if tuple(reader.config.image_size) != self.config.image_size:
                raise ValueError(
                    f"the reader {folder / AGENTS} takes pictures of {[*reader.config.image_size]}, the world's are "
                    f"{[*self.config.image_size]}"
                )
            self.readers = (reader,)

    def check_state(self, state: BevState) -> None:
        """Checks that a state could be one of this world; see `World.check_state`."""
        state.check_layout(self.state_layout(), self.device)
        state.check_values(max(max(abs(control.low), abs(control.high)) for control in self.config.spec.controls))

    def state_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of what each field of a state holds for one world."""
        whole, flags = ("clock", "seeds", "count"), ("closed", "told")
        types: dict[str, torch.dtype] = {name: torch.long for name in whole} | {name: torch.bool for name in flags}
        return {name: (types.get(name, torch.float32), shape) for name, shape in self._shapes.items()}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        config, picture = self.config, (self.config.channels, *self.config.image_size)
        return {
            "frame": picture, "ground": (config.ground, *config.cells), "anchor": (3,), "code": (config.code,),
            "key": (picture[0] + 1, *picture[1:]), "key_pose": (3,), "looks": (config.others, config.looks + SEEN_AT),
            "clock": (), "seeds": (),
            "control": (len(config.spec.controls),), "motion": (3,), "pose": (3,), "arc": (), "points": (CAPACITY, 2),
            "count": (), "spacing": (), "closed": (), "bounds": (4,), "others": (config.others, LAYOUT), "told": (),
        }  # fmt: skip

    # -- pictures ------------------------------------------------------------------------------------------------

    def modality(self, kind: str) -> Modality:
        """Shape, type and range of the picture, or of `latent`."""
        if kind == LATENT:
            return Modality(self.latent_shape(), "float32", -1.0, 1.0)
        if kind not in self.config.spec.observations:
            raise ValueError(f"this world shows {[*self.config.spec.observations, LATENT]}, got {kind!r}")
        return self.config.spec.observations[kind]

    @torch.no_grad()
    def observe(self, state: BevState, kinds: Sequence[str]) -> dict[str, Tensor]:
        """The picture by its name, uint8 `[B, H, W, C]`, or `latent`, the same in patches `[B, D, h, w]`."""
        seen = {}
        for kind in kinds:
            if kind != LATENT:
                self.modality(kind)  # or there is no such kind
            picture = shown(state.frame)
            seen[kind] = self.encode(picture[:, None])[:, 0] if kind == LATENT else picture
        return seen

    @torch.no_grad()
    def embed(self, observations: np.ndarray) -> Tensor:
        """Latents float32 `[B, D, h, w]` of pictures uint8 `[B, H, W, C]`; see `World.embed`."""
        wanted = self.modality(self.spec.picture)
        if observations.dtype != wanted.dtype or observations.shape[1:] != wanted.shape:
            expected = f"uint8 [B, {', '.join(map(str, wanted.shape))}]"
            raise ValueError(
                f"this world encodes frames {expected}, got {observations.dtype} {list(observations.shape)}"
            )
        return self.encode(observations[:, None])[:, 0]

    # -- dreaming ------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def enter(self, scenes: Scenes, seeds: Sequence[int]) -> tuple[BevState, StepOutput]:
        """Starts one world per scene; see `World.enter`. Poses that jump are refused."""
        if len(scenes) != len(seeds) or not scenes:
            raise ValueError(f"one seed per scene is needed and at least one, got {len(scenes)} and {len(seeds)}")
        checked = [self.check_scene(scene) for scene in scenes]
        pairs = zip(checked, seeds, strict=True)
        rows = [enter_row(self, scene, int(seed), self.config.temperature, self.reader) for scene, seed in pairs]
        states, outs = zip(*rows, strict=True)
        return BevState.cat(states), StepOutput.cat(outs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(
        self, state: BevState, controls: Tensor, dt: Tensor | None = None, *, sampling: Sampling | None = None
    ) -> tuple[BevState, StepOutput]:
        """Dreams one frame of every world; see `World.step`.

        Raises:
            ValueError: `dt` is given: this kind of world has frames of one length; or several passes, or guidance, are
                wanted.
        """
        sampling = sampling or Sampling()
        self.check_dt(dt, len(state))
        self.check_guidance(sampling.guidance)
        self.check_passes(sampling.passes)
        scale = self.config.temperature if sampling.temperature is None else sampling.temperature
        controls = controls.to(state.motion)
        motion = self.foretold(controls, state.motion)
        pose = advance_pose(state.pose, motion * self.motion_scale)
        state = replace(
            state, clock=state.clock + 1, control=controls.clone(), motion=motion, pose=pose,
            arc=state.route.foot(pose[:, :2], state.arc),
        )  # fmt: skip
        state = self.follow(state, scale, sampling.top_p)
        others, looks = driven_on(self, state)
        picture, read = self.render(state.scenery, pose, (others, looks), controls, motion)
        state = replace(state, frame=picture.clamp(-1, 1), others=others, looks=looks)
        return state, self.output(read, read.telemetry * self.telemetry_scale)

    def follow(self, state: BevState, scale: float, top_p: float | None) -> BevState:
        """The state whose windows have followed the cars that left their places, with new ground."""
        gone, following = self.window.left(state.anchor, state.pose)
        rows = gone.nonzero()[:, 0]
        if not len(rows):
            return state
        some = state.select(rows)
        drawn = noise(some.seeds.tolist(), NEW, some.clock.tolist(), self.noise_shape())
        drawn = scale * truncate(drawn, top_p).to(some.ground)
        scenery = self.followed(some.scenery, following[rows], some.route, some.arc, drawn)
        return state.with_rows(rows, ground=scenery.ground, anchor=scenery.anchor)

    def rerouted(self, before: BevState, after: BevState) -> BevState:
        """A state that is told another route than before, with ground that fits it."""
        told = [self.window.road(state.route, state.arc, state.anchor) for state in (before, after)]
        ahead, _ = self.window.places(motion_between(after.pose, after.anchor))
        known = ((told[0] - told[1]).abs().amax(1) < ALIKE) | (ahead < SEEN_WELL)
        rows = (~known).flatten(1).any(1).nonzero()[:, 0]
        if not len(rows):
            return after
        some, stays = after.select(rows), known[rows, None].to(after.ground)
        drawn = self.config.temperature * noise(some.seeds.tolist(), NEW, some.clock.tolist(), self.noise_shape())
        scenery = self.refilled(some.scenery, stays, some.route, some.arc, drawn.to(some.ground))
        return after.with_rows(rows, ground=scenery.ground)

    def check_passes(self, passes: int | None) -> int:
        """One pass: the renderer has learned no other; see `World.check_passes`."""
        if passes not in (None, self.passes):
            raise ValueError(f"this world renders a frame in {self.passes} pass, got sampling_steps {passes}")
        return self.passes

    def condition(self, state: BevState, values: Mapping[str, Any], rows: Sequence[int] | None = None) -> BevState:
        """The state on another road, or with others on it; see `World.condition`.

        Ground is filled anew where another route leads elsewhere, but for what is near enough to be seen well. Others
        that are told about stay who they are where they stand. A layout of None leaves others as they are.
        """
        after = super().condition(state, values, rows)
        if ROUTE in values:
            after = self.rerouted(state, after)
        if OTHERS not in values:
            return after
        if values[OTHERS] is None:
            return replace(after, others=state.others)
        return replace(after, looks=relooked(self, state, after))
