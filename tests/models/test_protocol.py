"""What a world is made of is a line in its spec: kinds of observation, controls, telemetry and reward terms."""

import copy
import shutil
import sys
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from drivedit.config import Modality, Quantity, RewardTerm, StudentConfig, VAEConfig, WorldConfig, WorldSpec
from drivedit.inference import compile_step, tune
from drivedit.models import DiTWorld, Scene
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

SPEC = WorldSpec(
    domain="plane",
    observations={"map": Modality((16, 32, 1))},
    controls=[Quantity("push", -2, 2), Quantity("turn"), Quantity("brake", 0)],
    telemetry=[Quantity("speed", 0, 10, 2.0), Quantity("height", -5, 5)],
    rewards={
        "near": RewardTerm("learned", 3.0),
        "time": RewardTerm("constant", -0.1),
        "speed": RewardTerm("telemetry", 0.5),
        "calm": RewardTerm("learned", -1.0),
        "out": RewardTerm("on_end", -7.0),
    },
    dt=0.2,
)


@pytest.fixture(scope="module")
def plane() -> DiTWorld:
    """A world of grey pictures, three controls, two telemetry values and five reward terms, with random weights."""
    vae = VAEConfig(1, 4, [4, 4, 8, 8], 1, False, 0.1, temporal_kernel=1)
    student = StudentConfig(16, 16, 1, 2, dropout=0.0, tokens_per_frame=2, window=3, history=2, control_dim=9)
    rng = np.random.default_rng(0)
    frames, controls = rng.integers(0, 256, (4, 16, 32, 1), np.uint8), rng.uniform(0, 1, (3, 3)).astype(np.float32)
    world = DiTWorld(WorldConfig(SPEC, vae, student, end_threshold=2), [Scene({"map": frames}, controls)]).eval()
    torch.manual_seed(0)
    for weight in world.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape))
    return world


def test_an_environment_is_made_of_the_spec(plane):
    env = DriveDiTEnv(plane, reward_weights={"calm": 2.0}, render_mode="rgb_array")
    assert env.observation_space == gym.spaces.Box(0, 255, (16, 32, 1), np.uint8)
    assert env.action_space == gym.spaces.Box(np.array([-2, -1, 0], np.float32), np.array([2, 1, 1], np.float32))
    assert env.metadata["render_fps"] == 5 and env.rewarding
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.array([1.5, 0.2, 0.5]))
    terms = info["reward_terms"]
    assert list(terms) == list(SPEC.rewards) and list(info["telemetry"]) == ["speed", "height"]
    assert terms["time"] == pytest.approx(-0.1) and terms["speed"] == pytest.approx(0.5 * info["telemetry"]["speed"])
    assert reward == pytest.approx(sum(terms.values()) + terms["calm"]) and terms["near"] != terms["calm"]
    picture = env.render()
    assert picture is not None and picture.shape == (512, 1024, 3)
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("action", [[0.0, 0.0], [0.0, 0.0, np.nan]])
def test_actions_of_another_width_are_refused(plane, action):
    env = DriveDiTEnv(plane)
    env.reset(seed=0)
    with pytest.raises(
        ValueError, match=r"3 numbers \[push, turn, brake\] in the ranges \[-2.0, -1.0, 0.0\] to \[2.0, 1.0"
    ):
        env.step(np.array(action))


def test_several_kinds_of_observation_are_a_dictionary(plane):
    env, envs = (
        DriveDiTEnv(plane, obs_type=["pixels", "latent"]),
        DriveDiTVectorEnv(2, plane, obs_type=["map", "latent"]),
    )
    assert set(vars(env.observation_space)["spaces"]) == {"pixels", "latent"} and set(
        vars(envs.observation_space)["spaces"]
    ) == {
        "map",
        "latent",
    }
    seen, together = env.reset(seed=3)[0], envs.reset(seed=3)[0]
    alone = DriveDiTEnv(plane, obs_type="latent")
    assert np.array_equal(seen["latent"], alone.reset(seed=3)[0])
    for _ in range(3):
        action = np.array([0.5, -0.5, 0.2], np.float32)
        seen, together = env.step(action)[0], envs.step(np.stack([action] * 2))[0]
        assert np.array_equal(seen["latent"], alone.step(action)[0])
        assert env.observation_space.contains(seen) and envs.observation_space.contains(together)
        assert np.abs(together["map"][0].astype(int) - seen["pixels"]).max() <= 1
    before = together["map"].copy()
    envs.step(np.zeros((2, 3), np.float32))
    assert np.array_equal(together["map"], before), "observations are the caller's to keep"
    after, _ = envs.reset(seed=[None, 5], options={"reset_mask": np.array([False, True])})
    fresh = DriveDiTEnv(plane, obs_type="map").reset(seed=5)[0]
    assert np.abs(after["map"][1].astype(int) - fresh).max() <= 1


@pytest.mark.parametrize("obs_type", ["camera", [], ["map", "map"], 3])
def test_unknown_kinds_of_observation_are_refused(plane, obs_type):
    with pytest.raises(ValueError, match=r"obs_type must be one of \['pixels', 'latent', 'map'\], or a list"):
        DriveDiTEnv(plane, obs_type=obs_type)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_the_compiled_step_knows_the_rules_of_the_spec(plane):
    step, state = compile_step(plane), plane.start(plane.scenes * 3, [1, 2, 3])
    assert step is not None
    ordinary = state.clone()
    for number in range(4):
        controls = torch.rand(3, 3, generator=torch.Generator().manual_seed(number))
        (state, out), (ordinary, wanted) = step(state, controls), plane.step(ordinary, controls)
        assert out.reward_terms.keys() == wanted.reward_terms.keys() and out.telemetry.keys() == wanted.telemetry.keys()
        for name, value in out.reward_terms.items():
            assert torch.allclose(value, wanted.reward_terms[name], atol=1e-3), name
        assert torch.allclose(state.latents, ordinary.latents, atol=1e-3)


def test_conditions_are_told_by_the_names_of_the_spec(plane, tiny_world):
    state, step = tiny_world.start(tiny_world.scenes[:2], [1, 2]), torch.zeros(2, 2)
    line = tiny_world.scenes[0].route[::-1].copy()
    told = tiny_world.condition(state.clone(), {"route": {"points": line, "closed": True, "arc": 12.0}})
    assert torch.equal(told.points[0], told.points[1]) and told.closed.all() and not told.bounds.isfinite().any()
    assert not torch.equal(tiny_world.step(told, step)[0].latents, tiny_world.step(state.clone(), step)[0].latents)
    assert torch.equal(tiny_world.condition(state.clone(), {}).points, state.points), "what is left out stays"
    assert not tiny_world.condition(state.clone(), {"route": None}).count.any(), "a road of its own"
    with pytest.raises(ValueError, match=r"told the conditions \['route'\], got \['route', 'closed'\]"):
        tiny_world.condition(state, {"route": {"points": line}, "closed": True})
    with pytest.raises(ValueError, match=r"has the parts \['points', 'closed', 'bounds', 'arc'\], got \['line'\]"):
        tiny_world.condition(state, {"route": {"line": line}})
    with pytest.raises(ValueError, match=r"told the conditions \[\], got \['route'\]"):
        plane.condition(plane.start(plane.scenes, [0]), {"route": {"points": line}})


def test_scenes_and_states_of_another_spec_are_refused(plane, tiny_world):
    scene = plane.scenes[0]
    with pytest.raises(ValueError, match=r"uint8 \[n \+ 1, 16, 32, 1\]"):
        plane.check_scene(replace(scene, observations={"map": np.zeros((4, 16, 32, 3), np.uint8)}))
    with pytest.raises(ValueError, match=r"\[3, 3\] \(push, turn, brake\)"):
        plane.check_scene(replace(scene, controls=np.zeros((3, 2), np.float32)))
    with pytest.raises(ValueError, match="push from -2 to 2, turn from -1 to 1, brake from 0 to 1"):
        plane.check_scene(replace(scene, controls=np.full((3, 3), -0.5, np.float32)))
    with pytest.raises(ValueError, match="the state's"):
        plane.check_state(tiny_world.start(tiny_world.scenes[:1], [0]))


def test_a_tuned_world_of_grey_pictures_dreams_the_same(plane, tmp_path):
    plane.save_pretrained(tmp_path / "plane")
    fast = tune(DiTWorld.from_pretrained(tmp_path / "plane", device="cpu"))
    slow = DiTWorld.from_pretrained(tmp_path / "plane", device="cpu")
    pictures = [world.observe(world.start(world.scenes, [1]), ["map"])["map"] for world in (fast, slow)]
    assert pictures[0].shape == (1, 16, 32, 1) and (pictures[0].int() - pictures[1].int()).abs().max() <= 3


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_another_activation_is_kept_by_tuning_and_not_compiled(plane, caplog, monkeypatch):
    monkeypatch.setattr(sys.modules[tune.__module__], "fast_dtype", lambda device: torch.float32)
    world, controls = copy.deepcopy(plane), torch.full((1, 3), 0.3)
    blocks: Any = world.dynamics.blocks
    for block in blocks:
        block.activate = torch.nn.functional.gelu
    wanted = world.step(world.start(world.scenes, [1]), controls)[0].latents[:, 0]
    assert compile_step(tune(world)) is None and "blocks with a squared ReLU" in caplog.text
    found = world.step(world.start(world.scenes, [1]), controls)[0].latents[:, 0]
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"observations": {}}, "shows a picture"),
        ({"controls": []}, "has controls"),
        ({"observations": {"a": Modality((16, 16, 3)), "b": Modality((16, 16, 3))}}, "shows one picture"),
        ({"observations": {"a": Modality((16, 20, 3))}}, "multiples of 8"),
        ({"observations": {"a": Modality((16, 16, 4))}}, "4 channels, vae.in_channels is 3"),
    ],
)
def test_specs_that_this_kind_of_world_cannot_show_are_refused(change, what):
    seen = {"observations": {"a": Modality((16, 16, 3))}}
    with pytest.raises(ValueError, match=what):
        DiTWorld(WorldConfig(replace(SPEC, **{**seen, **change})))
