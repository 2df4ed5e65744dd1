"""A world that warps and paints its pictures: what it copies untrained, its state, its conditions, its folder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.warps import LINE, box_ahead, field_drive, field_scene, make_warp_world, picture_at, warp_config

from drivedit.config import Modality, PainterConfig
from drivedit.inference import compile_step
from drivedit.models import Sampling, Scene, WarpState, WarpWorld, World
from drivedit.models.warp.networks import shown


@pytest.fixture(scope="module")
def world() -> WarpWorld:
    return make_warp_world()


def drive(world: WarpWorld, state: WarpState, steps: int, seed: int = 3):
    rng, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        controls = (torch.rand(2, generator=rng) * 2 - 1).expand(len(state), 2)
        state, out = world.step(state, controls)
        seen.append((world.observe(state, ["camera"])["camera"], out))
    return state, seen


def same(first, second) -> bool:
    return all(
        torch.equal(a, b) and torch.equal(x.reward, y.reward) and torch.equal(x.confidence, y.confidence)
        for (a, x), (b, y) in zip(first, second, strict=True)
    )


def test_an_untrained_world_shows_level_ground_as_it_will_be_seen():
    world = make_warp_world(noise=0.0)
    frames, controls, poses = field_drive(8, 1)
    scene = Scene({"camera": frames[:5]}, controls[:4], poses=poses[:5].astype(np.float32))
    state = world.start([scene], [0])
    state.motion[:] = torch.tensor([0.6, 0.0, 0.0]) / world.motion_scale
    flat = np.stack([poses[4] + [0.6 * n * np.cos(poses[4, 2]), 0.6 * n * np.sin(poses[4, 2]), 0] for n in (1, 2)])
    for pose in flat:
        state, _ = world.step(state, torch.zeros(1, 2))
        dreamed = world.observe(state, ["camera"])["camera"][0, 20:28, 8:-8].float().numpy()
        true, last = (picture_at(each)[20:28, 8:-8].astype(float) for each in (pose, poses[4]))
        assert np.abs(dreamed - true).mean() < 0.5 * np.abs(last - true).mean()
    assert torch.allclose(world.poses(state)[0, :2].double(), torch.from_numpy(flat[-1, :2]), atol=1e-4)


def test_what_is_told_is_the_specs_and_the_state_does_not_grow(world):
    state, out = world.enter(world.scenes, [1, 2])
    assert torch.equal(world.observe(state, ["camera"])["camera"][0], torch.from_numpy(world.scenes[0].frames[-1]))
    assert list(out.telemetry) == ["speed"] and world.given(state)["route"].tolist() == [True, False]
    assert not world.given(state)["layout"].any()
    size = state.size()
    state, seen = drive(world, state, 5)
    picture, out = seen[-1]
    assert picture.shape == (2, 32, 64, 3) and picture.dtype == torch.uint8 and state.size() == size
    assert state.clock.tolist() == [5, 5] and list(out.reward_terms) == ["progress", "time", "hit"]
    assert (out.confidence >= 0).all() and (out.confidence <= 1).all()
    world.check_state(state)
    for name, value in (("frames", 2.0), ("memory", 2.0), ("motion", float("nan"))):
        wrong = replace(state, **{name: torch.full_like(getattr(state, name), value)})
        with pytest.raises(ValueError, match=name):
            world.check_state(wrong)


def test_a_latent_is_the_picture_in_patches_and_nothing_is_lost(world):
    frames = torch.from_numpy(np.stack([scene.frames[-1] for scene in world.scenes]))
    latents = world.encode(frames[:, None])[:, 0]
    assert latents.shape == (2, 48, 8, 16) == (2, *world.modality("latent").shape)
    assert np.array_equal(world.decode(latents), frames.numpy())
    assert torch.equal(world.embed(frames.numpy()), latents)
    state = world.start(world.scenes, [1, 2])
    assert torch.equal(world.observe(state, ["latent"])["latent"], latents)
    with pytest.raises(ValueError, match=r"encodes frames uint8 \[B, 32, 64, 3\], got float32"):
        world.embed(frames.float().numpy())
    with pytest.raises(ValueError, match=r"this world shows \['camera', 'latent'\], got 'range'"):
        world.observe(state, ["range"])


def test_a_row_is_the_same_alone_and_in_a_batch(world):
    _, together = drive(world, world.start(world.scenes * 2, [1, 2, 3, 4]), 4)
    for row in range(4):
        _, alone = drive(world, world.start([world.scenes[row % 2]], [row + 1]), 4)
        for (a, told), (b, others) in zip(alone, together, strict=True):
            assert (a[0].int() - b[row].int()).abs().max() <= 1
            assert torch.allclose(told.reward[0], others.reward[row], atol=1e-4)


def test_snapshots_and_bytes_go_on_bit_for_bit(world):
    state, _ = drive(world, world.start(world.scenes, [1, 2]), 3)
    snapshot, data = state.clone(), state.to_bytes("me")
    _, after = drive(world, state, 4)
    assert same(after, drive(world, snapshot, 4)[1])
    assert same(after, drive(world, WarpState.from_bytes(data, "me"), 4)[1])


def test_seeds_controls_and_temperature_decide_the_future_and_nothing_before_it(world):
    state, other = (world.start(world.scenes[:1], [seed]) for seed in (7, 8))
    assert torch.equal(state.memory, other.memory)
    _, one = drive(world, state.clone(), 3)
    assert same(one, drive(world, world.reseed(other, [7]), 3)[1])
    assert not torch.equal(one[-1][0], drive(world, other.clone(), 3)[1][-1][0])
    assert not torch.equal(one[-1][0], drive(world, state.clone(), 3, seed=4)[1][-1][0])
    cold = Sampling(temperature=0.0)
    stepped = [world.step(each.clone(), torch.zeros(1, 2), sampling=cold)[0] for each in (state, other)]
    assert torch.equal(stepped[0].frames, stepped[1].frames)


def test_route_and_layout_are_told_and_taken_back(world):
    state = world.start(world.scenes[:1] * 2, [1, 1])
    told = world.condition(state, {"layout": box_ahead()}, rows=[1])
    assert world.given(told)["layout"].tolist() == [False, True]
    after, _ = world.step(told.clone(), torch.zeros(2, 2))
    assert not torch.equal(after.frames[0], after.frames[1])
    moved = float(after.others[1, 0, 0] - told.others[1, 0, 0])
    assert moved == pytest.approx(0.3, abs=1e-3), "3 m/s for .1 s"
    bent = world.condition(state, {"route": {"points": LINE + np.array([0, 3], np.float32)}})
    assert not torch.equal(world.step(bent, torch.zeros(2, 2))[0].frames[0], after.frames[0])
    free = world.condition(told, {"route": None, "layout": None})
    assert not torch.stack(list(world.given(free).values())).any()
    assert set(world.conditions(told)) == {"route", "arc", "layout"}
    with pytest.raises(ValueError, match="told the conditions"):
        world.condition(state, {"weather": "fog"})


def test_what_this_kind_of_world_cannot_do_is_refused(world, caplog):
    state = world.start(world.scenes, [1, 2])
    with pytest.raises(ValueError, match="takes no dt"):
        world.step(state, torch.zeros(2, 2), torch.tensor(0.2))
    with pytest.raises(ValueError, match="in 1 pass, got sampling_steps 2"):
        world.step(state, torch.zeros(2, 2), sampling=Sampling(passes=2))
    with pytest.raises(ValueError, match="no guidance"):
        world.step(state, torch.zeros(2, 2), sampling=Sampling(guidance=2.0))
    with pytest.raises(ValueError, match="one seed per scene"):
        world.enter(world.scenes, [1])
    jump = field_scene(4)
    assert jump.poses is not None
    jump.poses[-1, 0] += 500
    with pytest.raises(ValueError, match="jump between frames 3 and 4"):
        world.enter([jump], [1])
    assert compile_step(world) is None and "WarpWorld goes on without" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"painter": PainterConfig((4, 2))}, "must be a square"),
        ({"depths": []}, "depths must be 1 to"),
        ({"motion_scale": [1.0]}, "must be 3 numbers"),
        ({"map_arcs": (5.0, 0.0, 1.0)}, "map_arcs must be first, last and step"),
        ({"spec": replace(warp_config().spec, observations={"camera": Modality((20, 64, 3))})}, "multiples of 16"),
        ({"spec": replace(warp_config().spec, observations={"range": Modality((32, 64, 2), "float32", 0, 85)})},
         "shows one picture, uint8"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        warp_config(**changes)


def test_a_world_that_knows_no_road_says_so():
    alone = WarpWorld(replace(warp_config(), spec=replace(warp_config().spec, conditions=[]), others=0)).eval()
    assert alone.config.route_dim == 0
    state, _ = drive(alone, alone.start([field_scene(3, posed=False)], [1]), 2)
    assert state.others.shape == (1, 0, 8)
    with pytest.raises(ValueError, match="learned nothing about routes"):
        alone.start([field_scene(3)], [1])
    told = WarpWorld(replace(warp_config(), spec=replace(warp_config().spec, conditions=["route"]), others=0))
    assert told.config.map_width == 1 and told.layout is None


def test_a_folder_gives_the_same_world(world, tmp_path):
    world.save_pretrained(tmp_path / "w")
    loaded = World.from_pretrained(tmp_path / "w", device="cpu")
    assert isinstance(loaded, WarpWorld) and loaded.config == world.config and loaded.card == world.card
    again = WarpWorld.from_pretrained(tmp_path / "w", device="cpu")
    states = [each.start(each.scenes, [1, 2]) for each in (loaded, again)]
    assert same(drive(loaded, states[0], 3)[1], drive(again, states[1], 3)[1])


def test_pictures_are_rounded_to_bytes():
    frames = torch.tensor([-1.0, 0.0, 1.0, 0.0039]).view(1, 1, 1, 4).repeat(1, 3, 1, 1)
    assert shown(frames)[0, 0, :, 0].tolist() == [0, 128, 255, 128]
