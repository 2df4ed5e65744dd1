"""The street's recording drivers do what their names say, and together they cover the controls at every speed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from helpers.streets import PLAIN, blind_twin

from drivedit.config import find_domain
from drivedit.config.domains.street import SPEC
from drivedit.data.domains.street.behaviours import BEHAVIOURS
from drivedit.data.domains.street.drivers import PLANS, SHARES, Driver, draw_good_start, draw_start, make_driver
from drivedit.data.domains.street.truth import StreetTruth
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.utils import load_object

pytestmark = pytest.mark.xdist_group("street")
ALONE = {"attributes": {**PLAIN, "road": "rural"}, "track_position": 0.3, "speed": 15.0}
DENSE = {**ALONE, "attributes": {**ALONE["attributes"], "traffic": "dense"}}


@pytest.fixture(scope="module")
def env() -> StreetTwin:
    return blind_twin()


@dataclass
class Drive:
    """Telemetry by name `[n + 1]`, controls `[n, 2]`, and why it ended ("": it did not)."""

    told: dict[str, np.ndarray]
    controls: np.ndarray
    ending: str


def drive(env: StreetTwin, name: str, seed: int, steps: int, **options) -> Drive:
    """Drives with one behaviour."""
    behaviour, before = BEHAVIOURS[name].make(np.random.default_rng(seed)), (0.0, 0.0)

    def act(truth):
        nonlocal before
        before = tuple(np.clip(behaviour(truth, before), -1.0, 1.0))
        return np.array(before)

    return run(env, act, seed, steps, **options)


def run(env: StreetTwin, act: Callable, seed: int, steps: int, **options) -> Drive:
    """Drives with a function of the truth."""
    _, info = env.reset(seed=seed, options={**ALONE, **options})
    told, controls, ending = [info["telemetry"]], [], ""
    while len(controls) < steps and not ending:
        controls.append(act(env.truth()))
        *_, info = env.step(controls[-1])
        told.append(info["telemetry"])
        ending = next((each for each in SPEC.endings if info["reward_terms"][each]), "")
    return Drive({each: np.array([row[each] for row in told]) for each in told[0]}, np.array(controls), ending)


def swing(drive: Drive) -> float:
    return float(np.std(drive.told["lateral_offset"]))


def test_who_keeps_the_lane_stays_in_it_and_hits_nobody(env):
    for seed in range(3):
        found = drive(env, "keep", seed, 150, **DENSE)
        assert not found.ending and np.abs(found.told["lateral_offset"]).max() < 1.2
        assert found.told["speed"].mean() > 4 and np.abs(found.controls[:, 0]).max() > 0.02


def test_a_tailgater_comes_closer_than_a_follower(env):
    gaps = {}
    for name in ("keep", "tailgate"):
        found = [drive(env, name, seed, 150, **DENSE).told for seed in (1, 2, 3)]
        gaps[name] = [np.median(each["gap"][60:] / np.maximum(each["speed"][60:], 2.0)) for each in found]
    assert np.median(gaps["tailgate"]) < 0.6 * np.median(gaps["keep"])


def test_the_slow_are_slow_and_racers_fast(env):
    mean = {name: drive(env, name, 5, 120).told["speed"][40:].mean() for name in ("slow", "keep", "race")}
    assert mean["slow"] < 0.7 * mean["keep"] and mean["race"] > 1.1 * mean["keep"]


def test_drunk_drivers_swing_and_those_who_leave_come_beside_the_pavement(env):
    swings = {name: np.median([swing(drive(env, name, seed, 100)) for seed in range(3)]) for name in ("keep", "weave")}
    assert swings["weave"] > 4 * swings["keep"]
    assert min(drive(env, "leave", seed, 60).told["wheels_on_road"].min() for seed in range(3)) <= 0.5
    assert "off_road" in [drive(env, "go_astray", seed, 100).ending for seed in range(4)]
    back = drive(env, "recover", 0, 120, lateral_offset=4.0, heading_error=0.3)
    assert back.told["wheels_on_road"][0] < 1 and np.abs(back.told["lateral_offset"][-20:]).max() < 0.6


def test_overtakers_pass_on_the_other_side_and_come_back(env):
    light = {"attributes": {**ALONE["attributes"], "traffic": "light"}}
    found = [drive(env, "overtake", seed, 300, **light, track_position=0.1 * seed) for seed in (1, 3)]
    sides = [each.told["lateral_offset"] for each in found]
    assert all((side < -2.8).any() and abs(side[-1]) < 1.0 for side in sides)
    assert all((drive(env, "keep", seed, 100, **DENSE).told["lateral_offset"] > -1.5).all() for seed in range(2))


def test_those_on_the_wrong_side_are_there(env):
    assert np.median(drive(env, "against", 1, 80).told["lateral_offset"][30:]) < -1.7


def test_brakes_bring_the_car_to_a_stand_and_it_goes_on(env):
    found = drive(env, "brake", 2, 100)
    assert found.told["speed"][-1] < 0.1 and np.abs(found.told["lateral_offset"]).max() < 1.0
    assert drive(env, "recover", 2, 60, speed=0.0).told["speed"][-1] > 4


def test_rams_hit_others(env):
    ends = [drive(env, "ram", seed, 200, **DENSE).ending for seed in range(3)]
    assert ends.count("collision") >= 2


def test_turners_turn_against_the_road(env):
    ends = [drive(env, "turn", seed, 150, track_position=0.7).ending for seed in range(6)]
    assert "wrong_way" in ends


def test_jerks_take_all_controls_and_yet_stay_on_the_road(env):
    found = [drive(env, "jerk", seed, 120) for seed in range(3)]
    controls = np.concatenate([each.controls for each in found])
    assert (controls.min(0) < -0.8).all() and (controls.max(0) > 0.8).all()
    assert np.mean(np.concatenate([each.told["wheels_on_road"] for each in found]) > 0.5) > 0.8


def test_sleepers_keep_their_controls_and_sweepers_swing_the_wheel(env):
    dozed = drive(env, "doze", 1, 10).controls
    assert np.abs(dozed - dozed[0]).max() < 0.4
    swept = drive(env, "sweep", 3, 30, speed=5.0).controls[:, 0]
    assert swept.min() < -0.09 and swept.max() > 0.09 and np.ptp(drive(env, "hold", 1, 5).controls, axis=0).max() == 0


def test_plans_are_made_of_known_behaviours():
    for plan in PLANS.values():
        assert plan.share > 0 and set(plan.mix) <= set(BEHAVIOURS) and sum(plan.mix.values()) == pytest.approx(1)
    assert sum(plan.share for plan in PLANS.values()) == pytest.approx(1)
    assert {kind.then for kind in BEHAVIOURS.values()} - {None} <= set(BEHAVIOURS)
    with pytest.raises(ValueError, match="clean"):
        Driver(np.random.default_rng(0), "perfect")
    with pytest.raises(ValueError, match="told a road"):
        Driver(np.random.default_rng(0), "clean").act(StreetTruth({"speed": 1.0, "lane": 0.0, "gap": 100.0}))


def test_a_driver_is_a_function_of_its_generator(env):
    def controls(seed):
        driver, start = make_driver(np.random.default_rng(seed))
        return run(env, driver.act, 1, 40, **start).controls

    assert np.array_equal(controls(3), controls(3)) and not np.array_equal(controls(3), controls(4))


def test_starts_are_legal_and_have_all_attributes(env):
    starts = [draw_start(np.random.default_rng(seed), "mixed") for seed in range(400)]
    for name, shares in SHARES.items():
        drawn = [start["attributes"][name] for start in starts]
        counts = np.array([drawn.count(value) for value in SPEC.attributes[name]]) / len(drawn)
        assert np.abs(counts - shares).max() < 0.08, (name, counts)
    assert 0.05 < np.mean([abs(start["lateral_offset"]) > 1.2 for start in starts]) < 0.3
    assert 0.05 < np.mean([start["speed"] == 0 for start in starts]) < 0.25
    assert load_object(find_domain("street").recording_starts) is draw_good_start
    env.reset(seed=1, options=draw_good_start(np.random.default_rng(1)))


def test_recordings_cover_the_controls_at_every_speed_and_end_in_many_ways(env):
    found = []
    for number, plan in enumerate(4 * ["shaky", "wild", "mixed"]):
        rng = np.random.default_rng([1, number])
        found.append(run(env, Driver(rng, plan).act, number, 100, **draw_start(rng, plan)))
    controls = np.concatenate([each.controls for each in found])
    speed = np.concatenate([each.told["speed"][:-1] for each in found])
    for low, high, cells in [(0, 6, 6), (6, 15, 6), (15, 45, 4)]:
        here = (speed >= low) & (speed < high)
        counts, *_ = np.histogram2d(*controls[here].T, bins=3, range=[[-1, 1], [-1, 1]])
        assert (counts > 0).sum() >= cells, (low, high, counts)
    assert 0.1 < np.mean([bool(each.ending) for each in found]) < 0.9
