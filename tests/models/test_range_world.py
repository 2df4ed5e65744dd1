"""A world of range images: constant state, any interval, exact snapshots, rows that are independent, its folder."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.ranges import make_range_world, range_config, wall_scene

from drivedit.config import Modality, PainterConfig, RangeWorldConfig
from drivedit.inference import compile_step, tune
from drivedit.models import RangeState, RangeWorld, Sampling, World
from drivedit.models.sde.painter import hardened


@pytest.fixture(scope="module")
def world() -> RangeWorld:
    return make_range_world()


def drive(world: RangeWorld, state: RangeState, steps: int, seed: int = 3, dt: float | None = None):
    rng, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        controls = (torch.rand(2, generator=rng) * 2 - 1).expand(len(state), 2)
        state, out = world.step(state, controls, None if dt is None else torch.full((len(state),), dt))
        seen.append((world.observe(state, ["range"])["range"], out))
    return state, seen


def same(first, second) -> bool:
    outs = [
        torch.equal(a.reward, b.reward) and torch.equal(a.confidence, b.confidence)
        for (_, a), (_, b) in zip(first, second, strict=True)
    ]
    return all(outs) and all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))


def test_scans_are_range_images_and_what_is_told_is_the_specs(world):
    state, out = world.enter(world.scenes, [1, 2])
    assert torch.allclose(world.observe(state, ["range"])["range"][0], torch.from_numpy(world.scenes[0].frames[-1]),
                          atol=1e-3)  # fmt: skip
    assert list(out.telemetry) == ["speed", "free_distance", "time_to_collision"]
    assert world.given(state)["route"].tolist() == [True, False] and state.clock.tolist() == [0, 0]
    size = state.size()
    state, seen = drive(world, state, 5)
    image, out = seen[-1]
    assert image.shape == (2, 8, 32, 2) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 85
    assert ((image[..., 1] == 0) | (image[..., 1] == 1)).all() and (image[..., 0][image[..., 1] == 0] == 0).all()
    assert state.size() == size and state.clock.tolist() == [5, 5] and state.painted.tolist() == [5, 5]
    assert list(out.reward_terms) == ["progress", "time", "hit"] and (out.confidence.abs() <= 1).all()
    assert torch.allclose(out.reward_terms["time"], torch.tensor(-0.1))
    world.check_state(state)


def test_a_row_is_the_same_alone_and_in_a_batch(world):
    _, together = drive(world, world.start(world.scenes * 2, [1, 2, 3, 4]), 4)
    for row in range(4):
        _, alone = drive(world, world.start([world.scenes[row % 2]], [row + 1]), 4)
        for (a, told), (b, others) in zip(alone, together, strict=True):
            assert torch.equal(a[0], b[row]) and told.reward[0] == others.reward[row]


def test_snapshots_forks_and_bytes_go_on_bit_for_bit(world):
    state, _ = drive(world, world.start(world.scenes, [1, 2]), 3)
    snapshot, data, forks = state.clone(), state.to_bytes("me"), state.select([1, 1])
    _, after = drive(world, state, 4)
    _, again = drive(world, snapshot, 4)
    _, restored = drive(world, RangeState.from_bytes(data, "me"), 4)
    assert same(after, again) and same(after, restored)
    _, branches = drive(world, forks, 4)
    for (image, _), (whole, _) in zip(branches, after, strict=True):
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], whole[1])


def test_seeds_and_controls_decide_the_future_and_nothing_before_it(world):
    state = world.start(world.scenes[:1], [7])
    other = world.start(world.scenes[:1], [8])
    assert torch.equal(state.motion, other.motion) and torch.equal(world.reseed(other, [7]).seeds, state.seeds)
    _, one = drive(world, state, 3)
    assert same(one, drive(world, world.reseed(other, [7]), 3)[1])
    assert not torch.equal(one[-1][0], drive(world, other, 3)[1][-1][0])
    assert not torch.equal(one[-1][0], drive(world, state, 3, seed=4)[1][-1][0])


def test_two_halves_of_an_interval_carry_the_motion_as_the_whole_does(world):
    state = world.start(world.scenes[:1], [3])
    told = world.told(torch.tensor([[0.3, -0.2]]), state.rates, torch.zeros(1, world.config.route_dim))
    unit, half = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    whole = world.carried(state.motion, state.clock, unit, [3], told)
    first = world.carried(state.motion, state.clock, half, [3], told)
    assert not torch.equal(whole, state.motion)
    assert torch.allclose(world.carried(first, state.clock + half, half, [3], told), whole, atol=1e-6)


def test_a_step_takes_any_interval_and_each_row_its_own(world):
    state, controls = world.start(world.scenes[:1] * 2, [3, 3]), torch.zeros(2, 2)
    later, out = world.step(state, controls, torch.tensor([0.1, 0.25]))
    assert later.clock.tolist() == pytest.approx([1, 2.5])
    assert out.reward_terms["time"].tolist() == pytest.approx([-0.1, -0.25])
    assert torch.equal(later.scans[0], world.step(state, controls)[0].scans[0])
    assert not torch.equal(later.scans[0], later.scans[1])
    far = (later.pose - state.pose)[:, :2].norm(dim=1)
    assert 1.2 < far[1] / far[0] < 4


@pytest.mark.parametrize("dt", [0.0, -0.1, float("nan"), [0.1, 0.1, 0.1]])
def test_intervals_that_are_none_are_refused(world, dt):
    state = world.start(world.scenes, [1, 2])
    with pytest.raises(ValueError, match=r"dt must be seconds above 0 and finite, one number or \[2\], got"):
        world.step(state, torch.zeros(2, 2), torch.tensor(dt))


def test_intervals_beyond_the_trained_ones_are_warned_of(world):
    state = world.start(world.scenes[:1], [1])
    with pytest.warns(UserWarning, match=r"0.05.* lies beyond the intervals of 0.1 to 0.3 s"):
        world.step(state, torch.zeros(1, 2), torch.tensor([0.05]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.step(state, torch.zeros(1, 2), torch.tensor([0.3]))


def test_a_painted_depth_near_a_known_one_is_that_and_others_stay():
    last, moved = (torch.tensor([[[[depth] * 5], [[1.0] * 5]]]) for depth in (0.0, -0.1))
    painted = torch.tensor([[[[0.06, -0.08, 0.55, -0.5, 0.0]], [[0.9, 0.1, 0.9, 0.9, -0.1]]]])
    depth, mask = hardened(painted, last, moved, torch.tensor([[0.6]]))[0]
    assert torch.allclose(depth[0], torch.tensor([0.0, -0.1, 0.6, -0.5, -1.0])), "last, moved, ground, new, lost"
    assert mask[0].tolist() == [1, 1, 1, 1, -1]


def test_an_untrained_painter_copies_nearly_and_can_choose_each_of_its_sources(world):
    fresh = RangeWorld(world.config).eval()
    state = fresh.start(world.scenes[:1], [1])
    scans = state.scans
    moved, noise = fresh.beams.moved(scans[:, -1], torch.tensor([[2.0, 0.0, 0.0]])), torch.randn(1, 2, 8, 32)

    def painted() -> torch.Tensor:
        return fresh.painter(scans, moved, fresh.beams.ground, state.motion, torch.zeros(1, 64), noise)[:, 0]

    there, flat = moved[:, 1] > 0, fresh.beams.ground.expand(1, 8, 32)
    still = torch.where(scans[:, -1, 1] > 0, scans[:, -1, 0], torch.where(there, moved[:, 0], flat))
    depths = {"last": still, "moved": torch.where(there, moved[:, 0], still), "ground": flat}
    apart = {name: (painted() - depth).abs().mean() for name, depth in depths.items()}
    assert apart["last"] < apart["moved"] < apart["ground"]
    bias = fresh.painter.out.bias
    assert bias is not None
    for place, depth in enumerate(depths.values()):
        bias.data.zero_()
        bias.data[16 * place : 16 * (place + 1)] = 50.0
        assert torch.allclose(painted(), depth, atol=1e-5)


def test_one_pass_and_no_guidance(world):
    state = world.start(world.scenes[:1], [1])
    with pytest.raises(ValueError, match="paints a scan in 1 pass, got sampling_steps 4"):
        world.step(state, torch.zeros(1, 2), sampling=Sampling(4))
    with pytest.raises(ValueError, match="takes no guidance"):
        world.step(state, torch.zeros(1, 2), sampling=Sampling(guidance=2.0))
    cold, _ = world.step(state, torch.zeros(1, 2), sampling=Sampling(1, temperature=1e-6))
    assert not torch.equal(cold.scans, world.step(state, torch.zeros(1, 2))[0].scans)


def test_the_route_can_be_given_and_taken_away(world):
    state, line = world.start(world.scenes[:1] * 2, [1, 1]), world.scenes[0].route[::-1].copy()
    told = world.condition(state, {"route": {"points": line, "arc": 12.0}}, [1])
    assert told.arc.tolist()[1] == pytest.approx(12, abs=30) and not torch.equal(told.points[0], told.points[1])
    scans = world.step(told, torch.zeros(2, 2))[0].scans
    assert not torch.equal(scans[0], scans[1])
    free = world.condition(told, {"route": None})
    assert not world.given(free)["route"].any() and torch.equal(world.condition(told, {}).points, told.points)
    with pytest.raises(ValueError, match=r"told the conditions \['route'\]"):
        world.condition(state, {"layout": None})


@pytest.mark.parametrize(("name", "value"), [
    ("motion", float("nan")), ("scans", 0.5), ("clock", float("inf")), ("rates", 1e9), ("painted", -1), ("count", 1),
])  # fmt: skip
def test_states_that_cannot_be_are_refused(world, name, value):
    state = world.start(world.scenes[:1], [1])
    getattr(state, name).fill_(value)
    with pytest.raises(ValueError, match=f"the state's {name} must be"):
        world.check_state(state)


def test_a_world_is_saved_and_loaded_and_known_by_its_kind(world, tmp_path):
    world.save_pretrained(tmp_path / "w")
    loaded, again = World.from_pretrained(tmp_path / "w", device="cpu"), RangeWorld.from_pretrained(tmp_path / "w")
    assert isinstance(loaded, RangeWorld) and loaded.config == world.config and loaded.card == world.card
    assert same(drive(loaded, loaded.start(loaded.scenes, [1, 2]), 3)[1],
                drive(again, again.start(again.scenes, [1, 2]), 3)[1])  # fmt: skip
    assert compile_step(loaded) is None
    quick = tune(loaded)
    assert same(drive(quick, quick.start(quick.scenes, [1, 2]), 2)[1],
                drive(again, again.start(again.scenes, [1, 2]), 2)[1])  # fmt: skip


def test_scans_become_latents_and_back(world):
    frames = np.stack([scene.frames[-1] for scene in world.scenes])
    assert np.allclose(world.decode(world.embed(frames)), frames, atol=1e-3)
    assert torch.equal(world.encode(frames[:, None])[:, 0], world.embed(frames))
    with pytest.raises(ValueError, match=r"float32 \[B, 8, 32, 2\], got uint8"):
        world.embed(frames.astype(np.uint8))


def test_scenes_that_do_not_fit_are_refused(world):
    scene = world.scenes[0]
    jump = scene.poses.copy()
    jump[2:, 0] += 500
    with pytest.raises(ValueError, match=r"scene poses jump between frames 1 and 2.* in 0.1 s"):
        world.start([replace(scene, poses=jump)], [0])
    with pytest.raises(ValueError, match="one seed per scene"):
        world.start([scene], [0, 1])
    with pytest.raises(ValueError, match=r"float32 \[n \+ 1, 8, 32, 2\]"):
        world.check_scene(replace(scene, observations={"range": np.zeros((5, 8, 16, 2), np.float32)}))


def test_times_of_a_scene_count(world):
    scene = wall_scene(3, posed=False)
    slow = replace(scene, times=np.array([0.0, 0.3, 0.4, 0.7]))
    assert not torch.equal(world.start([scene], [0]).motion, world.start([slow], [0]).motion)
    even = replace(scene, times=np.array([5.0, 5.1, 5.2, 5.3]))
    assert torch.allclose(world.start([scene], [0]).motion, world.start([even], [0]).motion, atol=1e-5)


@pytest.mark.parametrize(("change", "said"), [
    ({"n_downs": 4}, "multiples of 16"),
    ({"painter": PainterConfig(patch=(3, 3))}, "painter's patch"),
    ({"seconds": (0.3, 0.1)}, "seconds must not fall"),
    ({"rate_scale": [1.0]}, "rate_scale must be 3 numbers"),
])  # fmt: skip
def test_configurations_that_do_not_divide_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        range_config(**change)
    spec = replace(range_config().spec, observations={"camera": Modality((8, 32, 3))})
    with pytest.raises(ValueError, match="shows one range image"):
        RangeWorldConfig(spec=spec)
