"""The compiled step computes what the ordinary one computes, for rows of any age, and needs no compiler to be there."""

import shutil
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_world import make_world
from torch._inductor import config as inductor

from drivedit.agents.train import TrainConfig, open_env
from drivedit.inference import CompiledStep, compile_decoder, compile_step, tune
from drivedit.models import Scene, World, WorldState
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIVEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def compiled(fast_world: World, own_cache) -> CompiledStep:
    """The one step that is compiled here: of three worlds."""
    step = compile_step(fast_world, 3)
    assert step is not None
    return step


def dream(step, state: WorldState, steps: int, seed: int = 0):
    rng, outs = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        state, out = step(state, torch.rand(3, 2, generator=rng) * 2 - 1)
        outs.append(out)
    return state, outs


def starts(world: World) -> WorldState:
    """Rows of three ages, one without a route: rings that are nearly empty, partly filled and full."""
    long, short = world.scenes[0], world.scenes[1]
    free = Scene(long.frames[:4], long.controls[:3])
    return world.start([long, Scene(short.frames[:2], short.controls[:1]), free], [1, 2, 3])


@needs_compiler
def test_it_dreams_what_the_ordinary_step_dreams(fast_world, compiled):
    state = starts(fast_world)
    assert len(set(state.clock.tolist())) == 3 and int(state.clock.min()) < fast_world.dynamics.capacity - 1
    after, outs = dream(compiled, state.clone(), 6)
    wanted, expected = dream(fast_world.step, state, 6)
    for out, other in zip(outs, expected, strict=True):
        assert torch.allclose(out.latent, other.latent, atol=0.05) and out.latent.dtype == torch.float32
        assert torch.allclose(out.telemetry, other.telemetry, atol=0.3)
        assert torch.allclose(out.reward, other.reward, atol=0.1) and torch.equal(out.ended, other.ended)
        assert torch.allclose(out.confidence, other.confidence, atol=0.05)
        assert out.reward_terms.keys() == other.reward_terms.keys()
        frames, pictures = fast_world.decode(out.latent), fast_world.decode(other.latent)
        assert np.abs(frames.astype(int) - pictures).max() <= 8
    for name, value in wanted.tensors().items():
        got = after.tensors()[name]
        assert got.shape == value.shape and got.dtype == value.dtype and torch.allclose(got, value, atol=0.3), name
    assert torch.equal(after.clock, wanted.clock) and torch.equal(after.seeds, wanted.seeds)


@needs_compiler
def test_one_world_for_which_the_compiler_tries_its_own_products(fast_world, own_cache):
    step, state = compile_step(fast_world, 1), starts(fast_world).select([0])
    assert step is not None
    action = torch.tensor([[0.3, 0.2]])
    (after, out), (wanted, expected) = step(state.clone(), action), fast_world.step(state.clone(), action)
    assert torch.allclose(out.latent, expected.latent, atol=0.05) and torch.allclose(after.k, wanted.k, atol=0.3)
    assert torch.equal(step(state.clone(), action)[1].latent, out.latent)


@needs_compiler
def test_states_of_it_are_complete_and_equal_rows_are_equal(fast_world, compiled):
    state, outs = dream(compiled, starts(fast_world), 5)
    for out in outs:  # what a step gave is the caller's
        out.reward_terms["time"].zero_()
    stored, forks = state.to_bytes("me"), state.select([1, 1, 0])
    _, after = dream(compiled, state.clone(), 4, seed=1)
    _, again = dream(compiled, WorldState.from_bytes(stored, "me"), 4, seed=1)
    for out, other in zip(after, again, strict=True):
        assert all(torch.equal(value, vars(other)[name]) for name, value in vars(out).items() if name != "reward_terms")
        assert torch.equal(out.reward, other.reward) and (out.reward_terms["time"] == -0.3).all()
    for _ in range(5):
        forks, forked = compiled(forks, torch.tensor([[0.3, 0.1], [0.3, 0.1], [0.0, 0.0]]))
        assert torch.equal(forked.latent[0], forked.latent[1]) and torch.equal(forked.telemetry[0], forked.telemetry[1])
        assert not torch.equal(forked.latent[1], forked.latent[2])


@needs_compiler
def test_the_decoder_draws_the_same_bits(monkeypatch):
    world = tune(make_world())
    ordinary = DriveDiTEnv(world)
    decoder = compile_decoder(world, 1)
    assert decoder is not None
    latents = 2 * torch.randn(2, *world.latent_shape())
    wanted = world.decode(latents)
    assert wanted.std() > 1 and np.array_equal(decoder(latents), wanted)  # not the number it is made for
    monkeypatch.setattr("drivedit_env.base.compile_step", lambda world, rows, steps: world.step)
    env = DriveDiTEnv(world, compile=True)  # the decoder's library is there: at once
    action = np.array([0.1, 0.2], np.float32)
    ordinary.reset(seed=0)
    after = ordinary.step(action)[0]
    monkeypatch.setattr(World, "decode", lambda *args: pytest.fail("the ordinary decoder"))
    assert np.array_equal(decoder(latents[1:]), wanted[1:]) and decoder(latents[1:]).dtype == np.uint8
    env.reset(seed=0)
    assert np.array_equal(env.step(action)[0], after)


def test_a_decoder_that_is_not_packed_is_left_as_it_is(tiny_world):
    assert compile_decoder(tiny_world, 1) is None


@needs_compiler
def test_environments_step_with_it(fast_world, compiled, monkeypatch):
    ordinary = gym.make_vec("DriveDiT-v0", num_envs=3, world=fast_world)
    envs = gym.make_vec("DriveDiT-v0", num_envs=3, world=fast_world, compile=True)  # the library is there: at once
    ordinary.reset(seed=3)
    envs.reset(seed=3)
    plan = np.random.default_rng(0).uniform(-1, 1, (6, 3, 2)).astype(np.float32)
    for step, actions in enumerate(plan):
        if step == 3:
            mask = {"reset_mask": np.array([False, True, False])}
            ordinary.reset(options=mask)
            envs.reset(options=mask)
        (frames, rewards, ended, *_), (seen, got, over, *_) = ordinary.step(actions), envs.step(actions)
        assert np.abs(frames.astype(int) - seen).max() <= 8 and np.allclose(rewards, got, atol=0.1)
        assert np.array_equal(ended, over)
    vector = envs.unwrapped
    assert isinstance(vector, DriveDiTVectorEnv)
    state = vector.get_state().to_bytes()
    futures = []
    for _ in range(2):
        vector.set_state(state)
        futures.append([envs.step(actions)[0] for actions in plan])
    assert np.array_equal(*futures)
    monkeypatch.setattr(World, "dream", lambda *args: pytest.fail("an ordinary step"))
    branches = vector.fork(1, 3)
    seen = branches.step(np.tile(plan[0, :1], (3, 1)))[0]
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])


@needs_compiler
def test_agents_learn_in_it(fast_world, compiled, monkeypatch):
    config = TrainConfig(world=fast_world, obs="latent", eval_env=None, num_envs=3, compile=True)  # type: ignore[arg-type]
    env = open_env(config)
    env.seed(0)
    first: Any = env.reset()
    monkeypatch.setattr(World, "dream", lambda *args: pytest.fail("an ordinary step"))
    after: Any = env.step(np.zeros((3, 2), np.float32))[0]
    assert not np.array_equal(after, first)
    with pytest.raises(ValueError, match="only a dream"):
        open_env(TrainConfig(env="drivedit_env:CarRacingTwin-v0", compile=True))


def test_without_a_compiler_it_warns_and_goes_on(fast_world, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DRIVEDIT_CACHE", str(tmp_path))
    with inductor.patch({"cpp.cxx": (None, str(tmp_path / "none"))}):  # what CXX says when torch is imported
        env = DriveDiTEnv(fast_world, compile=True)
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "drivedit.inference.compile"]
    assert "compiler" in warning and "\n" not in warning
    env.reset(seed=0)
    other = DriveDiTEnv(fast_world)
    other.reset(seed=0)
    action = np.array([0.1, 0.2], np.float32)
    assert np.array_equal(env.step(action)[0], other.step(action)[0])
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_it_is_for_worlds_with_a_window(fast_world, monkeypatch):
    monkeypatch.setattr(fast_world.config.student, "window", None)
    with pytest.raises(ValueError, match="window"):
        compile_step(fast_world, 1)
