"""A film of a drive along a straight road with hills behind it, drawn by numpy, and the table of its controls."""

from pathlib import Path

import numpy as np

from drivedit.utils.video import VideoWriter

TURN, PULL = 0.25, 0.15  # radians a second at full lock; share of the heading that the driver's drift keeps


def draw(size: tuple[int, int], offset: float, heading: float, distance: float) -> np.ndarray:
    """What is seen from `offset` metres right of the middle of the road, `heading` radians right of its direction."""
    height, width = size
    focal, horizon = 0.8 * width, int(0.45 * height)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    angle = heading + (columns - width / 2) / focal
    hills = horizon - height * (0.12 + 0.05 * np.sin(9 * angle) + 0.04 * np.sin(23 * angle + 1))
    depth = 1.2 * focal / np.maximum(rows - horizon, 1)
    across = offset + depth * np.tan(angle)  # metres right of the middle of the road
    ahead = (distance + depth) % 8 < 4
    picture = np.empty((height, width, 3))
    picture[:] = np.where(ahead, 90, 120)[..., None] * np.array([0.6, 1.0, 0.5])
    picture[np.abs(across) < 3.5] = (105, 105, 110)
    picture[(np.abs(across) < 0.15 + 0.01 * depth) & ahead] = (235, 235, 220)
    picture[(np.abs(np.abs(across) - 3.3) < 0.12 + 0.01 * depth)] = (235, 235, 220)
    sky = np.broadcast_to(rows < horizon, picture.shape[:2])
    picture[sky] = (150, 190, 235)
    picture[sky & (rows > hills)] = (60, 110, 90)
    return picture.astype(np.uint8)


def film(
    folder: Path, name: str, seconds: float, size: tuple[int, int] = (32, 48), fps: float = 15.0, seed: int = 0,
    places: bool = False,
) -> tuple[str, str]:  # fmt: skip
    """Writes `name.mp4` and `name.csv`; positions and speed are in the table if `places`."""
    rng, steps = np.random.default_rng(seed), round(seconds * fps)
    knots = rng.uniform(-1, 1, steps // 10 + 2)
    steering = np.interp(np.arange(steps) / 10, np.arange(len(knots)), knots)
    throttle = np.interp(np.arange(steps) / 25, np.arange(steps // 25 + 2), rng.uniform(0, 0.6, steps // 25 + 2))
    offset, heading, distance, speed = 0.0, 0.0, 0.0, 8.0
    rows = []
    with VideoWriter(folder / f"{name}.mp4", fps) as video:
        for step in range(steps):
            video.write(draw(size, offset, heading, distance))
            steering[step] = np.clip(steering[step] - 0.5 * heading / TURN - 0.1 * offset, -1, 1)  # the driver stays
            rows.append((step / fps, steering[step], throttle[step], distance, -offset, speed))
            heading += TURN * steering[step] / fps
            speed += (6 * throttle[step] - 0.25 * speed + 0.5) / fps
            offset += speed * np.sin(heading) / fps
            distance += speed * np.cos(heading) / fps
    head = "time,steering,throttle" + (",x,y,speed" if places else "")
    rows.append((steps / fps, *rows[-1][1:]))
    np.savetxt(folder / f"{name}.csv", np.array(rows)[:, : head.count(",") + 1], "%.6f", ",", header=head, comments="")
    return str(folder / f"{name}.mp4"), str(folder / f"{name}.csv")
