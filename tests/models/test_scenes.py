"""Scenes of any spec: several kinds of observation, conditions, agents and attributes, in memory and on disk."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.episodes import EVERYTHING, with_everything
from fuzz.worlds import small_world
from safetensors.numpy import load, load_file, save, save_file

from drivedit.models import DiTWorld, Scene, check_scene, shipped_worlds
from drivedit.models.scene_files import pack_scenes, unpack_scenes
from drivedit.utils.episodes import Agents

SPEC = replace(EVERYTHING, conditions=["route", "wind"])
LINE = np.array([[0.0, 0], [50, 0], [90, 20]])
BOUNDS = np.array([-100.0, -100, 100, 100])


def everything(**changes: Any) -> dict[str, Any]:
    """A scene with all that there can be, as a dictionary."""
    episode = with_everything(5, 0)
    told = {
        "observations": dict(reversed(episode.observations.items())),
        "controls": np.abs(episode.controls),
        "times": episode.times,
        "conditions": {"route": {"points": LINE, "closed": True, "bounds": BOUNDS}, "wind": [1.0, -2.0]},
        "poses": np.stack([np.arange(6.0), np.zeros(6), np.zeros(6)], 1),
        "agents": episode.agents,
        "attributes": episode.attributes,
    }
    return {**told, **changes}


def same(one: Scene, other: Scene) -> bool:
    """Whether two scenes are equal in everything, to the bit."""
    arrays, others = (pack_scenes([scene]) for scene in (one, other))
    return list(arrays) == list(others) and all(
        array.dtype == others[name].dtype and array.shape == others[name].shape
        for name, array in arrays.items()
    ) and all(array.tobytes() == others[name].tobytes() for name, array in arrays.items())  # fmt: skip


def test_a_scene_can_have_whatever_its_spec_names():
    scene = check_scene(everything(), SPEC)
    assert list(scene.observations) == ["picture", "range"] and scene.frames is scene.observations["picture"]
    assert scene.route is not None and scene.bounds is not None and scene.poses is not None and scene.closed is True
    assert {array.dtype.name for array in (scene.route, scene.bounds, scene.poses, scene.controls)} == {"float32"}
    assert scene.conditions["wind"].dtype == np.float32 and scene.conditions["wind"].tolist() == [1, -2]
    assert scene.times is not None and scene.times.dtype == np.float64 and scene.attributes["weather"] == "fog"
    assert same(check_scene(scene, SPEC), scene), "a scene stays as it is"
    plain = everything(closed=True, route=LINE, bounds=BOUNDS, conditions={"wind": [1.0, -2.0]})
    assert same(check_scene(plain, SPEC), scene), "a route may be told as it always was"


def test_what_is_not_known_is_left_out():
    least = {"frames": np.zeros((2, 16, 32, 1), np.uint8), "controls": np.zeros((1, 3))}
    nothing = {"times": None, "conditions": {"wind": None}, "poses": None, "agents": None, "route": None}
    scene = check_scene({**least, **nothing, "closed": True}, SPEC)
    assert list(scene.observations) == ["picture"] and scene.conditions == {} == scene.attributes
    assert scene.route is scene.bounds is scene.times is scene.agents is None and not scene.closed
    field = check_scene({**least, "bounds": BOUNDS}, SPEC)
    assert field.route is None and field.bounds is not None, "where the field ends can be known without a road"
    free = check_scene({**least, "bounds": BOUNDS}, EVERYTHING)
    assert free.conditions == {}, "and says nothing to a world that is told no route"


def test_agents_far_from_zero_are_told_from_the_origin_of_the_scene():
    near, far = everything(), everything()
    shift = np.array([500_000.0, 5_400_000.0])
    far["agents"] = copy.deepcopy(near["agents"])
    far["agents"].boxes = near["agents"].boxes.astype(np.float64)
    for places in (far["agents"].boxes, far["poses"]):
        places[:, :2] += shift
    route = {"points": LINE + shift, "closed": True, "bounds": BOUNDS + np.tile(shift, 2)}
    far["conditions"] = {**near["conditions"], "route": route}
    one, other = (check_scene(scene, SPEC) for scene in (near, far))
    assert one.agents is not None and other.agents is not None and other.agents.boxes.dtype == np.float32
    assert np.allclose(one.agents.boxes, other.agents.boxes, atol=1e-6)
    other.agents.boxes[:] = one.agents.boxes
    assert same(one, other)


def agents(**changes: Any) -> Agents:
    return replace(with_everything(5, 0).agents, **changes)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((6, 16, 32, 1), np.uint8)}, "frames or observations.*got both"),
        ({"route": LINE}, "in conditions or as route.*got both"),
        ({"closed": False}, "got both"),
        ({"fog": 1}, r"the keys \['agents', 'attributes', .*unknown \[\"'fog'\"\]"),
        ({"observations": None}, "frames, or observations, and controls are needed.*missing"),
        ({"observations": np.zeros(3)}, "the observations of a scene are a dictionary, by name, got ndarray"),
        ({"observations": {}}, r"shows \['picture', 'range'\] \(the first is needed\); missing 'picture'"),
        ({"conditions": [1]}, "the conditions of a scene are a dictionary, by name, got list"),
        ({"conditions": {"layout": [1.0]}}, r"told \['route', 'wind'\], the scene tells \['layout'\]"),
        ({"conditions": {"wind": "north"}}, "the condition wind of a scene must be finite numbers, got 'north'"),
        ({"conditions": {"wind": [np.nan]}}, "must be finite numbers, got nan"),
        ({"conditions": {"route": LINE}}, r"dictionary of \['points', 'closed', 'bounds'\], got ndarray"),
        ({"conditions": {"route": {"line": LINE}}}, r"got \[\"'line'\"\]"),
        ({"conditions": {"route": {"points": LINE, "closed": 1}}}, "is closed is True or False, got 1"),
        ({"conditions": {"route": {"points": LINE, "bounds": BOUNDS[::-1]}}}, "x_min < x_max"),
        ({"times": np.zeros(6)}, "6 finite numbers of seconds that increase, got"),
        ({"times": np.arange(5)}, r"seconds that increase, got shape \[5\]"),
        ({"times": [*range(5), np.inf]}, "finite numbers"),
        ({"attributes": {"weather": "snow"}}, r"\{'weather': 'snow'\} of a scene are none of its spec, which has"),
        ({"attributes": {"mood": "fog"}}, "'mood'"),
        ({"attributes": {"weather": ["fog"]}}, "of a scene are none"),
        ({"attributes": "fog"}, "the attributes of a scene are a dictionary"),
        ({"agents": {"ids": [1]}}, "utils.episodes.Agents or None, got dict"),
        ({"agents": agents(first=np.zeros(6, np.int64))}, r"`first` of the agents of 6 states must be an array int64"),
        ({"agents": agents(ids=[1, 2])}, r"`ids` .* must be an array int64 \[any\], got list"),
        ({"agents": agents(boxes=np.zeros((2, 3), np.float32))}, r"agents must be finite numbers \[0 to .*, 7\]"),
        ({"agents": agents(boxes=np.full((2, 7), np.nan, np.float32))}, "must be finite numbers"),
        ({"agents": agents(names=("car",))}, r"places in \('car',\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        check_scene(everything(**change), SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lidar": np.zeros((6, 4))}, r"unknown \[\"'lidar'\"\]"),
        ({"range": np.zeros((5, 4, 8, 2), np.float32)}, r"float32 \[n \+ 1, 4, 8, 2\] with 6 to 6 frames, got 5"),
        ({"range": np.zeros((6, 4, 8, 2))}, r"scene range must be float32 .*, got float64"),
        ({"range": np.full((6, 4, 8, 2), 101, np.float32)}, "scene range lie from 0 to 100, got 101 to 101"),
        ({"range": np.full((6, 4, 8, 2), np.nan, np.float32)}, "scene range lie from 0 to 100, got nan"),
        ({"range": None}, "scene range must be float32"),
    ],
)
def test_observations_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        check_scene(everything(observations={**everything()["observations"], **change}), SPEC)


# -- on disk -------------------------------------------------------------------------------------------------------


def test_everything_comes_back_from_a_file():
    scenes = [check_scene(everything(), SPEC), check_scene(everything(agents=None, times=None, conditions={}), SPEC)]
    arrays = pack_scenes(scenes)
    assert {"0.observations/range", "0.conditions/route/closed", "0.conditions/wind", "0.agents/names"} < set(arrays)
    assert "1.agents/ids" not in arrays and "1.times" not in arrays
    for before, after in zip(scenes, unpack_scenes(save(arrays)), strict=True):
        assert same(check_scene(after, SPEC), before)


@pytest.mark.parametrize(
    "change",
    [
        {"0.agents/names": np.frombuffer(b"7", np.uint8)}, {"0.agents/names": np.frombuffer(b"[7]", np.uint8)},
        {"0.agents/ids": np.zeros((2, 2))}, {"0.agents/more": np.zeros(2)}, {"0.agents": np.zeros(2)},
        {"0.attributes": np.frombuffer(b"\xff", np.uint8)}, {"0.attributes": np.frombuffer(b"[1]", np.uint8)},
        {"0.attributes/weather": np.zeros(1)}, {"0.conditions/route/closed": np.zeros(2, bool)},
        {"0.conditions/route/more": np.zeros(2)}, {"0.conditions/route": np.zeros(2)}, {"0.frames": np.zeros(2)},
        {"0.observations/fog": np.zeros(2)}, {"0.controls/x": np.zeros(2)}, {"0.": np.zeros(2)}, {"0./": np.zeros(2)},
        {"0.closed": np.zeros(1)},
    ],
)  # fmt: skip
def test_a_file_with_other_arrays_is_refused(change):
    arrays = pack_scenes([check_scene(everything(), SPEC)]) | change
    with pytest.raises(ValueError):
        check_scene(unpack_scenes(save(arrays))[0], SPEC)


def world_of(**changes: Any) -> DiTWorld:
    """A small world whose scenes have agents, attributes, times and a further condition."""
    world, told = small_world(0), everything()
    spec = replace(world.spec, conditions=["route", "wind"], attributes=EVERYTHING.attributes)
    frames = np.zeros((6, 32, 32, 3), np.uint8)
    scene = {**told, "observations": {"camera": frames}, "controls": np.zeros((5, 2)), **changes}
    return DiTWorld(replace(world.config, spec=spec), [scene])


def test_a_world_keeps_what_its_scenes_have(tmp_path: Path):
    world = world_of()
    world.save_pretrained(tmp_path / "w")
    found = DiTWorld.from_pretrained(tmp_path / "w", device="cpu")
    assert same(found.scenes[0], world.scenes[0]) and found.scenes[0].agents is not None
    stored = load_file(tmp_path / "w" / "scenes.safetensors")
    assert "0.observations/camera" in stored and not {"0.frames", "0.route", "0.closed"} & set(stored)
    world.start(world.scenes, [0])


def test_scenes_of_earlier_files_are_read(tmp_path: Path):
    """The shipped world's file has the earlier names; written anew it has those of now, and is the same."""
    stored = load((shipped_worlds()["carracing"] / "scenes.safetensors").read_bytes())
    assert {"0.frames", "0.route", "0.closed", "0.bounds"} < set(stored)
    world = DiTWorld.from_pretrained("carracing", device="cpu")
    assert len(world.scenes) == int(stored["count"])
    for index, scene in enumerate(world.scenes):
        for name in ("frames", "controls", "route", "closed", "poses", "bounds"):
            assert np.asarray(getattr(scene, name)).tobytes() == stored[f"{index}.{name}"].tobytes(), name
    world.save_pretrained(tmp_path / "w")
    again = DiTWorld.from_pretrained(tmp_path / "w", device="cpu")
    assert all(same(one, other) for one, other in zip(world.scenes, again.scenes, strict=True))
    assert again.digest() == world.digest()


def test_a_damaged_file_is_damaged(tmp_path: Path):
    world_of().save_pretrained(tmp_path / "w")
    file = tmp_path / "w" / "scenes.safetensors"
    save_file(load_file(file) | {"0.fog": np.zeros(2)}, file)
    with pytest.raises(ValueError, match="this world is damaged"):
        DiTWorld.from_pretrained(tmp_path / "w", device="cpu")
