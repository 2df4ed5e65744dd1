"""The twin: episodes are functions of seed, options and actions; states, intervals, truth, scenes, pay, errors."""

import copy
import math
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from helpers.streets import PLAIN

from drivedit.config import find_domain
from drivedit.config.domains.street import DOMAIN, SPEC
from drivedit.data.collect import Recipe, collect_shard, record_episode
from drivedit.data.domains.street import compiled
from drivedit.data.domains.street.drivers import LaneKeeper
from drivedit.data.domains.street.roads import apart
from drivedit.data.domains.street.twin import StreetTwin
from drivedit.data.recordings import read_shard, shard_path
from drivedit.models.scenes import check_scene
from drivedit.utils.episodes import check_agents, check_episode

pytestmark = pytest.mark.xdist_group("street")
BOTH = ("camera", "range")
DENSE = {"attributes": {**PLAIN, "traffic": "dense"}, "track_position": 0.3, "speed": 9.0}


@pytest.fixture
def env() -> StreetTwin:
    env = StreetTwin(BOTH)
    env.reset(seed=4, options=DENSE)
    return env


def some_actions(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal([0.0, 0.2], [0.02, 0.4], (count, 2)), -1, 1).astype(np.float32)


def drive(env: StreetTwin, actions: np.ndarray) -> list[tuple]:
    return [env.step(action) for action in actions]


def same(first: list[tuple], second: list[tuple]) -> bool:
    return all(
        all(np.array_equal(a[0][kind], b[0][kind]) for kind in BOTH) and a[1:] == b[1:]
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("obs_type", ["range", BOTH])
def test_gymnasium_finds_nothing_to_say(obs_type):
    spec = EnvSpec("StreetTwin-v0", entry_point=DOMAIN.simulator, max_episode_steps=1000)
    check_env(gym.make(spec, obs_type=obs_type, render_mode="rgb_array").unwrapped)


def test_an_episode_is_a_function_of_seed_options_and_actions(env):
    first = drive(env, some_actions(0, 15))
    env.reset(seed=9)
    env.reset(seed=4, options=DENSE)
    assert same(first, drive(env, some_actions(0, 15)))
    env.reset(seed=5, options=DENSE)
    assert not same(first, drive(env, some_actions(0, 15)))


def test_a_state_is_small_and_leads_to_the_same_future(env):
    drive(env, some_actions(1, 20))
    state = pickle.loads(pickle.dumps(env.get_state()))
    scene = env.scene(6)
    assert len(pickle.dumps(state)) < 300_000
    future = drive(env, some_actions(2, 12))
    other = StreetTwin(BOTH)
    for again in (env, other):
        again.set_state(state)
        assert np.array_equal(again.scene(6)["observations"]["camera"], scene["observations"]["camera"])
        assert same(future, drive(again, some_actions(2, 12)))
    env.set_state(state)
    copied = copy.deepcopy(env)
    assert same(drive(env, some_actions(3, 3)), drive(copied, some_actions(3, 3)))
    assert np.array_equal(env.reset()[0]["range"], copied.reset()[0]["range"]), "the random stream is part of the state"


def test_every_fifth_picture_of_50_hz_is_one_of_10_hz(env):
    actions = some_actions(5, 8)
    slow = drive(env, actions)
    env.reset(seed=4, options=DENSE | {"dt": 0.02})
    fast = drive(env, actions.repeat(5, 0))
    for k, (a, b) in enumerate(zip(slow, fast[4::5], strict=True)):
        assert all(np.array_equal(a[0][kind], b[0][kind]) for kind in BOTH)
        assert a[4]["telemetry"] == b[4]["telemetry"] and a[4]["time"] == pytest.approx(b[4]["time"])
        for term in ("progress", "time"):
            assert a[4]["reward_terms"][term] == pytest.approx(
                sum(each[4]["reward_terms"][term] for each in fast[5 * k : 5 * k + 5])
            )


def test_reset_puts_the_car_where_it_was_asked_to_stand(env):
    start = {"attributes": {**PLAIN, "road": "highway"}, "track_position": 0.25, "lane": 1, "lateral_offset": 0.4,
             "heading_error": 0.1, "speed": 17.0}  # fmt: skip
    _, info = env.reset(seed=2, options=start)
    told = info["telemetry"]
    assert list(told) == SPEC.names("telemetry")
    assert told["lateral_offset"] == pytest.approx(0.4, abs=1e-3) and told["heading_error"] == pytest.approx(
        0.1, abs=1e-3
    )
    assert (told["speed"], told["lane"], told["wheels_on_road"], told["gap"]) == (17.0, 1.0, 1.0, 100.0)
    truth, shape = env.truth(), env._world.road.shape
    assert abs(apart(shape, truth.s - 0.25 * float(shape.length))) < 0.5
    assert info["scene"]["attributes"] == start["attributes"] == truth.attributes


def test_the_truth_tells_route_agents_and_neighbours(env):
    truth = env.truth()
    assert truth.route is not None and truth.closed and truth.pose is not None and truth.agents is not None
    gaps = np.hypot(*(truth.route - truth.pose[:2]).T)
    assert gaps.min() < 1.1, "the route is the middle of the own lane"
    steps = np.hypot(*np.diff(np.concatenate([truth.route, truth.route[:1]]), axis=0).T)
    assert steps.max() < 4, "it is closed"
    check_agents(truth.agents, 1)
    assert len(truth.neighbours) == len(truth.agents.ids) > 8
    ahead = [each for each in truth.neighbours if each.lane == 0 and each.ahead > 0]
    assert truth.telemetry["gap"] < ahead[0].ahead < truth.telemetry["gap"] + 8
    nearest = truth.agents.boxes[list(truth.agents.ids).index(ahead[0].id)]
    assert np.hypot(*(nearest[:2] - truth.pose[:2])) == pytest.approx(ahead[0].ahead, rel=0.15)


def test_whose_pixels_are_whose_is_known_without_another_look(env):
    for kinds in (BOTH, "camera", "range"):
        twin = StreetTwin(kinds)
        twin.reset(seed=4, options=DENSE)
        first = twin.instances()
        for action in some_actions(2, 3):
            twin.step(action)
        seen = twin.see()
        assert np.array_equal(twin.instances(), seen.instance) and not np.array_equal(first, seen.instance)
        agents = twin.truth().agents
        assert agents is not None and set(np.unique(seen.instance)) - {0} <= set(agents.ids)
        state = twin.get_state()
        twin.reset(seed=5)
        twin.set_state(state)
        assert np.array_equal(twin.instances(), seen.instance)


def test_a_scene_is_one_of_the_spec(env):
    with pytest.raises(RuntimeError, match="at least one control"):
        env.scene()
    actions = some_actions(1, 5)
    last = drive(env, actions)[-1]
    with pytest.raises(ValueError, match="1 to 32"):
        env.scene(33)
    found = check_scene(env.scene(4), SPEC)
    assert np.array_equal(found.controls, actions[1:])
    assert all(np.array_equal(found.observations[kind][-1], last[0][kind]) for kind in BOTH)
    assert found.times is not None and np.allclose(np.diff(found.times), 0.1)
    assert found.agents is not None and found.attributes == DENSE["attributes"] and found.closed


@pytest.mark.parametrize(
    ("start", "action", "ending"),
    [
        ({"attributes": {**PLAIN, "road": "rural"}, "heading_error": 0.9}, (0.0, 0.5), "off_road"),
        ({"attributes": {**PLAIN, "road": "rural"}, "speed": 3.0}, (-1.0, 0.1), "wrong_way"),
        ({"attributes": {**PLAIN, "road": "highway"}, "heading_error": -0.3, "lane": 1}, (0.0, 0.5), "collision"),
    ],
)
def test_an_episode_ends_for_its_reason(env, start, action, ending):
    env.reset(seed=8, options={"track_position": 0.05, **start})
    for _ in range(120):
        _, reward, ended, _, info = env.step(np.array(action, np.float32))
        terms = info["reward_terms"]
        assert reward == pytest.approx(sum(terms.values())) and list(terms) == list(SPEC.rewards)
        if ended:
            break
        assert not any(terms[name] for name in SPEC.endings)
    assert ended and {name for name in SPEC.endings if terms[name]} == {ending} and terms[ending] == -20


def test_progress_is_paid_by_the_metre_and_wheels_off_the_lanes_cost(env):
    env.reset(seed=4, options={"attributes": PLAIN, "track_position": 0.3, "speed": 10.0})
    driver, before = LaneKeeper(np.random.default_rng(0)), env.truth().s
    paid = 0.0
    for _ in range(20):
        terms = env.step(driver.act(env.truth()))[4]["reward_terms"]
        paid += terms["progress"]
        assert terms["lane"] == 0 and terms["time"] == pytest.approx(-0.05)
    assert 10 * paid == pytest.approx(apart(env._world.road.shape, env.truth().s - before), abs=1e-6)
    env.reset(seed=4, options={"attributes": PLAIN, "track_position": 0.3, "lateral_offset": -3.5, "speed": 5.0})
    assert env.step(np.zeros(2))[4]["reward_terms"]["lane"] == -1, "all four wheels are on the other side"


def test_recordings_carry_kinds_agents_and_attributes(env):
    rng = np.random.default_rng(3)
    episode = record_episode(env, rng, 6, domain="street")
    check_episode(episode)
    assert set(episode.observations) == set(BOTH) and episode.agents is not None and len(episode.agents.first) == 8
    assert episode.attributes == episode.start["attributes"] and len(episode.route) > 500
    assert find_domain("street") is DOMAIN and episode.seed < DOMAIN.held_out_from


def test_another_camera_sees_the_same_drive_from_elsewhere():
    usual = {"fov": 75.0, "height": 1.5, "pitch": 2.8647889756541165, "ahead": 0.4}
    cameras = (None, usual, {**usual, "fov": 40.0}, {**usual, "height": 3.0}, {**usual, "pitch": 8.0})
    twins = [StreetTwin(camera=camera) for camera in cameras]
    seen = [each.reset(seed=2, options={"attributes": {"road": "rural"}})[0].astype(int) for each in twins]
    assert np.abs(seen[1] - seen[0]).mean() < 0.1
    assert all(np.abs(other - seen[0]).mean() > 5 for other in seen[2:])
    poses = np.array([each.truth().pose for each in twins], float)
    assert poses.shape == (5, 3) and (poses == poses[0]).all()


def test_a_recording_of_one_observation_is_as_that_of_all(env, tmp_path):
    recipe = Recipe(episode_steps=4, shard_steps=4, domain="street", observations=("camera",))
    collect_shard(tmp_path, 0, recipe)
    (episode,) = read_shard(shard_path(tmp_path, 0))
    both = record_episode(env, np.random.default_rng([0, 0, 0]), 4, domain="street")
    assert list(episode.observations) == list(episode.spec.observations) == ["camera"]
    assert np.array_equal(episode.picture, both.picture) and np.array_equal(episode.reward, both.reward)
    with pytest.raises(ValueError, match=r"the observations \['camera', 'range'\], wanted are \['sonar'\]"):
        Recipe(domain="street", observations=("sonar",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributes": {"weather": "hail"}}, "attributes are .*'fog'.* got {'weather': 'hail'}"),
        ({"attributes": {"mood": "good"}}, "got {'mood': 'good'}"),
        ({"attributes": "rain"}, "is a dictionary of"),
        ({"dt": 0.03}, "dt is a multiple of 0.02 s, got 0.03"),
        ({"dt": 0.0}, r"'dt' lies in \[0.02, 2\], got 0"),
        ({"lane": 1, "attributes": PLAIN}, "whole number below 1 on a town road, got 1"),
        ({"speed": 80}, r"'speed' lies in \[0, 45\]"),
        ({"speed": math.nan}, "'speed' lies in"),
        ({"pace": 3}, "got \\['pace'\\]"),
        ([1], "are a dictionary"),
    ],
)
def test_wrong_options_change_nothing_and_are_named(env, options, message):
    before = env.get_state()
    with pytest.raises(ValueError, match=message):
        env.reset(seed=1, options=options)
    assert env.get_state()["seed"] == before["seed"] and env.get_state()["random"] == before["random"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs_type": "smell"}, "obs_type must be one of"),
        ({"obs_type": ()}, "obs_type must be one of"),
        ({"lidar": (30, 256)}, "divide"),
        ({"dt": 0.05}, "multiple"),
        ({"render_mode": "human"}, "render_mode"),
        ({"reward_weights": {"joy": 1}}, "got \\['joy'\\]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        StreetTwin(**arguments)


@pytest.mark.parametrize("action", [np.zeros(3), np.array([np.nan, 0]), "left", None])
def test_wrong_actions_are_named(env, action):
    with pytest.raises(ValueError, match=r"2 numbers \[steering, throttle\]"):
        env.step(action)


def test_wrong_states_are_named(env):
    for state in (None, {}, env.get_state() | {"start": 3}, env.get_state() | {"past": ()}):
        with pytest.raises(ValueError, match="a state"):
            env.set_state(state)


def test_kernels_compile_where_nothing_can_be_kept(monkeypatch):
    def nowhere(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled, "njit", nowhere)
    assert compiled.kernel(lambda x: x + 1)(1) == 2
