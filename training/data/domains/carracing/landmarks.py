"""Two laps in the twin past coloured landmarks beside the road: what only memory can know about the second lap.

Which colour a landmark has is drawn anew for every drive, and nothing but an earlier look at it tells. The pictures
are the simulator's own, cut to the road and its sides and halved: 28 x 20 pixels, the car at row 24 of column 10,
37 m ahead and 19 m to both sides.

Legend: N drives, T frames, L landmarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from drivedit.data.domains.carracing.behaviours import Follow, View
from drivedit.data.domains.carracing.simulator import HEIGHT as SCREEN_HEIGHT
from drivedit.data.domains.carracing.simulator import WIDTH as SCREEN_WIDTH
from drivedit.data.domains.carracing.simulator import ZOOM, Simulator

COLOURS = {
    "blue": (40, 60, 230), "yellow": (240, 220, 40), "magenta": (220, 40, 200), "cyan": (40, 220, 230),
    "orange": (245, 130, 30), "black": (20, 20, 20),
}  # fmt: skip
PALETTE = np.array(list(COLOURS.values()))
ROWS, COLUMNS = 28, 20
CAR = (24, 10)  # row and column
METRES = np.array([SCREEN_HEIGHT, SCREEN_WIDTH]) / 32 / ZOOM  # of a row and a column
SIDE = 7.0  # m, of a landmark
ASIDE = 11.5  # m from the centre line to its middle
APART = (30.0, 50.0)  # m between two along the road
SPEED = 30.0  # m/s
TICKS = 10  # of the simulator (0.02 s) between two frames


@dataclass
class LandmarkDrives:
    """Drives of about two laps.

    Attributes:
        frames: uint8 `[N, T, 28, 20, 3]`.
        poses: float32 `[N, T, 3]`, x and y in m and yaw.
        lap: int `[N]`, the first frame of the second lap.
        places: Middles of the landmarks of each drive, float32 `[L, 2]`.
        colours: Their colours, indices of `PALETTE`, `[L]`.
    """

    frames: np.ndarray
    poses: np.ndarray
    lap: np.ndarray
    places: list[np.ndarray]
    colours: list[np.ndarray]


def record(seeds: range, frames: int, repainted: bool = False) -> LandmarkDrives:
    """Drives on the tracks of some seeds; a drive is a function of its seed.

    Args:
        seeds: Seeds of the tracks; those from 1,000,000 on are for judging.
        frames: Frames of a drive.
        repainted: Give every landmark another colour than it has otherwise, and leave all else as it is.

    Raises:
        ValueError: A drive does not reach its second lap.
    """
    simulator = Simulator()
    drives = [_drive(simulator, seed, frames, repainted) for seed in tqdm(seeds, desc="drives", mininterval=5)]
    pictures, poses, lap, places, colours = zip(*drives, strict=True)
    return LandmarkDrives(np.stack(pictures), np.stack(poses), np.array(lap), list(places), list(colours))


def pixel_of(forward: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the pixels that show points so many metres before and to the right of the car."""
    rows = np.floor(CAR[0] - forward / METRES[0]).astype(int)
    return rows, np.floor(CAR[1] + right / METRES[1]).astype(int)


def named(frame: np.ndarray, row: int, column: int) -> int:
    """Index of the landmark colour that the 3 x 3 pixels around a pixel of `[28, 20, 3]` resemble most."""
    seen = spot(frame, row, column).mean((0, 1))
    return int(np.square(PALETTE - seen).sum(1).argmin())


def spot(frame: np.ndarray, row: int, column: int) -> np.ndarray:
    """The 3 x 3 pixels around a pixel of `[28, 20, 3]`, float."""
    return frame[row - 1 : row + 2, column - 1 : column + 2].astype(np.float64)


def _drive(simulator: Simulator, seed: int, frames: int, repainted: bool) -> tuple:
    rng = np.random.default_rng(seed)
    placement = {"track_position": rng.random(), "lateral_offset": 0.0, "heading_error": 0.0, "speed": SPEED}
    simulator.start(seed, placement)
    line = simulator.centre_line
    arcs = np.cumsum(rng.uniform(*APART, size=int(line.length / APART[0])))
    arcs = arcs[arcs < line.length - APART[0]]
    colours = rng.integers(len(PALETTE), size=len(arcs))
    other = rng.integers(1, len(PALETTE), size=len(arcs))
    if repainted:
        colours = (colours + other) % len(PALETTE)
    places = []
    for arc, side, colour in zip(arcs, rng.choice([-ASIDE, ASIDE], size=len(arcs)), colours, strict=True):
        x, y, yaw = line.at(arc)
        middle = np.array([x + side * math.sin(yaw), y - side * math.cos(yaw)])
        turns = yaw + math.pi * np.array([0.25, 0.75, 1.25, 1.75])
        corners = middle + SIDE / math.sqrt(2) * np.stack([np.cos(turns), np.sin(turns)], 1)
        simulator.road_poly.append((corners.tolist(), PALETTE[colour]))
        places.append(middle)
    simulator.survey()
    follow = Follow(rng, speed=SPEED, offset=rng.uniform(-3, 3))
    pictures, poses, travelled, lap = [], [], 0.0, None
    arc = line.foot(*simulator.body.hull.position).arc
    for tick in range(frames * TICKS):
        hull = simulator.body.hull
        pose = np.array([*hull.position, hull.angle + math.pi / 2])
        if lap is None and travelled >= line.length:
            lap = math.ceil(tick / TICKS)
            follow.offset = rng.uniform(-3, 3)
        if tick % TICKS == 0:
            picture = simulator.picture((64, 64))[:56, 12:52]
            pictures.append(picture.reshape(ROWS, 2, COLUMNS, 2, 3).mean((1, 3)).astype(np.uint8))
            poses.append(pose)
        speed = float(hull.linearVelocity[0] * math.cos(pose[2]) + hull.linearVelocity[1] * math.sin(pose[2]))
        simulator.tick(follow(View(pose, speed, line)))
        before, arc = arc, line.foot(*hull.position).arc
        travelled += (arc - before + line.length / 2) % line.length - line.length / 2
    if lap is None or lap >= frames:
        raise ValueError(f"{frames} frames are less than a lap on the track of seed {seed}; record more frames")
    return np.stack(pictures), np.stack(poses).astype(np.float32), lap, np.stack(places), colours
