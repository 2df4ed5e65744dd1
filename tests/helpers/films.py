"""Films and tables of controls that tests make up."""

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FPS, STEPS = 20, 90


def shade(frame: int) -> int:
    return 20 + 2 * frame


def write_video(
    path: Path,
    numbers: range | list[int],
    size: tuple[int, int] = (96, 96),
    fps: int = FPS,
    pixel: int = 1,
    same: int | None = None,
) -> Path:
    """Frame `i` is grey of `shade(i)` and shown at second i / fps; numbers that are left out are a hole.

    Pixels are `pixel` times as wide as high. Frame `same` is shown at the time of the one before.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps, bit_rate=2_000_000)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(pixel)
        for number in numbers:
            picture = av.VideoFrame.from_ndarray(np.full((*size, 3), shade(number), np.uint8), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            packets = stream.encode(picture)
            for packet in packets:
                if number == same:
                    packet.pts = packet.dts = number - 1
            container.mux(packets)
        container.mux(stream.encode())
    return path


def write_table(path: Path, seconds: float = STEPS / FPS + 0.1, rate: int = 50, start: float = 0.0, **more) -> Path:
    """Steering rises evenly from 0 to .5, throttle is a quarter; further columns are functions of time."""
    time = np.arange(0, seconds, 1 / rate)
    columns = {
        "time": time + start,
        "steering": 0.5 * time / time[-1],
        "throttle": np.full(len(time), 0.25),
        **{k: f(time) for k, f in more.items()},
    }
    lines = [",".join(columns), *(",".join(f"{v:.6f}" for v in row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


SIZE = (16, 24)


def write_drive(folder: Path, count: int, seed: int = 0, depth: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures and controls; returns both."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (count, *SIZE, 3), dtype=np.uint8)
    controls = rng.uniform(-1, 1, (count, 4))
    (folder / "depth").mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if depth:
            cv2.imwrite(str(folder / "depth" / f"{number}.png"), np.full(SIZE, 655 * number, np.uint16))
    names = ("steering", "acceleration", "goal_x", "goal_y")
    rows = [dict(zip(names, row, strict=True)) for row in controls.tolist()]
    (folder / "controls.json").write_text(json.dumps({"controls": rows}))
    return frames, controls
