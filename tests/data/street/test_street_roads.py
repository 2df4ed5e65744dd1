"""Roads close, are smooth, belong to their seed, and tell s and d of a place as they place it."""

import numpy as np
import pytest

from drivedit.data.domains.street import roads
from drivedit.data.domains.street.rays import CYLINDER, POLE
from drivedit.data.domains.street.scenery import draw_scenery

pytestmark = pytest.mark.xdist_group("street")
ALL = [(kind, seed) for kind in roads.KINDS for seed in (0, 5)]


def draw(kind: str, seed: int) -> roads.Road:
    return roads.draw_road(np.random.default_rng(seed), kind)


@pytest.mark.parametrize(("kind", "seed"), ALL)
def test_a_lap_closes_and_its_curvature_is_continuous(kind, seed):
    road = draw(kind, seed)
    line = np.concatenate([road.line, road.line[:1]])
    steps = np.hypot(np.diff(line["x"]), np.diff(line["y"]))
    assert np.allclose(steps, float(road.shape.step), rtol=2e-3), "the last step is as long as any other"
    turns = np.diff(np.unwrap(np.arctan2(line["n"], line["c"])))
    curve = (line["curve"][1:] + line["curve"][:-1]) / 2 * float(road.shape.step)
    assert np.allclose(turns, curve, atol=2e-3) and abs(abs(turns.sum()) - 2 * np.pi) < 1e-6
    sharpest = 1 / roads.STYLES[kind].radius[0]
    assert np.abs(line["curve"]).max() <= sharpest + 1e-9
    assert np.abs(np.diff(line["curve"])).max() < 0.35 * sharpest, "no jump from a straight into a bend"
    assert (line["curve"] == 0).mean() > 0.15, "there are straights"


def test_a_road_belongs_to_its_seed():
    first, again, other = draw("rural", 3), draw("rural", 3), draw("rural", 4)
    assert np.array_equal(first.line, again.line) and np.array_equal(first.grid, again.grid)
    assert len(first.line) != len(other.line) or not np.array_equal(first.line, other.line)
    one, two = (draw_scenery(road, np.random.default_rng(1))[0] for road in (first, again))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(("kind", "seed"), ALL)
def test_places_are_found_again(kind, seed):
    road, rng = draw(kind, seed), np.random.default_rng(0)
    for s, d in zip(rng.uniform(0, float(road.shape.length), 300), rng.uniform(-12, 12, 300), strict=True):
        x, y, _ = road.place(s, d)
        found_s, found_d = road.locate(x, y)
        assert abs(roads.apart(road.shape, found_s - s)) < 0.08 and abs(found_d - d) < 0.03
    assert road.locate(1e5, 0.0)[1] == 1e3, "far from the road nothing is known"


@pytest.mark.parametrize("kind", ["town", "rural"])
def test_crossings_are_on_straights_and_paved(kind):
    road = draw(kind, 0)
    assert len(road.crossings) >= 3
    for row in road.crossings:
        place = int(row["s"] / road.shape.step)
        assert np.abs(np.take(road.line["curve"], range(place - 20, place + 21), mode="wrap")).max() == 0
        assert roads.paved(road.shape, float(row["s"]), 30.0) and not roads.paved(road.shape, row["s"] + 6.0, 30.0)


def test_a_ramp_comes_from_beside_and_becomes_a_lane():
    road = draw("highway", 0).shape
    begin = float(road.ramps[0])
    beside = roads.lane_middle(road, -1.0)
    assert roads.paved(road, begin + 50, beside) and not roads.paved(road, begin + 400, beside)
    assert roads.ramp_middle(road, 100.0) == beside
    assert roads.ramp_middle(road, -roads.RAMP_BEFORE) == pytest.approx(beside - roads.RAMP_OUT)
    assert not roads.paved(road, begin - 100, beside), "between the two there is grass"


@pytest.mark.parametrize("kind", roads.KINDS)
def test_nothing_stands_on_the_road(kind):
    road = draw(kind, 1)
    bodies, solids = draw_scenery(road, np.random.default_rng(0))
    assert len(bodies) > 300 and 0 < len(solids) < len(bodies)
    for body in solids:
        s, d = road.locate(body["x"], body["y"])
        barrier = kind == "highway" and abs(d) < 0.01 and body["what"] == POLE
        assert barrier or not roads.paved(road.shape, s, d), (body["form"] == CYLINDER, s, d)
