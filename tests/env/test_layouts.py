"""Options of a reset that say who is on the road and what the scene is like; what is given is told."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.worlds import BOXES, make_peopled_world, make_world

from drivedit.config.domains.street import SPEC as STREET
from drivedit.inference.drawn_layouts import brought_over
from drivedit.models import DiTWorld
from drivedit.utils.episodes import Agents
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

CAR = np.array([80.0, 2.5])  # where scene 0 ends, facing +y
LOG = [BOXES + [0, 0.7 * step, 0, 0, 0, 0, 0, 0] for step in range(4)]
WEATHER = {"weather": ["clear", "rain"], "time": ["day", "night"]}


def agents_of(moments: list[np.ndarray]) -> Agents:
    """The boxes of several moments as a recording has them."""
    first = np.cumsum([0, *map(len, moments)])
    ids = np.concatenate([np.arange(len(boxes)) for boxes in moments])
    return Agents(first, ids, np.concatenate(moments)[:, :7].astype(np.float32), 0 * ids)


@pytest.fixture(scope="module")
def world() -> DiTWorld:
    world = make_peopled_world()
    spec = replace(world.spec, attributes=WEATHER)
    world.config = replace(world.config, spec=spec, end_threshold=2.0)
    first, second = world.scenes
    before = [BOXES - [0, 0.4 * back, 0, 0, 0, 0, 0, 0] for back in range(5, -1, -1)]
    first = replace(first, agents=agents_of(before), attributes={"weather": "rain", "time": "day"})
    world.scenes = [first, second, replace(first, attributes={"weather": "clear", "time": "night"}), first]
    return world


def test_a_random_layout_is_that_of_another_scene_on_this_road(world: DiTWorld):
    env, found = DriveDiTEnv(world), []
    for seed in range(4):
        env.reset(seed=seed, options={"scene": 0, "layout": "random"})
        found.append(others(env))
        assert env.reset(seed=seed, options={"scene": 0, "layout": "random"})[1]["given"]["layout"]
        assert np.array_equal(others(env), found[-1])
    assert np.allclose(found[0][:, :2], nearest(BOXES, env)[:, :2], atol=0.1), "all scenes with agents have the same"
    without = world.scenes[1]
    boxes = brought_over(world.scenes[0], without, world.spec.dt)
    assert np.hypot(*(boxes[:, :2]).T).min() > 5 and np.allclose(boxes[:, 7], BOXES[:, 7] * 0 + boxes[:, 7])
    with pytest.raises(ValueError, match="none fits"):
        DriveDiTEnv(make_peopled_world()).reset(options={"layout": "random"})
    with pytest.raises(ValueError, match="has learned to be told"):
        DriveDiTEnv(make_world()).reset(options={"layout": "random"})


def drive(env: Any, steps: int) -> list[np.ndarray]:
    """Latents of a drive; of the first world of several."""
    shape, rng = env.action_space.shape, np.random.default_rng(0)
    return [np.reshape(env.step(rng.uniform(-1, 1, shape[-1:]) * np.ones(shape))[0], (-1, 4, 8, 8))[0]
            for _ in range(steps)]  # fmt: skip


def nearest(boxes: np.ndarray, env: DriveDiTEnv) -> np.ndarray:
    """The two boxes nearest to the car, as the state has them."""
    pose = env.world.poses(env.get_state().world)[0].numpy()
    return boxes[np.hypot(*(boxes[:, :2] - pose[:2]).T).argsort()[:2]]


def others(env: DriveDiTEnv) -> np.ndarray:
    return env.get_state().world.others[0].numpy()


def at(x: float, y: float, **changes: float) -> list[float]:
    box = {"x": x, "y": y, "z": 0.8, "long": 4, "wide": 2, "tall": 1.6, "yaw": 1.57, "speed": 0.0}
    return [*(box | changes).values()]


def test_boxes_are_told_and_drive_on(world):
    env = DriveDiTEnv(world, obs_type="latent")
    _, info = env.reset(seed=0, options={"scene": 0})
    assert info["given"] == {"route": True, "layout": False}, "dreamed freely unless told"
    free = drive(env, 3)
    _, info = env.reset(seed=0, options={"scene": 0, "layout": BOXES})
    assert info["given"] == {"route": True, "layout": True} and np.allclose(others(env), nearest(BOXES, env))
    told = drive(env, 3)
    assert not np.allclose(told[0], free[0])
    gone = np.hypot(*(others(env) - nearest(BOXES, env))[:, :2].T)
    assert np.allclose(gone, 3 * world.spec.dt * others(env)[:, 7], rtol=0.2)
    _, info = env.reset(seed=0, options={"scene": 1, "layout": np.zeros((0, 8))})
    assert info["given"] == {"route": False, "layout": True}, "an empty road is told, too"


@pytest.mark.parametrize("many", [LOG, np.array(LOG), tuple(each.tolist() for each in LOG)])
def test_a_log_is_replayed_and_then_they_drive_on(world, many):
    env = DriveDiTEnv(world, obs_type="latent")
    env.reset(seed=0, options={"scene": 0, "layout": many})
    for step in range(1, 4):
        drive(env, 1)
        assert np.allclose(others(env), nearest(LOG[step], env))
    drive(env, 1)
    gone = np.hypot(*(others(env) - nearest(LOG[3], env))[:, :2].T)
    assert np.allclose(gone, world.spec.dt * others(env)[:, 7], rtol=0.2), "the log is over"


def test_agents_are_a_log_whose_speeds_are_those_that_were_driven(world):
    env, other = (DriveDiTEnv(world, obs_type="latent") for _ in range(2))
    whole = agents_of(LOG)
    for log in (whole, [whole.during(slice(k, k + 1)) for k in range(4)]):
        env.reset(seed=0, options={"scene": 0, "layout": log})
        speeds = 0.7 / world.spec.dt * np.sin(nearest(BOXES, env)[:, 6])
        assert np.allclose(others(env)[:, :7], nearest(BOXES, env)[:, :7]) and np.allclose(others(env)[:, 7], speeds)
        rows = [np.c_[boxes[:, :7], 0.7 / world.spec.dt * np.sin(boxes[:, 6])] for boxes in LOG]
        other.reset(seed=0, options={"scene": 0, "layout": rows})
        assert np.allclose(drive(env, 3), drive(other, 3), atol=1e-4)


def test_a_function_is_asked_at_every_step(world):
    asked = []

    def follow(seconds: float, pose: np.ndarray) -> np.ndarray:
        asked.append((seconds, pose))
        ahead = pose[:2] + 10 * np.array([np.cos(pose[2]), np.sin(pose[2])])
        return np.array([[*ahead, 0.8, 4, 2, 1.6, pose[2], 0.0]])

    env = DriveDiTEnv(world, obs_type="latent")
    env.reset(seed=0, options={"scene": 0, "layout": follow})
    for _ in range(3):
        drive(env, 1)
        pose = world.poses(env.get_state().world)[0].double().numpy()
        assert np.array_equal(asked[-1][1], pose) and np.hypot(*(others(env)[0, :2] - pose[:2])) == pytest.approx(10)
        assert not others(env)[1].any()
    assert np.allclose([seconds for seconds, _ in asked], world.spec.dt * np.arange(4))
    env.reset(seed=0, options={"scene": 0})
    drive(env, 1)
    assert len(asked) == 4, "the next episode is not asked"


@pytest.mark.parametrize("layout", [LOG, lambda seconds, pose: LOG[round(seconds / 0.06) % 4], BOXES, "scene"])
def test_states_and_forks_go_on_with_the_same_others(world, layout):
    env, fresh = DriveDiTEnv(world, obs_type="latent"), DriveDiTEnv(world, obs_type="latent")
    env.reset(seed=0, options={"scene": 0, "layout": layout})
    drive(env, 1)
    state = env.get_state()
    branches, wanted = env.fork(2), drive(env, 4)
    assert np.allclose(drive(branches, 4), wanted, atol=1e-5)
    fresh.set_state(state)
    assert all(map(np.array_equal, drive(fresh, 4), wanted))
    again = DriveDiTEnv(world, obs_type="latent")
    if callable(layout):
        with pytest.raises(ValueError, match="bytes do not hold functions: reset with it"):
            again.set_state(state.to_bytes())
        again.reset(options={"scene": 0, "layout": layout})
    again.set_state(state.to_bytes())
    assert all(map(np.array_equal, drive(again, 4), wanted))
    envs = DriveDiTVectorEnv(2, world, obs_type="latent")
    envs.reset(seed=5, options={"scene": 0, "layout": layout})
    envs.set_state(state.to_bytes(), rows=[0])
    assert np.allclose(drive(envs, 4), wanted, atol=1e-5)


def test_rows_have_their_own_others_and_a_reset_of_its_own_has_none(world):
    envs = DriveDiTVectorEnv(2, world, obs_type="latent", max_episode_steps=3)
    envs.reset(seed=0, options={"scene": 0})
    first = np.array([True, False])
    _, info = envs.reset(seed=0, options={"scene": 0, "layout": LOG, "reset_mask": first})
    assert info["given"]["layout"].tolist() == [True, False] and info["_given"].tolist() == [True, False]
    alone = DriveDiTEnv(world, obs_type="latent")
    alone.reset(seed=0, options={"scene": 0, "layout": LOG})
    for _ in range(3):
        seen, *_, info = envs.step(np.full((2, 2), 0.1))
        assert np.allclose(seen[0], alone.step(np.full(2, 0.1))[0], atol=1e-5)
        assert info["given"]["layout"].tolist() == [True, False]
    *_, info = envs.step(np.zeros((2, 2)))
    assert not info["given"]["layout"].any() and envs.get_state().others == [None, None]


def test_every_option_may_be_given_by_number_of_the_world(world):
    drawing = np.stack([np.linspace(0, 200, 80), np.zeros(80)], 1)
    options: dict[str, dict[Any, Any]] = {
        "scene": {0: 0, 1: 0, 2: 1, 4: 0},
        "layout": {0: BOXES, 1: LOG, 2: np.zeros((0, 8)), np.int64(4): lambda seconds, _: LOG[round(seconds / 0.06)]},
        "route": {1: drawing},
        "attributes": {3: {"weather": "clear"}},
    }
    envs = DriveDiTVectorEnv(5, world, obs_type="latent")
    seen, info = envs.reset(seed=list(range(5)), options=options)
    assert info["given"]["layout"].tolist() == [True, True, True, False, True]
    assert info["given"]["route"].tolist() == [True, True, False, True, True] and info["scene"][3] == 2
    singles = [DriveDiTEnv(world, obs_type="latent") for _ in range(5)]
    for row, single in enumerate(singles):
        own = {name: values[row] for name, values in options.items() if row in values}
        assert np.allclose(seen[row], single.reset(seed=row, options=own)[0], atol=1e-5)
    for _ in range(3):
        seen = envs.step(np.full((5, 2), 0.1))[0]
        assert np.allclose(seen, [single.step(np.full(2, 0.1))[0] for single in singles], atol=1e-4)
    assert np.allclose(envs.get_state().world.others, [others(single) for single in singles], atol=1e-3)


@pytest.mark.parametrize(("options", "what"), [
    ({"layout": {2: [at(80, 12), at(80.5, 15)]}}, "world 2: box 0 of the layout stands inside box 1"),
    ({"layout": {0: BOXES, 1: 3}}, r"world 1: a layout is an array \[A, 8\]"),
    ({"layout": {1: "traffic"}}, "world 1: .*got 'traffic'"), ({"layout": {2: {"x": 3}}}, "world 2: .*no real numbers"),
    ({"layout": {3: BOXES}}, r"layout is given to the worlds \[3\], but those that are reset are \[0, 1, 2\]"),
    ({"layout": {0: BOXES, 1: BOXES}, "reset_mask": np.array([True, False, True])}, r"\[0, 1\], but .* \[0, 2\]"),
    ({"layout": {True: BOXES}}, "world 0: .*no real numbers"), ({"scene": [0, 1, 9]}, "world 2: .*index from 0 to 3"),
    ({"closed": {1: True}}, "world 1: .*give option route"),
    ({"attributes": {0: {"mood": "good"}}, "scene": None}, "world 0: .*'mood'.*'weather'"),
    ({"layouts": {0: BOXES}}, r"^reset options are .*\['layouts'\]"),
])  # fmt: skip
def test_what_is_wrong_for_one_world_is_told_of_that_world_and_changes_nothing(world, options, what):
    envs = DriveDiTVectorEnv(3, world, obs_type="latent")
    envs.reset(seed=0, options={"scene": 0})
    before = envs.get_state().to_bytes()
    with pytest.raises(ValueError, match=what):
        envs.reset(options={"scene": 0, **options})
    assert envs.get_state().to_bytes() == before


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("layout", [LOG, BOXES])
def test_the_compiled_step_is_told_the_same(world, layout):
    films = []
    for compile in (False, True):
        env = DriveDiTEnv(world, obs_type="latent", compile=compile)
        assert (env._compiled is not None) == compile
        env.reset(seed=0, options={"scene": 0, "layout": layout})
        films.append(drive(env, 5))
    assert np.allclose(*films, atol=2e-3) and not np.allclose(films[0][0], films[0][4], atol=0.1)


def test_what_a_scene_holds_is_told_from_its_first_frame_on(world, monkeypatch):
    told = []
    whole = DiTWorld.see_others

    def watch(self: DiTWorld, others: torch.Tensor, pose: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        told.append((others[0, :, :7].numpy(), pose[0].numpy()))
        return whole(self, others, pose, motion)

    monkeypatch.setattr(DiTWorld, "see_others", watch)
    env = DriveDiTEnv(world, obs_type="latent")
    env.reset(seed=0, options={"scene": 0})
    assert not told, "nobody is told of"
    env.reset(seed=0, options={"scene": 0, "layout": "scene"})
    scene = world.scenes[0]
    assert scene.agents is not None and scene.poses is not None and len(told) >= 2
    for place, (boxes, pose) in enumerate(told, len(scene.frames) - len(told)):
        there = scene.agents.boxes[scene.agents.at(place)]
        by_distance = np.hypot(*(there[:, :2] - scene.poses[place, :2]).T).argsort()
        assert np.array_equal(boxes, there[by_distance[:2]]) and np.array_equal(pose, scene.poses[place - 1])
    assert np.allclose(others(env)[:, 7], 0.4 / world.spec.dt * np.sin(nearest(BOXES, env)[:, 6]), rtol=1e-3)


def test_places_far_from_zero_are_told_from_the_same_origin(world):
    far, asked = np.array([7_312_400.0, 3_000_250.0]), []

    def ask(seconds: float, pose: np.ndarray) -> np.ndarray:
        asked.append(pose)
        return away

    near, away = world.scenes[0], BOXES.copy()
    away[:, :2] += far
    poses, route = near.poses.astype(float), near.route.astype(float)
    poses[:, :2] += far
    scene = {"frames": near.frames, "controls": near.controls, "poses": poses, "route": route + far, "closed": True}
    env, order = DriveDiTEnv(world, obs_type="latent"), np.hypot(*(BOXES[:, :2] - CAR).T).argsort()[:2]
    for layout in (away, [away, away], ask):
        env.reset(seed=0, options={"scene": scene, "layout": layout})
        car = world.poses(env.get_state().world)[0, :2].numpy()
        assert np.allclose(others(env)[:, :2] - car, BOXES[order, :2] - CAR, atol=0.1)
    drive(env, 1)
    assert all(np.hypot(*(pose[:2] - far - CAR)) < 10 for pose in asked)
    given = {name: scene[name] for name in ("frames", "controls", "poses")}
    given["conditions"] = {"layout": away, "route": {"points": scene["route"], "closed": True}}
    _, info = env.reset(seed=0, options={"scene": given})
    assert info["given"]["layout"] and np.allclose(others(env)[:, :2] - car, BOXES[order, :2] - CAR, atol=0.1)


@pytest.mark.parametrize(("layout", "what"), [
    ([at(80, 12), at(80.5, 15)], "box 0 of the layout stands inside box 1"),
    ([at(80, 20), at(82, 20, yaw=0.0)], "box 0 of the layout stands inside box 1"),
    ([at(80, 4)], "box 0 of the layout stands inside the car"),
    ([at(80, -20), at(76, -30)], "all 2 boxes of the layout are behind the car"),
    ([at(80, 12), at(99, 130)], r"box 1 of the layout is off the map, at \[ 99. 130.\]"),
    ([at(80, 12, long=0.0)], "sizes above 0"),
    ([at(80, np.nan)], "finite"), (np.zeros((2, 7)), r"\[A, 8\]"), (np.zeros((2001, 8)), "at most 1000 boxes"),
    ("traffic", "got 'traffic'"), (3, r"\[A, 8\]"), ({"x": 3}, "no real numbers"), (np.zeros((0, 3, 8)), r"\[A, 8\]"),
    ([BOXES, BOXES[:, :7]], r"\[A, 8\].*got \[3, 7\]"), ([[at(80, 12), at(80.5, 13)]], "stands inside"),
    (lambda seconds, pose: None, "answers with boxes"), (lambda seconds, pose: [at(80, 3)], "inside the car"),
    (Agents(np.array([0, 2]), np.array([4, 4]), np.ones((2, 7), np.float32), np.zeros(2, int)), "the same id"),
])  # fmt: skip
def test_a_layout_that_cannot_be_is_refused_before_anything_changed(world, layout, what):
    for env in (DriveDiTEnv(world, obs_type="latent"), DriveDiTVectorEnv(2, world, obs_type="latent")):
        env.reset(seed=0, options={"scene": 0})
        before = env.get_state().to_bytes()
        with pytest.raises(ValueError, match=what):
            env.reset(options={"scene": 0, "layout": layout})
        assert env.get_state().to_bytes() == before


def test_a_map_reaches_as_far_as_its_route_is_near(world):
    wide = world.scenes[0]
    scene = replace(wide, poses=wide.poses * [3, 1, 1]).with_route(wide.route * 3, True)
    with pytest.raises(ValueError, match="off the map, at .*the car is at"):
        DriveDiTEnv(world).reset(options={"scene": scene, "layout": [at(240, 12), at(0, 0)]})
    DriveDiTEnv(world).reset(options={"scene": scene, "layout": [at(240, 12), at(150, 0)]})


def test_who_touches_or_stands_above_is_let_be(world):
    env = DriveDiTEnv(world, obs_type="latent")
    rows = [at(80, 12), at(80, 16), at(82, 12), at(80, 12, z=6.0), at(80, -9), at(84, 19, yaw=0.78)]
    env.reset(options={"scene": 0, "layout": rows})
    assert np.allclose(others(env), nearest(np.array(rows), env))


def test_a_layout_is_for_worlds_that_are_told_of_others(world):
    with pytest.raises(ValueError, match=r"learned to be told who is there; this one is told \['route'\]"):
        DriveDiTEnv(make_world()).reset(options={"layout": BOXES})
    with pytest.raises(ValueError, match="for scenes with agents"):
        DriveDiTEnv(world).reset(options={"scene": 1, "layout": "scene"})


def test_a_function_that_fails_changes_nothing(world):
    env = DriveDiTEnv(world, obs_type="latent")
    env.reset(seed=0, options={"scene": 0, "layout": lambda seconds, pose: BOXES if seconds < 0.1 else [3]})
    drive(env, 1)
    before = env.get_state()
    with pytest.raises(ValueError, match=r"^a layout is .*\[A, 8\]"):
        drive(env, 1)
    assert env.get_state().elapsed == before.elapsed == [1] and torch.equal(
        env.get_state().world.pose, before.world.pose
    )
    envs = DriveDiTVectorEnv(2, world, obs_type="latent")
    envs.reset(seed=0, options={"scene": 0, "layout": {1: lambda seconds, pose: [3] if seconds else BOXES}})
    with pytest.raises(ValueError, match=r"^world 1: a layout is .*\[A, 8\]"):
        drive(envs, 1)


def test_attributes_draw_a_scene_that_is_so(world):
    env, envs = DriveDiTEnv(world, obs_type="latent"), DriveDiTVectorEnv(12, world, obs_type="latent")
    drawn = {env.reset(seed=seed, options={"attributes": {"weather": "rain"}})[1]["scene"] for seed in range(12)}
    assert drawn == {0, 3}
    assert env.reset(options={"attributes": {"weather": "clear", "time": "night"}})[1]["scene"] == 2
    _, info = envs.reset(seed=0, options={"attributes": {"weather": "rain"}})
    assert set(info["scene"].tolist()) == {0, 3}
    alone = [env.reset(seed=seed, options={"attributes": {"weather": "rain"}})[1]["scene"] for seed in range(12)]
    assert info["scene"].tolist() == alone


@pytest.mark.parametrize(("options", "what"), [
    ({"attributes": {"weather": "hail"}}, r"{'weather': 'hail'} of option attributes.*'clear', 'rain'"),
    ({"attributes": {"mood": "good"}}, "'mood'.*'weather'"), ({"attributes": "rain"}, "dictionary of values by name"),
    ({"attributes": {"weather": "rain", "time": "night"}}, r"no scene.*there are \[.*\('rain', 'day'\)"),
    ({"attributes": {"weather": ["rain"]}}, "of option attributes"),
    ({"attributes": {"weather": "rain"}, "scene": 0}, "exclude each other"),
])  # fmt: skip
def test_attributes_that_no_scene_has_are_refused(world, options, what):
    env = DriveDiTEnv(world)
    env.reset(seed=0)
    before = env.get_state().to_bytes()
    with pytest.raises(ValueError, match=what):
        env.reset(options=options)
    assert env.get_state().to_bytes() == before


@pytest.mark.parametrize("seed", [3, 5])  # the road of seed 5 lies more than 2 km from zero
def test_the_streets_scenes_and_traffic_are_dreamed_on(seed):
    pytest.importorskip("numba")
    from drivedit.data.domains.street.twin import StreetTwin

    spec = replace(STREET, observations={"camera": STREET.observations["camera"]})
    world, twin = make_peopled_world(spec), StreetTwin()
    twin.reset(seed=seed, options={"attributes": {"traffic": "dense"}})
    for _ in range(5):
        twin.step(np.zeros(2, np.float32))
    scene, log = twin.scene(4), [twin.truth().agents]
    start = twin.truth()
    assert start.agents is not None and start.pose is not None
    for _ in range(3):
        twin.step(np.zeros(2, np.float32))
        log.append(twin.truth().agents)
    env = DriveDiTEnv(world, obs_type="latent")
    _, info = env.reset(seed=0, options={"scene": scene})
    assert info["given"] == {"route": True, "layout": False}
    _, info = env.reset(seed=0, options={"scene": scene, "layout": "scene"})
    there, car = others(env), world.poses(env.get_state().world)[0].numpy()
    assert info["given"] == {"route": True, "layout": True} and there[:, 7].any()
    env.reset(seed=0, options={"scene": scene, "layout": log})
    assert np.allclose(others(env)[:, :7], there[:, :7], atol=1e-3), "the log begins where the scene ends"
    apart = np.hypot(*(start.agents.boxes[:, :2] - start.pose[:2]).T)
    assert np.allclose(np.hypot(*(there[:, :2] - car[:2]).T), np.sort(apart)[:2], atol=0.01)
    drive_on = env.step(np.zeros(2, np.float32))
    assert np.isfinite(drive_on[0]).all() and drive_on[4]["given"]["layout"]
