"""The twin behaves like CarRacing, measures rightly, pays rightly, and can be forked bit for bit."""

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from drivedit.config.domains.carracing import SPEC
from drivedit.data import iter_episodes
from drivedit.data.collect import collect_recordings
from drivedit.data.domains.carracing.twin import CarRacingTwin
from drivedit.data.geometry import CentreLine

pygame = pytest.importorskip("pygame")
car_racing = pytest.importorskip("gymnasium.envs.box2d.car_racing")


@pytest.fixture(scope="module")
def env() -> CarRacingTwin:
    return CarRacingTwin()


def drive(env: CarRacingTwin, actions: np.ndarray) -> list[tuple]:
    return [env.step(action)[:3] + (tuple(env.pose), tuple(env.telemetry.values())) for action in actions]


def same(first: list[tuple], second: list[tuple]) -> bool:
    return all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(first, second, strict=True))


def some_actions(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal([0.0, 0.3], [0.3, 0.5], (count, 2)), -1, 1).astype(np.float32)


@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_nothing_to_say():
    spec = EnvSpec(
        "CarRacingTwin-v0", entry_point="drivedit.data.domains.carracing.twin:CarRacingTwin", max_episode_steps=1000
    )
    check_env(gym.make(spec).unwrapped)
    check_env(gym.make(spec, render_mode="rgb_array").unwrapped)


def test_the_picture_is_the_simulators_own(env):
    for number in range(5):
        start = {
            "track_position": 0.19 * number,
            "speed": 30.0,
            "heading_error": 0.5 * number - 1,
            "lateral_offset": 3.0,
        }
        env.reset(seed=number, options=start)
        for action in some_actions(number, 6):
            frame = env.step(action)[0]
        simulator = env._simulator
        car_racing.CarRacing._render(simulator, "state_pixels")  # the stock drawing of the same moment
        stock = pygame.surfarray.array3d(pygame.transform.smoothscale(simulator.surf, (64, 64))).transpose(1, 0, 2)
        assert np.abs(frame.astype(float) - stock).mean() < 0.5


def test_the_picture_holds_at_the_edge_of_the_playfield(env):
    env.reset(seed=0)
    env._simulator.body.hull.position = (325.0, -320.0)
    frame = env._simulator.picture((64, 64))
    car_racing.CarRacing._render(env._simulator, "state_pixels")
    stock = pygame.surfarray.array3d(pygame.transform.smoothscale(env._simulator.surf, (64, 64))).transpose(1, 0, 2)
    assert np.abs(frame.astype(float) - stock).mean() < 0.5
    assert (frame[:20] == 0).all(-1).any(), "the black beyond the playfield is in view"


def test_other_colours_are_painted_on_the_same_drive_and_recorded(env, tmp_path):
    plain, painted, again = CarRacingTwin(), CarRacingTwin(colors=7), CarRacingTwin(colors=7)
    first = [each.reset(seed=3, options={"speed": 20.0})[0] for each in (plain, painted, again)]
    seen = [each.step(np.array([0.1, 0.5], np.float32))[0] for each in (plain, painted, again, painted.fork())]
    assert np.array_equal(first[1], first[2]) and all(np.array_equal(seen[1], each) for each in seen[2:])
    assert (first[0] != first[1])[:50].any(-1).mean() > 0.9 and np.array_equal(plain.pose, painted.pose)
    settings = {"colors": 7}
    small = {"steps": 20, "episode_steps": 20, "shard_steps": 20, "workers": 1, "progress": False}
    other, usual = (
        next(iter_episodes(collect_recordings(tmp_path / str(i), settings=each, **small)[0].parent))
        for i, each in enumerate((settings, None))
    )
    assert np.array_equal(other.poses, usual.poses) and not np.array_equal(other.picture, usual.picture)
    with pytest.raises(ValueError, match="was recorded with"):
        collect_recordings(tmp_path / "0", **small)
    with pytest.raises(ValueError, match="seed"):
        CarRacingTwin(colors=-1)


def test_the_physics_are_carracings(env):
    stock = car_racing.CarRacing()
    stock.reset(seed=11)
    env.reset(seed=11)
    assert np.allclose(env.route, np.array(stock.track)[:, 2:4])
    for steering, throttle in some_actions(4, 25):
        env.step(np.array([steering, throttle]))
        for _ in range(3):
            stock.step(np.array([steering, max(throttle, 0.0), max(-throttle, 0.0)], dtype=np.float32))
    assert tuple(stock.car.hull.position) == pytest.approx(tuple(env.pose[:2]), abs=1e-3)


def test_an_episode_is_a_function_of_seed_start_and_actions(env):
    start, actions = {"track_position": 0.4, "speed": 50.0, "lateral_offset": -2.0}, some_actions(0, 30)
    env.reset(seed=3, options=start)
    first = drive(env, actions)
    env.reset(seed=9)
    drive(env, actions[:7])  # another life in between
    env.reset(seed=3, options=start)
    assert same(first, drive(env, actions))


def test_a_fork_lives_the_same_life_and_then_its_own(env):
    env.reset(seed=5, options={"track_position": 0.7, "speed": 40.0})
    drive(env, some_actions(1, 50))
    twin = env.fork()
    assert np.array_equal(env.scene(32)["frames"], twin.scene(32)["frames"])
    assert same(drive(env, some_actions(2, 25)), drive(twin, some_actions(2, 25)))
    assert not same(drive(env, some_actions(3, 5)), drive(twin, some_actions(4, 5)))
    env.set_state(twin.get_state())
    assert np.array_equal(env.reset()[0], twin.reset()[0]), "the random stream of reset is part of the state"


@pytest.mark.parametrize("steering", [-0.3, 0.3])
def test_steering_right_turns_right(env, steering):
    env.reset(seed=1, options={"track_position": 0.1, "speed": 20.0})
    yaw = env.pose[2]
    before = env.telemetry["heading_error"]
    drive(env, np.array([[steering, 0.1]] * 5, dtype=np.float32))
    assert np.sign(yaw - env.pose[2]) == np.sign(steering)  # yaw falls to the right
    assert np.sign(env.telemetry["heading_error"] - before) == np.sign(steering)


def test_reset_puts_the_car_where_it_was_asked_to_stand(env):
    start = {"track_position": 0.25, "lateral_offset": 3.0, "heading_error": 0.4, "speed": 30.0}
    _, info = env.reset(seed=2, options=start)
    assert info["scene"] == {"seed": 2, "track_position": 0.25}
    told = info["telemetry"]
    assert list(told) == SPEC.names("telemetry")
    assert told["lateral_offset"] == pytest.approx(3.0, abs=0.3)  # near a bend another segment may be nearest
    assert told["heading_error"] == pytest.approx(0.4, abs=0.15)
    assert told["speed"] == pytest.approx(30.0, abs=1e-3)
    assert told["wheels_on_road"] == 1.0
    _, info = env.reset(seed=2, options=start | {"lateral_offset": 25.0})
    assert info["telemetry"]["wheels_on_road"] == 0.0


def test_the_foot_point_on_a_circle():
    angles = np.linspace(0, 2 * math.pi, 400, endpoint=False)
    line = CentreLine(100 * np.stack([np.cos(angles), np.sin(angles)], 1))  # driven to the left
    foot = line.project(0.0, 104.0)
    assert foot.offset == pytest.approx(4.0, abs=0.02)  # outside a left-hand bend is right
    assert foot.arc == pytest.approx(line.length / 4, abs=1.0)
    assert math.cos(foot.yaw) == pytest.approx(-1.0, abs=0.01)
    assert line.bend(10.0, 50.0) == pytest.approx(0.01, rel=0.01)
    assert line.at(line.length + foot.arc)[:2] == pytest.approx((0.0, 100.0), abs=0.1), "laps wrap round"


def test_tiles_pay_once_and_again_on_the_next_lap(env):
    env.reset(seed=6)
    simulator, count = env._simulator, len(env.route)

    def roll_over(index: int) -> float:
        x, y, yaw = env.centre_line.at(float(env.centre_line.arcs[index % count]))
        hull = simulator.body.hull
        for body, (wx, wy) in [
            (hull, (0, 0)),
            *zip(simulator.body.wheels, [(-1, 1), (1, 1), (-1, -1), (1, -1)], strict=True),
        ]:
            body.angle, body.linearVelocity, body.angularVelocity = yaw - math.pi / 2, (0, 0), 0.0
            body.position = hull.GetWorldPoint((1.1 * wx, 1.62 * wy)) if (wx, wy) != (0, 0) else (x, y)
        return env.step(np.zeros(2, dtype=np.float32))[4]["reward_terms"]["progress"]

    first = sum(roll_over(index) for index in range(2, count, 1))
    assert first == pytest.approx(1000.0, rel=0.06), "a lap pays 1000, less the tiles under the car at the start"
    second = sum(roll_over(index) for index in range(count, 2 * count, 1))
    assert second == pytest.approx(1000.0, rel=0.06)
    roll_over(40)
    roll_over(48)
    assert roll_over(40) == 0.0, "turning back does not pay"


def test_leaving_the_playfield_ends_the_episode(env):
    env.reset(seed=0)
    for body in [env._simulator.body.hull, *env._simulator.body.wheels]:
        body.position = body.position + (400.0, 0.0)
    _, reward, terminated, truncated, info = env.step(np.zeros(2, dtype=np.float32))
    assert terminated and not truncated
    assert info["reward_terms"]["left"] == -100.0 and reward == pytest.approx(-100.1)


def test_rewards_are_weighted_terms():
    env = CarRacingTwin(reward_weights={"time": 10.0, "progress": 0.0})
    env.reset(seed=0, options={"speed": 60.0})
    _, reward, *_, info = env.step(np.array([0.0, 0.5]))
    assert info["reward_terms"]["progress"] > 0.0
    assert reward == pytest.approx(-3.0)


def test_the_scene_is_the_recent_past(env):
    frame, _ = env.reset(seed=4)
    with pytest.raises(RuntimeError, match="step at least once"):
        env.scene()
    actions = some_actions(5, 10)
    frames = [frame] + [env.step(action)[0] for action in actions]
    scene = env.scene(8)
    assert np.array_equal(scene["frames"], np.stack(frames[2:]))
    assert np.array_equal(scene["controls"], actions[2:])
    assert np.allclose(scene["poses"][-1], env.pose, atol=1e-4) and scene["closed"] is True
    assert len(env.scene(20)["controls"]) == 10
    with pytest.raises(ValueError, match="1 to 32"):
        env.scene(0)


@pytest.mark.parametrize("action", [[0.0, math.nan], [0.0], [[0.0, 0.0]], 0.5])
def test_bad_actions_are_refused(env, action):
    env.reset(seed=0)
    with pytest.raises(ValueError, match="steering, throttle"):
        env.step(np.array(action, dtype=np.float32))


def test_actions_outside_the_box_are_clipped_with_one_warning():
    first, second = CarRacingTwin(), CarRacingTwin()
    first.reset(seed=0)
    second.reset(seed=0)
    with pytest.warns(UserWarning, match="clipped") as warned:
        wild = drive(first, np.array([[3.0, 2.0]] * 3, dtype=np.float32))
    assert len(warned) == 1
    assert same(wild, drive(second, np.ones((3, 2), dtype=np.float32)))


@pytest.mark.parametrize(
    "options, words",
    [({"position": 0.5}, "track_position"), ({"track_position": 1.0}, r"\[0, 1\)"), ({"speed": math.nan}, "speed")],
)
def test_bad_options_are_refused_and_leave_the_episode_alone(env, options, words):
    env.reset(seed=7)
    pose = env.pose
    with pytest.raises(ValueError, match=words):
        env.reset(seed=8, options=options)
    assert np.array_equal(env.pose, pose)


def test_unknown_arguments_and_states_are_refused(env):
    with pytest.raises(ValueError, match="progress"):
        CarRacingTwin(reward_weights={"speed": 1.0})
    with pytest.raises(ValueError, match="rgb_array"):
        CarRacingTwin(render_mode="ansi")
    with pytest.raises(ValueError, match="lacks"):
        env.set_state({"seed": 1})
    with pytest.raises(gym.error.ResetNeeded):
        CarRacingTwin().step(np.zeros(2))


def test_the_render_is_the_larger_picture():
    env = CarRacingTwin("rgb_array")
    frame, _ = env.reset(seed=0)
    picture = env.render()
    assert picture is not None and picture.shape == (480, 600, 3)
    assert np.abs(picture.mean((0, 1)) - frame.mean((0, 1))).max() < 2.0


def test_a_refused_call_changes_nothing(env):
    untouched = CarRacingTwin()
    for one in (env, untouched):
        one.reset(seed=3)
        state = one.get_state()
        drive(one, some_actions(0, 3))
    before = str(env.get_state())
    wrong = [{**state, name: value} for name, value in (
        ("seed", -1), ("seed", None), ("seed", 1.5), ("placement", {}), ("placement", {"speed": 1.0}), ("placement", 3),
        ("actions", [[2.0, 0.0]]), ("actions", [[math.nan, 0.0]]), ("actions", "none"), ("actions", [0.0, 0.0]),
        ("random", None), ("random", {}), ("random", {"bit_generator": "PCG64"}),
    )]  # fmt: skip
    for one in [*wrong, None, [], 3, b"", {"seed": 1}]:
        with pytest.raises(ValueError):
            env.set_state(one)
    for options in ({"speed": 10**400}, {"speed": "fast"}, {"speed": [1, 2]}, {"speed": math.nan}, {1: 2}, 3, [1]):
        with pytest.raises(ValueError):
            env.reset(options=options)
    for seed in (-1, 1.5, "1", True, object()):
        with pytest.raises(ValueError):
            env.reset(seed=seed)
    assert str(env.get_state()) == before
    for action in (10**400, [0, 10**400], "left", [1j, 0], [[0], [0, 0]], [0, math.nan], [0, 0, 0], None, object()):
        with pytest.raises(ValueError, match="2 numbers"):
            env.step(action)
        assert same(drive(env, some_actions(1, 1)), drive(untouched, some_actions(1, 1)))
    assert np.array_equal(env.reset()[0], untouched.reset()[0]), "the random stream of reset has not moved"
