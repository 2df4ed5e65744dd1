"""What is true of a moment on the street, for those who drive by it: telemetry, route, agents, neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from drivedit.data.domains.street import car as own
from drivedit.data.domains.street import simulator
from drivedit.data.domains.street.cars import ON_ROAD, beside
from drivedit.data.domains.street.compiled import kernel
from drivedit.data.domains.street.roads import Road, lane_middle
from drivedit.data.domains.street.simulator import Moment, World
from drivedit.utils import Truth

FARTHEST_GAP = 100.0  # m
ROUTE_STEP = 2.0  # m between two points of a route, about
IN_BENDS = 2.6  # m/s^2 sideways that is comfortable


@dataclass(frozen=True)
class Neighbour:
    """Another car, as a driver sees it.

    Attributes:
        id: Its number.
        lane: The lane that it is in or changes to, -1 on ramps and crossing roads; those of the direction come first.
        ahead: Metres along the road from the middle of the own car to its middle.
        offset: Metres to the right of the own car.
        speed: Along the road (m/s), below 0 where it comes towards.
    """

    id: int
    lane: int
    ahead: float
    offset: float
    speed: float


@dataclass(frozen=True)
class StreetTruth(Truth):
    """What the street knows of its present moment.

    Attributes:
        road: The road.
        s: Metres along it.
        d: Metres to the left of its centre line.
        lanes: d of the middles of the lanes of the direction, the right one first.
        limit: Speed of the traffic, as fast as the bends here allow (m/s).
        grip: Share of gravity that tyres hold.
        neighbours: The others, the nearest first.
    """

    road: Road | None = None
    s: float = 0.0
    d: float = 0.0
    lanes: tuple[float, ...] = ()
    limit: float = 0.0
    grip: float = 1.0
    neighbours: tuple[Neighbour, ...] = field(default=())


@dataclass(frozen=True)
class Measured:
    """Where the driven car is on its road.

    Attributes:
        s: Metres along the road.
        d: Metres to the left of its centre line.
        lanes: d of the middles of the lanes of the direction, the right one first.
        off_lanes: Share of the wheels outside them.
        telemetry: Of the spec, by name.
    """

    s: float
    d: float
    lanes: tuple[float, ...]
    off_lanes: float
    telemetry: dict[str, float]


@kernel
def _measure(road, line, grid, driven, cars, count):
    """s, d, angle to the road (> 0 left), gap and speed of the car ahead, shares of wheels on pavement and in lanes."""
    s, d, turn = own.mirror(road, line, grid, driven, cars)
    me = cars[0]
    gap, speed, _ = beside(road, cars, count, 0, me.d - me.wide, me.d + me.wide, 1.0)
    wheels = own.wheels_on_road(road, line, grid, driven[0])
    return s, d, turn, gap, speed, wheels, own.wheels_in_lanes(road, line, grid, driven[0])


def measure(world: World, moment: Moment) -> Measured:
    """Where the driven car of a moment is."""
    road, cars = world.road, moment.cars
    s, d, turn, gap, speed, wheels, inside = _measure(
        road.shape, road.line, road.grid, moment.driven, cars.copy(), len(cars)
    )
    lanes = tuple(float(lane_middle(road.shape, float(lane))) for lane in range(int(road.shape.side)))
    lane = min(range(len(lanes)), key=lambda each: abs(d - lanes[each]))
    telemetry = {
        "speed": float(moment.driven["ahead"][0]),
        "lateral_offset": min(max(lanes[lane] - d, -60.0), 60.0),
        "heading_error": (-turn + math.pi) % (2 * math.pi) - math.pi,
        "gap": min(max(gap, 0.0), FARTHEST_GAP),
        "closing_speed": float(cars["v"][0]) - speed if gap < FARTHEST_GAP else 0.0,
        "lane": float(lane),
        "wheels_on_road": wheels,
    }
    return Measured(s, d, lanes, 1.0 - inside, telemetry)


def route(road: Road, lane: int) -> np.ndarray:
    """The middle of a lane of the direction, a closed lap, float32 `[M, 2]`."""
    few = road.line[:: max(1, round(ROUTE_STEP / float(road.shape.step)))]
    d = lane_middle(road.shape, float(lane))
    return np.stack([few["x"] - few["n"] * d, few["y"] + few["c"] * d], 1).astype(np.float32)


def speed_limit(road: Road, s: float, pace: float, grip: float) -> float:
    """Speed of the traffic, as fast as the bends around s allow (m/s).

    Args:
        road: The road.
        s: Metres along it.
        pace: Share of their speed that cars drive with in this weather.
        grip: Share of gravity that tyres hold.
    """
    bend = float(road.line["bend"][int(s / road.shape.step) % len(road.line)])
    return min(float(road.shape.limit) * pace, math.sqrt(IN_BENDS * min(1.0, grip) / max(bend, 1e-5)))


def tell(world: World, moment: Moment, attributes: dict[str, str]) -> StreetTruth:
    """What is true of a moment."""
    road, found, grip = world.road, measure(world, moment), float(world.manner.grip)
    limit = speed_limit(road, found.s, float(world.manner.pace), grip)
    return StreetTruth(
        found.telemetry, moment.pose, route(road, int(found.telemetry["lane"])), True, None,
        simulator.agents(world, moment), dict(attributes), road, found.s, found.d, found.lanes, limit, grip,
        _neighbours(road, moment.cars, found.s, found.d),
    )  # fmt: skip


def _neighbours(road: Road, cars: np.ndarray, s: float, d: float) -> tuple[Neighbour, ...]:
    """All others as a driver at s, d sees them, the nearest first."""
    length, others = float(road.shape.length), cars[1:]
    away = (others["s"] - s + length / 2) % length - length / 2
    lanes = np.where(others["mode"] == ON_ROAD, others["lane"], -1).astype(int)
    speeds = np.where(lanes >= 0, others["v"] * others["way"], 0.0)
    rows = zip(others["id"].astype(int), lanes, away, d - others["d"], speeds, strict=True)
    found = [Neighbour(int(i), int(lane), float(a), float(o), float(v)) for i, lane, a, o, v in rows]
    return tuple(sorted(found, key=lambda each: abs(each.ahead)))
