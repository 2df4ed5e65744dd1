"""The frames of a film: as many per second as are wanted, at the times that the film gives them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from drivedit.data.exchange.pictures import fitted

HOLE = 1.7  # a longer pause between two frames than this many usual ones is a hole
SAME = 0.01  # rates that differ by less are one rate
NAMED = 0.002  # a measured rate that is that near to the one that the file names is that one


class Video:
    """A video file.

    Args:
        path: The file; anything that FFmpeg decodes.

    Attributes:
        path: The file.
        rate: Frames per second, holes left out.
        seconds: From the first frame to the last one.
        size: Height and width of the pictures.
        aspect: Width over height as they are shown, where pixels need not be square.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no video, or has fewer than two frames or frames without times.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no video {self.path}")
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ValueError(f"{self.path} has no pictures; is it a video file?")
                stream = container.streams.video[0]
                self.size = (stream.height, stream.width)
                self.aspect = float(stream.sample_aspect_ratio or 1) * stream.width / stream.height
                packets = (packet for packet in container.demux(stream) if packet.size)
                stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets]
                unit, named = stream.time_base, float(stream.guessed_rate or 0)
        except FFmpegError as error:
            raise ValueError(f"{self.path} cannot be decoded ({error}); is it a whole video file?") from error
        if unit is None or None in stamps:
            raise ValueError(f"{self.path} is stored without times: write it anew, with times")
        ticks = np.sort(np.array(stamps, np.int64))
        pauses = np.diff(ticks)[np.diff(ticks) > 0]
        if not len(pauses):
            raise ValueError(f"{self.path} has {len(ticks)} frames, two at least are needed")
        usual = pauses[pauses <= HOLE * np.median(pauses)]
        rate = float(len(usual) / (int(usual.sum()) * unit))
        self.rate = named if abs(named - rate) < NAMED * rate else rate
        self.seconds = float((int(ticks[-1]) - int(ticks[0])) * unit)
        self._pauses = pauses * float(unit)

    def left_out(self, fps: float) -> float:
        """Seconds in pauses that are holes at a rate."""
        return float(self._pauses[self._pauses > HOLE / fps].sum())

    def frames(self, fps: float, size: tuple[int, int], fit: str = "crop") -> Iterator[tuple[int, float, np.ndarray]]:
        """Goes through the video at a rate of its own.

        Args:
            fps: Frames per second, at most the video's own rate; at that rate every frame is taken.
            size: Height and width to bring the pictures to.
            fit: How, see `drivedit.data.exchange.pictures.fitted`.

        Yields:
            Number k, the second after the first frame at which the frame is shown, and picture uint8 `[H, W, 3]`, of
            the frames nearest to k / fps. Where the video has a hole, numbers are missing.

        Raises:
            ValueError: `fps` is too high, or the video is damaged, stored rotated, or has no times.
        """
        if not 0 < fps <= (1 + SAME) * self.rate:
            raise ValueError(
                f"{self.path} has {self.rate:.4g} frames per second, so fps can be at most that, got {fps}"
            )
        every = fps >= (1 - SAME) * self.rate
        best: tuple[int, float, float, av.VideoFrame] | None = None  # number, distance from its time, second
        first, last = None, 0.0
        try:
            with av.open(str(self.path)) as container:
                for frame in container.decode(video=0):
                    if frame.time is None or frame.rotation:
                        raise ValueError(
                            f"{self.path} is stored {_fault(frame)}: write it anew, upright and with times"
                        )
                    first = frame.time if first is None else first
                    pause, last = frame.time - first - last, frame.time - first
                    if not every:
                        number = math.floor(last * fps + 0.5)
                    elif best is None:
                        number = 0
                    elif pause <= 0:  # shown at the same time as the one before, which stays
                        number = best[0]
                    else:
                        number = best[0] + (1 if pause <= HOLE / self.rate else max(2, round(pause * self.rate)))
                    off = abs(last * fps - number)
                    if best is not None and number != best[0]:
                        yield best[0], best[2], self._picture(best[3], size, fit)
                        best = None
                    if best is None or off < best[1]:
                        best = number, off, last, frame
        except FFmpegError as error:
            raise ValueError(f"{self.path} cannot be decoded beyond second {last:.2f} ({error})") from error
        if best is not None:
            yield best[0], best[2], self._picture(best[3], size, fit)

    def _picture(self, frame: av.VideoFrame, size: tuple[int, int], fit: str) -> np.ndarray:
        return fitted(frame.to_ndarray(format="rgb24"), size, fit, self.aspect)


def _fault(frame: av.VideoFrame) -> str:
    return "without times" if frame.time is None else f"rotated by {frame.rotation} degrees"
