"""Writing videos with PyAV."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import Flags

WEBP_QUALITY = 60  # of 100
FORMATS = {".mp4": "mp4", ".webp": "webp"}


class VideoWriter:
    """Writes frames to an mp4 file (H.264, yuv420p, which every player shows) or, for pages, an animated WebP.

    The file appears under its name only when it is complete: a `with` block that ends in an error leaves no file, and
    an older one stays. A live film is there at once instead, and whatever ends the program, all of it but the last
    second or two can be played.

    Args:
        path: The file; a name that ends in `.webp` makes a WebP, which repeats for ever.
        fps: Frames per second.
        crf: Quality of H.264; lower is better. A WebP has its own.
        live: Whether to write a live film: in fragments of a second, encoded fast.

    Raises:
        ValueError: The name ends neither in `.mp4` nor in `.webp`, or in `.webp` and it is a live film.
    """

    def __init__(self, path: str | Path, fps: float, crf: int = 18, live: bool = False) -> None:
        self.path, self.fps, self.crf, self.live = Path(path), Fraction(fps).limit_denominator(1000), crf, live
        if self.path.suffix.lower() not in FORMATS:
            raise ValueError(f"a video is named {' or '.join('*' + s for s in FORMATS)}, got {self.path.name!r}")
        self._format = FORMATS[self.path.suffix.lower()]
        if live and self._format != "mp4":
            raise ValueError(f"only an mp4 can be written live, got {self.path.name}")
        self._part = self.path if live else self.path.with_name(f".{self.path.name}.part")
        self._stream: av.VideoStream | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if self.live else {}
        options |= {"loop": "0"} if self._format == "webp" else {}
        self._container = av.open(str(self._part), "w", format=self._format, options=options)
        if self.live:
            self._container.flags |= Flags.flush_packets.value
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame.

        Args:
            frame: uint8 [H, W, 3], H and W even and the same for every frame.

        Raises:
            ValueError: The frame has another shape or type.
        """
        if (
            frame.dtype != np.uint8
            or frame.ndim != 3
            or frame.shape[2] != 3
            or frame.shape[0] % 2
            or frame.shape[1] % 2
        ):
            raise ValueError(f"a video takes uint8 frames [H, W, 3] with even sides, got {frame.dtype} {frame.shape}")
        if self._stream is None:
            self._stream = self._open(frame.shape[1], frame.shape[0])
        if (self._stream.height, self._stream.width) != frame.shape[:2]:
            size = [self._stream.height, self._stream.width, 3]
            raise ValueError(f"the frames of this video are {size}, got {list(frame.shape)}")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def _open(self, width: int, height: int) -> av.VideoStream:
        if self._format == "webp":
            stream = self._container.add_stream("libwebp_anim", rate=self.fps, options={"quality": str(WEBP_QUALITY)})
        elif "libx264" in av.codecs_available:
            fast = {"preset": "superfast", "tune": "zerolatency", "g": str(round(self.fps))} if self.live else {}
            stream = self._container.add_stream("libx264", rate=self.fps, options={"crf": str(self.crf), **fast})
        else:  # builds of PyAV without H.264
            stream = self._container.add_stream("mpeg4", rate=self.fps, bit_rate=4_000_000)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return stream

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        written = self._stream is not None
        if (kind is None or self.live) and self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        if kind is None and written:
            os.replace(self._part, self.path)
        elif not (self.live and written):
            self._part.unlink(missing_ok=True)
