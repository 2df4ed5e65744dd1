"""What recorded pictures show of others on the road, as readers of agents learn it and are judged by it.

Legend: S states, A agents of all states one after another, K tokens, F numbers of the own car.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from drivedit.config import AgentsConfig
from drivedit.models.sets.agent_sets import AgentSet
from drivedit.models.sets.agents import AgentsReader
from drivedit.models.sets.visible import own_frame, pixel_outlines, shown_shares, visible
from drivedit.utils import generator

MARGIN = 20.0  # metres beyond the farthest that counts, within which boxes may hide it
AT_ONCE = 200_000  # agents
PICTURES = 64  # that are read at once


@dataclass(frozen=True)
class AgentFrames:
    """The truth of recorded pictures.

    Attributes:
        frames: The pictures, uint8 `[S, H, W, 3]`, memory-mapped.
        boxes: float32 `[S, K, 8]` in the own car's frame, the nearest first; zeros where nobody is.
        present: Bool `[S, K]`.
        ego: float32 `[S, F]`, in the order of `AgentsConfig.ego`.
        known: Bool `[S]`, where others and the own car are known.
        begins: Bool `[S]`, where a drive begins.
        uncounted: float32 `[S, K, 2]`, places of the nearest others in view that do not count; zeros where nobody is.
        hidden: Bool `[S]`, where others cover half of one or more of one that would count alone.
        drive: Int `[S]`, the number of its drive.
    """

    frames: np.ndarray
    boxes: np.ndarray
    present: np.ndarray
    ego: np.ndarray
    known: np.ndarray
    begins: np.ndarray
    uncounted: np.ndarray
    hidden: np.ndarray
    drive: np.ndarray

    @classmethod
    def of(cls, drives: Any, config: AgentsConfig) -> AgentFrames:
        """Looks through drives (`drivedit.data.clips.Drives`).

        Raises:
            ValueError: The pictures are of another size, others on the road are not known in any drive, or a number of
                the own car that is to be read is not.
        """
        height, width, *_ = drives.frames.shape[1:]
        if drives.frames.shape[1:] != (*config.image_size, 3):
            raise ValueError(f"the reader takes pictures {[*config.image_size, 3]}, the recordings have "
                             f"{list(drives.frames.shape[1:])}")  # fmt: skip
        if not drives.agents_known.any():
            raise ValueError("no drive of these recordings knows who else was on the road")
        if unknown := set(config.ego) - set(drives.telemetry):
            raise ValueError(f"the recordings have the telemetry {list(drives.telemetry)}, not {sorted(unknown)}")
        states, lengths = len(drives.frames), np.diff(drives.first)
        drive = np.repeat(np.arange(len(lengths)), lengths)
        told = [np.asarray(drives.telemetry[name], np.float32) for name in config.ego]
        ego = np.stack(told, 1) if told else np.zeros((states, 0), np.float32)
        known = drives.agents_known[drive] & np.isfinite(ego).all(1) & np.isfinite(np.asarray(drives.pose)).all(1)
        begins = np.zeros(states, bool)
        begins[drives.first[:-1]] = True
        boxes, present, uncounted, hidden = _seen(drives, config, drive, known)
        return cls(drives.frames, boxes, present, np.nan_to_num(ego), known, begins, uncounted, hidden, drive)

    def before(self, index: np.ndarray) -> np.ndarray:
        """The pictures a step before those of some states; at the beginning of a drive the same ones."""
        return self.frames[np.where(self.begins[index], index, index - 1)]


def _seen(
    drives: Any, config: AgentsConfig, drive: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, presence, places of those who do not count, and whether somebody is hidden, of all states."""
    states = len(drive)
    boxes, present = np.zeros((states, config.tokens, 8), np.float32), np.zeros((states, config.tokens), bool)
    uncounted, hidden = np.zeros((states, config.tokens, 2), np.float32), np.zeros(states, bool)
    own, outline, depth, place = _in_view(drives, config, drive, known)
    numbers, first = np.unique(place, return_index=True)
    parts = [slice(*each) for each in zip(first, np.append(first[1:], len(place)), strict=True)]
    for number, part in zip(tqdm(numbers, desc="who is seen", mininterval=5, delay=5), parts, strict=True):
        seen = own[part]
        chosen = visible(config, seen, outline[part], depth[part])
        boxes[number, : len(chosen)], present[number, : len(chosen)] = seen[chosen], True
        rest = np.setdiff1d(np.argsort(np.hypot(seen[:, 0], seen[:, 1]))[: 2 * config.tokens], chosen)[: config.tokens]
        uncounted[number, : len(rest)] = seen[rest, :2]
        hidden[number] = len(seen) > 1 and _half_hidden(config, outline[part], depth[part])
    return boxes, present, uncounted, hidden


def _in_view(
    drives: Any, config: AgentsConfig, drive: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of agents before the camera, state by state: boxes in the own car's frame, outlines, depths, and the states."""
    agents, poses = drives.agents, np.asarray(drives.pose)
    all_boxes = np.asarray(agents.boxes)
    state = np.repeat(np.arange(len(drive)), np.diff(agents.first))
    speeds = speeds_of(agents.ids, all_boxes, state, drive, np.asarray(drives.times))
    near = np.hypot(*(all_boxes[:, :2] - poses[state, :2]).T) < config.farthest + MARGIN
    rows = np.flatnonzero(near & known[state])
    own = own_frame(np.concatenate([all_boxes[rows], speeds[rows, None]], 1).astype(np.float64), poses[state[rows]])
    parts = [pixel_outlines(config, own[at : at + AT_ONCE]) for at in range(0, max(len(rows), 1), AT_ONCE)]
    outline, depth = (np.concatenate(part) for part in zip(*parts, strict=True))
    inside = (depth > 0) & (outline[:, 2:] > 0).all(1) & (outline[:, :2] < config.image_size[::-1]).all(1)
    return own[inside], outline[inside], depth[inside], state[rows[inside]]


def _half_hidden(config: AgentsConfig, outline: np.ndarray, depth: np.ndarray) -> bool:
    """Whether others cover half, or more, of one that would count alone."""
    shares = shown_shares(outline, depth, config.image_size)
    alone = np.array([shown_shares(*each, config.image_size)[0] for each in zip(outline[:, None], depth[:, None],
                                                                               strict=True)])  # fmt: skip
    area = alone * (outline[:, 2:] - outline[:, :2]).clip(0).prod(1)
    counts = (alone >= config.least_shown) & (area >= config.least_pixels)
    return bool((counts & (shares < 0.5 * alone)).any())


def speeds_of(
    ids: np.ndarray, boxes: np.ndarray, state: np.ndarray, drive: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Speeds of agents along their headings (m/s), float32 `[A]`, from where each is at the next state of its drive.

    One that is not there any more then has the speed since the last state, as `moving` of layouts has it; one that is
    there once, 0.

    Args:
        ids: `[A]`, of their drives.
        boxes: `[A, >= 7]`.
        state: `[A]`, at which state they are.
        drive: `[S]`, of which drive the states are.
        times: `[S]` seconds.
    """
    order = np.lexsort((state, ids, drive[state]))
    one, other = order[:-1], order[1:]
    pair = (ids[one] == ids[other]) & (state[one] + 1 == state[other]) & (drive[state[one]] == drive[state[other]])
    one, other = one[pair], other[pair]
    x, y = (boxes[other, :2].astype(np.float64) - boxes[one, :2]).T
    yaw = boxes[one, 6].astype(np.float64)
    moved = ((x * np.cos(yaw) + y * np.sin(yaw)) / (times[state[other]] - times[state[one]])).astype(np.float32)
    speeds = np.zeros(len(ids), np.float32)
    speeds[other] = moved
    speeds[one] = moved
    return speeds


def read_states(
    reader: AgentsReader, frames: AgentFrames, index: np.ndarray, samples: int, steps: int, seed: int = 0
) -> AgentSet:
    """What a reader tells of the pictures of some states, on the CPU."""
    rng, parts = generator(seed, "agents, judged"), []
    for at in range(0, len(index), PICTURES):
        some = index[at : at + PICTURES]
        pictures, before = np.array(frames.frames[some]), np.array(frames.before(some))
        read = reader.read(pictures, rng, samples, steps, before=before, known=~frames.begins[some])
        parts.append(read.to("cpu"))
    return AgentSet.cat(parts)
