"""The world as a pure function: rows are independent, states are complete, folders are checked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.worlds import make_scene, make_world, told

from drivedit.config.domains.carracing import SPEC
from drivedit.inference import compile_step, tune
from drivedit.inference.tune import can_pack, pack_decoder
from drivedit.models import VAE3D, DiTState, DiTStudent, DiTWorld, Sampling, Scene, check_scene
from drivedit.models.dit.networks import BACKBONES


@pytest.fixture(scope="module")
def world() -> DiTWorld:
    return make_world()


def drive(world: DiTWorld, state: DiTState, steps: int, seed: int = 3, rows: slice = slice(None)):
    rng, outs = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        controls = torch.rand(4, 2, generator=rng)[rows] * 2 - 1
        state, out = world.step(state, controls[: len(state)])
        outs.append(told(state, out))
    return state, outs


@pytest.mark.threads
def test_a_row_is_the_same_alone_and_in_a_batch(world):
    scenes = [make_scene(n, route=n != 2, seed=n) for n in (1, 2, 5, 9)]  # shorter and longer than the window
    _, together = drive(world, world.start(scenes, [1, 2, 3, 4]), 6)
    for row in range(4):
        _, alone = drive(world, world.start([scenes[row]], [row + 1]), 6, rows=slice(row, row + 1))
        for a, b in zip(alone, together, strict=True):
            assert torch.allclose(a.latent[0], b.latent[row], atol=2e-5)
            assert torch.allclose(a.telemetry[0], b.telemetry[row], atol=1e-3)


def test_seeds_and_controls_decide_the_future(world):
    start = [world.scenes[0]]
    _, one = drive(world, world.start(start, [7]), 4)
    _, same = drive(world, world.start(start, [7]), 4)
    _, other = drive(world, world.start(start, [8]), 4)
    _, steered = drive(world, world.start(start, [7]), 4, seed=4)
    assert torch.equal(one[-1].latent, same[-1].latent)
    assert not torch.allclose(one[0].latent, other[0].latent)
    assert not torch.allclose(one[0].latent, steered[0].latent)


@pytest.mark.threads
def test_snapshots_forks_and_bytes_continue_bit_for_bit(world):
    state, _ = drive(world, world.start(world.scenes, [1, 2]), 5)
    snapshot, data = state.clone(), state.to_bytes("me")
    forks = state.select([0, 0, 1])
    _, after = drive(world, state, 4)
    _, again = drive(world, snapshot, 4)
    _, restored = drive(world, DiTState.from_bytes(data, "me"), 4)
    for a, b, c in zip(after, again, restored, strict=True):
        assert torch.equal(a.latent, b.latent) and torch.equal(a.latent, c.latent)
        assert torch.equal(a.reward, c.reward) and torch.equal(a.telemetry, c.telemetry)
    forked, _ = world.step(forks, torch.tensor([[0.3, 0.1], [0.3, 0.1], [0.0, 0.0]]))
    assert torch.allclose(forked.latents[0, 0], forked.latents[1, 0], atol=1e-5)


def test_writing_a_row_leaves_the_others_alone(world):
    state, _ = drive(world, world.start(world.scenes, [1, 2]), 3)
    before = state.clone()
    state.write([1], world.start([make_scene(3, seed=9)], [5]))
    kept, expected = state.select([0]).tensors(), before.select([0]).tensors()
    assert all(torch.equal(value, expected[name]) for name, value in kept.items())
    assert int(state.seeds[1]) == 5
    with pytest.raises(ValueError, match="2 rows to write"):
        state.write([0, 1], before.select([0]))


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 50])
def test_damaged_states_are_refused(world, damage):
    data = world.start(world.scenes[:1], [1]).to_bytes("me")
    with pytest.raises(ValueError, match="no state of a world"):
        DiTState.from_bytes(damage(data), "me")
    with pytest.raises(ValueError, match="belongs to world me"):
        DiTState.from_bytes(data, "you")


def test_the_route_matters_and_its_absence_is_dreamed_through(world):
    scene = make_scene(5)
    assert scene.route is not None
    mirrored = scene.with_route(scene.route * [0.5, 1] + [40, 0], True)
    free = Scene(scene.observations, scene.controls)
    outs = [drive(world, world.start([s], [1]), 2)[1][-1].latent for s in (scene, mirrored, free)]
    assert not torch.allclose(outs[0], outs[1]) and not torch.allclose(outs[0], outs[2])
    assert all(torch.isfinite(o).all() for o in outs)


def test_the_edge_of_the_playfield_matters_only_when_it_is_near(world):
    scene = make_scene(5)  # 20 m from the edge on its right
    ahead = scene.with_route(scene.route, True, np.array([-100, -100, 100, 22], np.float32))
    far = scene.with_route(scene.route, True, np.array([-1000, -1000, 1000, 1000], np.float32))
    none = scene.with_route(scene.route, True)
    outs = [drive(world, world.start([s], [1]), 2)[1][-1].latent for s in (scene, ahead, far, none)]
    assert not torch.allclose(outs[0], outs[1]) and not torch.allclose(outs[0], outs[2])
    assert torch.equal(outs[2], outs[3])
    with pytest.raises(ValueError, match="x_min"):
        world.start([scene.with_route(scene.route, True, np.array([0.0, 0, 0, 9]))], [1])


def test_more_sampling_steps_give_another_frame_of_the_same_world(world):
    state = world.start(world.scenes, [1, 2])
    one, _ = world.step(state.clone(), torch.zeros(2, 2))
    after, _ = world.step(state.clone(), torch.zeros(2, 2), sampling=Sampling(4))
    assert not torch.allclose(one.latents, after.latents)
    assert after.clock.tolist() == (state.clock + 1).tolist()  # one frame, whatever the number of passes


def test_reward_terms_ending_and_confidence(world):
    state, outs = drive(world, world.start(world.scenes, [1, 2]), 3)
    out = outs[-1]
    assert set(out.reward_terms) == {"progress", "time", "left"}
    assert torch.allclose(out.reward, out.reward_terms["progress"] - 0.3 - 100 * out.ended.float())
    assert ((out.confidence >= 0) & (out.confidence <= 1)).all()
    assert torch.equal(out.ended, out.ended_probability > world.config.end_threshold)
    frames = world.decode(out.latent)
    assert frames.shape == (2, 64, 64, 3) and frames.dtype == np.uint8


def test_tokens_and_latents_are_inverse(world):
    latents = torch.randn(2, 3, *world.latent_shape())
    assert torch.equal(world.untokens(world.tokens(latents)), latents)
    assert torch.equal(world.tokens(latents)[0, 0, 1], latents[0, 0, :, :2, 2:4].flatten())


def test_a_saved_world_dreams_on_the_same(world, tmp_path):
    world.save_pretrained(tmp_path / "w")
    world.save_pretrained(tmp_path / "w")  # replaces
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    loaded = DiTWorld.from_pretrained(tmp_path / "w", device="cpu")
    assert loaded.card == world.card and len(loaded.scenes) == 2 and loaded.config == world.config
    assert loaded.scenes[1].route is None and np.array_equal(loaded.scenes[0].frames, world.scenes[0].frames)
    _, a = drive(world, world.start(world.scenes, [1, 2]), 1)
    _, b = drive(loaded, loaded.start(loaded.scenes, [1, 2]), 1)
    assert torch.allclose(a[-1].latent, b[-1].latent, atol=0.02)  # weights are stored in half precision


def test_bad_world_folders_are_named_and_good_ones_survive(world, tmp_path, monkeypatch):
    folder = tmp_path / "w"
    world.save_pretrained(folder)
    good = {p.name: p.read_bytes() for p in folder.iterdir()}

    def restore():
        for name, data in good.items():
            (folder / name).write_bytes(data)

    weights = bytearray(good["model.safetensors"])
    weights[-1] ^= 1
    for data in (bytes(weights), good["model.safetensors"][:-9]):
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="this world is damaged"):
            DiTWorld.from_pretrained(folder)
    restore()
    (folder / "scenes.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks scenes.safetensors"):
        DiTWorld.from_pretrained(folder)
    restore()
    (folder / "config.json").write_bytes(good["config.json"].replace(b'"patch"', b'"pacth"'))
    with pytest.raises(ValueError, match="this world is damaged"):
        DiTWorld.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="no world folder"):
        DiTWorld.from_pretrained(tmp_path / "elsewhere")
    restore()

    def full(*_args, **_kw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="untouched"):
        world.save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == good
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((3, 32, 32, 3), np.uint8)}, "scene frames must be"),
        ({"frames": np.zeros((3, 64, 64, 3), np.float32)}, "scene frames must be"),
        ({"controls": np.zeros((3, 2))}, "scene controls must be"),
        ({"controls": np.full((2, 2), np.nan)}, "scene controls must be"),
        ({"route": np.zeros((5, 3))}, "route must be"),
        ({"poses": np.zeros((1, 3))}, "poses must be"),
        ({"fog": 1}, "unknown"),
    ],
)
def test_bad_scenes_are_named(change, message):
    scene = {"frames": np.zeros((3, 64, 64, 3), np.uint8), "controls": np.zeros((2, 2))}
    with pytest.raises(ValueError, match=message):
        check_scene({**scene, **change}, SPEC)


def test_starts_need_one_seed_per_scene(world):
    with pytest.raises(ValueError, match="one seed per scene"):
        world.start(world.scenes, [1])
    with pytest.raises(ValueError, match="at least one"):
        world.start([], [])


@pytest.mark.parametrize(
    ("widths", "inner"), [(None, None), ((6, 8, 10, 16), None), ((6, 8, 10, 16), (2, 4, 6, 8))],
    ids=["mirror", "lean", "narrow"],
)  # fmt: skip
@torch.no_grad()
def test_a_packed_decoder_makes_the_same_picture(widths, inner):
    if not can_pack():
        pytest.skip("this torch has no packed layers")
    torch.manual_seed(0)
    vae = VAE3D(3, 8, (8, 8, 16, 16), 1, False, temporal_kernel=1, decoder_dims=widths, decoder_inner=inner).eval()
    for parameter in vae.parameters():
        parameter.normal_(0, 0.2)
    z = torch.randn(3, 8, 1, 2, 5)
    wanted = vae.decode(z)
    pack_decoder(vae)
    assert wanted.shape == (3, 3, 1, 16, 40) and wanted.std() > 0.1
    assert torch.allclose(vae.decode(z), wanted, atol=1e-4 * float(wanted.std()))


def test_a_tuned_world_dreams_the_same_and_can_no_longer_be_saved(tmp_path):
    world, plain = make_world(), make_world()
    assert tune(world) is world and tune(world) is world and world.fingerprint == plain.digest()
    controls = torch.tensor([[0.4, -0.2], [-0.9, 0.8]])
    state, _ = drive(world, world.start(world.scenes, [1, 2]), 2)
    other, _ = drive(plain, plain.start(plain.scenes, [1, 2]), 2)
    out, expected = told(*world.step(state, controls)), told(*plain.step(other, controls))
    assert torch.allclose(out.latent, expected.latent, atol=0.05) and out.latent.dtype == torch.float32
    assert torch.allclose(out.telemetry, expected.telemetry, atol=0.3)
    assert np.abs(world.decode(out.latent).astype(int) - plain.decode(expected.latent)).max() <= 8
    with pytest.raises(RuntimeError, match="from_pretrained"):
        world.save_pretrained(tmp_path / "world")


class Twice(DiTStudent):
    """A network of one's own: it looks twice as hard at the controls."""

    def features(self, *arguments, control: torch.Tensor, **given):
        return super().features(*arguments, control=2 * control, **given)


class Half(torch.nn.Module):
    """No network of dynamics."""

    from_config = classmethod(lambda cls, _: cls())


def test_a_backbone_is_a_line_of_the_registry_and_is_kept_with_the_world(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(BACKBONES, "twice", f"{__name__}:Twice")
    ours, config = make_world(), make_world().config
    theirs = DiTWorld(replace(config, backbone="twice"), ours.scenes).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.save_pretrained(tmp_path / "world")
    again = DiTWorld.from_pretrained(tmp_path / "world", device="cpu")
    assert type(again.dynamics) is Twice and again.config.backbone == "twice"
    state, controls = theirs.start(theirs.scenes[:1], [1]), torch.full((1, 2), 0.5)
    told = [world.step(state.clone(), controls)[0].latents for world in (ours, theirs, again)]
    assert not torch.allclose(told[0], told[1], atol=1e-5) and torch.allclose(told[1], told[2], atol=1e-2)
    with pytest.raises(ValueError, match="backbone must be one of transformer, twice, got 'moon'"):
        DiTWorld(replace(config, backbone="moon"))
    monkeypatch.setitem(BACKBONES, "half", f"{__name__}:Half")
    with pytest.raises(ValueError, match="the backbone 'half' lacks features, read, .*has what DiTStudent has"):
        DiTWorld(replace(config, backbone="half"))
    assert compile_step(theirs) is None, caplog.text
