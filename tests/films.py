"""Films and tables of controls that tests make up."""

from fractions import Fraction
from pathlib import Path

import av
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
