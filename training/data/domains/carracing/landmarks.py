"""The landmarks of CarRacing: coloured squares beside the road.

The pictures are the simulator's own, cut to the road and its sides and halved: 28 x 20 pixels, the car at row 24 of
column 10, 37 m ahead and 19 m to both sides.
"""

from __future__ import annotations

import math

import numpy as np

from drivedit.data.domains.carracing.behaviours import Follow, View
from drivedit.data.domains.carracing.simulator import HEIGHT as SCREEN_HEIGHT
from drivedit.data.domains.carracing.simulator import WIDTH as SCREEN_WIDTH
from drivedit.data.domains.carracing.simulator import ZOOM, Simulator
from drivedit.data.landmarks import LandmarkDrive, Landmarks

COLOURS = {
    "blue": (40, 60, 230), "yellow": (240, 220, 40), "magenta": (220, 40, 200), "cyan": (40, 220, 230),
    "orange": (245, 130, 30), "black": (20, 20, 20),
}  # fmt: skip
PALETTE = np.array(list(COLOURS.values()))
ROWS, COLUMNS = 28, 20
SIDE = 7.0  # m, of a landmark
ASIDE = 11.5  # m from the centre line to its middle
APART = (30.0, 50.0)  # m between two along the road
SPEED = 30.0  # m/s
TICKS = 10  # of the simulator (0.02 s) between two frames


def drive(seed: int, frames: int, repainted: bool) -> LandmarkDrive:
    """A drive of about two laps; `Landmarks.drive` says what it is asked."""
    simulator, rng = Simulator(), np.random.default_rng(seed)
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
    arc = line.project(*simulator.body.hull.position).arc
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
        before, arc = arc, line.project(*hull.position).arc
        travelled += (arc - before + line.length / 2) % line.length - line.length / 2
    if lap is None or lap >= frames:
        raise ValueError(f"{frames} frames are less than a lap on the track of seed {seed}; record more frames")
    return LandmarkDrive(np.stack(pictures), np.stack(poses).astype(np.float32), lap, np.stack(places), colours)


LANDMARKS = Landmarks(
    rows=ROWS,
    columns=COLUMNS,
    metres=(SCREEN_HEIGHT / 32 / ZOOM, SCREEN_WIDTH / 32 / ZOOM),
    car=(24, 10),
    middle=(12.0, 0.0),
    reach=(26.0, 23.0),
    near=(3.5, 16.0),
    motion=(6.0, 1.0, 0.3),
    field=1400.0,
    palette=COLOURS,
    drive=drive,
)
