"""Guidance on the controls: refused where no null control was learned, and then the mathematics that it says."""

import copy
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.worlds import make_world

from drivedit.config import StudentStageConfig
from drivedit.evaluation.commands import judge_world
from drivedit.inference import compile_step, under_guidance
from drivedit.models import DiTWorld, Sampling
from drivedit.models.dit.networks import without_controls
from drivedit.training.methods.clips import Rngs
from drivedit.training.methods.forcing import DiffusionForcing

CONTROLS = torch.tensor([[0.8, 0.3], [-0.5, 0.9]])


@pytest.fixture
def world() -> DiTWorld:
    """A world that has learned a null control."""
    made = make_world()
    made.config = replace(made.config, null_control=True)
    for weight in made.heads.mlp[2].parameters():  # else motion hardly depends on what is dreamed
        weight.data.mul_(30)
    return made


def stepped(world: DiTWorld, guidance: float | None, begun: DiTWorld | None = None) -> tuple[Any, Any]:
    state = (begun or world).start(world.scenes, [1, 2])
    return world.step(state, CONTROLS, sampling=Sampling(guidance=guidance))


def test_a_world_without_a_null_control_refuses_and_says_why():
    with pytest.raises(ValueError, match=r"takes no guidance.*got 1.5.*loss.drop_control"):
        stepped(make_world(), 1.5)
    with pytest.raises(ValueError, match="takes no guidance"):
        gym.make("drivedit_env:DriveDiT-v0", world=make_world(), guidance=1.5)
    with pytest.raises(ValueError, match="takes no guidance"):
        gym.make_vec("drivedit_env:DriveDiT-v0", num_envs=2, world=make_world(), guidance=0.0)
    assert stepped(make_world(), 1)[0].latents.shape == stepped(make_world(), None)[0].latents.shape


@pytest.mark.parametrize("scale", [-0.1, 1e9, float("nan"), True, "much"])
def test_a_scale_is_a_number_in_its_range(world, scale):
    with pytest.raises(ValueError, match="guidance is a number from 0 to 100"):
        world.check_guidance(scale)


def test_a_scale_of_one_leaves_the_bits(world):
    (plain, told), (guided, said) = stepped(world, None), stepped(world, 1.0)
    assert torch.equal(plain.latents, guided.latents) and torch.equal(told.reward, said.reward)


@pytest.mark.parametrize("clean_cache", [False, True])
def test_one_pass_is_the_line_through_both_estimates(world, clean_cache):
    """The frame, what is read off it, and the ring, which is left by the pass under controls."""
    world.config = replace(world.config, clean_cache=clean_cache)
    null = copy.deepcopy(world)
    null.denoise = lambda x, sigma, driven, *rest, **more: world.denoise(  # type: ignore[method-assign]
        x, sigma, without_controls(driven, world.null_control) if sigma.any() else driven, *rest, **more
    )
    (plain, _), (bare, _), (guided, _) = stepped(world, 1.0), stepped(null, 1.0, world), stepped(world, 1.5)
    frame = bare.latents[:, 0] + 1.5 * (plain.latents[:, 0] - bare.latents[:, 0])
    assert not torch.allclose(plain.latents, bare.latents, atol=1e-4)
    assert torch.allclose(guided.latents[:, 0], frame, atol=1e-5)
    motion = bare.motion + 1.5 * (plain.motion - bare.motion)
    assert torch.allclose(guided.motion, motion, atol=1e-4) != clean_cache  # then it is read off the frame itself
    assert torch.equal(guided.k, plain.k) != clean_cache
    assert torch.allclose(stepped(world, 0.0)[0].latents[:, 0], bare.latents[:, 0], atol=1e-6)


def test_environments_dream_under_guidance_and_hand_it_on(world):
    action = np.array([0.8, 0.3], np.float32)
    env: Any = gym.make("drivedit_env:DriveDiT-v0", world=world, obs_type="latent", guidance=2.0).unwrapped
    envs: Any = gym.make_vec("drivedit_env:DriveDiT-v0", num_envs=2, world=world, obs_type="latent", guidance=2.0)
    env.reset(seed=3)
    envs.reset(seed=2)
    alone, branch = env.fork(2), copy.deepcopy(env)
    assert (env.guidance, alone.guidance, branch.guidance) == (2, 2, 2)
    seen = env.step(action)[0]
    assert np.allclose(envs.step(np.stack([-action, action]))[0][1], seen, atol=1e-5)
    assert np.array_equal(branch.step(action)[0], seen)
    assert np.allclose(alone.step(np.stack([action, action]))[0][0], seen, atol=1e-5)
    env.reset(seed=3)
    env.guidance = 1.0
    assert not np.allclose(env.step(action)[0], seen, atol=1e-4)
    with pytest.raises(ValueError, match="guidance is a number"):
        env.guidance = -1
    assert env.guidance == 1


def test_a_compiled_step_refuses(world):
    with pytest.raises(ValueError, match="compiled step has no guidance, got 2"):
        gym.make("drivedit_env:DriveDiT-v0", world=world, compile=True, guidance=2.0)
    env: Any = gym.make("drivedit_env:DriveDiT-v0", world=world, compile=True).unwrapped
    with pytest.raises(ValueError, match="compiled step has no guidance"):
        env.guidance = 1.1
    step = compile_step(world)
    if step is not None:
        state = world.start(world.scenes, [1, 2])
        with pytest.raises(ValueError, match="compiled step has no guidance, got 1.1"):
            step(state, CONTROLS, sampling=Sampling(guidance=1.1))
        assert torch.isfinite(step(state, CONTROLS, sampling=Sampling(guidance=1))[0].latents).all()


def test_a_world_may_be_stepped_under_guidance_by_those_who_ask_for_none(world):
    guided, plain = stepped(world, 1.5)[0].latents, stepped(world, None)[0].latents
    with under_guidance(world, 1.5):
        assert torch.equal(stepped(world, None)[0].latents, guided)
        env: Any = gym.make("drivedit_env:DriveDiT-v0", world=world, obs_type="latent").unwrapped
        env.reset(seed=0)
        seen = env.step(CONTROLS[0].numpy())[0]
    assert torch.equal(stepped(world, None)[0].latents, plain) and "step" not in vars(world)
    env.reset(seed=0)
    assert not np.allclose(env.step(CONTROLS[0].numpy())[0], seen, atol=1e-4)
    with under_guidance(world, 1.0):
        assert torch.equal(stepped(world, None)[0].latents, plain)
    with pytest.raises(ValueError, match="takes no guidance"), under_guidance(make_world(), 2.0):
        pass


@pytest.mark.parametrize("other", [{"compile": True}, {"write_card": True}])
def test_a_judged_world_under_guidance_is_neither_compiled_nor_given_a_card(other):
    with pytest.raises(ValueError, match="under guidance 2 a world is neither compiled nor given a card"):
        judge_world(guidance=2.0, **other)


def test_the_null_control_is_beyond_every_range_and_the_motion_stays(world):
    driven = torch.tensor([[[0.1, 0.2, 0.3, 0.4, 5.0, 6.0, 7.0]]])
    assert without_controls(driven, world.null_control).tolist() == [[[-2.0, -2.0, -2.0, -2.0, 5.0, 6.0, 7.0]]]


def test_dropout_drops_its_share_of_frames_and_none_draws_nothing(world):
    control = torch.rand(64, 50, 7)

    def blurred(share: float) -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        method = DiffusionForcing(world, StudentStageConfig(drop_control=share))
        return method.blur_motion(control, Rngs(rng, torch.device("cpu"), rng))

    plain, dropped = blurred(0.0), blurred(0.2)
    gone = (dropped[..., :4] == -2).all(-1)
    assert float(gone.float().mean()) == pytest.approx(0.2, abs=0.03)  # 8 standard deviations
    assert torch.equal(plain[..., :4], control[..., :4]) and torch.equal(dropped[~gone], plain[~gone])
    assert torch.equal(dropped[..., 4:], plain[..., 4:])  # drawn after the motion's noise


def test_the_flag_is_saved(world, tmp_path):
    world.save_pretrained(tmp_path / "world")
    assert DiTWorld.from_pretrained(tmp_path / "world").guidable and not make_world().guidable
