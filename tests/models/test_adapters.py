"""Adapters: what they add to a world, that they come off again, and what is no adapter of a world."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.worlds import make_scene, make_world

from drivedit.config.domains.carracing import SPEC
from drivedit.models import DiTWorld, check_scene
from drivedit.models.adapters import FORMAT, Adapter
from drivedit.models.scene_files import pack_scenes
from drivedit.utils import read_tensors, write_tensors
from drivedit_env.env import DriveDiTEnv

SCENES = pack_scenes([check_scene(make_scene(3), SPEC)])
LINEAR, CONVOLUTION = "dynamics.blocks.0.qkv.weight", "vae.decoder.0.conv.weight"


@pytest.fixture
def folder(tmp_path):
    make_world().save_pretrained(tmp_path / "world")
    return tmp_path / "world"


def adapter_of(world: DiTWorld, rank: int = 2, **changes) -> Adapter:
    generator, factors, weights = torch.Generator().manual_seed(0), {}, world.state_dict()
    for name in (LINEAR, CONVOLUTION):
        out, inner = len(weights[name]), weights[name][0].numel()
        a, b = torch.randn(rank, inner, generator=generator), torch.randn(out, rank, generator=generator)
        factors[name] = (0.1 * a, 0.1 * b)
    return Adapter(world.fingerprint, 0.5, factors, **changes)


def weights_of(world: DiTWorld) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in world.state_dict().items()}


def test_it_adds_a_scaled_product_and_comes_off_to_the_bit(folder):
    world = DiTWorld.from_pretrained(folder, device="cpu")
    before, fingerprint, scenes = weights_of(world), world.fingerprint, world.scenes
    new = adapter_of(world, whole={"error_range": torch.tensor([-1.0, 1.0])}, scenes=SCENES)
    world.adapt(new)
    for name, (a, b) in new.factors.items():
        assert torch.allclose(world.state_dict()[name].flatten(1), before[name].flatten(1) + 0.5 * b @ a, atol=1e-3)
    changed = {name for name, value in world.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {LINEAR, CONVOLUTION, "error_range"}
    assert world.fingerprint != fingerprint and len(world.scenes) == 1
    with pytest.raises(ValueError, match="merged already"):
        world.adapt(new)
    world.unadapt()
    assert all(torch.equal(value, before[name]) for name, value in world.state_dict().items())
    assert world.fingerprint == fingerprint and world.scenes is scenes
    with pytest.raises(ValueError, match="no adapter"):
        world.unadapt()


def test_a_file_holds_all_of_it(folder, tmp_path):
    world = DiTWorld.from_pretrained(folder, device="cpu")
    made = adapter_of(world, scenes=SCENES, card="# mine\n", whole={"error_range": torch.tensor([-1.0, 1.0])})
    made.save(tmp_path / "a.safetensors")
    read = Adapter.load(tmp_path / "a.safetensors")
    assert (read.base, read.scale, read.card, read.fingerprint) == (made.base, 0.5, "# mine\n", made.fingerprint)
    world.adapt(made)
    again = DiTWorld.from_pretrained(folder, device="cpu", adapter=tmp_path / "a.safetensors")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in world.state_dict().items())
    assert again.fingerprint == world.fingerprint and np.array_equal(
        again.scenes[0].frames, check_scene(make_scene(3), SPEC).frames
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_environments_dream_with_it_copies_and_forks_too(folder, tmp_path, compiled):
    adapter_of(DiTWorld.from_pretrained(folder, device="cpu")).save(tmp_path / "a.safetensors")
    merged = DiTWorld.from_pretrained(folder, device="cpu", adapter=tmp_path / "a.safetensors")
    merged.before = None
    merged.save_pretrained(tmp_path / "merged")
    action, seen = np.array([0.3, 0.2], np.float32), []
    plain: dict[str, Any] = {"world": str(folder)}
    for options in (plain, plain | {"adapter": tmp_path / "a.safetensors"}):
        env = gym.make("drivedit_env:DriveDiT-v0", **options, compile=compiled)
        env.reset(seed=0)
        seen.append(env.step(action)[0])
        base = env.unwrapped
        assert isinstance(base, DriveDiTEnv)
        copy, fork = base.__class__.__new__(base.__class__), base.fork(1)
        copy.__setstate__(base.__getstate__())
        assert copy.world is base.world, "the copy has found the same world, with its adapter"
        after = env.step(action)[0]
        assert np.array_equal(copy.step(action)[0], after) and np.array_equal(fork.step(action[None])[0][0], after)
    assert not np.array_equal(*seen)
    other = gym.make("drivedit_env:DriveDiT-v0", world=str(tmp_path / "merged"), compile=compiled)
    other.reset(seed=0)
    difference = other.step(action)[0].astype(int) - seen[1].astype(int)
    assert np.abs(difference).max() <= 2, "the same world, saved in half precision"


def test_what_does_not_belong_to_a_world_is_refused(folder, tmp_path):
    world, path = DiTWorld.from_pretrained(folder, device="cpu"), tmp_path / "a.safetensors"
    before, made = weights_of(world), adapter_of(world)
    with pytest.raises(ValueError, match=r"of world beef, this is world \w+: one fits one world only"):
        world.adapt(replace(made, base="beef"))
    a, b = made.factors[LINEAR]
    with pytest.raises(ValueError, match=r"has dynamics.blocks.0.qkv.weight \[48, 15\], the world has \[48, 16\]"):
        world.adapt(replace(made, factors={LINEAR: (a[:, 1:], b)}))
    with pytest.raises(ValueError, match=r"has nothing.weight \[48, 16\], the world has no such weight"):
        world.adapt(replace(made, factors={"nothing.weight": (a, b)}))
    with pytest.raises(ValueError, match="error_range"):
        world.adapt(replace(made, whole={"error_range": torch.zeros(3)}))
    with pytest.raises(ValueError, match="not finite"):
        replace(made, factors={LINEAR: (a * torch.inf, b)}).save(path)
    assert all(torch.equal(value, before[name]) for name, value in world.state_dict().items()) and not path.exists()
    with pytest.raises(ValueError, match="merged when a world is loaded"):
        DriveDiTEnv(world, adapter=path)
    with pytest.raises(FileNotFoundError, match="there is no adapter"):
        DriveDiTEnv(folder, adapter=path)


def test_files_that_are_none_are_refused(folder, tmp_path):
    path, world = tmp_path / "a.safetensors", DiTWorld.from_pretrained(folder, device="cpu")
    adapter_of(world).save(path)
    whole = path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for damaged in (b"", whole[: len(whole) // 2], b"\xff" * 100, flipped):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is no adapter, or damaged"):
            Adapter.load(path)
    path.write_bytes(whole)
    tensors, told = read_tensors(path, FORMAT)
    for changed, spec, format in (
        ({name: value for name, value in tensors.items() if not name.startswith("a/")}, told, FORMAT),
        ({**tensors, "what": torch.zeros(1)}, told, FORMAT),
        (tensors, told, "another"),
        (tensors, {**told, "scale": float("nan")}, FORMAT),
        (tensors, {"scale": 0.5, "card": ""}, FORMAT),
        ({name: value[:1] for name, value in tensors.items()}, told, FORMAT),
    ):
        write_tensors(path, changed, format, spec)
        with pytest.raises(ValueError, match="is no adapter, or damaged"):
            Adapter.load(path)
