"""Policies of the street see pictures or scans alone: they read about what is true, each drives as its name says."""

import math

import numpy as np
import pytest
from helpers.streets import PLAIN

from drivedit.config.domains.street import DOMAIN
from drivedit.data.blind_policies import Fixed
from drivedit.data.clips import Drives
from drivedit.data.collect import collect_recordings
from drivedit.data.domains.street import readout
from drivedit.data.domains.street.drivers import LaneKeeper
from drivedit.data.domains.street.driving import speed_after
from drivedit.data.domains.street.fit_readout import fit_readout, targets
from drivedit.data.domains.street.policies import DAB, POLICIES, SKILLS, SightDriver, Skill
from drivedit.data.domains.street.readout import AHEAD, NEAR, SCALES, SENSES, read
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.utils import load_object
from drivedit.utils.ranges import RangeView

pytestmark = pytest.mark.xdist_group("street")
LIGHT = {**PLAIN, "traffic": "light"}


@pytest.fixture(scope="module")
def env() -> StreetTwin:
    return StreetTwin()


def moments(env: StreetTwin, **options) -> list[tuple[dict[str, float], dict[str, float]]]:
    """What is told and what is read, of some steps on three roads."""
    found = []
    for seed, road in enumerate(("town", "rural", "highway")):
        start = {"attributes": {**LIGHT, "road": road}, "track_position": 0.1 + 0.3 * seed, **options}
        before, _ = env.reset(seed=910_000 + seed, options=start)
        driver = LaneKeeper(np.random.default_rng(0))
        for _ in range(8):
            frame, *_, info = env.step(driver.act(env.truth()))
            seen = read(frame[None], before[None])
            found.append((info["telemetry"], {name: float(each[0]) for name, each in seen.items()}))
            before = frame
    return found


def test_pictures_tell_the_place_in_the_lane_and_how_fast_one_may_be(env):
    seen = [row for side in (-1.0, 1.0) for row in moments(env, lateral_offset=side, speed=8.0)]
    assert np.median([abs(read["lateral_offset"] - told["lateral_offset"]) for told, read in seen]) < 0.35
    true, found = ([row[k]["lateral_offset"] for row in seen] for k in (0, 1))
    assert np.corrcoef(true, found).item(1) > 0.8
    town, rural, highway = np.split(np.array([read["limit"] for _, read in seen[:24]]), 3)
    assert town.mean() < rural.mean() < highway.mean()


def test_pictures_tell_where_the_lane_goes(env):
    means = []
    for error in (-0.1, 0.1):
        seen = [read for _, read in moments(env, heading_error=error, speed=10.0)[::8]]
        means.append(np.mean([[read[f"angle_{ahead:.0f}"] for ahead in AHEAD] for read in seen]))
    assert means[0] - means[1] == pytest.approx(0.2, abs=0.09)


def test_pictures_of_another_size_are_named():
    picture, scan = np.zeros((1, 64, 128, 3), np.uint8), np.zeros((1, 32, 256, 2), np.float32)
    with pytest.raises(ValueError, match=r"float32 \[32, 256, 2\] \(range\), got float32 \[64,"):
        read(picture.astype(np.float32), picture)
    with pytest.raises(ValueError, match=r"before must be like .* float32 \[1, 32, 256, 2\], got uint8 \[1, 64,"):
        read(scan, picture)
    assert np.isfinite(read(scan, scan)["gap"]).all(), "a scan in which nothing came back"


def run(env: StreetTwin, policy, seed: int, steps: int, **options) -> tuple[dict[str, np.ndarray], str]:
    """Telemetry by name, and why the drive ended."""
    start = {"attributes": {**LIGHT, "road": "rural"}, "speed": 9.0, "track_position": 0.2, **options}
    frame, info = env.reset(seed=seed, options=start)
    told, ending = [info["telemetry"]], ""
    while len(told) <= steps and not ending:
        frame, *_, info = env.step(policy(frame))
        told.append(info["telemetry"])
        ending = next((name for name in DOMAIN.spec.endings if info["reward_terms"][name]), "")
    return {name: np.array([row[name] for row in told]) for name in told[0]}, ending


def test_a_careful_driver_stays_in_its_lane(env):
    for seed in (910_001, 910_002):
        told, ending = run(env, POLICIES["cautious"](0), seed, 150)
        assert not ending and told["wheels_on_road"].mean() > 0.97 and np.abs(told["lateral_offset"]).mean() < 0.5


def test_paces_and_lines_differ_as_their_names_say(env):
    told = {name: run(env, POLICIES[name](0), 910_001, 70)[0] for name in ("ambling", "follower", "fast", "keeps_left")}
    speed = {name: each["speed"][30:].mean() for name, each in told.items()}
    assert speed["ambling"] < 0.6 * speed["follower"] and speed["fast"] > 1.1 * speed["follower"]
    assert told["keeps_left"]["lateral_offset"][30:].mean() < told["follower"]["lateral_offset"][30:].mean() - 0.4


def test_scans_tell_the_car_ahead_and_they_are_driven_by():
    env = StreetTwin(obs_type="range")
    paces = {name: run(env, POLICIES[name](0), 910_002, 60)[0]["speed"][30:].mean() for name in ("ambling", "fast")}
    assert paces["ambling"] < 0.8 * paces["fast"]
    start = {"attributes": {**PLAIN, "road": "highway"}, "track_position": 0.5, "speed": 12.0}
    gaps = {}
    for ahead in (8.0, 40.0):
        before, _ = env.reset(seed=910_003, options=start)
        for _ in range(3):
            scan = env.step(np.zeros(2, np.float32))[0]
            put_ahead(scan, ahead)
            put_ahead(before, ahead)
            gaps[ahead] = read(scan[None], before[None])["gap"][0]
            before = scan
    assert gaps[8.0] < 20 < gaps[40.0]


def put_ahead(scan: np.ndarray, metres: float) -> None:
    """Puts what looks like the back of a car, 1.8 m wide and 1.5 m high, into a scan."""
    view = RangeView(32, 256)
    half = max(1, round(math.atan2(0.9, metres) / (2 * math.pi / 256)))
    low, high = (-math.atan2(1.9 - height, metres) for height in (0.2, 1.5))
    rows = np.flatnonzero((view.elevations > low) & (view.elevations < high))
    scan[rows[:, None], np.arange(128 - half, 128 + half + 1)] = metres, 1.0


@pytest.mark.parametrize("throttle", [1.0, 0.3, -0.5])
def test_the_speed_after_a_step_is_foretold(env, throttle):
    env.reset(seed=1, options={"attributes": {**PLAIN, "road": "highway"}, "track_position": 0.4, "speed": 20.0})
    told = [env.step(np.array([0.0, throttle]))[4]["telemetry"]["speed"] for _ in range(2)]
    assert speed_after(told[0], throttle, 0.95, 0.1) == pytest.approx(told[1], abs=0.03)
    assert speed_after(0.0, -1.0, 0.95, 0.1) == 0


def seeing(monkeypatch, **values: float) -> None:
    """Makes all pictures tell the same."""
    told = dict.fromkeys([*SCALES, "gap"], 0.0) | {"limit": 15.0, "grip": 0.95, "gap": 100.0, "speed": 10.0} | values
    monkeypatch.setattr(
        "drivedit.data.domains.street.policies.read", lambda *_: {name: np.array([each]) for name, each in told.items()}
    )


def answer(name: str, steps: int = 3) -> np.ndarray:
    policy, frame = POLICIES[name](0), np.zeros((64, 128, 3), np.uint8)
    return np.array([policy(frame) for _ in range(steps)])[-1]


def test_who_heeds_the_car_ahead_brakes_for_it(monkeypatch):
    seeing(monkeypatch, gap=16.0, closing_speed=8.0)
    assert answer("cautious")[1] < -0.1 and answer("late_braker")[1] > 0 and answer("blind")[1] > 0
    assert answer("cautious")[1] < answer("tailgater")[1]
    seeing(monkeypatch, gap=8.0, closing_speed=8.0)
    assert answer("late_braker")[1] < -0.1 and answer("blind")[1] > 0


def test_the_wheel_turns_to_where_the_lane_goes(monkeypatch):
    seeing(monkeypatch, angle_8=0.2, angle_16=0.3, angle_30=0.4)
    assert answer("follower")[0] > 0.1 and 0 < answer("loose_grip")[0] < 0.5 * answer("follower")[0]
    assert answer("sleepy")[0] == 0 and answer("sleepy", 6)[0] > 0.1, "it sees what was"
    seeing(monkeypatch)
    assert answer("follower")[0] == 0 and answer("keeps_right")[0] > 0 > answer("keeps_left")[0]
    assert answer("drifts_right")[0] == pytest.approx(SKILLS["drifts_right"].bias)


def test_the_frightened_brake_for_no_reason_and_the_erratic_do_anything(monkeypatch):
    seeing(monkeypatch)
    pedals = np.array([answer("brake_happy", steps)[1] for steps in range(1, 80, 3)])
    braking = (pedals == DAB[1]).mean()
    assert 0.05 < braking < 0.6 and (pedals[pedals != DAB[1]] > 0).all()  # some 29% of its time
    assert (answer("follower", 79)[1] > 0) and len({tuple(answer("erratic", steps)) for steps in range(1, 9)}) == 8


def test_all_policies_give_controls_and_are_functions_of_their_seed(env):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 64, 128, 3), np.uint8)
    assert load_object(DOMAIN.policies) is POLICIES and len(POLICIES) >= 16 and DOMAIN.run_up in POLICIES
    for name, make in POLICIES.items():
        drives = [[policy(frame) for frame in frames] for policy in (make(1), make(1))]
        assert np.array_equal(drives[0], drives[1]), name
        assert np.isfinite(drives[0]).all() and np.abs(drives[0]).max() <= 1 and drives[0][0].dtype == np.float32, name
    noisy = SightDriver(Skill(noise=0.2), 1)
    first = [noisy({"camera": frame, "range": frame}) for frame in frames]
    noisy.reset()
    assert np.array_equal(first, [noisy(frame) for frame in frames])
    assert not np.array_equal(first, [SightDriver(Skill(noise=0.2), 2)(frame) for frame in frames])
    assert np.array_equal(Fixed((0.1, -0.2))(None), np.array([0.1, -0.2], np.float32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pace": 0.0}, "pace must be above 0, got 0"),
        ({"delay": -1}, "delay must not be below 0"),
        ({"bias": 2.0}, "bias"),
        ({"fright": 1.5}, r"fright must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_skills_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Skill(**wrong)


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Drives:
    folder = tmp_path_factory.mktemp("drives")
    collect_recordings(
        folder, 60, 1, episode_steps=20, shard_steps=60, progress=False, domain="street", observations=list(SENSES)
    )
    return Drives.open(folder)


@pytest.mark.parametrize("kind", SENSES)
def test_the_readout_is_fitted_to_recordings(kind, drives, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Drives, "open", lambda folder, kinds: drives)
    fit_readout("drives", kind, steps=3, size=4, out=tmp_path / "fitted.safetensors")
    told = capsys.readouterr().out
    assert all(name in told for name in SCALES)
    frames = drives.observations[kind][:2]
    shipped = read(frames, frames)["limit"]
    monkeypatch.setattr(readout.Sense, "weights", tmp_path / "fitted.safetensors")
    readout._network.cache_clear()
    assert np.isfinite(read(frames, frames)["limit"]).all() and not np.allclose(read(frames, frames)["limit"], shipped)
    readout._network.cache_clear()


def test_targets_are_what_was_true(drives):
    for drive in range(len(drives)):
        found = dict(zip(SCALES, (targets(drives, drive) * list(SCALES.values())).T, strict=True))
        at = drives.states(drive)
        assert np.allclose(found["lateral_offset"], drives.told("lateral_offset")[at], atol=1e-4)
        assert np.allclose(NEAR / found["nearness"] - NEAR, drives.told("gap")[at], atol=1e-2)
        (x, y, yaw), route = drives.pose[at][0], drives.routes[drive]
        tx, ty = route[(np.hypot(*(route - (x, y)).T).argmin() + 8) % len(route)]  # 16 m on
        assert math.sin(found["angle_16"][0]) == pytest.approx(math.sin(yaw - math.atan2(ty - y, tx - x)), abs=0.05)
