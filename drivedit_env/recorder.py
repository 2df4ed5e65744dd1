"""What was driven, kept: shards that `drivedit.data` reads, and a film.

A recording is a run of pieces, each a shard of its own in the form of `drivedit.data.recordings` (which a test reads
back), with what that form ignores and a replay needs: the bytes of the first state, the world's fingerprint and the
sampling steps. `EnvState` bytes set, actions stepped, frames equal, bit for bit. The piece that grows is written anew
every second, in one move, and the film is written in fragments, so a program that is killed loses a second at most.
"""

from __future__ import annotations

import io
import json
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from drivedit.utils import write_atomically
from drivedit_env.state import EnvState

FORMAT = {"format": "drivedit-recording", "version": 1, "env": "DriveDiT-v0", "held_out": False}
PIECE = 256  # steps of a shard at most
SAVE_EVERY = 16  # steps, about a second
FILM_HEIGHT = 512  # px
OF_STEPS = ("controls", "reward", "progress", "terminated")


@dataclass(frozen=True)
class Moment:
    """A moment of a drive: what is seen, and what it takes to go on from here.

    Attributes:
        state: The dream.
        frame: uint8 [H, W, 3].
        action: float32 [2] that led here.
        reward: Of the step that led here.
        returned: Sum of the rewards since the drive began.
        steps: Since the drive began.
        ended: Whether the episode has ended.
        info: Gymnasium's.
        real: What the simulator shows, if it drives along: uint8 [H, W, 3].
        reality: The simulator's state, if it drives along.
    """

    state: EnvState
    frame: np.ndarray
    action: np.ndarray
    reward: float
    returned: float
    steps: int
    ended: bool
    info: dict[str, Any] = field(repr=False)
    real: np.ndarray | None = None
    reality: dict[str, Any] | None = None


class Recording:
    """A recording that goes on until `close`.

    Args:
        folder: Where shards and film go; a folder may hold many recordings, and is one set of them for training.
        fps: Frames per second.
    """

    def __init__(self, folder: str | Path, fps: float) -> None:
        self.folder = Path(folder)
        self.name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self.steps = 0
        self._pieces, self._fps = 0, fps
        self._rows: list[dict[str, Any]] = []
        self._head: dict[str, Any] = {}
        self._first: Moment | None = None
        self._last: Moment | None = None
        self._film: Any = None
        self._stack = ExitStack()

    @property
    def film(self) -> Path:
        """The film."""
        return self.folder / f"drive-{self.name}.mp4"

    def add(self, before: Moment, after: Moment, driver: str, sampling_steps: int) -> None:
        """Adds a step. A new piece begins where it does not follow the last one, or another hand has the wheel.

        Args:
            before: The moment that the step began in.
            after: The moment that it led to.
            driver: Who drove.
            sampling_steps: Network passes for the frame.

        Raises:
            OSError: It could not be written, for instance because the disk is full.
            ImportError: PyAV is missing.
        """
        head = {"driver": driver, "sampling_steps": sampling_steps}
        if before is not self._last or head != self._head or len(self._rows) > PIECE:
            self.save()
            self._pieces += self._first is not None
            self._first, self._head, self._rows = before, head, [_row(before)]
        self._rows.append(_row(after))
        self._last = after
        self.steps += 1
        if len(self._rows) % SAVE_EVERY == 0:
            self.save()
        if self._film is None:
            self._film = self._stack.enter_context(film_writer(self.film, self._fps, live=True))
        self._film.write(enlarged(after.frame, FILM_HEIGHT))

    def save(self) -> None:
        """Writes the piece so far.

        Raises:
            OSError: It could not be written; what was written before is untouched.
        """
        if self._first is not None:
            path = self.folder / f"shard-{self.name}-{self._pieces:04d}.h5"
            data = _packed(self._rows, self._first, self._head)
            write_atomically(path, lambda file: file.write(data))

    def close(self) -> None:
        """Writes what is left; the recording is then over.

        Raises:
            OSError: It could not be written.
        """
        with self._stack:
            self.save()


def film_writer(path: str | Path, fps: float, live: bool = False) -> Any:
    """The project's `VideoWriter`, imported only when something is filmed.

    Raises:
        ImportError: PyAV is missing.
    """
    try:
        from drivedit.utils.video import VideoWriter
    except ImportError as error:
        raise ImportError("films need PyAV: pip install av") from error
    return VideoWriter(path, fps, live=live)


def enlarged(frame: np.ndarray, height: int) -> np.ndarray:
    """A frame for people, uint8 [height, W, 3]; even sides, as films need them, for an even height."""
    width = 2 * round(height * frame.shape[1] / frame.shape[0] / 2)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def _row(moment: Moment) -> dict[str, Any]:
    """What a shard holds of one moment; the first one of a piece has no step that led to it."""
    return {
        "frames": moment.frame,
        "controls": moment.action,
        "reward": np.float32(moment.reward),
        "progress": np.float32(moment.info["reward_terms"]["progress"]),
        "terminated": np.bool_(moment.ended),
        "telemetry": np.array(list(moment.info["telemetry"].values()), np.float32),
        "poses": moment.state.world.pose[0].double().cpu().numpy(),
        "confidence": np.float32(moment.info["confidence"]),
    }


def _packed(rows: list[dict[str, Any]], first: Moment, head: dict[str, Any]) -> memoryview:
    """A shard of one episode: n + 1 rows, what does not change, and how to replay it."""
    world = first.state.world
    arrays = {name: np.stack([row[name] for row in rows[name in OF_STEPS :]]) for name in rows[0]}
    arrays["route"] = world.points[0, : int(world.count)].float().cpu().numpy()
    arrays["state"] = np.frombuffer(first.state.to_bytes(), np.uint8)
    attrs = {"seed": 0, "start": json.dumps({"scene": first.info["scene"]}), "closed": bool(world.closed)}
    bounds = world.bounds[0].cpu().numpy()
    if np.isfinite(bounds).any():
        attrs["bounds"] = bounds
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(FORMAT)
        group = file.create_group("episode_000000")
        for name, array in arrays.items():
            packing = {"compression": "gzip", "compression_opts": 1} if name == "frames" else {}
            chunks = (min(16, len(array)), *array.shape[1:]) if name == "frames" else array.shape
            group.create_dataset(name, data=array, chunks=chunks if array.size else None, **packing)
        group.attrs.update({**attrs, **head, "fingerprint": first.state.fingerprint})
    return buffer.getbuffer()
