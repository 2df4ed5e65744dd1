"""Traffic keeps its distance as the models say, overtakes, stays around the driven car, merges, and hits nobody."""

import math

import numpy as np
import pytest
from helpers.streets import cars, round_road

from drivedit.data.domains.street import cars as others
from drivedit.data.domains.street import traffic
from drivedit.data.domains.street.car import overlap
from drivedit.data.domains.street.cars import CROSSING, ON_RAMP, TICK
from drivedit.data.domains.street.drivers import LaneKeeper
from drivedit.data.domains.street.driving import HARDEST, SLOW_DOWN, SPEED_UP, STANDING
from drivedit.data.domains.street.roads import lane_middle
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.utils.episodes import Agents

pytestmark = pytest.mark.xdist_group("street")
ALONE = others.make_manner(0, 1e10, 1.0, 0.95)  # nobody comes in


@pytest.fixture(scope="module")
def highway():
    return round_road()


def live(road, table: np.ndarray, count: int, seconds: float, pace: float, begin: float = 0.0) -> np.ndarray:
    """The table after a time, from `begin` on, in which row 0 keeps up at `pace`."""
    for tick in range(round(begin / TICK) + 1, round((begin + seconds) / TICK) + 1):
        table["s"][0] += pace * TICK
        count, _ = traffic.advance(road.shape, road.line, ALONE, table, count, 9, tick)
    return table[:count]


def test_the_gap_at_rest_is_that_of_the_model(highway):
    slow, wish = 12.0, 20.0
    middle = float(lane_middle(highway.shape, 0.0))
    rows = [
        {"s": 30.0, "d": middle, "v": slow, "pace": slow, "truck": 1},
        {"s": 0.0, "d": middle, "v": slow, "pace": wish, "truck": 1},
    ]
    leader, follower = live(highway, cars(*rows), 3, 60.0, slow)[1:]
    speed = float(leader["v"])
    wanted = (STANDING + speed * 1.2) / math.sqrt(1 - (speed / wish) ** 4)
    assert follower["v"] == pytest.approx(speed, abs=0.02)
    assert leader["s"] - follower["s"] - 4.4 == pytest.approx(wanted, abs=0.3)


def test_idm_is_the_formula():
    gap, speed, closing, headway, wish = 25.0, 14.0, 2.0, 1.3, 20.0
    keep = STANDING + speed * headway + speed * closing / (2 * math.sqrt(SPEED_UP * SLOW_DOWN))
    assert others.idm(speed, wish, gap, closing, headway) == pytest.approx(
        SPEED_UP * (1 - (speed / wish) ** 4 - (keep / gap) ** 2)
    )
    assert others.idm(speed, wish, 0.5, closing, headway) == HARDEST


def test_who_is_held_up_overtakes_and_goes_back_to_the_right(highway):
    middle = float(lane_middle(highway.shape, 0.0))
    rows = [{"s": 45.0, "d": middle, "v": 12.0, "pace": 12.0}, {"s": 0.0, "d": middle, "v": 20.0, "pace": 24.0}]
    table, lanes = cars(*rows), []
    while table["s"][2] < table["s"][1] + 150 and len(lanes) < 60:
        table["s"][0] = table["s"][1]
        assert len(live(highway, table, 3, 1.0, 12.0, len(lanes))) == 3
        lanes.append(int(table["lane"][2]))
    assert 1 in lanes, "it went to the left lane"
    assert table["s"][2] > table["s"][1] + 100 and lanes[-1] == 0, "it passed and came back"


def test_nobody_changes_into_a_car_beside(highway):
    right, left = (float(lane_middle(highway.shape, lane)) for lane in (0.0, 1.0))
    rows = [
        {"s": 20.0, "d": right, "v": 12.0, "pace": 12.0}, {"s": 0.0, "d": right, "v": 12.0, "pace": 24.0},
        {"s": 1.0, "d": left, "v": 12.0, "pace": 12.0, "lane": 1, "truck": 1, "hold": 1e9},
    ]  # fmt: skip
    table = cars(*rows)
    for step in range(100):
        live(highway, table, 4, 0.1, 12.0, 0.1 * step)
        table["s"][3], table["v"][3] = table["s"][2] + 1, table["v"][2]  # it stays beside
        assert table["lane"][2] == 0


def clashes(found: Agents) -> int:
    """How many pairs of agents touch."""
    rows = [
        (x, y, math.cos(yaw), math.sin(yaw), long / 2, wide / 2) for x, y, _, long, wide, _, yaw in found.boxes.tolist()
    ]
    return sum(
        overlap(*a, *b)
        for place, a in enumerate(rows) for b in rows[:place]
        if abs(a[0] - b[0]) < 12 and abs(a[1] - b[1]) < 12
    )  # fmt: skip


EXPECTED = {"town": 24, "rural": 16, "highway": 26}  # cars on 360 m of all lanes at their spacing


@pytest.mark.parametrize("road", list(EXPECTED))
def test_a_minute_in_dense_traffic(road):
    env = StreetTwin("range", lidar=(1, 1))
    env.reset(seed=1, options={"attributes": {"road": road, "weather": "clear", "traffic": "dense"}})
    shape = env._world.road.shape
    place = (shape.ramps if road == "highway" else shape.crossings)[0] - 350  # metres before where others come in
    options = {"attributes": {"road": road, "weather": "clear", "traffic": "dense"}}
    env.reset(seed=1, options=options | {"track_position": float(place / shape.length) % 1})
    driver, counts, known, modes, stood = LaneKeeper(np.random.default_rng(0)), [], {}, set(), 0
    for _ in range(600):
        truth = env.truth()
        found = truth.agents
        assert found is not None and clashes(found) == 0
        assert len(set(found.ids.tolist())) == len(found.ids)
        for number, box in zip(found.ids.tolist(), found.boxes, strict=True):
            before = known.get(number)
            assert before is None or (np.hypot(*(box[:2] - before[:2])) < 6 and np.array_equal(box[3:6], before[3:6]))
        known = dict(zip(found.ids.tolist(), found.boxes, strict=True))
        table = env.get_state()["past"][-1].cars
        modes |= set(table["mode"].astype(int))
        stood += bool((table["v"][1:] < 0.3).any())
        counts.append(len(found.ids))
        ended = env.step(driver.act(truth))[2]
        assert not ended
    assert 0.55 * EXPECTED[road] < np.mean(counts) < 1.6 * EXPECTED[road]
    assert min(counts) > 0.35 * EXPECTED[road]
    assert (ON_RAMP if road == "highway" else CROSSING) in modes
    assert stood or road == "highway"


def test_others_brake_for_the_driven_car(highway):
    middle = float(lane_middle(highway.shape, 0.0))
    table = cars({"s": 0.0, "d": middle, "v": 15.0, "pace": 15.0})
    table["d"][0], table["s"][0] = middle, 60.0  # it stands in the way, in a lane that a truck does not leave
    table["truck"][1] = 1
    last = live(highway, table, 2, 20.0, 0.0)[1]
    assert last["v"] < 0.05 and 0.5 < 60 - last["s"] - 4.4 < 4
