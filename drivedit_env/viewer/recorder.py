"""What was driven, kept: shards that `drivedit.data` reads, and a film.

A recording is a run of pieces, each a shard of its own, with what the format only carries and a replay needs: the
bytes of the first state, the world's fingerprint and the sampling steps. `EnvState` bytes set, actions stepped, frames
equal, bit for bit. The piece that grows is written anew every second, in one move, and the film is written in
fragments, so a program that is killed loses a second at most.
"""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drivedit.models import World
from drivedit.models.scenes import ROUTE
from drivedit.utils import Route
from drivedit.utils.episodes import Episode
from drivedit.utils.pictures import enlarged
from drivedit.utils.shards import write_shard
from drivedit_env.state import EnvState
from drivedit_env.viewer.surroundings import Surroundings

PIECE = 256  # steps of a shard at most
SAVE_EVERY = 16  # steps, about a second
FILM_HEIGHT = 512  # px


@dataclass(frozen=True)
class Moment:
    """A moment of a drive: what is seen, and what it takes to go on from here.

    Attributes:
        state: The dream.
        frame: uint8 [H, W, 3].
        action: float32 [A] that led here, inside the ranges of the controls.
        reward: Of the step that led here.
        returned: Sum of the rewards since the drive began.
        steps: Since the drive began.
        ended: Whether the episode has ended.
        info: Gymnasium's.
        real: What the simulator shows, if it drives along: uint8 [H, W, 3].
        reality: The simulator's state, if it drives along.
        around: What is known around the car in the dream, and in the simulator; None: nothing.
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
    around: tuple[Surroundings | None, Surroundings | None] = (None, None)


class Recording:
    """A recording that goes on until `close`.

    Args:
        folder: Where shards and film go; a folder may hold many recordings, and is one set of them for training.
        world: The world that is driven in.
    """

    def __init__(self, folder: str | Path, world: World) -> None:
        self.folder = Path(folder)
        self.name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self.steps = 0
        self._pieces, self._world = 0, world
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
            self._first, self._head, self._rows = before, head, [_row(self._world, before)]
        self._rows.append(_row(self._world, after))
        self._last = after
        self.steps += 1
        if len(self._rows) % SAVE_EVERY == 0:
            self.save()
        if self._film is None:
            self._film = self._stack.enter_context(film_writer(self.film, self._world.spec.fps, live=True))
        self._film.write(enlarged(after.frame, FILM_HEIGHT))

    def save(self) -> None:
        """Writes the piece so far.

        Raises:
            OSError: It could not be written; what was written before is untouched.
        """
        if self._first is not None:
            path = self.folder / f"shard-{self.name}-{self._pieces:04d}.h5"
            episode = _episode(self._world, self._rows, self._first, self._head)
            attrs = {"env": "DriveDiT-v0", "made_from": {"world": self._first.state.fingerprint}}
            write_shard(path, [episode], attrs, compression=1)

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


def _row(world: World, moment: Moment) -> dict[str, Any]:
    """What a shard holds of one moment; the first one of a piece has no step that led to it."""
    return {
        "frame": moment.frame,
        "action": moment.action,
        "reward": moment.reward,
        "rewards": moment.info["reward_terms"],
        "ended": moment.ended,
        "telemetry": moment.info["telemetry"],
        "pose": world.poses(moment.state.world)[0].double().cpu().numpy(),
        "confidence": moment.info["confidence"],
    }


def _episode(world: World, rows: list[dict[str, Any]], first: Moment, head: dict[str, Any]) -> Episode:
    """The episode of n + 1 rows, with what a replay needs."""
    spec, steps, route = world.spec, rows[1:], world.conditions(first.state.world).get(ROUTE)
    ends = [name for name in spec.endings if steps[-1]["rewards"].get(name)] if steps[-1]["ended"] else []
    return Episode(
        spec=spec,
        observations={spec.picture: np.stack([row["frame"] for row in rows])},
        controls=np.stack([row["action"] for row in steps]),
        reward=np.array([row["reward"] for row in steps], np.float32),
        rewards={name: np.array([row["rewards"][name] for row in steps], np.float32) for name in spec.rewards},
        terminated=np.array([row["ended"] for row in steps], bool),
        telemetry={
            name: np.array([row["telemetry"][name] for row in rows], np.float32) for name in spec.names("telemetry")
        },
        poses=np.stack([row["pose"] for row in rows]),
        **({} if route is None else _place(route)),
        ending=ends[0] if ends else "",
        driver=head["driver"],
        start={"scene": first.info["scene"]},
        extra={
            "confidence": np.array([row["confidence"] for row in rows], np.float32),
            "state": np.frombuffer(first.state.to_bytes(), np.uint8),
            "sampling_steps": head["sampling_steps"],
            "fingerprint": first.state.fingerprint,
        },
    )


def _place(route: Route) -> dict[str, Any]:
    """The route of a single world, as an episode has it."""
    bounds = route.bounds[0].cpu().numpy()
    points = route.points[0, : int(route.count)].float().cpu().numpy()
    return {"route": points, "closed": bool(route.closed), "bounds": bounds if np.isfinite(bounds).any() else None}
