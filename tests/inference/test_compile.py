"""The compiled step computes what the ordinary one computes, for rows of any age, and needs no compiler to be there."""

import copy
import pickle
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Barrier
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.worlds import BOXES, film_spec, make_peopled_world, make_scene, make_world, told
from torch import nn

from drivedit.agents.learning.train import TrainConfig, open_env
from drivedit.config import StudentConfig, VAEConfig, WorldConfig
from drivedit.inference import CompiledStep, compile_decoder, compile_step, library, tune
from drivedit.inference import compiled as compiled_within
from drivedit.inference.tune import can_pack, pack_decoder
from drivedit.models import DiTState, DiTWorld, Sampling, Scene
from drivedit.utils import fast_dtype
from drivedit_env.env import DriveDiTEnv
from drivedit_env.vector import DriveDiTVectorEnv

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
needs_packing = pytest.mark.skipif(not can_pack(), reason="this torch cannot pack a decoder")
# One process compiles the library for all tests.


@pytest.fixture(scope="module")
def compiled(fast_world: DiTWorld) -> CompiledStep:
    return made(fast_world)


def made(world: DiTWorld, steps: int | None = None) -> CompiledStep:
    step = compile_step(world, steps)
    assert step is not None
    return step


@contextmanager
def threads(count: int):
    """Torch's threads, and so those of a compiled step that is made and called within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dream(step, state: DiTState, steps: int, seed: int = 0):
    rng, outs = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        state, out = step(state, torch.rand(len(state), 2, generator=rng) * 2 - 1)
        outs.append(told(state, out))
    return state, outs


def starts(world: DiTWorld) -> DiTState:
    """Rows of three ages, one without a route: rings that are nearly empty, partly filled and full."""
    long, short = world.scenes[0], world.scenes[1]
    free = {"frames": long.frames[:4], "controls": long.controls[:3]}
    state = world.start([long, {"frames": short.frames[:2], "controls": short.controls[:1]}, free], [1, 2, 3])
    if not world.config.others:
        return state
    state = world.condition(state, {"layout": BOXES})
    state.told[2] = False
    return state


def random_world(config: WorldConfig, scenes: list[Scene]) -> DiTWorld:
    """A world in float32 with random weights."""
    torch.manual_seed(0)
    world = DiTWorld(config, scenes)
    for p in world.parameters():
        p.data.add_(0.05 * torch.randn(p.shape))
    return world.eval()


def other_world(student: dict[str, Any] | None = None, **changes: Any) -> DiTWorld:
    """A world with some other settings."""
    config = make_world().config
    config = replace(config, student=replace(config.student, **student or {}), **changes)
    return random_world(config, [make_scene(5), make_scene(2)])


def plain_world() -> DiTWorld:
    """A world of oblong pictures that is told nothing but controls: 21 tokens, no rotation, one past frame."""
    student = StudentConfig(
        latent_dim=5, d_model=40, n_layers=2, n_heads=4, d_ff=56, dropout=0.0, tokens_per_frame=21, window=2, history=1,
        control_dim=2, use_rope=False,
    )  # fmt: skip
    vae = VAEConfig(3, 5, [8, 8, 12, 12], 1, False, 0.1, temporal_kernel=1)
    rng = np.random.default_rng(0)
    frames, controls = rng.integers(0, 255, (4, 24, 56, 3), np.uint8), rng.uniform(-1, 1, (3, 2)).astype(np.float32)
    config = WorldConfig(film_spec(24, 56), vae, student, patch=1)
    scene = Scene({config.spec.picture: frames}, controls)
    return random_world(config, [scene, Scene({config.spec.picture: frames[1:]}, controls[1:])])


def lean_world() -> DiTWorld:
    """A world with a decoder like that of the shipped one: narrow, and without residual blocks at full size."""
    vae = replace(make_world().config.vae, decoder_dims=[4, 8, 20, 24], decoder_inner=[4, 4, 6, 8])
    return other_world(vae=vae)


WORLDS = {
    "told everything": make_world,
    "told of others": make_peopled_world,
    "several passes": lambda: other_world(sampling_steps=3),
    "clean cache": lambda: other_world(clean_cache=True, sampling_steps=2),
    "no history": lambda: other_world({"history": 0}, clean_cache=True),
    "no bounds": lambda: other_world({"route_dim": 317}, bounds_reach=None),
    "no map": lambda: other_world({"route_dim": 65, "map_dim": 0}, view=None),
    "oblong": plain_world,
}


@needs_compiler
@pytest.mark.parametrize("name", WORLDS)
def test_in_float32_it_is_the_ordinary_step_but_for_rounding(name):
    world = WORLDS[name]()
    state = starts(world)
    after, outs = dream(made(world), state.clone(), 5)
    wanted, expected = dream(world.step, state, 5)
    for out, other in zip(outs, expected, strict=True):
        assert other.latent.std() > 0.1
        for field in ("latent", "telemetry", "confidence", "ended_probability", "reward"):
            got, right = getattr(out, field), getattr(other, field)
            assert got.shape == right.shape and got.dtype == right.dtype
            assert torch.allclose(got, right, atol=2e-3, rtol=1e-3), (field, (got - right).abs().max())
        assert torch.equal(out.ended, other.ended) and out.reward_terms.keys() == other.reward_terms.keys()
    for field, value in wanted.tensors().items():
        got = after.tensors()[field]
        assert got.shape == value.shape and got.dtype == value.dtype
        assert torch.allclose(got, value, atol=2e-3, rtol=1e-3), (field, (got - value).abs().max())


@pytest.mark.threads
@needs_compiler
def test_bits_do_not_depend_on_the_batch_nor_on_threads(fast_world):
    scenes = [make_scene(n, route=n != 3, seed=n) for n in range(1, 22)]
    state = fast_world.start(scenes, list(range(21)))
    futures = []
    for count in (1, 2, 3):
        with threads(count):
            step = made(fast_world)
            futures.append(dream(step, state.clone(), 3)[1])
            alone = step(state.select([4]), torch.rand(21, 2, generator=torch.Generator().manual_seed(0))[4:5] * 2 - 1)
            assert torch.equal(alone[0].latents[:, 0], futures[0][0].latent[4:5]), "threads share one world"
    for outs in zip(*futures, strict=True):
        assert all(torch.equal(out.latent, outs[0].latent) and torch.equal(out.reward, outs[0].reward) for out in outs)
    for rows in ([4], [20, 0], [7, 8, 9, 10]):
        again = state.select(rows)
        rng = torch.Generator().manual_seed(0)
        for out in futures[0]:
            controls = torch.rand(21, 2, generator=rng) * 2 - 1
            again, alone = step(again, controls[rows])
            alone = told(again, alone)
            assert torch.equal(alone.latent, out.latent[rows]) and torch.equal(alone.telemetry, out.telemetry[rows])


@needs_compiler
def test_a_world_that_is_lost_leaves_the_others_alone(fast_world, compiled):
    state = starts(fast_world)
    _, wanted = dream(compiled, state.clone(), 3)
    lost = state.clone()
    for value in (lost.latents, lost.pose, lost.arc, lost.motion, lost.k):
        (value[:, 1] if value is lost.k else value[1]).fill_(torch.nan)
    _, outs = dream(compiled, lost, 3)
    for out, other in zip(outs, wanted, strict=True):
        assert out.latent[1].isnan().all() and torch.equal(out.latent[[0, 2]], other.latent[[0, 2]])
    _, again = dream(compiled, state.clone(), 3)
    assert torch.equal(again[-1].latent, wanted[-1].latent)


class ByteLinear(nn.Linear):
    """What a layer of bytes computes: weights of one unit per output, inputs of one unit per token."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(self.rounded(input), self.rounded(self.weight.bfloat16().float()), self.bias)

    @staticmethod
    def rounded(x: torch.Tensor) -> torch.Tensor:
        unit = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        return (x / unit).round() * unit


@needs_compiler
@pytest.mark.skipif(fast_dtype(torch.device("cpu")) != torch.bfloat16, reason="bytes go with bfloat16")
def test_the_heavy_layers_are_bytes_of_one_unit_per_output_and_per_token():
    exact = make_world()
    network: Any = exact.dynamics
    for block in network.blocks:
        for layer in (block.qkv, block.up, block.down):
            layer.weight.data.add_(0.2 * torch.randn(layer.weight.shape))
            layer.weight.data[:, 0] *= 10  # one large weight makes the unit of an output coarse
    fast, state = tune(copy.deepcopy(exact)), starts(exact)
    bytewise: Any = copy.deepcopy(exact)
    for part in [bytewise.dynamics, *bytewise.dynamics.blocks]:
        for name in ("modulation", "qkv", "up", "down"):
            if hasattr(part, name):
                getattr(part, name).__class__ = ByteLinear
    narrow = replace(state.clone(), k=state.k.bfloat16(), v=state.v.bfloat16())
    got = dream(made(fast), narrow, 1)[1][0].latent
    right, wanted = (dream(world.step, state.clone(), 1)[1][0].latent for world in (exact, bytewise))
    assert (right - wanted).std() > 0.01 * right.std(), "bytes can be told from floats here"
    assert (got - wanted).square().mean() < 0.4 * (got - right).square().mean()
    assert (got - right).std() < 0.05 * right.std()


@needs_compiler
def test_a_step_leaves_alone_what_was_seen_before(fast_world, compiled):
    state, seen, kept = starts(fast_world), [], []
    for _ in range(3):
        state, out = compiled(state, torch.full((3, 2), 0.3))
        seen += [state.pose, state.motion, state.arc, state.control, state.latents, *out.telemetry.values()]
        kept += [value.clone() for value in seen[len(kept) :]]
    assert all(torch.equal(value, copied) for value, copied in zip(seen, kept, strict=True))


@needs_compiler
@needs_packing
@pytest.mark.skipif(platform.machine() != "x86_64", reason="leaves out instructions of this processor")
@pytest.mark.parametrize(("left_out", "lanes"), [("-mno-avx512f", 8), ("-mno-avx512vnni", None)])
def test_processors_that_can_less(left_out, lanes, monkeypatch):
    monkeypatch.setattr(library, "OPTIONS", (*library.OPTIONS, left_out))
    narrow = library.library()
    assert narrow is not None and lanes in (narrow.lanes(), None) and not narrow.heavy_bytes()
    world = make_world() if lanes else tune(make_world())
    state, tolerance = starts(world), 2e-3 if world.dtype == torch.float32 else 0.05
    (_, outs), (_, expected) = dream(made(world), state.clone(), 3), dream(world.step, state, 3)
    assert torch.allclose(outs[-1].latent, expected[-1].latent, atol=tolerance, rtol=tolerance)
    if lanes:
        pack_decoder(world.vae)
    decode, latents = compile_decoder(world), 2 * torch.randn(2, *world.latent_shape())
    assert decode is not None and np.abs(decode(latents).astype(int) - world.decode(latents)).max() <= 1 + (not lanes)


@needs_compiler
@needs_packing
@pytest.mark.parametrize("make", [make_world, plain_world, lean_world])
def test_the_decoder_draws_the_same_pictures(make):
    world = tune(make())
    decode = compile_decoder(world)
    assert decode is not None
    latents = 2 * torch.randn(5, *world.latent_shape())
    wanted, frames = world.decode(latents), decode(latents)
    assert wanted.std() > 1 and frames.dtype == np.uint8 and frames.shape == wanted.shape
    apart = np.abs(frames.astype(int) - wanted)
    assert apart.max() <= 2 and apart.mean() < 0.1
    with threads(2):
        shared = compile_decoder(world)
        assert shared is not None
        assert all(np.array_equal(shared(latents[row : row + 1])[0], frames[row]) for row in range(5))
        assert np.array_equal(shared(latents), frames)
    for row in range(5):
        assert np.array_equal(decode(latents[row : row + 1])[0], frames[row])


@needs_compiler
@needs_packing
def test_threads_that_share_a_step_dream_as_if_alone():
    world = tune(make_world())
    step, decode = made(world), compile_decoder(world)
    assert decode is not None
    state, start = starts(world), Barrier(2)

    def drive(seed: int) -> list[np.ndarray]:
        start.wait()
        outs = dream(step, replace(state.clone(), seeds=state.seeds + 10 * seed), 60, seed)[1]
        return [decode(out.latent) for out in outs]

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(drive, (1, 2)))
    start = Barrier(1)
    for seed, frames in zip((1, 2), together, strict=True):
        assert np.array_equal(drive(seed), frames)


@needs_packing
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda world: pickle.loads(pickle.dumps(world))])
def test_a_tuned_world_can_be_copied_and_pickled(fast_world, copied):
    other, state, controls = copied(fast_world), starts(fast_world), torch.full((3, 2), 0.3)
    latent, same = (world.step(state.clone(), controls)[0].latents[:, 0] for world in (fast_world, other))
    assert torch.equal(latent, same) and np.array_equal(fast_world.decode(latent), other.decode(latent))
    assert other.tuned and other.fingerprint == fast_world.fingerprint
    for one, two in zip(fast_world.parameters(), other.parameters(), strict=True):
        assert one is not two and torch.equal(one, two)


def test_a_decoder_that_is_not_packed_is_left_as_it_is(tiny_world):
    assert compile_decoder(tiny_world) is None
    attentive = replace(make_world().config.vae, use_attention=True)
    assert compile_decoder(tune(other_world(vae=attentive))) is None


@needs_compiler
def test_what_does_not_fit_is_refused(fast_world, compiled):
    state, controls = starts(fast_world), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"\[3, 2\], got \[2, 2\]"):
        compiled(state, controls[:2])
    with pytest.raises(ValueError, match="1 sampling steps and no dt, got 3"):
        compiled(state, controls, sampling=Sampling(3))
    with pytest.raises(ValueError, match="the state's k must be .* got "):
        compiled(starts(plain_world()), controls)
    decode = compile_decoder(tune(make_world()))
    assert decode is not None
    with pytest.raises(ValueError, match="latents must be"):
        decode(torch.zeros(1, 4, 8, 4))
    assert decode(torch.zeros(0, 4, 8, 8)).shape == (0, 64, 64, 3)
    with pytest.raises(ValueError, match="at least one world"):
        compiled(state.select(torch.arange(0)), controls[:0])
    state, _ = compiled(state, controls.double())
    assert state.latents.isfinite().all() and len(state) == 3


@needs_compiler
def test_within_compiled_a_world_steps_so(fast_world, compiled):
    state, action = starts(fast_world), torch.full((3, 2), 0.2)
    wanted = compiled(state.clone(), action)[0]
    with compiled_within(fast_world) as world:
        assert isinstance(world.step, CompiledStep)
        again = world.step(state.clone(), action, sampling=Sampling(1))[0]
        assert torch.equal(again.latents, wanted.latents)
    assert not isinstance(fast_world.step, CompiledStep)


@pytest.mark.threads
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
    monkeypatch.setattr(DiTWorld, "dream", lambda *args: pytest.fail("an ordinary step"))
    branches = vector.fork(1, 3)
    seen = branches.step(np.tile(plan[0, :1], (3, 1)))[0]
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])


@needs_compiler
def test_agents_learn_in_it(fast_world, compiled, monkeypatch):
    config = TrainConfig(world=fast_world, obs_type="latent", eval_env=None, num_envs=3, compile=True)  # type: ignore[arg-type]
    env = open_env(config)
    env.seed(0)
    first: Any = env.reset()
    monkeypatch.setattr(DiTWorld, "dream", lambda *args: pytest.fail("an ordinary step"))
    after: Any = env.step(np.zeros((3, 2), np.float32))[0]
    assert not np.array_equal(after, first)
    with pytest.raises(ValueError, match="only a dream"):
        open_env(TrainConfig(env="drivedit_env:CarRacingTwin-v0", compile=True))


@pytest.mark.parametrize("compiler", ["/none/such", "false"])
def test_without_a_compiler_it_warns_and_goes_on(compiler, fast_world, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DRIVEDIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    env = DriveDiTEnv(fast_world, compile=True)
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "drivedit.inference.library"]
    assert "compiler" in warning and compiler in warning and "\n" not in warning
    env.reset(seed=0)
    other = DriveDiTEnv(fast_world)
    other.reset(seed=0)
    action = np.array([0.1, 0.2], np.float32)
    assert np.array_equal(env.step(action)[0], other.step(action)[0])
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_it_is_for_worlds_with_a_window(fast_world, monkeypatch):
    monkeypatch.setattr(fast_world.config.student, "window", None)
    with pytest.raises(ValueError, match="window"):
        compile_step(fast_world)
