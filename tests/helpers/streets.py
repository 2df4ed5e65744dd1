"""Streets for tests: a round one of any radius, worlds of it with chosen traffic, and what drives through them."""

from dataclasses import replace

import numpy as np

from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street import cars as others
from drivedit.data.domains.street import roads, simulator
from drivedit.data.domains.street.simulator import World
from drivedit.data.domains.street.twin import StreetTwin

PLAIN = {"road": "town", "weather": "clear", "time": "day", "traffic": "none"}


def round_road(radius: float = 2000.0, kind: str = "highway") -> roads.Road:
    """A circle that is driven to the left, without crossings and ramps."""
    style, count = roads.STYLES[kind], int(2 * np.pi * radius)
    angles = np.arange(count) * 2 * np.pi / count
    bend = np.full(count, 1 / radius)
    columns = [radius * np.cos(angles), radius * np.sin(angles), -np.sin(angles), np.cos(angles), bend, bend]
    points = np.ascontiguousarray(np.stack(columns, 1))
    corner, cells = points[:, :2].min(0) - roads.REACH - 2, int(2 * (radius + roads.REACH + 4) / roads.CELL)
    line, grid = points.view(roads.POINT)[:, 0], np.full((cells, cells), -1, np.int32)
    roads._nearest(line, *corner, grid)
    shape = roads._shaped(
        length=2 * np.pi * radius, step=2 * np.pi * radius / count, west=corner[0], south=corner[1],
        half=style.side * style.lane + style.median + style.edge, lane=style.lane, median=style.median,
        limit=style.limit, reach=style.reach, side=style.side, kind=roads.KINDS.index(kind),
    )  # fmt: skip
    return roads.Road(line, grid, np.zeros(0, roads.CROSSING), shape)


def empty_world(weather: str = "clear", road: roads.Road | None = None, spacing: float = 0.0) -> World:
    """A world where nothing stands, and where nobody comes in."""
    world = simulator.make_world(0, {**PLAIN, "weather": weather})
    nothing = world.bodies[:0]
    manner = others.make_manner(0, spacing, 1.0, float(world.manner.grip))
    return replace(world, road=road or round_road(), manner=manner, bodies=nothing, solids=nothing)


def cars(*rows: dict[str, float]) -> np.ndarray:
    """A table of traffic: row 0 far off the road, then cars of these values."""
    table = np.zeros(others.MOST, others.CAR)
    table["long"], table["wide"], table["tall"], table["headway"], table["way"] = 2.2, 0.9, 1.5, 1.2, 1
    table["mode"][0], table["d"][0], table["since"] = others.DRIVEN, 30.0, -1000
    for place, row in enumerate(rows, start=1):
        table["id"][place] = place
        for name, value in row.items():
            table[name][place] = value
    return table


def blind_twin() -> StreetTwin:
    """A twin that draws nothing, for drivers that look at nothing."""
    env = StreetTwin()
    nothing = {kind: np.zeros(each.shape, each.dtype) for kind, each in SPEC.observations.items()}
    env._observe = lambda moment: nothing  # type: ignore[method-assign]
    return env
