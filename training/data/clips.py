"""Recordings as arrays that training draws clips from.

Legend: S states of all drives one after another, T frames of a clip.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivedit.config import StudentConfig, WorldConfig, WorldSpec
from drivedit.data.known import Facts, known_spec, seen_spec
from drivedit.data.recordings import Episode
from drivedit.data.unpacked import in_memory, open_unpacked
from drivedit.utils import motion_between
from drivedit.utils.episodes import Agents

log = logging.getLogger(__name__)


@dataclass
class Drives:
    """All drives of a recording folder; arrays of S states, memory-mapped; NaN where a recording does not know.

    Attributes:
        spec: What they are about, all together.
        observations: By kind `[S, ...]`.
        control: float32 `[S, controls]`, what led to the state (zero at the start of a drive).
        rewards: By name float32 `[S]`, each term as it was earned on the way to the state (zero at the start).
        ended: bool `[S]`.
        telemetry: By name float32 `[S]`.
        pose: float64 `[S, 3]`.
        times: float64 `[S]` seconds, of every drive its own.
        first: int `[E + 1]`, where each drive begins.
        routes: The centre line of every drive, `[0, 2]` where it is not known.
        closed: Whether each one is a loop.
        agents: Who else was there, at all states; `agents_known` says in which drives that was recorded.
        agents_known: bool `[E]`.
        attributes: What every drive was like, each value one that the spec allows.
        seeds: Track seed of every drive.
        bounds: float32 `[E, 4]`, the playfield of every drive, infinite where it is not known.
        fingerprint: Name of what the arrays were made from: the shards' contents, and the code that read them.
    """

    spec: WorldSpec
    observations: dict[str, np.ndarray]
    control: np.ndarray
    rewards: dict[str, np.ndarray]
    ended: np.ndarray
    telemetry: dict[str, np.ndarray]
    pose: np.ndarray
    times: np.ndarray
    first: np.ndarray
    routes: list[np.ndarray]
    closed: np.ndarray
    agents: Agents
    agents_known: np.ndarray
    attributes: list[dict[str, str]]
    seeds: np.ndarray
    bounds: np.ndarray
    fingerprint: str

    @classmethod
    def open(cls, root: str | Path, held_out: bool = False, kinds: Sequence[str] | None = None) -> Drives:
        """Opens a recording folder, unpacked to `root/unpacked` unless that was done for these shards by this code.

        Args:
            root: The folder.
            held_out: Whether it was kept for judging.
            kinds: Names of the observations that are wanted; None: all.

        Raises:
            FileNotFoundError: There is no shard.
            ValueError: A shard is damaged, held-out where training recordings are asked for (or the reverse), or
                has other observations, controls or `dt` than the others.
            OSError: There is no room to unpack them.
        """
        return cls._of(*open_unpacked(root, held_out, kinds))

    @classmethod
    def of(cls, episodes: Iterable[Episode], spec: WorldSpec, fingerprint: str = "") -> Drives:
        """Drives in memory, of episodes.

        Args:
            episodes: At least one.
            spec: Of all of them together, with the kinds of observation that are wanted.
            fingerprint: Name of what they were made from.
        """
        return cls._of(*in_memory(episodes, spec), fingerprint)

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray], index: dict[str, np.ndarray], source: str) -> Drives:
        spec = WorldSpec.from_dict(json.loads(str(index["spec"])))
        return cls(
            spec=spec,
            observations={name: arrays[f"seen_{place}"] for place, name in enumerate(spec.observations)},
            rewards=dict(zip(spec.rewards, arrays["rewards"].T, strict=True)),
            telemetry=dict(zip(spec.names("telemetry"), arrays["telemetry"].T, strict=True)),
            **{name: arrays[name] for name in ("control", "ended", "pose", "times")},
            **{name: index[name] for name in ("first", "closed", "seeds", "bounds", "agents_known")},
            agents=Agents(
                index["agents_first"],
                **{name: arrays[f"agents_{name}"] for name in ("ids", "boxes", "kinds")},
                names=tuple(json.loads(str(index["agents_names"]))),
            ),
            attributes=json.loads(str(index["attributes"])),
            routes=np.split(index["routes"], index["route_first"][1:-1]),
            fingerprint=source,
        )

    @property
    def frames(self) -> np.ndarray:
        """The pictures: the first kind of observation, `[S, ...]`."""
        return self.observations[self.spec.picture]

    @property
    def fps(self) -> float:
        """Frames per second."""
        return 1 / self.spec.dt

    def only(self, kinds: Iterable[str]) -> Drives:
        """The drives with some kinds of observation alone, in this order; the others are not read.

        Raises:
            ValueError: They do not have one of them.
        """
        spec = self.spec.only(list(kinds))
        return replace(self, spec=spec, observations={name: self.observations[name] for name in spec.observations})

    def told(self, name: str) -> np.ndarray:
        """A telemetry value by its name, `[S]`; NaN where the recordings have none of that name."""
        return self.telemetry.get(name, np.full(int(self.first[-1]), np.nan, np.float32))

    def earned(self, name: str) -> np.ndarray:
        """A reward term by its name, `[S]`; NaN where the recordings have none of that name."""
        return self.rewards.get(name, np.full(int(self.first[-1]), np.nan, np.float32))

    def __len__(self) -> int:
        return len(self.first) - 1

    def states(self, drive: int) -> slice:
        """The states of one drive."""
        return slice(int(self.first[drive]), int(self.first[drive + 1]))

    def moments(self, drive: int, states: slice, spec: WorldSpec) -> dict[str, Any]:
        """What happened in some states of a drive that follow one another, as far as a spec knows of it.

        Returns:
            Fields of a `drivedit.models.Scene`, all but the conditions. Poses are float64, and None unless they are
            known throughout; so are the agents, which are told on the same plane.
        """
        poses = np.array(self.pose[states])
        placed = bool(np.isfinite(poses).all())
        agents = self.agents.during(states) if placed and self.agents_known[drive] else None
        if agents is not None and not np.isfinite(agents.boxes).all():
            agents = None
        attributes = self.attributes[drive].items()
        seen = {name: self.observations[name] for name in spec.observations if name in self.observations}
        return {
            "observations": {name: np.array(array[states]) for name, array in seen.items()},
            "controls": np.array(self.control[states.start + 1 : states.stop]),
            "times": np.array(self.times[states]) if spec.any_dt else None,
            "poses": poses if placed else None,
            "agents": agents,
            "attributes": {name: value for name, value in attributes if value in spec.attributes.get(name, ())},
        }

    def split(self, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the training drives and of the validation drives (the last ones, one at least).

        Raises:
            ValueError: There is a single drive.
        """
        if len(self) < 2:
            raise ValueError(
                "one drive to learn from and one to look at are needed at least, got 1; record more, or shorter ones"
            )
        kept = min(max(1, round(len(self) * (1 - fraction))), len(self) - 1)
        return np.arange(kept), np.arange(kept, len(self))

    def facts(self) -> Facts:
        """What is known throughout."""
        ended = np.asarray(self.ended)
        earned = {name: np.asarray(values, np.float64) for name, values in self.rewards.items()}
        return Facts(
            spec=self.spec,
            states=len(ended),
            drives=len(self),
            telemetry={name: bool(np.isfinite(values).all()) for name, values in self.telemetry.items()},
            squares={name: float(np.square(values).sum()) for name, values in earned.items()},
            paid={name: float(values[ended].sum()) for name, values in earned.items()},
            ended=int(ended.sum()),
            routed=any(len(line) for line in self.routes),
            peopled=bool(self.agents_known.any()),
            moved=np.square(self.motion(), dtype=np.float64).sum(0).tolist(),
        )

    def motion(self) -> np.ndarray:
        """Ego-motion that led to each state, float32 `[S, 3]`; zero at the start of a drive and where not known."""
        pose = torch.from_numpy(np.array(self.pose))
        motion = torch.zeros_like(pose)
        motion[1:] = motion_between(pose[:-1], pose[1:])
        motion[self.first[:-1]] = 0
        return motion.float().nan_to_num().numpy()


def fit_config(world: WorldConfig, drives: Drives | Facts, clip_frames: int = 1) -> WorldConfig:
    """The world that these recordings can teach: their spec with one picture, without what they do not know.

    Without recorded rewards all reward is zero, without recorded endings nothing ends, without routes the world is told
    none, and telemetry that is not recorded in every state is not read. A learned reward without a unit (value 0) gets
    the root mean square of the recorded ones.

    Args:
        world: The world that is wanted; a spec of its own goes before that of the recordings, and must fit them.
        drives: The recordings, or what they know.
        clip_frames: Frames of a clip that the dynamics shall take at once.

    Raises:
        ValueError: The pictures do not divide into tokens, the spec that is wanted is not that of the recordings, or
            they have several pictures (see `the_picture`).
    """
    facts = drives.facts() if isinstance(drives, Drives) else drives
    spec = seen_spec(world.spec, facts)
    height, width, channels = spec.observations[spec.picture].shape
    side = 8 * world.patch
    if height % side or width % side:
        raise ValueError(
            f"pictures must have sides that are multiples of {side} (8 * world.patch), got {height} x {width}"
        )
    routed = facts.routed and world.student.route_dim > 0
    student = _student(world, height * width // side**2, len(spec.controls), clip_frames)
    spec = known_spec(spec, facts, routed, world.others)
    others, ending = world.others if "layout" in spec.conditions else 0, facts.ended > 0
    world = replace(
        world, others=others, spec=spec, student=student, vae=replace(world.vae, in_channels=channels),
        end_threshold=world.end_threshold if ending else 1.0,
    )  # fmt: skip
    route_dim, map_dim = world.code_widths() if routed or others else (0, 0)
    return replace(world, student=replace(student, route_dim=route_dim, map_dim=map_dim))


def _student(world: WorldConfig, tokens: int, controls: int, clip_frames: int) -> StudentConfig:
    """The student of a world of so many tokens per frame and controls, which presets do not know."""
    told_all = world.student.control_dim not in (0, controls, 2 * controls)
    return replace(
        world.student,
        latent_dim=world.vae.latent_dim * world.patch**2,
        tokens_per_frame=tokens,
        control_dim=2 * controls + 3 if told_all else world.student.control_dim,
        max_seq_len=max(world.student.max_seq_len, clip_frames * tokens),
    )


def clip_starts(drives: Drives, chosen: np.ndarray, frames: int, history: int) -> tuple[np.ndarray, np.ndarray]:
    """First target states of all clips that fit, and of those that end with an ending.

    A clip has `frames` targets and `history` states before them.
    """
    last = drives.first[chosen + 1] - frames
    parts = [np.arange(a + history, b + 1) for a, b in zip(drives.first[chosen], last, strict=True) if b >= a + history]
    ends = last[np.asarray(drives.ended)[drives.first[chosen + 1] - 1] & (last >= drives.first[chosen] + history)]
    if not parts:
        raise ValueError(f"no drive has {frames + history} states; record longer episodes or shorten loss.clip_frames")
    return np.concatenate(parts), ends
