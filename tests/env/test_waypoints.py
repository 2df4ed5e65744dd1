"""Waypoints as actions: a car is found out by driving it, and follows plans within stated bounds, dreamed or not."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers.bicycle import BRAKES, DRAG, GAS, SHARPEST, Bicycle
from helpers.streets import PLAIN, blind_twin

import drivedit_env  # noqa: F401  (registers the environments)
from drivedit.utils.car_response import CarResponse, identify, in_frame, on_ground, travelled
from drivedit_env.waypoints import VectorWaypointActions, WaypointActions, find_response

POINTS, INTERVAL = 8, 0.5


def plan(speed: float, bend: float = 0.0) -> np.ndarray:
    """Waypoints `[8, 2]` of an arc to the left with a curvature (1/m), at constant speed (m/s)."""
    way = speed * INTERVAL * np.arange(1, POINTS + 1)
    return np.stack([np.sin(bend * way) / bend, (1 - np.cos(bend * way)) / bend], 1) if bend else np.c_[way, 0 * way]


def follow(env: WaypointActions, action: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """Follows the same plan anew; errors, speeds (m/s) and curvatures (1/m) of all steps."""
    car: Any = env.unwrapped
    poses, told = [car.pose], []
    for _ in range(steps):
        info = env.step(action)[-1]
        poses.append(car.pose)
        told.append(info["tracking"])
    ahead, turned = travelled(np.stack(poses[:-1]), np.stack(poses[1:]))
    errors = {name: np.array([each[name] for each in told]) for name in told[0]}
    dt = car.dt if hasattr(car, "dt") else 1 / car.metadata["render_fps"]
    return {**errors, "speed": ahead / dt, "bend": turned / np.maximum(ahead, 0.1)}


@pytest.fixture(scope="module")
def bicycle() -> CarResponse:
    return identify(Bicycle())


@pytest.fixture(scope="module")
def dreamed() -> CarResponse:
    return find_response(dream().unwrapped)


def dream(**settings: Any) -> gym.Env:
    return gym.make("drivedit_env:DriveDiT-v0", obs_type="latent", disable_env_checker=True, **settings)


# -- what a car answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_car_is_found_out(side):
    """Exactly, where it answers in proportion; the side to which steering turns is found as well."""
    found = identify(Bicycle(side))
    np.testing.assert_allclose(found.curvature, side * SHARPEST * found.steering, atol=1e-6)
    np.testing.assert_allclose(
        found.acceleration, np.where(found.throttle > 0, GAS, BRAKES) * found.throttle, atol=1e-3
    )
    assert found.drag == pytest.approx(DRAG, abs=1e-3) and found.delay == pytest.approx(0.0, abs=1e-6)
    wanted = np.clip([side * 0.03 / SHARPEST, (1.0 + DRAG * 10.0) / GAS], -1, 1)
    np.testing.assert_allclose(found.controls(0.03, 1.0, 10.0), wanted, atol=1e-3)
    assert np.abs(found.controls(10.0, -1000.0, 10.0)).max() == 1.0


def test_what_is_no_car_is_refused():
    class Stuck(Bicycle):
        def step(self, action):
            return super().step(np.array([0.0, action[1]]))

    class Lost(gym.Env):
        metadata, action_space = Bicycle.metadata, Bicycle.action_space
        reset = staticmethod(lambda **_: (None, {}))  # type: ignore[assignment]

    with pytest.raises(ValueError, match="turns a car to both sides"):
        identify(Stuck())
    with pytest.raises(ValueError, match="8 episodes end"):
        identify(Bicycle(most=5))
    with pytest.raises(ValueError, match=r"\[steering, throttle\]"):
        identify(gym.make("Pendulum-v1").unwrapped)
    with pytest.raises(ValueError, match="tells its pose"):
        identify(Lost())


def test_frames_are_inverse():
    points = np.random.default_rng(0).normal(size=(5, 2))
    pose = np.array([3.0, -2.0, 2.5])
    np.testing.assert_allclose(in_frame(pose, on_ground(pose, points)), points, atol=1e-12)
    np.testing.assert_allclose(
        on_ground(np.array([1.0, 0.0, np.pi / 2]), np.array([[2.0, 1.0]])), [[0.0, 2.0]], atol=1e-12
    )


# -- following -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("bend", [0.02, -0.02])
def test_a_bicycle_follows_an_arc(bicycle, bend, every):
    """Measured after 4 s: at most 0.001 m beside, 0.024 m/s off, 0.7% of the curvature."""
    env = WaypointActions(Bicycle(), every=every, response=bicycle)
    env.reset(seed=0, options={"speed": 10.0})
    found = {name: values[40:] for name, values in follow(env, plan(10.0, bend), 100).items()}
    assert np.abs(found["lateral_error"]).max() < 0.05
    assert np.abs(found["speed_error"]).max() < 0.1
    np.testing.assert_allclose(found["bend"], bend, rtol=0.05)


def test_a_car_that_answers_otherwise_is_learned_on_the_way(bicycle):
    """Half the turn and a third less push than foretold: the errors of the plan end all the same."""
    weak = CarResponse(
        bicycle.low, bicycle.high, 2 * bicycle.curvature, bicycle.steering, 1.5 * bicycle.acceleration,
        bicycle.throttle, bicycle.drag, bicycle.delay,
    )  # fmt: skip
    env = WaypointActions(Bicycle(), response=weak)
    env.reset(seed=0, options={"speed": 10.0})
    found = follow(env, plan(10.0, 0.01), 150)
    np.testing.assert_allclose(found["bend"][100:], 0.01, rtol=0.05)
    assert np.abs(found["speed"][100:] - 10.0).max() < 0.2


@pytest.mark.parametrize(("before", "after"), [(8.0, 14.0), (12.0, 5.0), (6.0, 0.0)])
def test_speeds_are_reached(bicycle, before, after):
    env = WaypointActions(Bicycle(), response=bicycle)
    env.reset(seed=0, options={"speed": before})
    found = follow(env, plan(after), 120)
    assert found["speed"][0] == pytest.approx(before, abs=1.0)
    assert np.abs(found["speed"][80:] - after).max() < 0.1
    assert np.abs(found["lateral_error"]).max() < 1e-6


def test_a_plan_is_kept_where_it_was_made(bicycle):
    """Between two plans the numbers handed over do not matter, and the car goes on along the first."""
    ways = []
    for other in (plan(10.0, 0.02), plan(4.0, -0.05)):
        env = WaypointActions(Bicycle(), every=5, response=bicycle)
        env.reset(seed=0, options={"speed": 10.0})
        env.step(plan(10.0, 0.02))
        ways.append([env.step(other)[0] for _ in range(5)])
    np.testing.assert_array_equal(ways[0][:4], ways[1][:4])
    assert (ways[0][4] != ways[1][4]).any()


def test_the_street_is_followed():
    """Measured after 3 s: 0.002 m beside, 0.001 m/s off."""
    twin: Any = blind_twin()
    options = {"attributes": PLAIN, "speed": 9.0}
    env = WaypointActions(twin, response=find_response(twin, {"attributes": PLAIN}))
    env.reset(seed=1, options=options)
    found = {name: values[30:] for name, values in follow(env, plan(9.0, 0.004), 45).items()}
    assert np.abs(found["lateral_error"]).max() < 0.05 and np.abs(found["speed_error"]).max() < 0.1
    np.testing.assert_allclose(found["bend"], 0.004, rtol=0.05)


def test_a_dream_is_followed(dreamed):
    """Measured after 2 s: 0.03 m beside, 21.4 m/s of 22 in the mean, a curvature of 0.0185 1/m of 0.015."""
    env = WaypointActions(dream(), response=dreamed)
    env.reset(seed=1)
    found = {name: values[35:] for name, values in follow(env, plan(22.0, 0.015), 60).items()}
    assert np.abs(found["lateral_error"]).max() < 0.3
    assert abs(found["speed"].mean() - 22.0) < 1.5
    assert found["bend"].mean() == pytest.approx(0.015, abs=0.005)


# -- many worlds, snapshots, errors ----------------------------------------------------------------------------------


def test_every_row_is_the_single_environment(dreamed):
    plans = np.stack([plan(25.0, 0.01), plan(20.0, -0.01)])
    envs = VectorWaypointActions(
        gym.make_vec("drivedit_env:DriveDiT-v0", num_envs=2, obs_type="latent", max_episode_steps=4),
        every=3, response=dreamed,
    )  # fmt: skip
    assert envs.single_action_space == WaypointActions(dream(), response=dreamed).action_space
    envs.reset(seed=[5, 6])
    together = [envs.step(plans)[-1] for _ in range(5)]
    assert together[3]["_tracking"].all() and not together[4]["_tracking"].any()  # the fifth step begins anew
    for row in range(2):
        env = WaypointActions(dream(), every=3, response=dreamed)
        env.reset(seed=5 + row)
        for infos in together[:4]:
            info = env.step(plans[row])[-1]
            assert infos["tracking"]["lateral_error"][row] == pytest.approx(info["tracking"]["lateral_error"], abs=1e-3)
            assert infos["telemetry"]["speed"][row] == pytest.approx(info["telemetry"]["speed"], abs=1e-2)


def test_a_snapshot_in_mid_plan_goes_on_bit_for_bit(dreamed):
    env = WaypointActions(dream(), every=4, response=dreamed)
    env.reset(seed=3)
    for _ in range(2):
        env.step(plan(20.0, 0.02))
    state, first = env.get_state(), [env.step(plan(30.0, -0.01))[0] for _ in range(4)]
    env.set_state(state)
    np.testing.assert_array_equal([env.step(plan(30.0, -0.01))[0] for _ in range(4)], first)
    env.set_state(state)
    branches = env.fork(2)
    futures = [branches.step(np.stack([plan(30.0, -0.01)] * 2))[0] for _ in range(4)]
    np.testing.assert_allclose(np.stack(futures)[:, 0], first, atol=1e-3)
    kept = branches.get_state([1])
    last = branches.step(np.stack([plan(10.0)] * 2))[0]
    branches.set_state(kept, rows=[1])
    np.testing.assert_array_equal(branches.step(np.stack([plan(10.0)] * 2))[0][1], last[1])
    assert branches.fork(1, 3).num_envs == 3
    with pytest.raises(ValueError, match="of 1 worlds"):
        env.set_state(env.unwrapped.get_state())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "action", [np.zeros((7, 2)), np.zeros(16), np.full((8, 2), np.nan), np.full((8, 2), np.inf), "x"]
)
def test_what_is_no_plan_is_refused(bicycle, action):
    env = WaypointActions(Bicycle(), response=bicycle)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match="waypoints are finite numbers"):
        env.step(action)
    assert env.get_state().tracks == before.tracks == (None,)


@pytest.mark.parametrize(
    "settings", [{"points": 0}, {"interval": 0.0}, {"interval": np.nan}, {"every": 0}, {"every": 41}]
)
def test_settings_are_checked(bicycle, settings):
    with pytest.raises(ValueError, match=r"points|interval|every|over before"):
        WaypointActions(Bicycle(), response=bicycle, **settings)


def test_only_dreams_are_wrapped_together(bicycle):
    envs = gym.vector.SyncVectorEnv([Bicycle, Bicycle])
    with pytest.raises(ValueError, match="wrappers="):
        VectorWaypointActions(envs, response=bicycle)
