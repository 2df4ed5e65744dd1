"""The drivers do what their plans say, and together they cover the controls at every speed."""

import numpy as np
import pytest

from drivedit.data.collect import record_episode
from drivedit.data.domains.carracing.behaviours import BEHAVIOURS
from drivedit.data.domains.carracing.drivers import PLANS, Driver, draw_start, make_driver
from drivedit.data.domains.carracing.twin import CarRacingTwin
from drivedit.data.recordings import Episode


@pytest.fixture(scope="module")
def env() -> CarRacingTwin:
    return CarRacingTwin()


def drive(env: CarRacingTwin, plan: str, seed: int, steps: int, direction: int = 1, **start: float):
    """Telemetry [steps+1, 4], controls [steps, 2], arcs [steps+1] and whether the car left."""
    env.reset(seed=seed, options={"track_position": 0.3, "speed": 20.0, **start})
    driver = Driver(np.random.default_rng(seed), plan, direction)
    told, controls, arcs, left = [list(env.telemetry.values())], [], [], False
    while len(controls) < steps and not left:
        controls.append(driver.act(env.truth()))
        left = env.step(controls[-1])[2]
        told.append(list(env.telemetry.values()))
        arcs.append(env.centre_line.project(*env.pose[:2]).arc)
    return np.array(told), np.array(controls), np.array(arcs), left


def test_the_clean_driver_stays_on_the_road_through_bends(env):
    for seed in range(3):
        told, controls, _, left = drive(env, "clean", seed, 300)
        assert not left and (told[:, 3] >= 0.5).mean() > 0.97
        assert told[20:, 0].mean() > 18.0
        assert np.abs(controls[:, 0]).max() > 0.1, "there were bends"


def test_driving_backwards_goes_backwards(env):
    _, _, arcs, _ = drive(env, "clean", 1, 120, direction=-1, heading_error=3.1)
    half = env.centre_line.length / 2
    steps = (np.diff(arcs) + half) % (2 * half) - half
    assert steps[30:].sum() < -50.0


def test_a_driver_finds_back_from_the_grass(env):
    told, *_ = drive(env, "clean", 2, 200, lateral_offset=20.0, heading_error=1.0, speed=25.0)
    assert told[0, 3] == 0.0 and (told[-60:, 3] >= 0.5).all()


def test_runaways_leave(env):
    left = [drive(env, "run_away", seed, 300)[3] for seed in range(3)]
    assert any(left)


def test_plans_are_made_of_known_moods():
    for _, (share, behaviours) in PLANS.items():
        assert share > 0 and set(behaviours) <= set(BEHAVIOURS)
    assert sum(share for share, _ in PLANS.values()) == pytest.approx(1.0, abs=0.01)
    assert {kind.then for kind in BEHAVIOURS.values()} - {None} <= set(BEHAVIOURS)
    with pytest.raises(ValueError, match="clean"):
        Driver(np.random.default_rng(0), "perfect")


def test_a_driver_is_a_function_of_its_generator(env):
    first = record_episode(env, np.random.default_rng(8), 60)
    second = record_episode(env, np.random.default_rng(8), 60)
    assert np.array_equal(first.controls, second.controls) and np.array_equal(first.picture, second.picture)
    assert not np.array_equal(first.controls, record_episode(env, np.random.default_rng(9), 60).controls)


def test_starts_are_legal_and_various(env):
    starts = [draw_start(np.random.default_rng(seed), "mixed") for seed in range(300)]
    for options, direction in starts:
        assert direction in (-1, 1) and abs(options["lateral_offset"]) <= 20.0
    assert 0.02 < np.mean([direction < 0 for _, direction in starts]) < 0.12
    assert np.mean([abs(options["lateral_offset"]) > 8.0 for options, _ in starts]) > 0.05
    driver, start = make_driver(np.random.default_rng(0))
    env.reset(seed=0, options=start)
    assert driver.plan in PLANS


@pytest.fixture(scope="module")
def recorded(env) -> list[Episode]:
    """40 episodes, 8000 steps, driven without drawing."""
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    draw, env._simulator.picture = env._simulator.picture, lambda size: picture  # type: ignore[method-assign]
    episodes = [record_episode(env, np.random.default_rng([1, number]), 200) for number in range(40)]
    env._simulator.picture = draw  # type: ignore[method-assign]
    return episodes


@pytest.mark.xdist_group("recorded")  # what they look at takes half a minute
def test_recordings_cover_the_controls_at_every_speed_on_and_off_the_road(recorded):
    speed, wheels = (np.concatenate([e.telemetry[name][:-1] for e in recorded]) for name in ("speed", "wheels_on_road"))
    controls = np.concatenate([episode.controls for episode in recorded])
    on_road = wheels >= 0.5
    for low, high, cells_on, cells_off in [(-50, 8, 6, 6), (8, 25, 7, 7), (25, 45, 7, 6), (45, 120, 5, 3)]:
        for road, least in ((True, cells_on), (False, cells_off)):
            here = (speed >= low) & (speed < high) & (on_road == road)
            counts, *_ = np.histogram2d(*controls[here].T, bins=3, range=[[-1, 1], [-1, 1]])
            assert (counts > 0).sum() >= least, (low, high, road, counts)


@pytest.mark.xdist_group("recorded")
def test_most_frames_are_driving_along_the_road(recorded):
    names = ("speed", "heading_error", "wheels_on_road")
    speed, heading, wheels = (np.concatenate([episode.telemetry[name] for episode in recorded]) for name in names)
    along = (wheels >= 0.5) & (np.abs(heading) < 1.0) & (speed > 3.0)
    assert 0.5 < along.mean() < 0.8
    assert 0.1 < (wheels == 0.0).mean() < 0.45
    back = sum(int(((w[:-1] == 0) & (w[1:] > 0)).sum()) for w in (e.told("wheels_on_road") for e in recorded))
    assert back >= 15, "the road is regained often"
