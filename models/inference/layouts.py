"""Who else is on the road, as the reset option `layout` says it: boxes, a log that is replayed, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivedit.models import Scene, World
from drivedit.models.conditions.layout import LAYOUT, check_layout, moving
from drivedit.models.scenes import OTHERS
from drivedit.utils import Route, whole_number
from drivedit.utils.episodes import Agents, check_agents

IN_SCENE = "scene"  # those who were there in the scene
RANDOM = "random"  # those of another scene of the world, see `drivedit.inference.drawn_layouts`
BESIDE = 100.0  # metres from the route, to which a map reaches that is not told
SCRATCH = 0.9  # boxes are so much shorter and narrower where it is asked whether they stand inside each other
CAR = (1.0, 1.0, 2.0)  # metres of the driven car that stand in nobody, whatever its size is
EXPECTED = (
    "option layout is an array [A, 8] of boxes, a sequence of such arrays or drivedit.utils.episodes.Agents (a log), a "
    "function of time and pose, 'scene' or 'random'"
)

Asker = Callable[[float, np.ndarray], Any]


@dataclass(frozen=True, eq=False)
class Log:
    """Others at every step from a start on; when it is over, they drive on at their own speed.

    Attributes:
        moments: float32 `[A, 8]` for each step, the start first.
    """

    moments: tuple[np.ndarray, ...]

    def at(self, step: int, seconds: float, pose: np.ndarray) -> np.ndarray | None:
        """The boxes at a step; None: it is over."""
        return self.moments[step] if step < len(self.moments) else None


@dataclass(frozen=True, eq=False)
class Asked:
    """A function that is asked at every step who is there.

    Attributes:
        function: Of the time since the start in seconds, and the car's pose float64 `[3]`; gives boxes `[A, 8]`. None:
            the bytes of a state do not hold it.
        origin: Where the world tells its places from, in those that the function knows.
    """

    function: Asker | None
    origin: tuple[float, float]

    def at(self, step: int, seconds: float, pose: np.ndarray) -> np.ndarray | None:
        """The boxes now, float32 `[A, 8]`, or ValueError."""
        assert self.function is not None
        told = self.function(seconds, pose + [*self.origin, 0.0])
        if told is None:
            raise ValueError("the function of option layout answers with boxes [A, 8], of nobody [0, 8]; got None")
        return boxes_of(told, self.origin)


Source = Log | Asked | None  # None: they drive on from where they are, or are dreamed


def find_layout(world: World, wanted: Any, scene: Scene, origin: np.ndarray) -> tuple[np.ndarray, Source]:
    """The boxes of a start, float32 `[A, 8]`, and what says where others are from then on.

    Args:
        world: The world.
        wanted: The option.
        scene: The scene, on the route that is driven.
        origin: Where the scene's places are told from, in those of the option.

    Raises:
        ValueError: The world is told of nobody, the option is none, or nobody could stand so.
    """
    if OTHERS not in world.spec.conditions:
        raise ValueError(
            f"option layout needs a world that has learned to be told who is there; this one is told "
            f"{world.spec.conditions or 'nothing'}"
        )
    zero, dt = (float(origin[0]), float(origin[1])), world.spec.dt
    pose = scene.poses_or_start()[-1].astype(np.float64)
    if isinstance(wanted, str):
        if wanted != IN_SCENE or scene.agents is None:
            raise ValueError(f"{EXPECTED} (for scenes with agents), got {wanted!r}")
        times = dt * np.arange(len(scene.frames)) if scene.times is None else scene.times
        return boxes_of(moving(scene.agents, times)[-1]), None
    source: Source = None
    if callable(wanted):
        source = Asked(wanted, zero)
    elif log := _as_log(wanted, dt):
        source = Log(tuple(boxes_of(each, zero) for each in log))
    boxes = boxes_of(wanted, zero) if source is None else source.at(0, 0.0, pose)
    assert boxes is not None
    check_places(boxes, scene, pose)
    if source is None:
        _check_ahead(boxes, pose)
    return boxes, source


def boxes_of(boxes: Any, origin: Sequence[float] = (0.0, 0.0)) -> np.ndarray:
    """Boxes of a layout, float32 `[A, 8]`, told from an origin, or ValueError."""
    checked = check_layout(boxes, origin)
    if checked is None:
        raise ValueError(f"{EXPECTED}, got None")
    return checked.numpy()


def pack_sources(sources: Sequence[Source]) -> dict[str, Any]:
    """What says where others are, for JSON: every log once, and for each world its number or a function's origin."""
    logs = list({id(each): each for each in sources if isinstance(each, Log)}.values())
    return {
        "logs": [[boxes.tolist() for boxes in log.moments] for log in logs],
        "others": [
            logs.index(each) if isinstance(each, Log) else {"function": each.origin} if each else None
            for each in sources
        ],
    }


def unpack_sources(head: Mapping[str, Any], count: int) -> list[Source]:
    """The reverse of `pack_sources` for so many worlds, without the functions.

    Raises:
        LookupError, TypeError, ValueError: It is none.
    """
    if type(head["others"]) is not list or len(head["others"]) != count:
        raise ValueError(f"others must be {count}, got {head['others']!r:.80}")
    logs = [Log(tuple(boxes_of(np.reshape(boxes, (-1, LAYOUT))) for boxes in log)) for log in head["logs"]]
    found: list[Source] = []
    for each in head["others"]:
        if isinstance(each, dict):
            x, y = (float(value) for value in each["function"])
            found.append(Asked(None, (x, y)))
        else:
            found.append(None if each is None else logs[whole_number(each, "logs are numbered", 0, len(logs) - 1)])
    return found


def with_functions(sources: Sequence[Source], known: Sequence[Source]) -> list[Source]:
    """What says where others are, with functions that bytes did not hold taken from what is known of each world.

    Raises:
        ValueError: One is not known.
    """
    found: list[Source] = []
    for source, own in zip(sources, known, strict=True):
        if isinstance(source, Asked) and source.function is None:
            if not isinstance(own, Asked):
                raise ValueError(
                    "a function says where others are in this state, and bytes do not hold functions: reset with it "
                    "first, reset(options={'layout': ...})"
                )
            source = Asked(own.function, source.origin)
        found.append(source)
    return found


def _as_log(wanted: Any, dt: float) -> list[Any]:
    """The moments of a log; none: it is no log."""
    if isinstance(wanted, (list, tuple)) and wanted and all(isinstance(each, Agents) for each in wanted):
        wanted = Agents.join(wanted)
    if isinstance(wanted, Agents):
        states = np.size(wanted.first) - 1
        check_agents(wanted, max(states, 1))
        return moving(wanted, dt * np.arange(states))
    several = isinstance(wanted, (list, tuple)) and len(wanted) and np.ndim(wanted[0]) == 2
    return list(wanted) if several or isinstance(wanted, np.ndarray) and wanted.ndim == 3 else []


def check_places(boxes: np.ndarray, scene: Scene, pose: np.ndarray) -> None:
    """Raises ValueError where boxes `[A, 8]` stand inside each other or the car at `[3]`, or off the map."""
    car = np.array([[*pose[:2], CAR[2] / 2, *CAR, pose[2], 0.0]])
    one, other = np.nonzero(np.triu(_overlap(np.concatenate([boxes, car]).astype(np.float64)), 1))
    if len(one):
        second = "the car" if other[0] == len(boxes) else f"box {other[0]}"
        raise ValueError(f"box {one[0]} of the layout stands inside {second}, at {boxes[one[0], :2].round(1)}")
    off = np.zeros(len(boxes), bool)
    if scene.bounds is not None:
        low, high = scene.bounds[:2], scene.bounds[2:]
        off |= ((boxes[:, :2] < low) | (boxes[:, :2] > high)).any(1)
    if scene.route is not None and len(boxes):
        line = Route.from_points([scene.route], [scene.closed])
        points = line.points[0, : int(line.count)].numpy()
        off |= np.linalg.norm(boxes[:, None, :2] - points, axis=-1).min(1) > BESIDE
    if off.any():
        where = boxes[off.argmax(), :2].round(1)
        raise ValueError(
            f"box {off.argmax()} of the layout is off the map, at {where}: more than {BESIDE:g} m from the route or "
            f"beyond the field; the car is at {pose[:2].round(1)}"
        )


def _check_ahead(boxes: np.ndarray, pose: np.ndarray) -> None:
    """ValueError where all boxes are behind the car."""
    ahead = (boxes[:, :2] - pose[:2]) @ [np.cos(pose[2]), np.sin(pose[2])] + boxes[:, 3] / 2
    if len(boxes) and (ahead < 0).all():
        raise ValueError(
            f"all {len(boxes)} boxes of the layout are behind the car, which is at {pose[:2].round(1)} and faces "
            f"{pose[2]:.2f} rad: nobody could be seen; one at least is ahead, and of an empty road it is [0, 8]"
        )


def _overlap(boxes: np.ndarray) -> np.ndarray:
    """Which boxes `[A, 8]` stand inside which, bool `[A, A]`: no side of either lies between them."""
    middle, half, yaw = boxes[:, :2], boxes[:, 3:5] * SCRATCH / 2, boxes[:, 6]
    along = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    axes = np.stack([along, np.stack([-along[:, 1], along[:, 0]], -1)], 1)  # [A, 2 sides, 2]
    apart = np.abs(np.einsum("ask,abk->abs", axes, middle - middle[:, None]))  # of b from a along the sides of a
    reach = np.einsum("abst,bt->abs", np.abs(np.einsum("ask,btk->abst", axes, axes)), half)
    between = (apart > half[:, None] + reach).any(-1)
    above = np.abs(boxes[:, 2] - boxes[:, None, 2]) > (boxes[:, 5] + boxes[:, None, 5]) / 2
    return ~(between | between.T | above)
